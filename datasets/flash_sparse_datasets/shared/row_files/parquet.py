"""Parquet."""

from contextlib import contextmanager
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import shortened


class ParquetFile(RowFile):
    """Parquet, read a few rows at a time."""

    _rows_at_once = 64  # long documents make even few rows megabytes
    _share = 0.0

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        with self._opened() as file:
            self.fields = file.schema_arrow.names
            self._check_columns()
            if file.metadata.num_rows == 0:
                raise DataError(f"{path}: columns and no rows")

    def tried(self, fields, wanted=None):
        with self._opened() as file:
            index, rows = 0, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=self._rows_at_once, columns=list(fields)):
                columns = {name: batch.column(name) for name in fields}
                for i in range(batch.num_rows):
                    if wanted is None or wanted[index]:
                        yield index, index + 1, self._values(columns, i, index + 1)
                    index += 1
                    self._share = index / rows

    def share_read(self):
        return self._share

    def _values(self, columns: dict, i: int, number: int) -> dict | DataError:
        try:
            return {name: column[i].as_py() for name, column in columns.items()}
        except UnicodeDecodeError:
            return DataError(f"{self.place(number)}: a string that is not UTF-8")

    @contextmanager
    def _opened(self):
        import pyarrow.parquet  # takes a third of a second, which the other formats need not pay

        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged Parquet, or none ({shortened(str(error))})") from None
