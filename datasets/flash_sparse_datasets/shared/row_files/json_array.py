"""One JSON array of objects. Unlike every other format, all of it is in memory while it is read."""

import json
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import MOST_CHARACTERS, lines_of, open_text, reading, shortened


def is_json_array(path: Path, options: ReaderOptions) -> bool:
    """Whether a .json file is one value rather than an object a line."""
    with reading(path, options.encoding), open_text(path, options.encoding) as file:
        first = next((line for line in lines_of(file, path) if not line.isspace()), "")
    if not first.lstrip().startswith("{"):
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return first.strip() == "{"  # one object over several lines; else an object a line, the first of them broken
    return False


class JsonArrayFile(RowFile):
    """An array whose entries are rows."""

    unit = "entry"

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        objects = (entry for entry in self._entries() if isinstance(entry, dict))
        self.fields = list(next(objects, {}))

    def tried(self, fields, wanted=None):
        for index, entry in enumerate(self._entries()):
            if wanted is not None and not wanted[index]:
                continue
            number = index + 1
            if isinstance(entry, dict):
                yield index, number, entry
            else:
                problem = f"{self.place(number)}: {shortened(entry)} is no JSON object, expected one"
                yield index, number, DataError(problem)

    def _entries(self) -> list:
        with reading(self.path, self.options.encoding), open_text(self.path, self.options.encoding) as file:
            most = max(MOST_CHARACTERS, self.stamp[0])  # gzip can make more of a small file
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"{self.path}: has more than {most:,} characters, expected them as one object a line")
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.path} line {error.lineno}: broken JSON ({error.msg} at column {error.colno}), expected a list "
                "of objects, or one object a line"
            ) from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"{self.path}: JSON that cannot be read ({error})") from None
        if not isinstance(value, list):
            found = (
                f"one object with the keys {shortened(list(value))}" if isinstance(value, dict) else shortened(value)
            )
            raise DataError(
                f"{self.path}: {found}, expected a list of objects, or one object a line (pandas writes them with "
                "to_json(orient='records'))"
            )
        if not value:
            raise DataError(f"{self.path}: an empty list, expected rows")
        return value
