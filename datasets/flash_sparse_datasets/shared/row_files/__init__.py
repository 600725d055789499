"""Rows of CSV, TSV, JSON, Parquet, Excel and fastText files, one after the other; a module for each format."""

from collections.abc import Callable
from pathlib import Path

from flash_sparse_datasets.shared.document_files import OLDER
from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.delimited import DelimitedFile
from flash_sparse_datasets.shared.row_files.fasttext import FastTextFile, is_fasttext
from flash_sparse_datasets.shared.row_files.json_array import JsonArrayFile, is_json_array
from flash_sparse_datasets.shared.row_files.json_lines import JsonLinesFile
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.parquet import ParquetFile
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.row_files.workbook import WorkbookFile
from flash_sparse_datasets.shared.text_files import file_stamp

PACKED = tuple(f"{ending}{gz}" for gz in ("", ".gz") for ending in (".csv", ".tsv", ".jsonl", ".ndjson", ".json"))
FORMATS = (*PACKED, ".parquet", ".xlsx", ".xlsm")


def format_of(path: Path) -> str | None:
    """The one of `FORMATS` that the file's name ends in."""
    return next((ending for ending in FORMATS if path.name.lower().endswith(ending)), None)


def open_rows(path: Path, options: ReaderOptions = ReaderOptions()) -> RowFile:  # noqa: B008 (it is frozen)
    """Open a file of rows by the ending of its name.

    Raises:
        DataError: if the file is missing, empty, unreadable, has no rows, or is of an unknown format.
    """
    stamp = file_stamp(path)
    ending = format_of(path)
    if ending is None:
        if is_fasttext(path, options):
            return FastTextFile(path, stamp, options)
        if newer := OLDER.get(path.suffix.lower()):
            raise DataError(f"{path}: {path.suffix} cannot be read, expected it saved as {newer}")
        hint = (
            "; of a table in a .txt file, its cells separated by tabs, the ending .tsv"
            if path.suffix.lower() == ".txt"
            else ""
        )
        raise DataError(f"{path}: unknown kind of file, expected one of {' '.join(FORMATS)} or a folder{hint}")
    if ending.startswith(".json") and not ending.startswith(".jsonl"):
        kind = JsonArrayFile if is_json_array(path, options) else JsonLinesFile
        return kind(path, stamp, options)
    kinds: dict[str, Callable[[Path, tuple[int, int], ReaderOptions], RowFile]] = {
        ".jsonl": JsonLinesFile,
        ".ndjson": JsonLinesFile,
        ".parquet": ParquetFile,
        ".csv": DelimitedFile,
        ".tsv": DelimitedFile,
        ".xlsx": WorkbookFile,
        ".xlsm": WorkbookFile,
    }
    return kinds[ending.removesuffix(".gz")](path, stamp, options)
