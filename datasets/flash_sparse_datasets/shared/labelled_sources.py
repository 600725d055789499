"""Documents out of one's own files: the rows of a table, or the files of class folders."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared import label_forms
from flash_sparse_datasets.shared.document_files import DOCUMENTS, is_document, text_of
from flash_sparse_datasets.shared.documents import DataError, Document
from flash_sparse_datasets.shared.nested_fields import Field, value_at
from flash_sparse_datasets.shared.reading_notes import Heard
from flash_sparse_datasets.shared.row_files import ReaderOptions, open_rows
from flash_sparse_datasets.shared.row_texts import RowTexts, encodable, existing, field_list, header_hint, id_of
from flash_sparse_datasets.shared.text_files import file_stamp, reading, shortened

Tried = Iterator[tuple[int, int, Document | DataError]]


@dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what, and how labels are written.

    Attributes:
        text: One field, or several whose texts are put after one another.
        file: The field with the path of each document's file, in place of `text`; relative to the table's folder.
        label: None is whichever of "labels" and "label" there is.
        labels: Fields that are each a label, 1 in the rows that have it, in place of `label`.
        task: "auto" takes multi-label from the first row: a list, or any labels where there is a separator.
        label_separator: What stands between the labels of one cell; None if a cell is one label, or a list as JSON,
            Python and NumPy write it.
        multi_hot: Whether lists of zeros and ones alone are taken for one entry for each label.
        reader: How files are read.
    """

    text: str | tuple[str, ...] = "text"
    label: str | None = None
    id: str | None = None
    task: str = "auto"
    label_separator: str | None = None
    file: str | None = None
    labels: tuple[str, ...] | None = None
    multi_hot: bool = False
    reader: ReaderOptions = dataclasses.field(default_factory=ReaderOptions)


class Source(ABC):
    """Where documents are read from, as often as wanted.

    Attributes:
        path: The file or folder.
        task: "single-label" or "multi-label".
        notes: What the user should hear about.
        multi_hot: How many zeros and ones each list of labels holds; None where labels are written otherwise.
    """

    path: Path
    task: str
    notes: tuple[str, ...] = ()
    multi_hot: int | None = None

    def documents(self, wanted: bytes | None = None) -> Iterator[tuple[int, int, Document]]:
        """Like `tried`, but raise the error of the first document that has one."""
        for index, number, document in self.tried(wanted):
            if isinstance(document, DataError):
                raise document
            yield index, number, document

    @abstractmethod
    def tried(self, wanted: bytes | None = None, heard: Heard | None = None) -> Tried:
        """Yield index from 0, number for `place`, and the document or what is wrong with it.

        Args:
            wanted: A byte for each index, 0 to skip it.
            heard: Counts what is odd.
        """

    @abstractmethod
    def place(self, number: int) -> str:
        """Where a document is, for messages."""

    @abstractmethod
    def share_read(self) -> float | None:
        """How much the reading that began last is through, from 0 to 1; None where that is not known."""


