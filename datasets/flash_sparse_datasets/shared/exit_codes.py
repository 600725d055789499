"""How every command ends: its exit code, and one line on stderr that says why.

0 is done, 2 something the user can mend, 130 Ctrl-C, 143 SIGTERM; 1 is a command's own.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.naming import naming

EXTRAS = dict.fromkeys(("bs4", "docx", "openpyxl", "pypdfium2"), "documents") | dict.fromkeys(("ray", "pandas"), "ray")

TOO_LITTLE_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


class Command(Protocol):
    """What a door calls: the arguments are those of the process where none are given."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


class UserError(ValueError):
    """Something that the user can mend, said in one line: the command prints it and exits with code 2."""


class Stopped(Exception):
    """What a command prints and the code it ends with."""

    def __init__(self, line: str, code: int):
        super().__init__(line)
        self.line = line
        self.code = code


def ending(main: Callable[[Sequence[str]], int]) -> Command:
    """Let a command end with an exit code whatever stops it; errors in the program itself keep their traceback."""

    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        _open_streams()
        try:
            code = main(sys.argv[1:] if arguments is None else list(arguments))
            with naming("standard output"):
                sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of stdout has enough
            _drop_output()
            return 0
        except BaseException as error:
            stopped = stop(error)
            if stopped is None:
                raise
            print(stopped.line, file=sys.stderr)
            try:
                sys.stdout.flush()
            except OSError:  # it is full: the interpreter would try again at its end, and say so
                _drop_output()
            return stopped.code

    return wrapped


def _open_streams():
    """Put nothing in place of streams that were closed (`<&-`, `>&-`), so that no file of ours becomes stdout."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _drop_output():
    """Let what stdout still holds go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stop(error: BaseException, less: str = "lower sizes") -> Stopped | None:
    """How a command ends after an error; None for an error in the program itself.

    Args:
        less: what would take less memory.
    """
    reason = " ".join(str(error).split())
    if isinstance(error, Stopped):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped("interrupted", 130)
    if isinstance(error, SystemExit) and error.code == 143:
        return Stopped("terminated", 143)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("flash_sparse"):
        extra = EXTRAS.get(str(error.name), "apps")
        return Stopped(f"error: {error.name} is not installed; expected pip install 'flash-sparse[{extra}]'", 2)
    if is_too_little_memory(error):
        return Stopped(f"error: too little memory ({reason[-90:]}); expected {less}", 2)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Stopped(f"error: {reason}; expected a higher limit of open files (ulimit -n)", 2)
    if isinstance(error, UserError | DataError | FloatingPointError | OSError):
        return Stopped(f"error: {reason}", 2)
    return None


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line and no longer than a reader wants it within ours."""
    return " ".join(str(error).split())[:200]


def is_too_little_memory(error: BaseException) -> bool:
    """Whether the machine or its GPU had no more memory: PyTorch says so of a CPU, and CUDA's libraries of themselves,
    in a RuntimeError's words alone."""
    torch = sys.modules.get("torch")  # imported where an error can be its own
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in TOO_LITTLE_MEMORY)
