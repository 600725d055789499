"""A published set of documents: its own splits, the parts it lacks drawn by a seed, its labels, and what to note."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from flash_sparse_datasets.shared.document_table import DocumentTable
from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN, VALIDATION, seeded_split
from flash_sparse_datasets.shared.surprises import other_sizes, unused_labels

SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def published_set(
    name: str,
    task: str,
    readers: Mapping[str, Callable[..., Iterator[Document]]],
    about: str,
    *,
    labels: Sequence[str] | None = None,
    none_label: str | None = None,
    sizes: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    split_seed: int = 0,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> Dataset:
    """Read all documents once and prepare the dataset. A test set is for the test alone: a part that the release does
    not have is drawn from the training documents, each class (single-label) by itself, equal texts together.

    Args:
        name: Of the dataset.
        task: "single-label" or "multi-label".
        readers: For "train" and each other split that the release has, starts one reading; can be pickled. That of
            "train" takes `wanted` where splits are drawn from it: a byte for each document, 0 to skip it.
        about: One or two sentences for the description.
        labels: The classes of the published task; None for those of the training documents. Documents lose others.
        none_label: As of `Dataset`.
        sizes: How many documents the release has in each of its parts.
        notes: What else the user should hear.
        split_seed, validation_share, test_share: For the splits that the release does not have.

    Raises:
        DataError: for documents that cannot be used.
        ValueError: for a share.
    """
    shares = {"validation": validation_share, "test": test_share}
    drawn = {split: share for split, share in shares.items() if split not in readers}
    _check_shares(drawn)

    # Read all of it once, and draw the parts that the release does not have.
    label_ids: dict[str, int] = {}
    tables = _read_once(name, readers, label_ids, split_seed)
    assigned = {split: np.full(len(table.keys), SPLITS[split], np.uint8) for split, table in tables.items()}
    if drawn:
        assigned["train"] = _draw(name, tables["train"], task, drawn)
    train, in_training = tables["train"], assigned["train"] == TRAIN

    # Only these labels stay: those of the task, or of training.
    names = np.array(list(label_ids), object)
    if labels is None:
        labels = sorted(set(names[train.label_ids[np.repeat(in_training, np.diff(train.offsets))]]))
    if not labels:
        raise DataError(f"{name}: no training document has a label, expected labels to learn")
    known, all_labels = frozenset(labels), tuple(sorted(labels))

    # What users had better know.
    notes = list(notes)
    is_known = np.array([label in known for label in names], bool)
    for split, table in tables.items():
        if sizes is not None:
            notes += other_sizes({split: len(table.keys)}, sizes)
        notes += _dropped(split, table, ~is_known[table.label_ids], len(labels), task)
        if split != "train" and (shared := np.isin(table.keys, train.keys[in_training]).sum()):
            notes.append(f"{split}: {shared:,} of {len(table.keys):,} documents have a text that is also in training")
    notes += unused_labels(all_labels, label_ids)
    how = "as released"
    if drawn:
        shares_drawn = " and ".join(f"{split} ({share:.0%})" for split, share in drawn.items())
        how = f"{shares_drawn} drawn from the release's training documents with seed {split_seed}"
        notes.append(f"the release has no {' and no '.join(drawn)} part: {how}")

    splits = _splits(readers, tables, assigned["train"], known, drawn)
    counts = " / ".join(f"{len(documents):,}" for documents in splits.values())
    return Dataset(
        name=name,
        task=task,
        labels=all_labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=_fingerprint(task, all_labels, tables, assigned),
        description=f"{about} {len(all_labels):,} labels; {counts} documents for training, validation and test, {how}.",
        notes=tuple(notes),
        none_label=none_label,
    )


def _check_shares(drawn: Mapping[str, float]):
    """Raise ValueError for shares of which nothing can be drawn, or that leave nothing for training."""
    for split, share in drawn.items():
        if not 0 < share < 1:
            raise ValueError(f"{split}_share is {share!r}, expected a share between 0 and 1")
    if sum(drawn.values()) >= 1:
        shares = " and ".join(map(repr, drawn.values()))  # of both: one alone is below 1
        raise ValueError(f"validation_share and test_share are {shares}, expected a sum below 1")


def _read_once(
    name: str, readers: Mapping[str, Callable[..., Iterator[Document]]], label_ids: dict[str, int], seed: int
) -> dict[str, DocumentTable]:
    tables = {}
    for split, read in readers.items():
        documents = Progress(read(), f"reading {name} {split}")
        tables[split] = DocumentTable(enumerate(documents, 1), label_ids, seed)
        if not len(tables[split].keys):
            raise DataError(f"{name}: no documents for {split}, expected some")
    return tables


def _dropped(split: str, table: DocumentTable, unknown: np.ndarray, count: int, task: str) -> list[str]:
    """What the user should hear of labels that are not among the `count` of the task, `unknown`, and of documents that
    have no other."""
    notes = []
    row_of_label = np.repeat(np.arange(len(table.keys)), np.diff(table.offsets))
    if unknown.any():
        which = len(set(table.label_ids[unknown]))
        notes.append(
            f"{split}: {unknown.sum():,} labels, {which:,} different ones, are not among the {count:,} of "
            f"this task and were dropped, from {len(set(row_of_label[unknown])):,} documents"
        )
    empty = len(table.keys) - len(set(row_of_label[~unknown]))
    if task == "multi-label" and empty:
        notes.append(f"{split}: {empty:,} of {len(table.keys):,} documents have no label")
    return notes


def _draw(name: str, table: DocumentTable, task: str, drawn: Mapping[str, float]) -> np.ndarray:
    """The split of each row, (rows,)."""
    shares = (drawn.get("validation", 0), drawn.get("test", 0))
    if task == "multi-label":
        assigned = seeded_split(table.keys, table.offsets, table.label_ids, *shares)
    else:
        assigned = _draw_by_class(table, shares)
    for split in ("train", *drawn):
        if not (assigned == SPLITS[split]).any():
            raise DataError(f"{name}: {len(table.keys)} documents are too few to split, {split} would be empty")
    return assigned


def _draw_by_class(table: DocumentTable, shares: tuple[float, float]) -> np.ndarray:
    """A stratum is a class; a text that is there with two labels is in that of its first row, and so stays together."""
    _, first, group = np.unique(table.keys, return_index=True, return_inverse=True)
    stratum = table.label_ids[first][group]
    assigned = np.empty(len(table.keys), np.uint8)
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        offsets = np.arange(len(members) + 1)
        assigned[members] = seeded_split(table.keys[members], offsets, table.label_ids[members], *shares)
    return assigned


def _fingerprint(
    task: str, labels: tuple[str, ...], tables: Mapping[str, DocumentTable], assigned: Mapping[str, np.ndarray]
) -> str:
    """Of all texts, labels and splits."""
    digest = hashlib.sha256(repr((task, labels)).encode())
    for split, table in tables.items():
        digest.update(table.digest + assigned[split].tobytes())
    return digest.hexdigest()


def _splits(
    readers: Mapping[str, Callable[..., Iterator[Document]]],
    tables: Mapping[str, DocumentTable],
    assigned: np.ndarray,
    known: frozenset[str],
    drawn: Mapping[str, float],
) -> dict[str, Documents]:
    """Documents that are read from disk again whenever they are wanted.

    Args:
        assigned: (rows of training,) the split of each.
        known: Documents lose other labels.
    """
    splits = {}
    for split, number in SPLITS.items():
        if split not in drawn and not (split == "train" and drawn):
            read, length = readers[split], len(tables[split].keys)
        else:
            wanted = (assigned == number).tobytes()
            read, length = partial(readers["train"], wanted=wanted), sum(wanted)
        splits[split] = Documents(partial(_labelled, read, known), length)
    return splits


def _labelled(read, known: frozenset[str]) -> Iterator[Document]:
    for document in read():
        labels = tuple(label for label in document.labels if label in known)
        yield Document(document.id, document.text, labels)