class TableSource(Source):
    """A file whose rows are documents."""

    def __init__(self, path: Path, fields: Fields):
        self.path = path
        self._file = open_rows(path, fields.reader)
        self.notes = self._file.notes
        separator = fields.label_separator
        self._label_separator = None if separator is None else label_forms.TYPED.get(separator, separator)
        self._texts = RowTexts(self._file, fields.text, fields.file)
        self._id = None if fields.id is None else existing(self._file, fields.id, "id_field")
        self._columns = [existing(self._file, label, "label_fields") for label in fields.labels or ()]
        self._label = self._columns[0] if self._columns else self._label_field(fields.label)
        self._auto = fields.task == "auto"
        self._bare_flags = fields.multi_hot  # whether a cell such as 0 1 0 is a list
        self.task = fields.task
        if self._columns:
            self.task = "multi-label" if self._auto else fields.task
        elif self._auto:
            self._first_number, first = self._first_label()
            several = isinstance(first, list) or fields.label_separator is not None
            self.task = "multi-label" if several else "single-label"
        if fields.multi_hot and not self._columns:
            self.multi_hot = self._zeros_and_ones()
            self._bare_flags = self.multi_hot is not None
        if self.multi_hot is not None:
            self.notes += (
                f"{path}: {self._label.name!r} holds lists of {self.multi_hot} zeros and ones, read as multi-hot: the "
                "labels are named by their position from 0",
            )

    def _label_field(self, name: str | None) -> Field:
        if name is not None:
            return existing(self._file, name, "label_field")
        found = [field for field in ("labels", "label") if field in self._file.fields]
        if not found:
            raise DataError(
                f"{self.path}: no field 'labels' or 'label' (label_field); its fields are: "
                f"{field_list(self._file)}{header_hint(self._file)}"
            )
        if len(found) == 2:
            raise DataError(f"{self.path}: has both fields 'labels' and 'label', expected label_field to say which")
        return existing(self._file, found[0], "label_field")

    def place(self, number: int) -> str:
        return self._file.place(number)

    def share_read(self) -> float | None:
        return self._file.share_read()

    # Labels

    def _label_values(self) -> Iterator[tuple[int, object]]:
        """The labels of every row that can be read, with its number."""
        for _, number, row in self._file.tried([self._label.column]):
            if isinstance(row, DataError):
                continue
            try:
                yield number, self._written(value_at(row, self._label))
            except DataError:
                continue

    def _first_label(self) -> tuple[int, object]:
        return next(self._label_values(), (1, None))

    def _zeros_and_ones(self) -> int | None:
        """The length of the first list, if all are lists of zeros and ones alone; one other row ends the search, but
        neither one without labels nor one that is refused for its form."""
        first = None
        for _, value in self._label_values():
            if self._unlike_first(value) or value == [] or (isinstance(value, str) and not value.strip()):
                continue
            if not label_forms.is_multi_hot(value):
                return None
            first = first or len(cast(list, value))
        return first

    def _written(self, value: object) -> object:
        """A cell's list of labels, where it is text and the text is a list; else the value."""
        if not isinstance(value, str):
            return value
        if self._label_separator is not None:
            return label_forms.parted(value, self._label_separator)
        flags = label_forms.bare_flags(value) if self._bare_flags else None
        return label_forms.written(value) if flags is None else flags

    def _unlike_first(self, value: object) -> bool:
        """Whether one row has a list of labels and the first a single one, or the other way round, and nothing says
        which is meant."""
        several = isinstance(value, list)
        return self._auto and self._label_separator is None and several != (self.task == "multi-label")

    def _labels(self, row: dict, number: int, heard: Heard | None) -> tuple[str, ...]:
        if self._columns:
            labels = [column.name for column in self._columns if self._said(row, column)]
            if self.task == "single-label" and len(labels) != 1:
                raise DataError(f"label_fields has {len(labels)} labels {shortened(labels)}, expected exactly one")
            return tuple(sorted(labels))
        name = self._label.name
        value = value_at(row, self._label)
        try:
            value = self._written(value)
            if isinstance(value, str) and not value.strip() and self.task == "multi-label" and not self._auto:
                value = []  # an empty cell where each document may have one label or none
            if self._unlike_first(value):
                here, there = "a list", "a single label"
                if self.task == "multi-label":
                    here, there = there, here
                before = f"{self._file.unit} {self._first_number}"
                raise DataError(
                    f"is {here}, but {there} in {before}, expected them alike (or task to say which is meant)"
                )
            values = cast(list, value if isinstance(value, list) else [value])
            if self.multi_hot is not None:
                if len(values) != self.multi_hot:
                    raise DataError(f"holds {len(values)} zeros and ones, expected {self.multi_hot} as in other rows")
                values = label_forms.from_multi_hot(values)
            labels = [label_forms.name_of(label) for label in values]
        except DataError as error:
            raise DataError(f"{name!r} {error}") from None
        if self.task == "single-label" and len(labels) != 1:
            raise DataError(f"{name!r} is {shortened(value)}, expected exactly one label")
        if heard is not None:
            heard.labels(self.place, number, labels)
        return tuple(sorted({encodable(label, name) for label in labels}))

    @staticmethod
    def _said(row: dict, column: Field) -> bool:
        try:
            return label_forms.is_yes(value_at(row, column, null=True))
        except DataError as error:
            raise DataError(f"{column.name!r} {error}") from None

    # Documents

    def tried(self, wanted=None, heard=None):
        if file_stamp(self.path) != self._file.stamp:
            raise DataError(f"{self.path}: changed since it was first read")
        labels = self._columns or [self._label]
        fields = [*self._texts.fields, *labels, *([] if self._id is None else [self._id])]
        needed = list(dict.fromkeys(field.column for field in fields))
        for index, number, row in self._file.tried(needed, wanted):
            yield index, number, row if isinstance(row, DataError) else self._document(row, number, heard)

    def _document(self, row: dict, number: int, heard: Heard | None) -> Document | DataError:
        place = self.place(number)
        try:
            id = f"{self.path.name}:{number}"
            if self._id is not None:
                id = id_of(row, self._id)
                place = f"{place}, id {shortened(id)}"
            labels = self._labels(row, number, heard)
            text = self._texts.text_of(row)
        except DataError as error:
            return DataError(f"{place}: {error}")
        if heard is not None:
            heard.text(self.place, number, text, row, self._file, self._label.column)
        return Document(id, text, labels)


