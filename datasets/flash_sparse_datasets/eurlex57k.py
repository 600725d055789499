"""Laws of the European Union with their EuroVoc concepts. (EURLEX57K; Chalkidis et al., ACL 2019)

The official folder is read: dataset with train, dev and test, a JSON file for each law. A text is its header, recitals,
main body and attachments. The labels are the concepts of the training laws, as the numbers that the release has; other
concepts are dropped and counted in the notes.

    python datasets/prepare.py eurlex57k --root data/eurlex57k  # checks the files, prints statistics
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document
from flash_sparse_datasets.shared.file_per_document import FilePerDocument, read_json_object, string_of, strings_of
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics

FOLDERS = {"train": "train", "validation": "dev", "test": "test"}
SIZES = {"train": 45_000, "validation": 6_000, "test": 6_000}
SOURCE = "http://nlp.cs.aueb.gr/software_and_datasets/EURLEX57K/datasets.zip or https://archive.org/details/EURLEX57K"


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder of train, dev and test, or the one above it.

    Raises:
        DataError: for files that are missing or cannot be used; one line that names the file.
    """
    folder = official_folder("eurlex57k", root, ("dataset", "EURLEX57K"), tuple(FOLDERS.values()), SOURCE)
    readers = {}
    for split, name in FOLDERS.items():
        files = [f"{name}/{path.name}" for path in visible(folder / name) if path.name.endswith(".json")]
        if not files:
            raise DataError(f"{folder / name}: no .json files, expected one for each law; get them from {SOURCE}")
        readers[split] = FilePerDocument(folder, files, _law)
    return published_set(
        "eurlex57k",
        "multi-label",
        readers,
        "Laws of the European Union with their EuroVoc concepts (EURLEX57K), those that the training laws have:",
        sizes=SIZES,
        notes=["labels are the training laws' concepts; published scores count other concepts of the test as missed"],
    )


def _law(root: Path, name: str) -> Document:
    path = root / name
    law = read_json_object(path)
    sections = [
        string_of(path, law, "header"),
        string_of(path, law, "recitals"),
        *strings_of(path, law, "main_body"),
        string_of(path, law, "attachments"),
    ]
    text = "\n\n".join(section for section in sections if section.strip())
    if not text:
        raise DataError(f"{path}: header, recitals, main_body and attachments are empty, expected a text")
    return Document(string_of(path, law, "celex_id"), text, tuple(sorted(set(strings_of(path, law, "concepts")))))


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of train, dev and test, or the one above it")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
