"""Other programs' work, in its mildest form: processes of the lowest priority that never pause."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, cast

# It looks for its parent now and then, so that it ends even when that is killed and can end nothing itself.
SPIN = """
import os, sys
try:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
except (AttributeError, OSError):
    os.nice(19)
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def spinning(count: int) -> Iterator[list[int]]:
    """So many idle-priority processes run until the block is left, however it is left; yields their ids.

    Raises:
        OSError: one does not start.
    """
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_spinning_process()) for _ in range(count)]
        for process in processes:
            if not cast(IO[bytes], process.stdout).readline():
                raise OSError("a spinning process ended at once; expected it to run beside the measurements")
        yield [process.pid for process in processes]


@contextlib.contextmanager
def _spinning_process() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SPIN, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to the benchmark alone, which ends it
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        cast(IO[bytes], process.stdout).close()
