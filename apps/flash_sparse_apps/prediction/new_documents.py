"""Texts to label: files of one text, folders of them, tables, and standard input. No labels are read."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.document_files import DOCUMENTS, PLAIN, is_document, is_document_in, text_of
from flash_sparse_datasets.shared.row_files import ReaderOptions, RowFile, format_of, open_rows
from flash_sparse_datasets.shared.row_files.fasttext import is_fasttext
from flash_sparse_datasets.shared.row_files.json_lines import parse_line
from flash_sparse_datasets.shared.row_texts import RowTexts, existing, id_of
from flash_sparse_datasets.shared.text_files import is_blank

STDIN = "-"
STANDARD_INPUT = "standard input"


class NewDocument(NamedTuple):
    """A document to label; `made` says that its text stands so in no file: of a PDF, or put together from fields."""

    id: str
    text: str | bytes = ""  # bytes are pixels
    second: str | None = None  # of a pair
    made: bool = False
    error: str | None = None  # why it cannot be read; then it has no text


@dataclass(frozen=True)
class Reading:
    """Where rows hold what, and how files are read.

    Attributes:
        text: One field, or several whose texts are put after one another.
        file: The field with the path of each document's file, in place of `text`.
        id: The field that holds the id; None takes the path and the row.
        second: Where pairs are expected: the field that holds the second text. Only rows have one.
    """

    text: str | Sequence[str] = "text"
    file: str | None = None
    id: str | None = None
    second: str | None = None
    options: ReaderOptions = field(default_factory=ReaderOptions)


def check_paths(paths: Sequence[str]):
    """Raise DataError for the first path that is not there, before anything is predicted."""
    for path in paths:
        if not path:
            raise DataError("the name of a file is empty, expected a file, a folder or -")
        if path != STDIN and not Path(path).exists():
            raise DataError(f"{path}: no such file")


def read_all(paths: Sequence[str], read: Callable[[str], Iterable[NewDocument]]) -> Iterator[NewDocument]:
    """The documents behind all arguments; what cannot be read is a document with an `error`, and the rest goes on.

    Args:
        read: gives those behind one argument.

    Raises:
        DataError: the first error, where nothing at all can be read.
    """
    documents = itertools.chain.from_iterable(read_tried(path, read) for path in paths)
    begun: list[NewDocument] = []  # up to the first that can be read
    for document in documents:
        begun.append(document)
        if document.error is None:
            break
    if begun and begun[-1].error is not None:
        raise DataError(begun[0].error)
    yield from begun
    yield from documents


def read_tried(path: str, read: Callable[[str], Iterable[NewDocument]]) -> Iterator[NewDocument]:
    """The documents behind one argument; where reading it ends in an error, the last one says so."""
    begun = False
    try:
        for document in read(path):
            begun = True
            yield document
    except DataError as error:
        rest = "; nothing that follows in this file was read" if begun else ""
        yield NewDocument(printable(path), error=f"{error}{rest}")


def read_documents(path: str, reading: Reading) -> Iterator[NewDocument]:
    """The documents behind one argument of `predict.py`.

    Args:
        path: a table, or lines as fastText has them, whose rows are documents; any other file, which is one text, PDF,
            Word and HTML too; a folder, whose documents are read in the order of their names; or - for one text, or
            JSON lines, on stdin.

    A row or file without a text that can be read is a document with an `error`.

    Raises:
        DataError: one line with file and row, after which nothing of `path` can be read.
    """
    file = Path(path)
    if path == STDIN:
        yield from _piped(sys.stdin.buffer.read(), STANDARD_INPUT, reading)
    elif file.exists() and not file.is_file() and not file.is_dir():
        yield from _piped(file.read_bytes(), path, reading)
    elif reading.second is not None and (file.is_dir() or format_of(file) is None):
        raise DataError(
            f"{path}: a single text, but the run is trained on pairs; expected a table with the fields "
            f"{reading.text!r} and {reading.second!r} in each row"
        )
    elif file.is_dir():
        documents = sorted(entry for entry in file.rglob("*") if is_document_in(file, entry) and not entry.is_dir())
        if not documents:
            raise DataError(f"{path}: no documents ({' '.join(DOCUMENTS)}) in this folder")
        for document in documents:
            yield _whole(document, reading)
    elif format_of(file) is None and not is_fasttext(file, reading.options):
        yield _whole(file, reading)
    else:
        yield from _rows(open_rows(file, reading.options), path, reading)


def _rows(rows: RowFile, name: str, reading: Reading) -> Iterator[NewDocument]:
    """The rows of a file that is called by this name."""
    texts = RowTexts(rows, reading.text, reading.file)
    seconds = None if reading.second is None else RowTexts(rows, reading.second, argument="second_field")
    id_field = None if reading.id is None else existing(rows, reading.id, "id_field")
    needed = [*texts.fields, *([] if seconds is None else seconds.fields), *([] if id_field is None else [id_field])]
    for _, number, row in rows.tried(list(dict.fromkeys(found.column for found in needed))):
        id = f"{name}:{number}"
        if isinstance(row, DataError):
            yield NewDocument(printable(id), error=str(row))
            continue
        try:
            id = id if id_field is None else id_of(row, id_field)
            second = None if seconds is None else seconds.text_of(row)
            document = NewDocument(printable(id), texts.text_of(row), second, made=texts.made)
        except DataError as error:
            document = NewDocument(printable(id), error=f"{rows.place(number)}: {error}")
        yield document


def _piped(content: bytes, name: str, reading: Reading) -> Iterator[NewDocument]:
    """What comes once, from standard input or a pipe: one text, or rows where its first line is a JSON object."""
    encoding = reading.options.encoding or "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        known = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise DataError(f"{name}: not {known} at byte {error.start + 1}, expected {known} text") from None
    if is_blank(text):
        raise DataError(f"{name}: empty, expected a text")
    rows = _PipedRows(text, name, reading.options)
    if rows.fields:
        yield from _rows(rows, name, reading)
    elif reading.second is not None:
        raise DataError(f"{name}: a single text, but the run is trained on pairs; expected JSON lines")
    else:
        yield NewDocument(STDIN if name == STANDARD_INPUT else name, text)


class _PipedRows(RowFile):
    """JSON lines in memory; no fields where the first line is none."""

    unit = "line"

    def __init__(self, text: str, name: str, options: ReaderOptions):
        super().__init__(Path(name), (0, 0), options)
        self._text = text
        _, _, first = next(self.tried([]))
        self.fields = [] if isinstance(first, DataError) else list(first)

    def tried(self, fields, wanted=None):
        lines = ((number, line) for number, line in enumerate(io.StringIO(self._text), 1) if not line.isspace())
        for index, (number, line) in enumerate(lines):
            yield index, number, parse_line(line.rstrip("\n"), self.place(number))


def _whole(file: Path, reading: Reading) -> NewDocument:
    name = printable(str(file))
    made = is_document(file) and not file.name.lower().endswith(PLAIN)
    try:
        return NewDocument(name, text_of(file, reading.options.encoding), made=made)
    except DataError as error:
        return NewDocument(name, error=str(error))


def printable(name: str) -> str:
    """The name with halves of surrogate pairs, as names of files that are not UTF-8 have, written out."""
    return name.encode(errors="backslashreplace").decode()
