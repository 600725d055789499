"""The files of one's own documents, read once: which split each of their rows belongs to, and what to say of them."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from flash_sparse_datasets.shared.bad_rows import BadRows
from flash_sparse_datasets.shared.document_table import DocumentTable
from flash_sparse_datasets.shared.documents import DataError, Document, Documents
from flash_sparse_datasets.shared.drawn_splits import SPLITS
from flash_sparse_datasets.shared.joined_rows import EqualTexts
from flash_sparse_datasets.shared.labelled_sources import Source
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.reading_notes import Heard
from flash_sparse_datasets.shared.row_groups import RowGroups
from flash_sparse_datasets.shared.text_files import shortened

LEFT_OUT = 3  # a single-label document whose label training does not have, or one joined to another


class Part:
    """The documents of a split; those of training also hold every split that has no files of its own.

    Args:
        split: "train", "validation" or "test".
        source: Read to its end here.
        label_ids: As of `DocumentTable`: the parts of a dataset share it.
        seed: For the keys.

    Attributes:
        split, source, label_ids: As given.
        table: Labels and hashes of all rows that can be read.
        bad: The others.
        split_of_row: (rows,) uint8 of `SPLITS`, or LEFT_OUT.
        joined: Row -> its labels, where other rows of the same text were joined to it; None before `join_rows`.
    """

    def __init__(self, split: str, source: Source, label_ids: dict[str, int], seed: int):
        self.split, self.source, self.label_ids = split, source, label_ids
        self.bad, self._heard = BadRows(source), Heard()
        self.table = DocumentTable(_with_progress(source, self.bad.others(self._heard)), label_ids, seed)
        self._equal = EqualTexts(self.table)
        self.split_of_row = np.full(len(self.table.keys), SPLITS[split], np.uint8)
        self.joined: dict[int, tuple[str, ...]] | None = None

    def place(self, row: int) -> str:
        return self.source.place(self.table.numbers[row])

    def rows_of(self, split: str) -> np.ndarray:
        """(rows,) bool: whether a row belongs to this split."""
        return self.split_of_row == SPLITS[split]

    # Splits

    def join_rows(self):
        """Give the first row of each text all of its labels, and leave out the others."""
        names = list(self.label_ids)
        labels_of, others = self._equal.joined()
        self.table.replace_labels(labels_of, others)
        self.joined = {row: tuple(sorted(names[label] for label in labels)) for row, labels in labels_of.items()}
        self.split_of_row[others] = LEFT_OUT

    def group(self, kept: np.ndarray, by_class: bool) -> RowGroups:
        """These rows by their texts.

        Args:
            kept: (rows,) bool. Of rows that are joined to others, none has a label.
            by_class: Whether they are to be drawn by their labels.
        """
        table = self.table
        ranks = None
        if by_class:  # which row has a label first must not count
            ranks = np.argsort(np.argsort(list(self.label_ids)))
        offsets = table.offsets[np.append(kept, True)]
        return RowGroups(table.keys[kept], table.texts[kept], offsets, table.label_ids, ranks)

    def leave_out_unseen(self, labels: Sequence[str], task: str, unseen_labels: str) -> list[str]:
        """Deal with labels other than these, those of training: raise, or leave out rows (single-label) and say so."""
        table, names, known = self.table, list(self.label_ids), set(labels)
        is_known = np.array([name in known for name in names])  # (labels of all parts,)
        unseen = np.flatnonzero(~is_known[table.label_ids])
        if not len(unseen):
            return []
        rows = np.unique(np.searchsorted(table.offsets, unseen, side="right") - 1)
        place, label = self.place(rows[0]), shortened(names[table.label_ids[unseen[0]]])
        if unseen_labels == "error":
            raise DataError(
                f"{place}: the label {label} is not in the training documents, expected one of their labels "
                "(or unseen_labels to be ignore)"
            )
        if task == "single-label":
            self.split_of_row[rows] = LEFT_OUT
            if (self.split_of_row == LEFT_OUT).all():
                raise DataError(f"{self.source.path}: none of its labels is in the training documents (first: {label})")
        what = "left out, whose label is" if task == "single-label" else "without those labels that are"
        return [f"{self.split}: documents {what} not in training: {len(rows)} (first: {place}, {label})"]

    # What users had better know

    def odd(self) -> list[str]:
        """Notes on what is odd in the files but no error."""
        left_out = [self.bad.note()] if self.bad.count else []
        contradictions = self._equal.note(self.source.place) if self.joined is None else []
        return left_out + self._heard.notes(self.source.path) + contradictions

    def shared_with(self, train: "Part") -> list[str]:
        """A note if texts of this split's files also stand in training."""
        rows = np.flatnonzero(np.isin(self.table.keys, train.table.keys[train.rows_of("train")]))
        if not len(rows):
            return []
        return [
            f"{self.split}: {len(rows)} of {len(self.table.keys)} documents have a text that is also in training "
            f"(first: {self.place(rows[0])})"
        ]

    # Every further reading

    def documents(self, split: str, labels: Sequence[str]) -> Documents:
        """Those of a split, read from disk whenever they are wanted, without labels other than these."""
        wanted = self.rows_of(split)
        joined = None if self.joined is None else [self.joined.get(int(row)) for row in np.flatnonzero(wanted)]
        read = partial(_read, self.source, self.bad.among_all(wanted), frozenset(labels), joined)
        return Documents(read, int(wanted.sum()))


def _with_progress(source: Source, numbered: Iterable[tuple[int, Document]]) -> Iterator[tuple[int, Document]]:
    """Pass the documents on and say how far the reading is, in percent where that is known."""
    bar = None
    try:
        for each in numbered:
            share = source.share_read()
            if bar is None:  # what is known of a file is known once its reading has begun
                much = (None, " documents") if share is None else (100, "%")
                bar = Progress(None, f"reading {source.path.name}", *much)
            bar.update(1 if share is None else int(100 * share) - bar.n)
            yield each
    finally:
        if bar is not None:
            bar.close()


def _read(source: Source, wanted: bytes, known: frozenset[str], joined: list | None) -> Iterator[Document]:
    for count, (_, _, document) in enumerate(source.documents(wanted)):
        if joined is not None and joined[count] is not None:
            document = Document(document.id, document.text, joined[count])
        if not known.issuperset(document.labels):
            document = Document(document.id, document.text, tuple(sorted(known.intersection(document.labels))))
        yield document
