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
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.bad_rows import BadRows
from flash_sparse_datasets.shared.document_table import DocumentTable
from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.drawn_splits import SPLITS, Draw, Drawn, EarlierSplit, draw_splits
from flash_sparse_datasets.shared.joined_rows import EqualTexts
from flash_sparse_datasets.shared.labelled_sources import Fields, FolderSource, Source, TableSource, visible
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.reading_notes import Heard, missing_words, nearly_equal, several_in_one
from flash_sparse_datasets.shared.row_files import FORMATS, ReaderOptions, format_of
from flash_sparse_datasets.shared.row_files.fasttext import is_fasttext
from flash_sparse_datasets.shared.row_groups import RowGroups
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.text_files import reading, shortened

VALIDATION_NAMES = ("validation", "valid", "val", "dev")
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(VALIDATION_NAMES, "validation")
ONLY_SHARD = "-00000-of-00001"  # how the Hugging Face hub ends the name of a split's one file
LEFT_OUT = 3  # a single-label document whose label training does not have, or one joined to another


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
    if folds is not None and not 1 <= (fold or 0) <= folds:
        raise ValueError(f"fold is {fold}, expected one from 1 to folds, {folds}")
    if folds is not None and keep_split is not None:
        raise ValueError(f"folds is {folds}, expected none beside keep_split")
    if label_field is not None and label_fields is not None:
        raise ValueError(f"label_fields is {list(label_fields)}, expected none beside label_field")
    reader = ReaderOptions(encoding, delimiter, quotes, None if columns is None else tuple(columns))
    path = Path(path)
    with reading(path):
        parts = _parts(path, validation, test, reader)
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
    sources = {split: _open(part, fields) for split, part in parts.items()}
    _check_alike(sources)
    task = sources["train"].task

    # Read all of it once.
    label_ids: dict[str, int] = {}
    bad = {split: BadRows(source) for split, source in sources.items()}
    heard = {split: Heard() for split in sources}
    tables = {}
    for split, source in sources.items():
        documents = _with_progress(source, bad[split].others(heard[split]))
        tables[split] = DocumentTable(documents, label_ids, split_seed)
        if bad[split].count and (bad_rows == "error" or not len(tables[split].keys)):
            raise bad[split].error(several_in_one(label_ids) if label_separator is None else None)
    names = list(label_ids)

    # Texts that stand in a file several times.
    equal = {split: EqualTexts(table) for split, table in tables.items()}
    joined: dict[str, dict[int, tuple[str, ...]]] = {split: {} for split in sources}
    others = {split: np.zeros(len(table.keys), bool) for split, table in tables.items()}
    if join_rows:
        task = "multi-label"
        for split in sources:
            labels_of, others[split] = equal[split].joined()
            tables[split].replace_labels(labels_of, others[split])
            joined[split] = {row: tuple(sorted(names[label] for label in of)) for row, of in labels_of.items()}

    # Deal out: `assigned` says for each source which split each of its rows belongs to.
    assigned = {split: np.full(len(table.keys), SPLITS[split], np.uint8) for split, table in tables.items()}
    shares = {"validation": validation_share, "test": test_share}
    seeded = {split: 0 if split in sources else share for split, share in shares.items()}
    table = tables["train"]
    assigned["train"][others["train"]] = LEFT_OUT
    if folds is not None and "test" in sources:
        raise DataError(f"{parts['test']}: a test of its own, expected none beside folds")
    earlier = None if keep_split is None else EarlierSplit(keep_split)
    drawn = Drawn(assigned["train"], "")
    if any(seeded.values()):
        kept = ~others["train"]
        groups = _group(table, kept, names if stratify and task == "single-label" else None)
        if folds is not None and len(groups.sizes) < folds + 2:
            raise DataError(f"{parts['train']}: {len(groups.sizes)} different texts are too few for {folds} folds")
        wanted = {SPLITS[split]: share for split, share in seeded.items()}
        drawn = draw_splits(groups, Draw(wanted, folds, fold, earlier))
        assigned["train"][kept] = drawn.split
        _check_none_empty(parts["train"], assigned["train"], [split for split, share in seeded.items() if share])

    # Only labels that training has can be learned.
    in_training = assigned["train"] == TRAIN
    seen = np.zeros(len(names), bool)
    seen[table.label_ids[np.repeat(in_training, np.diff(table.offsets))]] = True
    labels = tuple(sorted(name for name, is_seen in zip(names, seen, strict=True) if is_seen))
    _check_classes(parts["train"], task, labels, np.diff(table.offsets)[in_training])

    # What users had better know.
    notes = [note for source in sources.values() for note in source.notes]
    for split, source in sources.items():
        notes += [bad[split].note()] if bad[split].count else []
        notes += heard[split].notes(source.path)
        notes += [] if join_rows else equal[split].note(source.place)
    if label_separator is None and label_fields is None:
        hint = several_in_one(labels)
        notes += [] if hint is None else [hint]
    notes += missing_words({name: int((table.label_ids == label_ids[name]).sum()) for name in labels})
    notes += nearly_equal(labels)
    for split in [split for split in sources if split != "train"]:
        assigned[split][others[split]] = LEFT_OUT
        notes += _unseen(split, sources[split], tables[split], names, seen, task, unseen_labels, assigned[split])
        notes += _shared(split, sources[split], tables[split], table.keys[in_training])
        notes += [] if earlier is None else earlier.note_trained_on(split, tables[split].texts)
    notes += drawn.notes
    if folds is None:  # the test of one fold need not have them all
        notes += _never_tested(labels, label_ids, tables, assigned)

    # Documents are read from disk again whenever they are wanted.
    splits = {}
    for split, number in SPLITS.items():
        part = split if split in sources else "train"
        wanted = assigned[part] == number
        all_labels = [joined[part].get(int(row)) for row in np.flatnonzero(wanted)] if join_rows else None
        read = partial(_read, sources[part], bad[part].among_all(wanted), frozenset(labels), all_labels)
        splits[split] = Documents(read, int(wanted.sum()))
    sizes = ", ".join(f"{len(documents):,} for {split}" for split, documents in splits.items())
    files = ", ".join(dict.fromkeys(part.name for part in parts.values()))
    return Dataset(
        name=path.resolve().name,
        task=task,
        labels=labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=_fingerprint(task, labels, tables, assigned, joined if join_rows else None),
        description=(
            f"Own documents from {files}, {task}, {len(labels)} labels; {sizes}. "
            + (f"Seed {split_seed} {drawn.words}." if drawn.words else "The splits are as the files give them.")
        ),
        notes=tuple(notes),
        text_hashes={split: _texts(split, tables, assigned, earlier) for split in SPLITS},
    )


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


