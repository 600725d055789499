"""CSV and TSV."""

import csv
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import NAMED_DELIMITERS, ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import MOST_CHARACTERS, lines_of, reading

DELIMITERS = (",", ";", "\t", "|")  # among which is guessed
GUESSED_FROM = 20  # rows


class DelimitedFile(RowFile):
    """CSV and TSV, with a header unless the options name the columns.

    Cells may be of any length and, quoted, hold line breaks. Rows without any content are no rows, but count as
    spreadsheets count them. A first line `sep=;`, as Excel writes it, names the delimiter and does not count.
    """

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        self._rows_after_breaks, self._lines_more = array("q"), array("q")
        self._spaced = False  # whether a space after each delimiter is no part of the cells, as in the header
        self._skipped_lines, said = self._separator_line()
        usual = "\t" if ".tsv" in path.name.lower() else ","
        self.delimiter = options.delimiter or said or usual
        if options.delimiter is None and said is None:
            self.delimiter = self._guessed(usual)
        header = self._header()
        if header is not None and len(header) > 1 and all(name.startswith(" ") for name in header[1:]):
            self._spaced = True
            header = self._header()
        if header is None:
            raise DataError(f"{path}: no rows, only blank lines")
        header = [name.strip() for name in header]
        self._has_header = options.columns is None or header == list(options.columns)
        self.fields = header if options.columns is None else list(options.columns)
        self._check_columns()
        if next(self._content(), None) is None:
            raise DataError(f"{path}: a header and no rows")

    def place(self, number: int) -> str:
        before = bisect_right(self._rows_after_breaks, number)
        more = self._lines_more[before - 1] if before else 0
        return f"{super().place(number)}" + (f" (line {number + more})" if more else "")

    def tried(self, fields, wanted=None):
        for index, (number, cells) in enumerate(self._content()):
            if wanted is not None and not wanted[index]:
                continue
            yield index, number, cells if isinstance(cells, DataError) else self._row(number, cells)

    def _row(self, number: int, cells: list[str]) -> dict | DataError:
        columns = len(self.fields)
        while len(cells) > columns and not cells[-1].strip():
            cells = cells[:-1]
        missing = self.fields[len(cells) :]
        if len(cells) > columns or any(missing):
            expected = f"{columns} as in {'the header' if self.options.columns is None else '--columns'}"
            return DataError(f"{self.place(number)}: the row has {len(cells)} cells, expected {expected}")
        return self._by_name(number, cells)

    def _header(self) -> list[str] | None:
        _, cells = next(self._cells(self.delimiter), (0, None))
        if isinstance(cells, DataError):
            raise cells
        if cells is None:
            return None
        return cells

    def _content(self) -> Iterator[tuple[int, list[str] | DataError]]:
        rows = self._cells(self.delimiter)
        if self._has_header:
            next(rows)
        return rows

    def _separator_line(self) -> tuple[int, str | None]:
        """1 and the delimiter where the first line names it, else 0 and None."""
        with reading(self.path, self.options.encoding), self._opened_text() as file:
            first = file.readline(16).rstrip("\r\n").strip('"')
        if len(first) == 5 and first.lower().startswith("sep="):
            return 1, first[4]
        return 0, None

    def _guessed(self, usual: str) -> str:
        """The usual delimiter, unless the header is one cell with it and several with another that fits the rows."""
        widths = {delimiter: self._widths(delimiter) for delimiter in DELIMITERS}
        if not widths[usual] or widths[usual][0] > 1:
            return usual
        fitting = {d: found for d, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1}
        if not fitting:
            return usual
        best = max(fitting, key=lambda delimiter: fitting[delimiter][0])
        name = next(name for name, character in NAMED_DELIMITERS.items() if character == best)
        self.notes = (f"{self.path}: looks {name}-separated and is read so; --delimiter says otherwise",)
        return best

    def _widths(self, delimiter: str) -> list[int]:
        """How many cells the first rows have; -1 for a broken one."""
        widths: list[int] = []
        for _, cells in self._cells(delimiter):
            widths.append(-1 if isinstance(cells, DataError) else len(cells))
            if len(widths) == GUESSED_FROM:
                break
        return widths

    def _cells(self, delimiter: str) -> Iterator[tuple[int, list[str] | DataError]]:
        """Yield the number of each row with any content and its cells, or what is wrong with it; the header first."""
        if csv.field_size_limit() < MOST_CHARACTERS:  # 128 KiB unless set: less than a long document
            csv.field_size_limit(MOST_CHARACTERS)
        with reading(self.path, self.options.encoding), self._opened_text() as file:
            for _ in range(self._skipped_lines):
                file.readline()
            reader = csv.reader(
                lines_of(file, self.path),
                delimiter=delimiter,
                skipinitialspace=self._spaced,
                strict=True,
                quoting=csv.QUOTE_MINIMAL if self.options.quotes else csv.QUOTE_NONE,
            )
            number, more = 0, self._skipped_lines
            while True:
                number += 1
                begin = reader.line_num + 1 + self._skipped_lines
                if begin - number != more:
                    more = begin - number
                    if not self._rows_after_breaks or number > self._rows_after_breaks[-1]:
                        self._rows_after_breaks.append(number)
                        self._lines_more.append(more)
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    cause = "a quoted cell that is never closed" if "unexpected end" in str(error) else str(error)
                    hint = ", expected whole quotes, or --no-quotes where they are plain characters"
                    yield number, DataError(f"{self.place(number)}: broken row ({cause}){hint}")
                    continue
                if any(cell.strip() for cell in cells):
                    yield number, cells
