"""One's own documents: a CSV, TSV, JSON, Parquet, Excel or fastText file, or a folder.

    my.jsonl  my.json              {"text": "...", "labels": ["a", "b"]}, one object a line, or a list of them
    my.csv  my.tsv  my.xlsx        a header; one label a cell, or several with a separator
    my.parquet                     the same fields as columns
    my.txt                         __label__a __label__b text, as fastText has it
    folder/train.jsonl ...         train, validation (or val, dev) and test, in any of these formats; also as
                                   train-00000-of-00001.parquet
    folder/CLASS/*.txt             texts, PDF, Word or HTML files; the folder's name is the label
    folder/train/CLASS/*.txt ...   the same, already split

CSV, TSV, JSON and text files may be gzip (.csv.gz). A text is a string or a list of paragraphs; `docs/documents.md`
shows every form. Text and labels are never all in memory (but for a JSON list): the files are read once for their
labels and hashes, and again in each iteration.

    python datasets/prepare.py my.csv --text-field body --label-field topics --label-separator ";"
"""

import hashlib
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.documents import DataError, Dataset, Documents
from flash_sparse_datasets.shared.drawn_splits import SPLITS, Draw, Drawn, EarlierSplit, draw_splits
from flash_sparse_datasets.shared.labelled_sources import Fields, FolderSource, Source, TableSource
from flash_sparse_datasets.shared.parts import LEFT_OUT, Part
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.reading_notes import alike, measured, missing_words, several_in_one
from flash_sparse_datasets.shared.row_files import ReaderOptions
from flash_sparse_datasets.shared.split_files import split_files
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.text_files import reading, shortened


def load(
    path: str | os.PathLike,
    text_field: str | Sequence[str] = "text",
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
    label_fields: Sequence[str] | None = None,
    file_field: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
    columns: Sequence[str] | None = None,
    bad_rows: str = "error",
    join_rows: bool = False,
    stratify: bool = True,
    folds: int | None = None,
    fold: int | None = None,
    keep_split: str | os.PathLike | None = None,
) -> Dataset:
    """Prepare one's own file or folder.

    Args:
        path: The file or folder, with the training documents and those of every split that is not given elsewhere.
        text_field, label_field, id_field: Where the rows hold what. Labels are by default in whichever of "labels" and
            "label" there is; the id is by default the file's name and the row. Several text fields are put after one
            another; `doc.text` is the field `text` within the field `doc`.
        validation, test: Files or folders of their own for these splits.
        split_seed, validation_share, test_share: For the splits that have no files of their own, see `seeded_split`:
            equal texts stay together, and every label is in training.
        task: "single-label", "multi-label", or "auto": multi-label if labels are lists or there is a separator.
        label_separator: What separates several labels in one string.
        unseen_labels: What becomes of a label that training does not have: "error", or "ignore" to drop it from its
            document (single-label: to drop the document), counted in the notes.
        label_fields: Fields that are each a label, 1 or x in the rows that have it, in place of `label_field`.
        file_field: The field with the path of each document's file, in place of `text_field`.
        encoding, delimiter, quotes, columns: How files of text are read, see `ReaderOptions`.
        bad_rows: What becomes of documents that cannot be read: "error", which names the first ten, or "skip".
        join_rows: Whether rows of the same text become one document with all of their labels.
        stratify: Whether the splits of a single-label task that are drawn have the classes' shares, where each class
            has enough documents, see `stratified_split`; else labels play no part.
        folds, fold: Cut the documents into so many parts, of which this one (from 1 on) is the test, see `fold_split`.
        keep_split: The split.npz of a run, whose documents keep the part that they had there.

    Labels are strings, integers or booleans, or lists of these; spaces around them do not count. An empty list is no
    label. Lists of zeros and ones alone are multi-hot.

    Raises:
        DataError: for files that cannot be used; one line that names the file and row.
        ValueError: for an argument's value.
    """
    _check_arguments(validation_share, test_share, task, label_separator, unseen_labels, bad_rows)
    _check_pairs(folds, fold, keep_split, label_field, label_fields)
    path = Path(path)
    reader = ReaderOptions(encoding, delimiter, quotes, None if columns is None else tuple(columns))
    fields = Fields(
        text=text_field if isinstance(text_field, str) else tuple(text_field),
        label=label_field,
        id=id_field,
        task=task,
        label_separator=label_separator,
        file=file_field,
        labels=None if label_fields is None else tuple(label_fields),
        multi_hot=True,
        reader=reader,
    )
    with reading(path):
        files = split_files(path, validation, test, reader)

    # Read all of it once.
    parts = _read_parts(files, fields, split_seed, bad_rows)
    train = parts["train"]
    task = train.source.task
    if join_rows:
        task = "multi-label"
        for part in parts.values():
            part.join_rows()

    # Deal out.
    earlier = None if keep_split is None else EarlierSplit(keep_split)
    shares = {"validation": validation_share, "test": test_share}
    wanted = {SPLITS[split]: 0 if split in parts else share for split, share in shares.items()}
    drawn = _deal_out(parts, Draw(wanted, folds, fold, earlier), by_class=stratify and task == "single-label")
    labels = _labels_in_training(train, task)  # only these can be learned

    # What users had better know.
    notes = [note for part in parts.values() for note in part.source.notes]
    notes += [note for part in parts.values() for note in part.odd()]
    notes += _doubtful_labels(train, labels, fields)
    for part in parts.values():
        if part is not train:
            notes += part.leave_out_unseen(labels, task, unseen_labels)
            notes += part.shared_with(train)
            notes += [] if earlier is None else earlier.note_trained_on(part.split, part.table.texts)
    notes += drawn.notes
    if folds is None:  # the test of one fold need not have them all
        notes += _never_tested(parts.get("test", train), labels)

    # Documents are read from disk again whenever they are wanted.
    splits = {split: parts.get(split, train).documents(split, labels) for split in SPLITS}
    return Dataset(
        name=path.resolve().name,
        task=task,
        labels=labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=_fingerprint(task, labels, parts),
        description=_describe(task, labels, splits, files, f"Seed {split_seed} {drawn.words}" if drawn.words else ""),
        notes=tuple(notes),
        text_hashes={split: _texts(parts.get(split, train), split, earlier) for split in SPLITS},
    )


