"""Opening text files, gzip or not, and saying in one line where one of them cannot be read."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flash_sparse_datasets.shared.documents import DataError

GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 file, with or without byte-order mark and gzip, whose lines may end in LF, CR LF or CR."""
    if is_gzip(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while the file is read into a DataError that says where."""
    try:
        yield
    except (UnicodeDecodeError, *GZIP_ERRORS):
        raise DataError(_where_reading_fails(path)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or shortened(str(error))})") from None


def _where_reading_fails(path: Path) -> str:
    opened = gzip.open if is_gzip(path) else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"0x{line[error.start]:02x} at its byte {error.start + 1}"
                    return f"{path} line {number}: {byte} is not UTF-8, expected UTF-8 text"
    except GZIP_ERRORS as error:
        return f"{path}: damaged or cut off gzip after line {number} ({error})"
    return f"{path}: changed while it was read"


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change, by which a file that changes between two readings is noticed.

    Raises:
        DataError: if there is no such file, it is empty, or it is no regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a file") from None
    if not path.is_file():
        raise DataError(f"{path}: {'a folder' if path.is_dir() else 'a pipe or device'}, expected a regular file")
    if status.st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return status.st_size, status.st_mtime_ns


def shortened(value: object) -> str:
    """A value for a message: on one line, and never a whole document."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
