"""What is odd in files but no error: counted while they are read, said in notes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flash_sparse_datasets.shared.document_files import is_document
from flash_sparse_datasets.shared.label_forms import MISSING
from flash_sparse_datasets.shared.row_files import DelimitedFile, RowFile
from flash_sparse_datasets.shared.text_files import INVISIBLE, shortened

Place = Callable[[int], str]


class _Count:
    """How many documents are odd in one way, and the first of them."""

    def __init__(self):
        self.count, self.first = 0, ""

    def add(self, place: Place, number: int):
        self.first = self.first or place(number)
        self.count += 1


class Heard:
    """Counts over one reading of a table."""

    def __init__(self):
        self._read = 0
        self._known: set[str] = set()  # labels
        self._repeated, self._joined, self._paths, self._missing = _Count(), _Count(), _Count(), _Count()

    def labels(self, place: Place, number: int, labels: Sequence[str]):
        """Take in the labels of a row, as they stand there."""
        self._known.update(labels)
        if len(set(labels)) < len(labels):
            self._repeated.add(place, number)

    def text(self, place: Place, number: int, text: str, row: dict, file: RowFile, label: str):
        """Take in a row that could be read."""
        self._read += 1
        if isinstance(file, DelimitedFile) and self._holds_rows(row, file, label):
            self._joined.add(place, number)
        if len(text) < 300 and "\n" not in text and is_document(Path(text.strip())):
            self._paths.add(place, number)
        if len(text) < 20 and text.strip().lower() in MISSING:
            self._missing.add(place, number)

    def _holds_rows(self, row: dict, file: DelimitedFile, label: str) -> bool:
        """Whether a cell over several lines holds what would be a row, with a label that other rows have, if quotes
        were plain characters."""
        cells = [row.get(name, "") for name in file.fields]
        for place, cell in enumerate(cells):
            if "\n" not in cell and "\r" not in cell:
                continue
            first, *between, last = [line.split(file.delimiter) for line in re.split("\r\n|\r|\n", cell)]
            at = file.fields.index(label)
            rows = between
            if at > place:  # this row's label stands after the last line, one that was swallowed after the first
                rows = [cells[:place] + first, *between]
            elif at < place:
                rows = [*between, last + cells[place + 1 :]]
            whole = [line for line in rows if len(line) == len(file.fields)]
            if any(line[at].strip(' "') in self._known for line in whole):
                return True
        return False

    def notes(self, path: object) -> list[str]:
        """What to say of the file."""
        notes = []
        if self._repeated.count:
            notes.append(
                f"{path}: {self._repeated.count} rows repeat a label in their list, which counts once (first: "
                f"{self._repeated.first})"
            )
        if self._joined.count:
            notes.append(
                f"{path}: {self._joined.count} of {self._read} rows hold lines that look like rows of their own "
                f"(first: {self._joined.first}); where stray quotes have joined them, --no-quotes helps"
            )
        if self._missing.count:
            notes.append(
                f"{path}: {self._missing.count} of {self._read} texts are a word that may stand for none, such as nan "
                f"(first: {self._missing.first})"
            )
        if self._paths.count and 2 * self._paths.count >= self._read:
            notes.append(
                f"{path}: {self._paths.count} of {self._read} texts look like the path of a file (first: "
                f"{self._paths.first}); --file-field reads the files"
            )
        return notes


def several_in_one(labels: Iterable[str]) -> str | None:
    """A hint if labels seem to hold several, whose parts other labels have too."""
    labels = [label for label in labels if label]
    for separator in (";", "|", "\n", ",", "/"):
        parts = Counter(part.strip() for label in labels for part in label.split(separator))
        lists = [label for label in labels if separator in label.strip(separator)]
        enough = any if 2 * len(lists) >= len(labels) else all  # of the parts; few labels may have the character
        shared = [label for label in lists if enough(parts[part.strip()] > 1 for part in label.split(separator))]
        if lists and 2 * len(shared) >= len(lists):
            return (
                f"labels such as {shortened(lists[0])} count as one each; to part them: --label-separator {separator!r}"
            )
    return None


def missing_words(counts: dict[str, int]) -> list[str]:
    """A note on labels that may mean that there is none."""
    found = {label: count for label, count in counts.items() if label.lower() in MISSING}
    if not found:
        return []
    listed = ", ".join(f"{label!r} on {count} documents" for label, count in found.items())
    return [f"learned as labels like any other, though they may stand for none: {listed}"]


def alike(labels: Iterable[str]) -> list[str]:
    """A note on labels that differ in what readers hardly see."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_seen(label), []).append(label)
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        return []
    listed = "; ".join(" and ".join(_told_apart(group)) for group in found[:5]) + ("; ..." if len(found) > 5 else "")
    return [f"learned as different labels, though they look alike: {listed}"]


def _seen(label: str) -> str:
    """What of a label counts for readers: no case, no way to encode an accent, nothing invisible, no punctuation at its
    ends, no .0."""
    visible = "".join(character for character in label if character not in INVISIBLE)
    plain = " ".join(unicodedata.normalize("NFKC", visible).casefold().split()).strip(" .,;:'\"")
    return re.sub(r"(?<=\d)\.0+$", "", plain)


def _told_apart(labels: Sequence[str]) -> list[str]:
    """Labels so that they look different: by their codes, if they are the same signs in other codes."""
    same = len({unicodedata.normalize("NFC", label) for label in labels}) < len(labels)
    return [ascii(label) if same else repr(label) for label in labels]


def measured(labels: Iterable[str]) -> list[str]:
    """A note on labels that are all numbers, not all of them whole."""
    try:
        fractions = [label for label in labels if not float(label).is_integer()]
    except ValueError:
        return []
    if not fractions:
        return []
    return [f"labels such as {fractions[0]!r} are numbers; each is learned as a class of its own"]
