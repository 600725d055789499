"""One's own documents: a CSV, TSV, JSONL or Parquet file, or a folder.

    my.jsonl                       {"text": "...", "labels": ["a", "b"]}, one object a line
    my.csv  my.tsv                 a header; one label a cell, or several with a separator
    my.parquet                     the same fields as columns
    folder/train.jsonl ...         train, validation (or val, dev) and test, in any of these formats; also as
                                   train-00000-of-00001.parquet
    folder/CLASS/*.txt             text files; the folder's name is the label
    folder/train/CLASS/*.txt ...   the same, already split

CSV, TSV, JSONL and text files may be gzip (.csv.gz). A text is a string or a list of paragraphs. Text and labels are
never all in memory: the files are read once for their labels and hashes, and again in each iteration.

    python datasets/prepare.py my.csv --text-field body --label-field topics --label-separator ";"
"""

import hashlib
import os
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.document_table import DocumentTable
from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.labelled_sources import Fields, FolderSource, Source, TableSource, visible
from flash_sparse_datasets.shared.row_files import FORMATS, format_of
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN, VALIDATION, seeded_split
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.text_files import reading, shortened

SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}
ONLY_SHARD = "-00000-of-00001"  # how the Hugging Face hub ends the name of a split's one file
LEFT_OUT = 3  # a single-label document whose label training does not have


def load(
    path: str | os.PathLike,
    text_field: str = "text",
    label_field: str | None = None,
    id_field: str | None = None,
    validation: str | os.PathLike | None = None,
    test: str | os.PathLike | None = None,
    split_seed: int = 0,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    task: str = "auto",
    label_separator: str | None = None,
    unseen_labels: str = "error",
) -> Dataset:
    """Prepare one's own file or folder.

    Args:
        path: The file or folder, with the training documents and those of every split that is not given elsewhere.
        text_field, label_field, id_field: Where the rows hold what. Labels are by default in whichever of "labels" and
            "label" there is; the id is by default the file's name and the line.
        validation, test: Files or folders of their own for these splits.
        split_seed, validation_share, test_share: For the splits that have no files of their own, see `seeded_split`:
            equal texts stay together, and every label is in training.
        task: "single-label", "multi-label", or "auto": multi-label if labels are lists or there is a separator.
        label_separator: What separates several labels in one string.
        unseen_labels: What becomes of a label that training does not have: "error", or "ignore" to drop it from its
            document (single-label: to drop the document), counted in the notes.

    Labels are strings, integers or booleans, or lists of these; spaces around them do not count. An empty list is no
    label.

    Raises:
        DataError: for files that cannot be used; one line that names the file and row.
        ValueError: for an argument's value.
    """
    _check_arguments(validation_share, test_share, task, label_separator, unseen_labels)
    path = Path(path)
    with reading(path):
        parts = _parts(path, validation, test)
    fields = Fields(text_field, label_field, id_field, task, label_separator)
    sources = {split: _open(part, fields) for split, part in parts.items()}
    for split, source in sources.items():
        if source.task != sources["train"].task:
            there = f"{sources['train'].path} is {sources['train'].task}"
            raise DataError(f"{source.path}: {source.task}, but {there}, expected {split} to be like training")
    task = sources["train"].task

    label_ids: dict[str, int] = {}
    tables = {
        split: DocumentTable(((number, document) for _, number, document in source.documents()), label_ids, split_seed)
        for split, source in sources.items()
    }
    names = list(label_ids)

    # Deal out: `assigned` says for each source which split each of its rows belongs to.
    assigned = {split: np.full(len(table.keys), SPLITS[split], np.uint8) for split, table in tables.items()}
    shares = {"validation": validation_share, "test": test_share}
    seeded = {split: 0 if split in sources else share for split, share in shares.items()}
    table = tables["train"]
    if any(seeded.values()):
        assigned["train"] = seeded_split(
            table.keys, table.offsets, table.label_ids, seeded["validation"], seeded["test"]
        )
        for split in ("train", *(split for split, share in seeded.items() if share)):
            if not (assigned["train"] == SPLITS[split]).any():
                raise DataError(
                    f"{parts['train']}: {len(table.keys)} rows are too few to split, {split} would be empty (every "
                    "label is needed in training, and equal texts stay together), expected more rows or files of "
                    "their own for validation and test"
                )

    in_training = assigned["train"] == TRAIN
    seen = np.zeros(len(names), bool)
    seen[table.label_ids[np.repeat(in_training, np.diff(table.offsets))]] = True
    labels = tuple(sorted(name for name, is_seen in zip(names, seen, strict=True) if is_seen))
    _check_classes(parts["train"], task, labels, np.diff(table.offsets)[in_training])

    notes = [note for source in sources.values() for note in source.notes]
    if task == "single-label" and label_separator is None:
        notes += _several_in_one(labels)
    for split in [split for split in sources if split != "train"]:
        notes += _unseen(split, sources[split], tables[split], names, seen, task, unseen_labels, assigned[split])
        notes += _shared(split, sources[split], tables[split], table.keys[in_training])

    digest = hashlib.sha256(repr((task, labels)).encode())
    for split in sources:
        digest.update(tables[split].digest + assigned[split].tobytes())

    splits = {}
    for split, number in SPLITS.items():
        part = split if split in sources else "train"
        wanted = (assigned[part] == number).tobytes()
        splits[split] = Documents(partial(_read, sources[part], wanted, frozenset(labels)), sum(wanted))
    sizes = ", ".join(f"{len(documents):,} for {split}" for split, documents in splits.items())
    files = ", ".join(dict.fromkeys(part.name for part in parts.values()))
    drawn = " and ".join(split for split, share in seeded.items() if share)
    return Dataset(
        name=path.resolve().name,
        task=task,
        labels=labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=digest.hexdigest(),
        description=(
            f"Own documents from {files}, {task}, {len(labels)} labels; {sizes}. "
            + (f"Seed {split_seed} drew {drawn}." if drawn else "The splits are as the files give them.")
        ),
        notes=tuple(notes),
    )


