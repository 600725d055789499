"""Opening text files, gzip or not, and saying in one line where one of them cannot be read."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from flash_sparse_datasets.shared.documents import DataError

MOST_CHARACTERS = 2**29  # of a text, or of one line: more than any document has, less than what ends a machine
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
INVISIBLE = "\0\u00ad\u200b\u200c\u200d\u2060\ufeff"  # and no white space
OTHERS = {  # how files begin that are no text, whatever their names say
    b"\x1f\x8b": "packed by gzip, expected a name that ends in .gz",
    b"PK\x03\x04": "a zip archive, as Excel and Word files are, expected the ending of what it is, such as .xlsx",
    b"\xd0\xcf\x11\xe0": "a file of an older Office or with a password, expected text, or .xlsx without a password",
    b"%PDF": "a PDF, expected text, or the ending .pdf",
}


def is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def open_text(path: Path, encoding: str | None = None) -> IO[str]:
    """Open a text file, gzip or not, whose lines may end in LF, CR LF or CR.

    Args:
        encoding: as Python names it; None is what a byte-order mark says, and UTF-8 without one.

    Raises:
        DataError: it is no text; or it looks like UTF-16 without a byte-order mark, which would be read as UTF-8 with a
            NUL in each pair.
    """
    encoding = encoding or _marked(path)
    if is_gzip(path):
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return open(path, encoding=encoding, newline="")


def lines_of(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a file that was opened by `open_text`.

    Raises:
        DataError: a line has more than half a billion characters, as gzip can make of a small file.
    """
    while line := file.readline(MOST_CHARACTERS + 1):
        if len(line) > MOST_CHARACTERS:
            raise DataError(f"{path}: a line of more than {MOST_CHARACTERS:,} characters, expected shorter ones")
        yield line


def _marked(path: Path) -> str:
    """The encoding that a file's first bytes say; DataError where they are no text's."""
    with (gzip.open if is_gzip(path) else open)(path, "rb") as file:
        begin = file.read(1000)
    for mark, what in OTHERS.items():
        if begin.startswith(mark):
            raise DataError(f"{path}: is {what}")
    if begin.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for odd, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        high, low = begin[odd::2], begin[1 - odd :: 2]
        if len(begin) >= 8 and high.count(0) > 0.8 * len(high) and low.count(0) < 0.2 * len(low):
            raise DataError(f"{path}: looks like UTF-16, expected UTF-8 text or --encoding {name}")
    return "utf-8-sig"


@contextmanager
def reading(path: Path, encoding: str | None = "utf-8") -> Iterator[None]:
    """Turn whatever goes wrong while the file is read into a DataError that says where.

    Args:
        encoding: None where another than UTF-8 could have been asked for, and was not.
    """
    try:
        yield
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError) and error.encoding in ("utf-8", "utf-8-sig"):
            hint = " or --encoding" if encoding is None else ""
            raise DataError(_where_reading_fails(path) + hint) from None
        reason = f"{error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        known = encoding or "UTF-16 or UTF-32, as its byte-order mark says"
        raise DataError(f"{path}: is not {known} ({reason}), expected text in the encoding of --encoding") from None
    except GZIP_ERRORS:
        raise DataError(_where_reading_fails(path)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or shortened(str(error))})") from None


def _where_reading_fails(path: Path) -> str:
    opened = gzip.open if is_gzip(path) else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(iter(partial(file.readline, 4 * MOST_CHARACTERS), b""), 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"0x{line[error.start]:02x} at its byte {error.start + 1}"
                    other = _guess(line, error.start)
                    return f"{path} line {number}: {byte} is not UTF-8{other}, expected UTF-8 text"
    except GZIP_ERRORS as error:
        return f"{path}: damaged or cut off gzip after line {number} ({error})"
    return f"{path}: changed while it was read"


def _guess(line: bytes, at: int) -> str:
    """The word around a byte as the most frequent encoding of Western offices has it, for the reader to judge."""
    begin = max(line.rfind(b" ", 0, at) + 1, at - 15)
    end = line.find(b" ", at)
    word = line[begin : min(end if end > 0 else len(line), at + 15)].strip()
    try:
        return f" (as cp1252 it reads {word.decode('cp1252')!r})"
    except UnicodeDecodeError:
        return ""


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


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text."""
    return all(character.isspace() or character in INVISIBLE for character in text)


def shortened(value: object) -> str:
    """A value for a message: on one line, and never a whole document."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
