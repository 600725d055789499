"""The two forms of LexGLUE's tasks: one JSONL file with all parts, and a folder of files on the Hugging Face hub."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError, Document
from flash_sparse_datasets.shared.labelled_sources import Fields, Source, TableSource
from flash_sparse_datasets.shared.row_files import open_rows
from flash_sparse_datasets.shared.text_files import shortened

SOURCE = (
    "https://zenodo.org/record/5532997 ({0}.tar.gz), or as Parquet from https://huggingface.co/datasets/coastalcph/"
    "lex_glue (the folder {1})"
)
PARTS = {"train": "train", "validation": "dev", "test": "test"}  # as `data_type` calls them
HUB_ENDINGS = ("-00000-of-00001.parquet", ".parquet", ".jsonl", ".jsonl.gz")

Readers = dict[str, Callable[..., Iterator[Document]]]


def one_file(path: Path, text: str, labels: str, task: str, classes: Sequence[str] | None = None) -> Readers:
    """Readers of a file whose rows say in `data_type` which part they are of.

    Args:
        path: The JSONL file.
        text, labels: The fields.
        task: "single-label" or "multi-label".
        classes: All labels that may occur, in their order; None for any.
    """
    parts: dict[str, bytearray] = {split: bytearray() for split in PARTS}
    rows = open_rows(path)
    for _, number, row in rows.rows(["data_type"]):
        part = row.get("data_type")
        if part not in PARTS.values():
            raise DataError(f"{rows.place(number)}: 'data_type' is {shortened(part)}, expected train, dev or test")
        for split, wanted in parts.items():
            wanted.append(PARTS[split] == part)
    for split, wanted in parts.items():
        if not any(wanted):
            raise DataError(f"{path}: no row has the 'data_type' {PARTS[split]}, expected some for {split}")
    source = TableSource(path, Fields(text=text, label=labels, task=task))
    names = None if classes is None else {name: name for name in classes}
    return {split: partial(_documents, source, bytes(wanted), names) for split, wanted in parts.items()}


def separate_files(files: dict[str, Path], text: str, labels: str, task: str) -> Readers:
    """Readers of files that are a part each, whose labels are what they are called."""
    fields = Fields(text=text, label=labels, task=task)
    return {split: partial(_documents, TableSource(path, fields), None, None) for split, path in files.items()}


def hub_files(root: Path, folder: str) -> dict[str, Path] | None:
    """The file of each part in a folder of the hub's form, which root holds or is; None if there is none."""
    for place in (root / folder, root):
        if place.name != folder or not place.is_dir():
            continue
        found: dict[str, Path] = {}
        for split in PARTS:
            named = [place / f"{split}{ending}" for ending in HUB_ENDINGS if (place / f"{split}{ending}").exists()]
            if len(named) > 1:
                raise DataError(f"{place}: both {named[0].name} and {named[1].name}, expected one file for {split}")
            found |= dict.fromkeys([split], named[0]) if named else {}
        if found:
            for split in PARTS:
                if split not in found:
                    raise DataError(f"{place}: no {split}{HUB_ENDINGS[0]}, expected it beside {named_of(found)}")
            return found
    return None


def named_of(files: dict[str, Path]) -> str:
    return " ".join(path.name for path in files.values())


def hub_readers(files: dict[str, Path], labels: str, task: str, classes: Sequence[str]) -> Readers:
    """Readers of the hub's form: the text in "text", labels as numbers of classes from 0."""
    fields = Fields(text="text", label=labels, task=task)
    names = {str(number): name for number, name in enumerate(classes)}
    return {split: partial(_documents, TableSource(path, fields), None, names) for split, path in files.items()}


def _documents(source: Source, wanted: bytes | None, names: dict[str, str] | None) -> Iterator[Document]:
    """The documents, their labels renamed; a label without a name is an error."""
    for _, row, document in source.documents(wanted):
        if names is None:
            yield document
            continue
        for label in document.labels:
            if label not in names:
                first, *_, last = names
                raise DataError(f"{source.place(row)}: the label is {shortened(label)}, expected {first} to {last}")
        yield Document(document.id, document.text, tuple(sorted(names[label] for label in document.labels)))
