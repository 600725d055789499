"""Which file or folder holds the documents of which split."""

import os
from itertools import combinations
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.drawn_splits import SPLITS
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.row_files import FORMATS, ReaderOptions, format_of
from flash_sparse_datasets.shared.row_files.fasttext import is_fasttext
from flash_sparse_datasets.shared.text_files import shortened

VALIDATION_NAMES = ("validation", "valid", "val", "dev")
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(VALIDATION_NAMES, "validation")
ONLY_SHARD = "-00000-of-00001"  # how the Hugging Face hub ends the name of a split's one file


def split_files(
    path: Path,
    validation: str | os.PathLike | None,
    test: str | os.PathLike | None,
    reader: ReaderOptions,
) -> dict[str, Path]:
    """The file or class folder of each split that has one; "train" has."""
    files = _within(path, reader) if path.is_dir() else {"train": path}
    for split, given in (("validation", validation), ("test", test)):
        if given is None:
            continue
        if not os.fspath(given):
            raise ValueError(f"{split} is '', expected a file or folder")
        if split in files:
            raise ValueError(f"{split} is {str(given)!r}, but {path} already has {files[split].name}, expected one")
        files[split] = Path(given).expanduser()
    for (one, path_of_one), (other, path_of_other) in combinations(files.items(), 2):
        if path_of_one.exists() and path_of_other.exists() and path_of_one.samefile(path_of_other):
            raise DataError(f"{path_of_other}: given for both {one} and {other}, expected different files")
    return {split: files[split] for split in SPLITS if split in files}


def _within(folder: Path, reader: ReaderOptions) -> dict[str, Path]:
    entries = visible(folder)
    files: dict[str, Path] = {}
    for entry in entries:
        if entry.is_dir():
            split = SPLIT_NAMES.get(entry.name) if any(inner.is_dir() for inner in visible(entry)) else None
        else:
            ending = format_of(entry)
            if ending is None and SPLIT_NAMES.get(entry.name.split(".")[0]) and is_fasttext(entry, reader):
                ending = entry.name.removeprefix(entry.name.split(".")[0])
            split = SPLIT_NAMES.get(entry.name[: -len(ending)].removesuffix(ONLY_SHARD)) if ending else None
        if split in files:
            raise DataError(f"{folder}: both {files[split].name} and {entry.name}, expected one file for {split}")
        if split is not None:
            files[split] = entry
    if files:
        if "train" not in files:
            raise DataError(f"{folder}: {next(iter(files.values())).name} and nothing for training, expected train too")
        return files

    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes or set(classes) <= SPLIT_NAMES.keys():
        holds = shortened([entry.name for entry in entries])
        raise DataError(
            f"{folder}: expected class folders with documents, or train, validation and test, each a folder of class "
            f"folders or a file ({' '.join(FORMATS)}); it holds {holds}"
        )
    return {"train": folder}
