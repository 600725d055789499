"""Texts to label: plain text files, folders of them, tables, and standard input. No labels are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.row_files import format_of, open_rows
from flash_sparse_datasets.shared.text_files import open_text, reading, shortened

STDIN = "-"


class NewDocument(NamedTuple):
    id: str
    text: str | bytes = ""  # bytes are pixels
    second: str | None = None  # of a pair
    error: str | None = None  # why it cannot be read; then it has no text


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
    documents = _one_after_the_other(paths, read)
    begun: list[NewDocument] = []  # up to the first that can be read
    for document in documents:
        begun.append(document)
        if document.error is None:
            break
    if begun and begun[-1].error is not None:
        raise DataError(begun[0].error)
    yield from begun
    yield from documents


def _one_after_the_other(paths: Sequence[str], read: Callable[[str], Iterable[NewDocument]]) -> Iterator[NewDocument]:
    for path in paths:
        begun = False
        try:
            for document in read(path):
                begun = True
                yield document
        except DataError as error:
            rest = "; nothing that follows in this file was read" if begun else ""
            yield NewDocument(printable(path), error=f"{error}{rest}")


def read_documents(
    path: str, text_field: str, id_field: str | None, second_field: str | None = None
) -> Iterator[NewDocument]:
    """The documents behind one argument of `predict.py`.

    Args:
        path: a CSV, TSV, JSONL (each also .gz) or Parquet file, whose rows are documents; any other file, which is one
            text; a folder, whose .txt files are read in the order of their names; or - for one text on stdin.
        text_field: the field of a row that holds the text, or a list of paragraphs.
        id_field: the field that holds the id; None takes the path and the row.
        second_field: where pairs are expected: the field that holds the second text. Only rows have one.

    A row or file without a text that can be read is a document with an `error`.

    Raises:
        DataError: one line with file and row, after which nothing of `path` can be read.
    """
    file = Path(path)
    if second_field is not None and (path == STDIN or file.is_dir() or format_of(file) is None):
        raise DataError(
            f"{path}: a single text, but the run is trained on pairs; expected JSONL, CSV, TSV or Parquet, with the "
            f"fields {text_field!r} and {second_field!r} in each row"
        )
    if path == STDIN:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input: not UTF-8 at byte {error.start + 1}, expected UTF-8 text") from None
        if not text.strip():
            raise DataError("standard input: empty, expected a text")
        yield NewDocument(path, text)
    elif file.is_dir():
        texts = [entry for entry in file.rglob("*") if entry.name.lower().endswith((".txt", ".txt.gz"))]
        texts = sorted(entry for entry in texts if not entry.is_dir())
        if not texts:
            raise DataError(f"{path}: no .txt files in this folder")
        yield from map(_of_folder, texts)
    elif format_of(file) is None:
        yield _plain(file)
    else:
        rows = open_rows(file)
        text_fields = [text_field] if second_field is None else [text_field, second_field]
        needed = text_fields if id_field is None else [*text_fields, id_field]
        for field in needed:
            if field not in rows.fields:
                raise DataError(f"{path}: no field {field!r}; its fields are: {', '.join(map(str, rows.fields[:20]))}")
        for _, number, row in rows.rows(needed):
            yield _of_row(row, f"{path}:{number}", rows.place(number), text_fields, id_field)


def _of_row(row: dict, name: str, place: str, text_fields: Sequence[str], id_field: str | None) -> NewDocument:
    """The document of a row; `name` is its id where there is no field with one."""
    found = name if id_field is None else row.get(id_field)
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        error = f"{place}: {id_field!r} is {shortened(found)}, expected a string or integer"
        return NewDocument(printable(name), error=error)
    try:
        texts = [_text(row.get(field), f"{place}: {field!r}") for field in text_fields]
    except DataError as error:
        return NewDocument(printable(str(found)), error=str(error))
    return NewDocument(printable(str(found)), *texts)


def _text(value, place: str) -> str:
    """A cell, whose paragraphs may be a list."""
    if isinstance(value, list) and all(isinstance(paragraph, str) for paragraph in value):
        value = "\n\n".join(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place} is {shortened(value)}, expected a text")
    return value


def _of_folder(file: Path) -> NewDocument:
    if file.exists() and not file.is_file():  # reading it could wait for ever
        name = printable(str(file))
        return NewDocument(name, error=f"{name}: a pipe or device, expected a regular file")
    return _plain(file)


def _plain(file: Path) -> NewDocument:
    name = printable(str(file))
    try:
        with reading(file), open_text(file) as opened:
            text = opened.read()
    except DataError as error:
        return NewDocument(name, error=str(error))
    return NewDocument(name, text) if text.strip() else NewDocument(name, error=f"{name}: empty, expected a text")


def printable(name: str) -> str:
    """The name with halves of surrogate pairs, as names of files that are not UTF-8 have, written out."""
    return name.encode(errors="backslashreplace").decode()
