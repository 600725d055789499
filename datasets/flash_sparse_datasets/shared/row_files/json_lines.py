"""JSON lines."""

import json
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import lines_of, reading, shortened


class JsonLinesFile(RowFile):
    """One JSON object a line. Blank lines are no rows."""

    unit = "line"

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        error = None
        for _, _, row in self.tried([]):
            if isinstance(row, dict):
                self.fields = list(row)
                return
            error = error or row
        if error is None:
            raise DataError(f"{path}: no rows, only blank lines")
        raise error

    def tried(self, fields, wanted=None):
        with reading(self.path, self.options.encoding), self._opened_text() as file:
            index = 0
            for number, line in enumerate(lines_of(file, self.path), 1):
                if line.isspace():
                    continue
                if wanted is None or wanted[index]:
                    yield index, number, parse_line(line.rstrip("\r\n"), self.place(number))
                index += 1


def parse_line(line: str, place: str) -> dict | DataError:
    """The object on a line, or what is wrong with it."""
    expected = "expected one object a line" + (", or the ending .json of a JSON list" if line.startswith("[") else "")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        at = f"{error.msg} at column {error.pos + 1}"
        return DataError(f"{place}: broken JSON ({at}), {expected}")
    except (RecursionError, ValueError) as error:  # nested a thousand deep; an integer of thousands of digits
        return DataError(f"{place}: JSON that cannot be read ({error})")
    if not isinstance(row, dict):
        return DataError(f"{place}: {shortened(row)} is no JSON object, {expected}")
    return row
