"""What the commands do about the terminal, and how each is started."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flash_sparse_datasets.shared.naming import naming


def spoken(command: str) -> str:
    """How to start a command, in the form in which this process was started: for help, messages and reports."""
    door = _door(command)
    return f"flash-sparse {command}" if door is None else f"python {door}"


def start(command: str) -> list[str]:
    """What starts a command in a process of its own, in the same form."""
    door = _door(command)
    if door is not None:
        return [sys.executable, str(door)]
    script = Path(sys.argv[0])
    script = script if script.name == "flash-sparse" else Path(__file__).with_name("__main__.py")
    return [sys.executable, str(script), command]


def _door(command: str) -> Path | None:
    """The file `apps/COMMAND.py`, where this process was started by one of its neighbours."""
    door = Path(sys.argv[0]).with_name(f"{command}.py")
    return door if door.is_file() and door.resolve().parent == Path(__file__).resolve().parents[1] else None


def print_anything():
    """Escape on stdout what its encoding lacks, as Python does on stderr: a name must not end a run in an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def outlive_readers():
    """Let what is printed go nowhere once its reader has gone, as `head` does: training goes on without it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = _Outliving(stream.fileno(), "w", closefd=False)
            form = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering", "write_through")}
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), **form))


class _Outliving(io.FileIO):
    def write(self, content) -> int:
        try:
            with naming("standard output"):
                return super().write(content)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(content)


def ended_by_sigterm() -> AbstractContextManager[None]:
    """Meanwhile, let SIGTERM end the process by SystemExit with code 143, as Ctrl-C does by KeyboardInterrupt."""
    return on_sigterm(lambda: sys.exit(143))


@contextmanager
def on_sigterm(call: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, call this at SIGTERM."""
    if threading.current_thread() is not threading.main_thread():  # which alone may ask for signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def plain_interrupt() -> Iterator[None]:
    """While libraries are imported, let Ctrl-C end the process at once: in their C++ an exception can be a crash."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
