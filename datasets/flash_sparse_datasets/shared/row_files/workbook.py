"""Excel workbooks, read by openpyxl."""

from contextlib import closing
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import file_stamp, shortened
from flash_sparse_datasets.shared.zip_files import checked_zip


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
        rows = self._cells()
        _, header = next(rows, (0, ()))
        if not header:
            raise DataError(f"{path}: no rows in the sheet {sheets[0]!r}")
        self.fields = ["" if cell is None else str(cell).strip() for cell in header]
        self._check_columns()
        if next(rows, None) is None:
            raise DataError(f"{path}: a header and no rows")

    def tried(self, fields, wanted=None):
        rows = self._cells()
        next(rows)
        for index, (number, cells) in enumerate(rows):
            if wanted is None or wanted[index]:
                padded = (*cells, *[None] * (len(self.fields) - len(cells)))
                yield index, number, dict(zip(self.fields, padded, strict=False))

    def _cells(self):
        """Yield number and values of each row that has any."""
        if file_stamp(self.path) != self.stamp:
            raise DataError(f"{self.path}: changed since it was first read")
        with closing(self._opened()) as book:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write wrong ones
            try:
                for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
                    if any(cell is not None and str(cell).strip() for cell in cells):
                        yield number, cells
            except (ValueError, KeyError, SyntaxError, OSError) as error:  # SyntaxError: the XML parser's
                raise DataError(f"{self.path}: damaged Excel workbook ({shortened(str(error))})") from None

    def _opened(self):
        import openpyxl

        try:
            book = openpyxl.load_workbook(self.path, read_only=True, data_only=True)
        except Exception as error:  # openpyxl names no kinds of its own for what can be wrong inside
            raise DataError(f"{self.path}: damaged Excel workbook, or none ({shortened(str(error))})") from None
        if not book.worksheets:
            raise DataError(f"{self.path}: no sheet with cells, expected one")
        return book
