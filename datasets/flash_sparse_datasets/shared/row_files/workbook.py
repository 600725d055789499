"""Excel workbooks, read by openpyxl."""

import warnings
from contextlib import closing
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import file_stamp, shortened
from flash_sparse_datasets.shared.zip_files import checked_zip

FIRST_ROWS = 1000  # in which the header is looked for
MOST_ROWS, MOST_COLUMNS = 1_048_576, 16_384  # of a sheet in Excel: what counts further would be filled up for ever


class WorkbookFile(RowFile):
    """The first sheet; its first row that is not empty is the header. Empty rows are no rows."""

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        checked_zip(path, "an Excel workbook")
        with closing(self._opened()) as book:
            sheets = book.sheetnames
        if len(sheets) > 1:
            others = shortened(sheets[1:])
            self.notes = (f"{path}: the first sheet, {sheets[0]!r}, is read; the others are not: {others}",)
        header = next(self._cells(1, MOST_COLUMNS, FIRST_ROWS), None)
        if header is None:
            raise DataError(f"{path}: no rows in the sheet {sheets[0]!r}")
        self._header_row = header[0]
        names = ["" if cell is None else str(cell).strip() for cell in header[1]]
        self.fields = names[: max(number for number, name in enumerate(names, 1) if name)]
        self._check_columns()
        if next(self._rows(), None) is None:
            raise DataError(f"{path}: a header and no rows")

    def tried(self, fields, wanted=None):
        for index, (number, cells) in enumerate(self._rows()):
            if wanted is None or wanted[index]:
                yield index, number, self._by_name(number, cells)

    def _rows(self):
        return self._cells(self._header_row + 1, len(self.fields))

    def _cells(self, first: int, columns: int, last: int | None = None):
        """Yield number and values of each row that has any, from the first to the last of these numbers."""
        if file_stamp(self.path) != self.stamp:
            raise DataError(f"{self.path}: changed since it was first read")
        with closing(self._opened()) as book:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write wrong ones
            rows = sheet.iter_rows(min_row=first, max_row=last, max_col=columns, values_only=True)
            for number in range(first, MOST_ROWS + 1):
                try:
                    cells = next(rows, None)
                except MemoryError:  # of this machine: the workbook may be whole
                    raise
                except Exception as error:  # of the zip archive, of its XML, and of numbers and dates in cells
                    raise DataError(f"{self.path}: damaged Excel workbook ({shortened(str(error))})") from None
                if cells is None:
                    return
                if any(cell is not None and str(cell).strip() for cell in cells):
                    yield number, cells
            if next(rows, None) is not None:
                raise DataError(f"{self.path}: has rows past number {MOST_ROWS:,}, expected no more than Excel writes")

    def _opened(self):
        import openpyxl

        warnings.filterwarnings("ignore", module="openpyxl")  # of what else is in a workbook: it names no file
        try:
            book = openpyxl.load_workbook(self.path, read_only=True, data_only=True)
        except Exception as error:  # openpyxl names no kinds of its own for what can be wrong inside
            raise DataError(f"{self.path}: damaged Excel workbook, or none ({shortened(str(error))})") from None
        if not book.worksheets:
            raise DataError(f"{self.path}: no sheet with cells, expected one")
        return book
