"""Documents out of one's own files: the rows of a table, or the text files of class folders."""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared.documents import DataError, Document
from flash_sparse_datasets.shared.row_files import DelimitedFile, open_rows
from flash_sparse_datasets.shared.text_files import file_stamp, open_text, reading, shortened

TEXT_FILES = (".txt", ".txt.gz")


@dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what, and how labels are written.

    Attributes:
        label: None is whichever of "labels" and "label" there is.
        task: "auto" takes multi-label from the first row: a list, or any labels where there is a separator.
        label_separator: What stands between the labels of one cell; None if a cell is one label, or a list as JSON and
            Python write it.
    """

    text: str = "text"
    label: str | None = None
    id: str | None = None
    task: str = "auto"
    label_separator: str | None = None


class Source(ABC):
    """Where documents are read from, as often as wanted.

    Attributes:
        path: The file or folder.
        task: "single-label" or "multi-label".
        notes: What the user should hear about.
    """

    path: Path
    task: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def documents(self, wanted: bytes | None = None) -> Iterator[tuple[int, int, Document]]:
        """Yield index from 0, number for `place`, and document; `wanted` holds a byte for each index, 0 to skip it."""

    @abstractmethod
    def place(self, number: int) -> str:
        """Where a document is, for messages."""


class TableSource(Source):
    """A CSV, TSV, JSONL or Parquet file whose rows are documents."""

    def __init__(self, path: Path, fields: Fields):
        self.path = path
        self._file = open_rows(path)
        self._label_separator = fields.label_separator
        self._text = self._existing(fields.text, "text_field")
        self._id = None if fields.id is None else self._existing(fields.id, "id_field")
        self._label = self._label_field() if fields.label is None else self._existing(fields.label, "label_field")
        self._auto = fields.task == "auto"
        self.task = fields.task
        if self._auto:
            _, self._first_number, row = next(self._file.rows(self._needed))
            several = isinstance(self._written(row.get(self._label)), list) or fields.label_separator is not None
            self.task = "multi-label" if several else "single-label"

    @property
    def _needed(self) -> list[str]:
        return [field for field in dict.fromkeys((self._text, self._label, self._id)) if field is not None]

    def _existing(self, field: str, argument: str) -> str:
        if field not in self._file.fields:
            raise DataError(f"{self.path}: no field {field!r} ({argument}); its fields are: {self._field_list()}")
        return field

    def _label_field(self) -> str:
        found = [field for field in ("labels", "label") if field in self._file.fields]
        if not found:
            fields = self._field_list()
            raise DataError(f"{self.path}: no field 'labels' or 'label' (label_field); its fields are: {fields}")
        if len(found) == 2:
            raise DataError(f"{self.path}: has both fields 'labels' and 'label', expected label_field to say which")
        return found[0]

    def _field_list(self) -> str:
        shown = [shortened(field) for field in self._file.fields[:20]]
        return ", ".join(shown) + (", ..." if len(self._file.fields) > 20 else "")

    def place(self, number: int) -> str:
        return self._file.place(number)

    def documents(self, wanted=None):
        if file_stamp(self.path) != self._file.stamp:
            raise DataError(f"{self.path}: changed since it was first read")
        for index, number, row in self._file.rows(self._needed, wanted):
            try:
                labels = self._labels(row)
                text = self._text_of(row)
                id = f"{self.path.name}:{number}" if self._id is None else self._id_of(row)
            except DataError as error:
                raise DataError(f"{self.place(number)}: {error}") from None
            yield index, number, Document(id, text, labels)

    def _text_of(self, row: dict) -> str:
        text = _value(row, self._text)
        if isinstance(text, list):
            for paragraph in text:
                if not isinstance(paragraph, str):
                    raise DataError(f"{self._text!r} has the paragraph {shortened(paragraph)}, expected strings")
            text = "\n\n".join(text)
        if not isinstance(text, str):
            raise DataError(f"{self._text!r} is {shortened(text)}, expected a string or a list of paragraphs")
        if not text.strip():
            raise DataError(f"{self._text!r} is empty, expected a text")
        return encodable(text, self._text)

    def _written(self, value: object) -> object:
        """A label cell's list of labels, where the file has text alone and this text is one; else the value."""
        if isinstance(self._file, DelimitedFile) and self._label_separator is None and isinstance(value, str):
            cell = value.strip()
            if cell.startswith("[") and cell.endswith("]"):
                try:
                    return ast.literal_eval(cell)
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    return value
        return value

    def _labels(self, row: dict) -> tuple[str, ...]:
        value = self._written(_value(row, self._label))
        several = isinstance(value, list)
        if isinstance(value, str) and self._label_separator is not None:
            value = [label for label in value.split(self._label_separator) if label.strip()]
        elif isinstance(value, str) and not value.strip() and self.task == "multi-label" and not self._auto:
            value = []  # an empty cell where each document may have one label or none

        if self._auto and self._label_separator is None and several != (self.task == "multi-label"):
            here, there = ("a list", "a single label") if several else ("a single label", "a list")
            raise DataError(
                f"{self._label!r} is {here}, but {there} in {self._file.unit} {self._first_number}, "
                "expected them alike (or task to say which is meant)"
            )
        labels = [self._one_label(label) for label in (value if isinstance(value, list) else [value])]
        if self.task == "single-label" and len(labels) != 1:
            raise DataError(f"{self._label!r} is {shortened(value)}, expected exactly one label")
        return tuple(sorted(set(labels)))

    def _one_label(self, label: object) -> str:
        if isinstance(label, bool):
            return str(label).lower()
        if isinstance(label, int):
            return str(label)
        if not isinstance(label, str):
            raise DataError(f"{self._label!r} has {shortened(label)}, expected a string, integer or boolean")
        if not label.strip():
            raise DataError(f"{self._label!r} has an empty label, expected a string, integer or boolean")
        return encodable(label.strip(), self._label)

    def _id_of(self, row: dict) -> str:
        field = cast(str, self._id)  # asked for where there is one
        id = _value(row, field)
        if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
            raise DataError(f"{field!r} is {shortened(id)}, expected a string or integer")
        return encodable(str(id), field)


