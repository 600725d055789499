"""20 Newsgroups: which of twenty groups was a message posted to? (Lang 1995; the version "bydate")

The official folders are read: 20news-bydate-train and 20news-bydate-test, in each a folder for each group and a file,
in Latin-1, for each message, with its headers. (Headers give away a part of the answer; scores of texts without them
are lower.) There is no validation part: one is drawn from the training messages.

    python datasets/prepare.py 20newsgroups --root data/20news-bydate  # checks the files, prints statistics
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial

from flash_sparse_datasets.shared.documents import DataError, Dataset
from flash_sparse_datasets.shared.file_per_document import FilePerDocument, files_of_classes, text_of_class
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics

FOLDERS = {"train": "20news-bydate-train", "test": "20news-bydate-test"}
SIZES = {"train": 11_314, "test": 7_532}
SOURCE = "http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz"


def load(root: str | os.PathLike | None = None, validation_share: float = 0.1, split_seed: int = 0) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder of 20news-bydate-train and 20news-bydate-test, or the one above it.
        validation_share: Share of the training messages that is for validation, of each group; equal texts stay
            together.
        split_seed: Another seed draws others.

    Raises:
        DataError: for files that are missing or cannot be used.
        ValueError: for an argument's value.
    """
    folder = official_folder("20newsgroups", root, ("20news-bydate",), tuple(FOLDERS.values()), SOURCE)
    parse = partial(text_of_class, "latin-1", "strict")
    groups = {
        split: [entry.name for entry in visible(folder / name) if entry.is_dir()] for split, name in FOLDERS.items()
    }
    for split, other in (("train", "test"), ("test", "train")):
        if lacking := sorted(set(groups[other]) - set(groups[split])):
            raise DataError(
                f"{folder / FOLDERS[split] / lacking[0]}: missing, expected the group as in {FOLDERS[other]}"
            )
    files = {
        split: files_of_classes(folder, [f"{name}/{group}" for group in groups[split]])
        for split, name in FOLDERS.items()
    }
    return published_set(
        "20newsgroups",
        "single-label",
        {split: FilePerDocument(folder, names, parse) for split, names in files.items()},
        "Messages of newsgroups with their headers, by group (20 Newsgroups, bydate);",
        labels=groups["train"],
        sizes=SIZES,
        split_seed=split_seed,
        validation_share=validation_share,
    )


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of 20news-bydate-train and 20news-bydate-test, or the one above it")
    parser.add_argument("--validation-share", type=float, default=0.1, help="of the training part (default: 0.1)")
    parser.add_argument("--split-seed", type=int, default=0, help="seed with which splits are drawn")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
