"""fastText's lines: `__label__sport __label__news text of the document`."""

from pathlib import Path

from flash_sparse_datasets.shared.row_files.options import ReaderOptions
from flash_sparse_datasets.shared.row_files.row_file import RowFile
from flash_sparse_datasets.shared.text_files import lines_of, open_text, reading

PREFIX = "__label__"


def is_fasttext(path: Path, options: ReaderOptions) -> bool:
    """Whether the first line of a text file begins with a label."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".txt", ".train", ".valid", ".test", ".ft")):
        return False
    with reading(path, options.encoding), open_text(path, options.encoding) as file:
        return next((line for line in lines_of(file, path) if not line.isspace()), "").lstrip().startswith(PREFIX)


class FastTextFile(RowFile):
    """Rows with the fields `text` and `labels`: one label if every line has exactly one, lists otherwise."""

    unit = "line"

    def __init__(self, path: Path, stamp: tuple[int, int], options: ReaderOptions):
        super().__init__(path, stamp, options)
        self.fields = ["text", "labels"]
        self._several = False
        self._several = any(len(row["labels"]) != 1 for _, _, row in self._lists())

    def tried(self, fields, wanted=None):
        for index, number, row in self._lists(wanted):
            if not self._several:
                (row["labels"],) = row["labels"]
            yield index, number, row

    def _lists(self, wanted=None):
        with reading(self.path, self.options.encoding), self._opened_text() as file:
            index = 0
            for number, line in enumerate(lines_of(file, self.path), 1):
                if line.isspace():
                    continue
                if wanted is None or wanted[index]:
                    words = line.split()
                    labels = [word.removeprefix(PREFIX).rstrip(",") for word in words if word.startswith(PREFIX)]
                    text = " ".join(word for word in words if not word.startswith(PREFIX))
                    yield index, number, {"text": text, "labels": labels}
                index += 1
