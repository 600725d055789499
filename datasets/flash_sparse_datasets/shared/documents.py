"""What every dataset is: three splits of documents, each a text and its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class DataError(ValueError):
    """The data cannot be used. The message is one line: the file and row, the value, and what was expected."""


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: Names it in messages and predictions.
        text: A string, or bytes: a sequence of values from 0 to 255 that needs no tokenizer, such as the bytes of a
            text or the pixels of an image row by row.
        labels: Exactly one in a single-label task, zero or more in a multi-label task; sorted.
        second: The other document of a pair, of the same type as `text`, where the labels say how the two are related.
            All documents of a dataset have one, or none has.
    """

    id: str
    text: str | bytes
    labels: tuple[str, ...]
    second: str | bytes | None = None


class Documents:
    """The documents of one split, read from disk each time they are iterated, always in the same order.

    Args:
        read: Starts one reading. It can be pickled when worker processes shall iterate.
        length: How many documents one reading gives.
    """

    def __init__(self, read: Callable[[], Iterator[Document]], length: int):
        self._read = read
        self._length = length

    def __iter__(self) -> Iterator[Document]:
        return self._read()

    def __len__(self) -> int:
        return self._length


@dataclass(frozen=True)
class Fresh:
    """Training documents beyond those of the split, as many as are asked for.

    Attributes:
        make: Takes numbers from 0, each of another document, and gives their bytes (count, length) uint8 and the
            positions of their labels (count,). It can be pickled, for worker processes. Where they exist at several
            levels, it takes beside the numbers the level of each.
        workers: Processes to make them in.
        levels: The least level that there is and that of the dataset, harder ones being higher; None without levels.
    """

    make: Callable[..., tuple[np.ndarray, np.ndarray]]
    workers: int
    levels: tuple[int, int] | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset ready to train on.

    Attributes:
        name: What it is called in reports.
        task: "single-label" or "multi-label".
        labels: All labels, sorted; those of the training split alone, or the classes that a published task has.
        train, validation, test: The splits.
        fingerprint: SHA-256, in hex, of every document's id, text and labels, of the split and of the task.
        description: One paragraph of plain text for reports and model cards.
        notes: Warnings to show, such as test documents that also stand in the training split.
        vocabulary: All words, separated by white space in the texts, of a language that is generated; None if the texts
            are bytes or have words to be learned from the training split.
        grid: Rows and columns, if every text is the pixels of an image of this size.
        none_label: What scores call one more label, that of all documents without any, in the truth and in what is
            predicted; nothing learns it. None if they count the labels alone.
        baselines: Gives what simple rules reach on the test documents, to stand beside a model's result: names and the
            shares of right answers. It reads all documents. None where there are no such rules; single-label alone.
        text_hashes: Split -> (texts,) S16 of one's own documents, for a later run to know them; None for others.
        fresh: Makes more training documents of the same kind; None where they cannot be made.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    train: Documents
    validation: Documents
    test: Documents
    fingerprint: str
    description: str
    notes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] | None = None
    grid: tuple[int, int] | None = None
    none_label: str | None = None
    baselines: Callable[[], dict[str, float]] | None = None
    text_hashes: dict[str, np.ndarray] | None = None
    fresh: Fresh | None = None