def _check_arguments(validation_share, test_share, task, label_separator, unseen_labels) -> None:
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share!r}, expected a share between 0 and 1")
    if validation_share + test_share >= 1:
        raise ValueError(
            f"validation_share and test_share are {validation_share!r} and {test_share!r}, expected a sum below 1"
        )
    if task not in ("auto", "single-label", "multi-label"):
        raise ValueError(f"task is {task!r}, expected 'auto', 'single-label' or 'multi-label'")
    if label_separator == "":
        raise ValueError("label_separator is '', expected at least one character")
    if unseen_labels not in ("error", "ignore"):
        raise ValueError(f"unseen_labels is {unseen_labels!r}, expected 'error' or 'ignore'")


def _several_in_one(labels: Sequence[str]) -> list[str]:
    """A note if most labels seem to be several, which others have too: then they are parts of lists."""
    for separator in ";|,":
        lists = [label for label in labels if separator in label]
        parts = Counter(part.strip() for label in labels for part in label.split(separator))
        if 2 * len(lists) >= len(labels) and max(parts.values()) > 1:
            return [
                f"most labels hold {separator!r}, such as {lists[0]!r}, and count as one each; to part them: "
                f"--label-separator {separator!r}"
            ]
    return []


# Which files and folders there are


def _parts(path: Path, validation, test) -> dict[str, Path]:
    """The file or class folder of each split that has one; "train" has."""
    parts = _split_parts(path) if path.is_dir() else {"train": path}
    for split, given in (("validation", validation), ("test", test)):
        if given is None:
            continue
        if not os.fspath(given):
            raise ValueError(f"{split} is '', expected a file or folder")
        if split in parts:
            raise ValueError(f"{split} is {str(given)!r}, but {path} already has {parts[split].name}, expected one")
        parts[split] = Path(given).expanduser()
    for (one, path_of_one), (other, path_of_other) in combinations(parts.items(), 2):
        if path_of_one.exists() and path_of_other.exists() and path_of_one.samefile(path_of_other):
            raise DataError(f"{path_of_other}: given for both {one} and {other}, expected different files")
    return {split: parts[split] for split in SPLITS if split in parts}