# The steps, in their order


def _check_arguments(validation_share, test_share, task, label_separator, unseen_labels, bad_rows) -> None:
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
    if bad_rows not in ("error", "skip"):
        raise ValueError(f"bad_rows is {bad_rows!r}, expected 'error' or 'skip'")


def _check_pairs(folds, fold, keep_split, label_field, label_fields) -> None:
    if folds is not None and not 1 <= (fold or 0) <= folds:
        raise ValueError(f"fold is {fold}, expected one from 1 to folds, {folds}")
    if folds is not None and keep_split is not None:
        raise ValueError(f"folds is {folds}, expected none beside keep_split")
    if label_field is not None and label_fields is not None:
        raise ValueError(f"label_fields is {list(label_fields)}, expected none beside label_field")


def _read_parts(files: dict[str, Path], fields: Fields, split_seed: int, bad_rows: str) -> dict[str, Part]:
    sources: dict[str, Source] = {}
    for split, file in files.items():
        with Progress(None, f"opening {file.name}", unit=""):
            sources[split] = FolderSource(file, fields) if file.is_dir() else TableSource(file, fields)
    _check_alike(sources)
    label_ids: dict[str, int] = {}
    parts = {}
    for split, source in sources.items():
        parts[split] = part = Part(split, source, label_ids, split_seed)
        if part.bad.count and (bad_rows == "error" or not len(part.table.keys)):
            raise part.bad.error(several_in_one(label_ids) if fields.label_separator is None else None)
    return parts


def _check_alike(sources: dict[str, Source]):
    """Raise DataError where a split's labels are of another form than training's."""
    train = sources["train"]
    for split, source in sources.items():
        if source.task != train.task:
            there = f"{train.path} is {train.task}"
            raise DataError(f"{source.path}: {source.task}, but {there}, expected {split} to be like training")
        if source.multi_hot != train.multi_hot:
            here, there = (f"{found.multi_hot or 'no'} zeros and ones" for found in (source, train))
            raise DataError(f"{source.path}: lists of {here} as labels, but {there} in training, expected them alike")


def _deal_out(parts: dict[str, Part], draw: Draw, by_class: bool) -> Drawn:
    """Draw the splits that have no files of their own from the rows of training, and say how.

    Args:
        by_class: Whether each of them is to have its share of every class.
    """
    train = parts["train"]
    path = train.source.path
    if draw.folds is not None and "test" in parts:
        raise DataError(f"{parts['test'].source.path}: a test of its own, expected none beside folds")
    if not any(draw.shares.values()):
        return Drawn(train.split_of_row, "")
    kept = train.split_of_row != LEFT_OUT
    groups = train.group(kept, by_class)
    if draw.folds is not None and len(groups.sizes) < draw.folds + 2:
        raise DataError(f"{path}: {len(groups.sizes)} different texts are too few for {draw.folds} folds")
    drawn = draw_splits(groups, draw)
    train.split_of_row[kept] = drawn.split
    for split, number in SPLITS.items():
        if (split == "train" or draw.shares[number]) and not train.rows_of(split).any():
            raise DataError(
                f"{path}: {len(train.split_of_row)} rows are too few to split, {split} would be empty (every label is "
                "needed in training, and equal texts stay together), expected more rows or files of their own for "
                "validation and test"
            )
    return drawn


