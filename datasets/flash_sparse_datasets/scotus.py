"""Opinions of the US Supreme Court: which of thirteen areas is the issue of? (LexGLUE; Chalkidis et al., ACL 2022)

Either form of the release is read: scotus.jsonl of https://zenodo.org/record/5532997 (scotus.tar.gz), all parts in one
file, or from https://huggingface.co/datasets/coastalcph/lex_glue the folder scotus with train-00000-of-00001.parquet,
validation and test. The labels are the Supreme Court Database's numbers of issue areas, 1 (criminal procedure) to 13.

    python datasets/prepare.py scotus --root data/scotus  # checks the files, prints statistics
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError, Dataset
from flash_sparse_datasets.shared.lexglue import SOURCE, hub_files, hub_readers, one_file
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics

ISSUE_AREAS = tuple(str(number) for number in range(1, 14))  # as the hub numbers them, from 0
SIZES = {"train": 5_000, "validation": 1_400, "test": 1_400}


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder of scotus.jsonl, or of the hub's files and named scotus, or the one above it.

    Raises:
        DataError: for files that are missing or cannot be used; one line that names the file and the row.
    """
    files = None if root is None else hub_files(Path(root).expanduser(), "scotus")
    if files is not None:
        readers = hub_readers(files, "label", "single-label", ISSUE_AREAS)
        if any((path.parent / "scotus.jsonl").exists() for path in files.values()):
            raise DataError(f"{files['train'].parent}: both scotus.jsonl and {files['train'].name}, expected one form")
    else:
        source = SOURCE.format("scotus", "scotus")
        folder = official_folder("scotus", root, ("scotus",), ("scotus.jsonl",), source)
        readers = one_file(folder / "scotus.jsonl", "text", "issueArea", "single-label", ISSUE_AREAS)
    return published_set(
        "scotus",
        "single-label",
        readers,
        "Opinions of the US Supreme Court by issue area, as numbered in the Supreme Court Database (LexGLUE);",
        labels=ISSUE_AREAS,
        sizes=SIZES,
    )


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of scotus.jsonl or of the hub's files, or the one above it")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
