"""Rows of CSV, TSV, JSONL and Parquet files, one after the other, never the whole file in memory."""

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import file_stamp, open_text, reading, shortened

FORMATS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")


def format_of(path: Path) -> str | None:
    """The one of `FORMATS` that the file's name ends in."""
    return next((ending for ending in FORMATS if path.name.lower().endswith(ending)), None)


def open_rows(path: Path) -> "RowFile":
    """Open a file of rows by the ending of its name.

    Raises:
        DataError: if the file is missing, empty, unreadable, has no rows, or is of an unknown format.
    """
    stamp = file_stamp(path)
    ending = format_of(path)
    if ending is None:
        raise DataError(f"{path}: unknown kind of file, expected one of {' '.join(FORMATS)} or a folder")
    kinds: dict[str, Callable[[Path, tuple[int, int]], RowFile]] = {
        ".jsonl": JsonLinesFile,
        ".parquet": ParquetFile,
        ".csv": DelimitedFile,
        ".tsv": DelimitedFile,
    }
    return kinds[ending.removesuffix(".gz")](path, stamp)


class RowFile(ABC):
    """A file of rows, each a dictionary from field to value.

    Attributes:
        fields: The names in the header. JSONL has no header and rows need not be alike: those of the first row.
        stamp: The file's size and time of change when it was opened.
    """

    unit = "line"
    fields: list[str]

    def __init__(self, path: Path, stamp: tuple[int, int]):
        self.path = path
        self.stamp = stamp

    def place(self, number: int) -> str:
        """Where a row is, for messages, counted from 1."""
        return f"{self.path} {self.unit} {number}"

    def _check_columns(self) -> None:
        twice = next((name for name in self.fields if name and self.fields.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{self.path}: two columns are named {shortened(twice)}, expected different names")

    @abstractmethod
    def rows(self, fields: Sequence[str], wanted: bytes | None = None) -> Iterator[tuple[int, int, dict]]:
        """Yield each row's index from 0, its number for `place` and its values.

        Args:
            fields: The fields that are needed; others may be missing from the values.
            wanted: One byte for each row, 0 to skip it; None for all rows.
        """


class JsonLinesFile(RowFile):
    """One JSON object a line. Blank lines are no rows."""

    def __init__(self, path: Path, stamp: tuple[int, int]):
        super().__init__(path, stamp)
        first = next(self.rows([]), None)
        if first is None:
            raise DataError(f"{path}: no rows, only blank lines")
        self.fields = list(first[2])

    def rows(self, fields, wanted=None):
        with reading(self.path), open_text(self.path) as file:
            index = 0
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                if wanted is None or wanted[index]:
                    yield index, number, self._parse(line.rstrip("\r\n"), number)
                index += 1

    def _parse(self, line: str, number: int) -> dict:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            at = f"{error.msg} at column {error.pos + 1}"
            raise DataError(f"{self.place(number)}: broken JSON ({at}), expected one object a line") from None
        except (RecursionError, ValueError) as error:  # nested a thousand deep; an integer of thousands of digits
            raise DataError(f"{self.place(number)}: JSON that cannot be read ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{self.place(number)}: {shortened(row)} is no JSON object, expected one object a line")
        return row


class DelimitedFile(RowFile):
    """CSV and TSV with a header. Cells may be of any length and, quoted, hold line breaks. Blank lines are no rows."""

    def __init__(self, path: Path, stamp: tuple[int, int]):
        super().__init__(path, stamp)
        rows = self._cells()
        _, self.fields = next(rows, (0, []))
        if not self.fields:
            raise DataError(f"{path}: no rows, only blank lines")
        self._check_columns()
        if next(rows, None) is None:
            raise DataError(f"{path}: a header and no rows")

    def rows(self, fields, wanted=None):
        rows = self._cells()
        next(rows)
        for index, (number, cells) in enumerate(rows):
            if len(cells) != len(self.fields):
                expected = f"{len(self.fields)} as in the header"
                raise DataError(f"{self.place(number)}: the row has {len(cells)} cells, expected {expected}")
            if wanted is None or wanted[index]:
                yield index, number, dict(zip(self.fields, cells, strict=True))

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line where each row begins, and its cells; the header's first."""
        longest = min(sys.maxsize, 2**31 - 1)  # a C long, which has 32 bits on Windows
        if csv.field_size_limit() < longest:  # 128 KiB unless set: less than a long document
            csv.field_size_limit(longest)
        delimiter = "\t" if ".tsv" in str(format_of(self.path)) else ","
        with reading(self.path), open_text(self.path) as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            begin, header_seen = 1, False
            try:
                for cells in reader:
                    if cells and not header_seen:
                        header_seen = True
                        yield begin, [name.strip() for name in cells]
                    elif cells:
                        yield begin, cells
                    begin = reader.line_num + 1
            except csv.Error as error:
                cause = "a quoted cell that is never closed" if "unexpected end" in str(error) else str(error)
                raise DataError(f"{self.place(begin)}: broken row ({cause})") from None


class ParquetFile(RowFile):
    """Parquet, read a few rows at a time."""

    unit = "row"
    _rows_at_once = 64  # long documents make even few rows megabytes

    def __init__(self, path: Path, stamp: tuple[int, int]):
        super().__init__(path, stamp)
        with self._opened() as file:
            self.fields = file.schema_arrow.names
            self._check_columns()
            if file.metadata.num_rows == 0:
                raise DataError(f"{path}: columns and no rows")

    def rows(self, fields, wanted=None):
        with self._opened() as file:
            index = 0
            for batch in file.iter_batches(batch_size=self._rows_at_once, columns=list(fields)):
                columns = {name: batch.column(name) for name in fields}
                for i in range(batch.num_rows):
                    if wanted is None or wanted[index]:
                        yield index, index + 1, self._values(columns, i, index + 1)
                    index += 1

    def _values(self, columns: dict, i: int, number: int) -> dict:
        try:
            return {name: column[i].as_py() for name, column in columns.items()}
        except UnicodeDecodeError:
            raise DataError(f"{self.place(number)}: a string that is not UTF-8") from None

    @contextmanager
    def _opened(self):
        import pyarrow.parquet  # takes a third of a second, which the other formats need not pay

        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged Parquet, or none ({shortened(str(error))})") from None