class FolderSource(Source):
    """A folder of class folders with text files: a folder's name is the label of the files in it."""

    def __init__(self, path: Path, fields: Fields):
        if fields.task == "multi-label":
            raise DataError(f"{path}: class folders give each file one label, expected task auto or single-label")
        self.path = path
        self.task = "single-label"
        self._files: list[tuple[Path, str]] = []
        ignored = []
        for entry in visible(path):
            if not entry.is_dir():
                ignored.append(entry)
                continue
            for file in visible(entry):
                if file.is_dir():
                    raise DataError(f"{file}: a folder in the class folder {entry.name!r}, expected .txt files")
                if file.name.lower().endswith(TEXT_FILES):
                    self._files.append((file, entry.name))
                else:
                    ignored.append(file)
        if not self._files:
            raise DataError(f"{path}: no .txt files in its class folders")
        if ignored:
            self.notes = (f"{path}: files that are not .txt in a class folder: {len(ignored)} (first: {ignored[0]})",)
        with reading(path):
            self._stamps = [file_stamp(file) for file, _ in self._files]

    def place(self, number: int) -> str:
        return str(self._files[number - 1][0])

    def documents(self, wanted=None):
        for index, (file, label) in enumerate(self._files):
            if wanted is not None and not wanted[index]:
                continue
            if file_stamp(file) != self._stamps[index]:
                raise DataError(f"{file}: changed since it was first read")
            with reading(file), open_text(file) as opened:
                text = opened.read()
            if not text.strip():
                raise DataError(f"{file}: the text is empty, expected a text")
            try:
                id = encodable(file.relative_to(self.path).as_posix(), "file name")
            except DataError as error:
                raise DataError(f"{str(file)!a}: {error}") from None
            yield index, index + 1, Document(id, text, (label,))


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in the order of the names, without hidden entries."""
    with reading(folder):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _value(row: dict, field: str) -> object:
    if field not in row:
        raise DataError(f"has no field {field!r}; its fields are: {shortened(list(row))}")
    if row[field] is None:
        raise DataError(f"{field!r} is null, expected a value")
    return row[field]


def encodable(text: str, field: str) -> str:
    """The text itself, if it can be written as UTF-8: JSON and file names can hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise DataError(f"{field!r} holds half a surrogate pair ({half}), expected valid Unicode") from None
    return text