def _group(table: DocumentTable, kept: np.ndarray, names: Sequence[str] | None) -> RowGroups:
    """The kept rows by their texts; with the names of all labels, to be drawn by class.

    Args:
        kept: (rows,) bool. Of rows that are joined to others, none has a label.
    """
    offsets = table.offsets[np.append(kept, True)]
    ranks = None if names is None else np.argsort(np.argsort(names))  # which row has a label first must not count
    return RowGroups(table.keys[kept], table.texts[kept], offsets, table.label_ids, ranks)


def _check_none_empty(path: Path, assigned: np.ndarray, drawn: Sequence[str]):
    """Raise DataError where dealing out the rows of training left it, or a split that was drawn from it, empty."""
    for split in ("train", *drawn):
        if not (assigned == SPLITS[split]).any():
            raise DataError(
                f"{path}: {len(assigned)} rows are too few to split, {split} would be empty (every label is needed in "
                "training, and equal texts stay together), expected more rows or files of their own for validation "
                "and test"
            )


def _fingerprint(
    task: str,
    labels: tuple[str, ...],
    tables: dict[str, DocumentTable],
    assigned: dict[str, np.ndarray],
    joined: dict[str, dict[int, tuple[str, ...]]] | None,
) -> str:
    """Of all texts, labels and splits; `joined` where rows of the same text are one document."""
    digest = hashlib.sha256(repr((task, labels)).encode())
    for split, table in tables.items():
        digest.update(table.digest + assigned[split].tobytes())
        digest.update(b"" if joined is None else repr(sorted(joined[split].items())).encode())
    return digest.hexdigest()


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


