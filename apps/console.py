"""What the commands do about the terminal."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Sequence


def print_anything():
    """Escape on stdout what its encoding lacks, as Python does on stderr: a name must not end a run in an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def interruptible(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """Let Ctrl-C end a command with one word and exit code 130, wherever it has not done more itself."""

    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return wrapped
