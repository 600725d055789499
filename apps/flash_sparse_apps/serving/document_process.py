"""The process that reads one PDF, Word or HTML file: content on standard input, text on standard output.

It has little memory and time, and no file to write to. What is wrong is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.document_files import text_in
from flash_sparse_datasets.shared.exit_codes import ending

MEMORY = 2 << 30  # bytes


@ending
def main(arguments: Sequence[str]) -> int:
    """Read the file.

    Args:
        arguments: its name, the most bytes of its text, and seconds.
    """
    name, most, seconds = arguments
    _limit(float(seconds))
    try:
        text = text_in(Path(name), sys.stdin.buffer.read()).encode(errors="replace")
    except MemoryError:
        raise DataError(f"{name}: takes more than {MEMORY >> 20:,} MiB of memory to read, expected less") from None
    if len(text) > int(most):
        raise DataError(f"{name}: its text has more than {int(most) >> 20:,} MiB, expected less")
    sys.stdout.buffer.write(text)
    return 0


def _limit(seconds: float):
    """Let the system end the process where it takes too much, and keep it from writing files."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
