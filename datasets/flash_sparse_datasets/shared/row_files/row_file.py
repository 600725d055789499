"""What every file of rows offers, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.text_files import open_text, shortened

Tried = Iterator[tuple[int, int, dict | DataError]]


class RowFile(ABC):
    """A file of rows, each a dictionary from field to value.

    Attributes:
        fields: The names in the header. JSON has no header and rows need not be alike: those of the first row.
        stamp: The file's size and time of change when it was opened.
        notes: What the user should hear about how it is read.
    """

    unit = "row"
    fields: list[str]
    notes: tuple[str, ...] = ()
    _raw: IO[bytes] | None = None

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        self.path = path
        self.stamp = stamp
        self.options = options

    @contextmanager
    def _opened_text(self) -> Iterator[IO[str]]:
        """The file as text, of which `share_read` then knows."""
        with open_text(self.path, self.options.encoding) as file:
            raw = file.buffer  # type: ignore[attr-defined]  # of every text file
            raw = self._raw = getattr(raw, "fileobj", raw)  # of gzip, what is compressed
            try:
                yield file
            finally:
                self._raw = None if self._raw is raw else self._raw  # a further reading may have begun

    def share_read(self) -> float | None:
        """How much of the file the reading that began last is through, from 0 to 1; None where that is not known."""
        return None if self._raw is None else self._raw.tell() / self.stamp[0]

    def place(self, number: int) -> str:
        """Where a row is, for messages, counted from 1."""
        return f"{self.path} {self.unit} {number}"

    def rows(self, fields: Sequence[str], wanted: bytes | None = None) -> Iterator[tuple[int, int, dict]]:
        """Like `tried`, but raise the error of the first row that has one."""
        for index, number, row in self.tried(fields, wanted):
            if isinstance(row, DataError):
                raise row
            yield index, number, row

    @abstractmethod
    def tried(self, fields: Sequence[str], wanted: bytes | None = None) -> Tried:
        """Yield each row's index from 0, its number for `place`, and its values or what is wrong with it.

        Args:
            fields: The fields that are needed; others may be missing from the values.
            wanted: One byte for each row, 0 to skip it; None for all rows.
        """

    def _by_name(self, number: int, cells: Sequence) -> dict | DataError:
        """A row's values by the names in the header; not of one that repeats it, as where tables were put together."""
        if len(self.fields) > 1 and all(
            str(cell).strip(" \ufeff") == name for name, cell in zip(self.fields, cells, strict=False)
        ):
            return DataError(f"{self.place(number)}: repeats the header, expected a document")
        return dict(zip(self.fields, cells, strict=False))

    def _check_columns(self) -> None:
        twice = next((name for name in self.fields if name and self.fields.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{self.path}: two columns are named {shortened(twice)}, expected different names")