def _split_parts(folder: Path) -> dict[str, Path]:
    entries = visible(folder)
    parts: dict[str, Path] = {}
    for entry in entries:
        if entry.is_dir():
            split = SPLIT_NAMES.get(entry.name) if any(inner.is_dir() for inner in visible(entry)) else None
        else:
            ending = format_of(entry)
            split = SPLIT_NAMES.get(entry.name[: -len(ending)].removesuffix(ONLY_SHARD)) if ending else None
        if split in parts:
            raise DataError(f"{folder}: both {parts[split].name} and {entry.name}, expected one file for {split}")
        if split is not None:
            parts[split] = entry
    if parts:
        if "train" not in parts:
            raise DataError(f"{folder}: {next(iter(parts.values())).name} and nothing for training, expected train too")
        return parts

    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes or set(classes) <= SPLIT_NAMES.keys():
        holds = shortened([entry.name for entry in entries])
        raise DataError(
            f"{folder}: expected class folders with .txt files, or train, validation and test, each a folder of class "
            f"folders or a file ({' '.join(FORMATS)}); it holds {holds}"
        )
    return {"train": folder}


def _open(path: Path, fields: Fields) -> Source:
    return FolderSource(path, fields) if path.is_dir() else TableSource(path, fields)


# After the first reading


def _check_classes(path: Path, task: str, labels: tuple[str, ...], labels_of_row: np.ndarray) -> None:
    if not labels:
        raise DataError(f"{path}: no document has a label, expected labels to learn")
    if len(labels) == 1 and (task == "single-label" or labels_of_row.all()):
        one = shortened(labels[0])
        raise DataError(f"{path}: all training documents have the one label {one}, expected at least two classes")


def _unseen(split, source, table, names, seen, task, unseen_labels, assigned) -> list[str]:
    """Deal with labels that training does not have: raise, or mark rows as LEFT_OUT and return a note."""
    unseen = np.flatnonzero(~seen[table.label_ids])
    if not len(unseen):
        return []
    rows = np.unique(np.searchsorted(table.offsets, unseen, side="right") - 1)
    place, label = source.place(table.numbers[rows[0]]), shortened(names[table.label_ids[unseen[0]]])
    if unseen_labels == "error":
        raise DataError(
            f"{place}: the label {label} is not in the training documents, expected one of their labels "
            "(or unseen_labels to be ignore)"
        )
    if task == "single-label":
        assigned[rows] = LEFT_OUT
        if (assigned == LEFT_OUT).all():
            raise DataError(f"{source.path}: none of its labels is in the training documents (first: {label})")
    what = "left out, whose label is" if task == "single-label" else "without those labels that are"
    return [f"{split}: documents {what} not in training: {len(rows)} (first: {place}, {label})"]


def _shared(split, source, table, training_keys) -> list[str]:
    """A note if texts of a given split also stand in training."""
    rows = np.flatnonzero(np.isin(table.keys, training_keys))
    if not len(rows):
        return []
    first = source.place(table.numbers[rows[0]])
    return [
        f"{split}: {len(rows)} of {len(table.keys)} documents have a text that is also in training (first: {first})"
    ]


# Every further reading


def _read(source: Source, wanted: bytes, known: frozenset[str]) -> Iterator[Document]:
    for _, _, document in source.documents(wanted):
        if not known.issuperset(document.labels):
            document = Document(document.id, document.text, tuple(sorted(known.intersection(document.labels))))
        yield document


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("path", help="file or folder")
    parser.add_argument("--text-field", default="text", help="field of the text (default: text)")
    parser.add_argument("--label-field", help="field of the labels (default: labels or label)")
    parser.add_argument("--id-field", help="field of the id (default: file name and line)")
    parser.add_argument("--validation", help="file or folder of its own for validation")
    parser.add_argument("--test", help="file or folder of its own for test")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--validation-share", type=float, default=0.1)
    parser.add_argument("--test-share", type=float, default=0.1)
    parser.add_argument("--task", default="auto", choices=("auto", "single-label", "multi-label"))
    parser.add_argument("--label-separator", help="what separates several labels in one string")
    parser.add_argument("--unseen-labels", default="error", choices=("error", "ignore"))
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