class FolderSource(Source):
    """A folder of class folders with documents: a folder's name is the label of the files in it."""

    def __init__(self, path: Path, fields: Fields):
        if fields.task == "multi-label":
            raise DataError(f"{path}: class folders give each file one label, expected task auto or single-label")
        self.path = path
        self.task = "single-label"
        self._encoding = fields.reader.encoding
        self._files: list[tuple[Path, str]] = []
        self._read = 0
        ignored = []
        for entry in visible(path):
            if not entry.is_dir():
                ignored.append(entry)
                continue
            for file in visible(entry):
                if file.is_dir():
                    raise DataError(f"{file}: a folder in the class folder {entry.name!r}, expected documents")
                if is_document(file):
                    self._files.append((file, entry.name))
                else:
                    ignored.append(file)
        if not self._files:
            raise DataError(f"{path}: no documents ({' '.join(DOCUMENTS)}) in its class folders")
        if ignored:
            self.notes = (f"{path}: files that are not read: {len(ignored)} (first: {ignored[0]})",)
        self._stamps = [_stamp(file) for file, _ in self._files]

    def place(self, number: int) -> str:
        return str(self._files[number - 1][0])

    def share_read(self) -> float | None:
        return self._read / len(self._files)

    def tried(self, wanted=None, heard=None):
        for index, (file, label) in enumerate(self._files):
            self._read = index + 1
            if wanted is None or wanted[index]:
                yield index, index + 1, self._document(file, label, self._stamps[index])

    def _document(self, file: Path, label: str, stamp: tuple[int, int] | None) -> Document | DataError:
        if stamp is not None and file_stamp(file) != stamp:
            raise DataError(f"{file}: changed since it was first read")
        try:
            text = text_of(file, self._encoding)
        except DataError as error:
            return error
        try:
            id = encodable(file.relative_to(self.path).as_posix(), "file name")
            text = encodable(text, "text")
        except DataError as error:
            return DataError(f"{str(file)!a}: {error}")
        return Document(id, text, (label,))


def _stamp(file: Path) -> tuple[int, int] | None:
    """The file's stamp; None for one that cannot be read, which reading says."""
    try:
        return file_stamp(file)
    except DataError:
        return None


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in the order of the names, without hidden entries."""
    with reading(folder):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