# Which files and folders there are


def _parts(path: Path, validation, test, reader: ReaderOptions) -> dict[str, Path]:
    """The file or class folder of each split that has one; "train" has."""
    parts = _split_parts(path, reader) if path.is_dir() else {"train": path}
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


def _split_parts(folder: Path, reader: ReaderOptions) -> dict[str, Path]:
    entries = visible(folder)
    parts: dict[str, Path] = {}
    for entry in entries:
        if entry.is_dir():
            split = SPLIT_NAMES.get(entry.name) if any(inner.is_dir() for inner in visible(entry)) else None
        else:
            ending = format_of(entry)
            if ending is None and SPLIT_NAMES.get(entry.name.split(".")[0]) and is_fasttext(entry, reader):
                ending = entry.name.removeprefix(entry.name.split(".")[0])
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
            f"{folder}: expected class folders with documents, or train, validation and test, each a folder of class "
            f"folders or a file ({' '.join(FORMATS)}); it holds {holds}"
        )
    return {"train": folder}


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


def _never_tested(labels, label_ids, tables, assigned) -> list[str]:
    """A note if no test document has some of the labels."""
    part = "test" if "test" in tables else "train"
    tested = np.repeat(assigned[part] == TEST, np.diff(tables[part].offsets))
    seen = set(np.unique(tables[part].label_ids[tested]).tolist())
    missing = [label for label in labels if label_ids[label] not in seen]
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(labels)} labels have no test document, so that the scores say nothing of them: "
        f"{shortened(missing)}"
    ]


def _texts(
    split: str, tables: dict[str, DocumentTable], assigned: dict[str, np.ndarray], earlier: EarlierSplit | None
) -> np.ndarray:
    """The hashes of all texts of a split, and of those that an earlier one had in it."""
    part = split if split in tables else "train"
    own = tables[part].texts[assigned[part] == SPLITS[split]]
    return np.union1d(own, own[:0] if earlier is None else earlier.texts[split])


# Every further reading


def _read(source: Source, wanted: bytes, known: frozenset[str], all_labels: list | None) -> Iterator[Document]:
    for count, (_, _, document) in enumerate(source.documents(wanted)):
        if all_labels is not None and all_labels[count] is not None:
            document = Document(document.id, document.text, all_labels[count])
        if not known.issuperset(document.labels):
            document = Document(document.id, document.text, tuple(sorted(known.intersection(document.labels))))
        yield document


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("path", help="file or folder")
    parser.add_argument("--text-field", nargs="+", default=["text"], help="field of the text, or several")
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
    parser.add_argument("--label-fields", nargs="+", help="fields that are each a label, 1 in the rows that have it")
    parser.add_argument("--file-field", help="field with the path of each document's file")
    parser.add_argument("--encoding", help="of files of text, such as cp1252 (default: UTF-8)")
    parser.add_argument("--delimiter", help="of CSV and TSV, such as ; or tab")
    parser.add_argument("--no-quotes", dest="quotes", action="store_false", help="quotes are plain characters")
    parser.add_argument("--columns", nargs="+", help="names of the columns of a CSV or TSV file without a header")
    parser.add_argument("--bad-rows", default="error", choices=("error", "skip"))
    parser.add_argument("--join-rows", action="store_true", help="rows of the same text are one document")
    parser.add_argument(
        "--no-stratify", dest="stratify", action="store_false", help="labels play no part in the splits"
    )
    parser.add_argument("--folds", type=int, help="cut the documents into so many parts, of which --fold is the test")
    parser.add_argument("--fold", type=int, help="from 1 on")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