def _labels_in_training(train: Part, task: str) -> tuple[str, ...]:
    names, labels_of_row = list(train.label_ids), np.diff(train.table.offsets)
    in_training = train.rows_of("train")
    used = np.unique(train.table.label_ids[np.repeat(in_training, labels_of_row)])
    labels = tuple(sorted(names[label] for label in used))
    if not labels:
        raise DataError(f"{train.source.path}: no document has a label, expected labels to learn")
    if len(labels) == 1 and (task == "single-label" or labels_of_row[in_training].all()):
        one = shortened(labels[0])
        raise DataError(
            f"{train.source.path}: all training documents have the one label {one}, expected at least two classes"
        )
    return labels


def _doubtful_labels(train: Part, labels: tuple[str, ...], fields: Fields) -> list[str]:
    """Notes on labels that may be several in one, or none, or not what was meant."""
    notes = []
    if fields.label_separator is None and fields.labels is None and (hint := several_in_one(labels)):
        notes.append(hint)
    if fields.label_separator is not None and (np.diff(train.table.offsets) < 2).all():
        notes.append(f"{train.source.path}: --label-separator {fields.label_separator!r} parts the labels of no row")
    counts = np.bincount(train.table.label_ids, minlength=len(train.label_ids))  # (labels,)
    notes += missing_words({label: int(counts[train.label_ids[label]]) for label in labels})
    return notes + alike(labels) + measured(labels)


def _never_tested(part: Part, labels: tuple[str, ...]) -> list[str]:
    """A note if no test document, all of which are in this part, has some of the labels."""
    tested = np.repeat(part.rows_of("test"), np.diff(part.table.offsets))
    seen = set(np.unique(part.table.label_ids[tested]).tolist())
    missing = [label for label in labels if part.label_ids[label] not in seen]
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(labels)} labels have no test document, so that the scores say nothing of them: "
        f"{shortened(missing)}"
    ]


def _fingerprint(task: str, labels: tuple[str, ...], parts: dict[str, Part]) -> str:
    """Of all texts, labels and splits."""
    digest = hashlib.sha256(repr((task, labels)).encode())
    for part in parts.values():
        digest.update(part.table.digest + part.split_of_row.tobytes())
        digest.update(b"" if part.joined is None else repr(sorted(part.joined.items())).encode())
    return digest.hexdigest()


def _describe(
    task: str, labels: tuple[str, ...], splits: dict[str, Documents], files: dict[str, Path], drawn: str
) -> str:
    sizes = ", ".join(f"{len(documents):,} for {split}" for split, documents in splits.items())
    names = ", ".join(dict.fromkeys(file.name for file in files.values()))
    how = f"{drawn}." if drawn else "The splits are as the files give them."
    return f"Own documents from {names}, {task}, {len(labels)} labels; {sizes}. {how}"


def _texts(part: Part, split: str, earlier: EarlierSplit | None) -> np.ndarray:
    """The hashes of all texts of a split, and of those that an earlier one had in it."""
    own = part.table.texts[part.rows_of(split)]
    return np.union1d(own, own[:0] if earlier is None else earlier.texts[split])


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("path", help="file or folder")
    parser.add_argument("--text-field", nargs="+", default=["text"], help="field of the text, or several")
    parser.add_argument("--label-field", help="field of the labels (default: labels or label)")
    parser.add_argument("--id-field", help="field of the id (default: file name and line)")
    parser.add_argument("--validation", help="file or folder of its own for validation")
    parser.add_argument("--test", help="file or folder of its own for test")
    parser.add_argument("--split-seed", type=int, default=0, help="seed with which splits are drawn")
    parser.add_argument("--validation-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--test-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--task", default="auto", choices=("auto", "single-label", "multi-label"))
    parser.add_argument("--label-separator", help="what separates several labels in one string")
    parser.add_argument("--unseen-labels", default="error", choices=("error", "ignore"))
    parser.add_argument("--label-fields", nargs="+", help="fields that are each a label, 1 in the rows that have it")
    parser.add_argument("--file-field", help="field with the path of each document's file")
    parser.add_argument("--encoding", help="encoding of text files, such as cp1252 (default: UTF-8)")
    parser.add_argument("--delimiter", help="between the cells of CSV and TSV files, such as ; or tab")
    parser.add_argument("--no-quotes", dest="quotes", action="store_false", help="quotes are plain characters")
    parser.add_argument("--columns", nargs="+", help="names of the columns of a CSV or TSV file without a header")
    parser.add_argument("--bad-rows", default="error", choices=("error", "skip"))
    parser.add_argument("--join-rows", action="store_true", help="rows of the same text are one document")
    parser.add_argument(
        "--no-stratify", dest="stratify", action="store_false", help="labels play no part in the splits"
    )
    parser.add_argument("--folds", type=int, help="cut the documents into this many parts, of which --fold is the test")
    parser.add_argument("--fold", type=int, help="from 1 on")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
