"""Pairs of papers of the ACL Anthology Network: does one cite the other? (Retrieval of Long Range Arena)

The official files are read: new_aan_pairs.train.tsv, .eval.tsv and .test.tsv without header or quoting, a pair in each
line: label (0.0 or 1.0), the papers' ids, their texts. A quotation mark is a character like any other there; readers of
CSV that take it for more silently join lines. The texts of the release are written as Python writes bytes, b'...', and
published results read them so, escapes and all; so does this.

    python datasets/prepare.py aan --root data/lra_release  # checks the files, prints statistics
"""

import hashlib
import os
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.official_files import LRA_RELEASE, official_folder
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.surprises import other_sizes, unused_labels
from flash_sparse_datasets.shared.text_files import file_stamp, reading, shortened

LABELS = ("0", "1")
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
PLACES = ("lra_release/lra_release/tsv_data", "lra_release/tsv_data", "tsv_data", "aan")
SIZES = {"train": 147_086, "validation": 18_090, "test": 17_437}  # of the release


def load(root: str | os.PathLike | None = None, level: str = "bytes") -> Dataset:
    """Prepare the dataset: `Document.text` and `Document.second` are the two papers, the label "1" says that they are
    related.

    Args:
        root: The folder of the official files, or one above it as the release has them.
        level: "bytes" gives the UTF-8 bytes as they are, "text" strings for a tokenizer.

    Raises:
        DataError: for files that are missing or cannot be used; it names the file and the line.
        ValueError: for an argument's value.
    """
    if level not in ("bytes", "text"):
        raise ValueError(f"level is {level!r}, expected 'bytes' or 'text'")
    folder = locate(root)
    digest, splits = hashlib.sha256(repr(("single-label", LABELS, level)).encode()), {}
    used: set[str] = set()
    for split, file in FILES.items():
        stamp, length = file_stamp(folder / file), 0
        for document in Progress(_documents(folder / file, stamp, "bytes"), f"reading {file}"):
            digest.update(repr((split, document.id, document.labels)).encode())
            texts = cast(bytes, document.text), cast(bytes, document.second)
            digest.update(b"%b\t%b\n" % texts)
            used.update(document.labels)
            length += 1
        splits[split] = Documents(partial(_documents, folder / file, stamp, level), length)

    sizes = " / ".join(f"{len(documents):,}" for documents in splits.values())
    return Dataset(
        name="aan",
        task="single-label",
        labels=LABELS,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=digest.hexdigest(),
        description=(
            "Pairs of papers of the ACL Anthology Network, related (1) or not (0), two texts as "
            + ("UTF-8 bytes" if level == "bytes" else "text")
            + f" (Retrieval of Long Range Arena); {sizes} pairs for training, validation and test, as released."
        ),
        notes=(
            *other_sizes({split: len(documents) for split, documents in splits.items()}, SIZES, "pairs"),
            *unused_labels(LABELS, used, "pair"),
        ),
    )


def locate(root: str | os.PathLike | None) -> Path:
    """The folder of the official files below `root`; DataError says which are missing and where to get them."""
    return official_folder("aan", root, PLACES, tuple(FILES.values()), LRA_RELEASE)


def _documents(path: Path, stamp: tuple[int, int], level: str) -> Iterator[Document]:
    if file_stamp(path) != stamp:
        raise DataError(f"{path}: changed since it was first read")
    with reading(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            line.decode()  # raises for what is not UTF-8; read as bytes, because LF alone ends a line
            try:
                label, first, second = _row(line)
            except DataError as error:
                raise DataError(f"{path} line {number}: {error}") from None
            if level == "text":
                yield Document(f"{path.name}:{number}", first.decode(), (label,), second.decode())
            else:
                yield Document(f"{path.name}:{number}", first, (label,), second)


def _row(line: bytes) -> tuple[str, bytes, bytes]:
    cells = line.rstrip(b"\r\n").split(b"\t")
    if len(cells) != 5:
        raise DataError(f"the line has {len(cells)} cells, expected 5: label, two ids, two texts")
    label, _, _, first, second = cells
    if label not in (b"0.0", b"1.0", b"0", b"1"):
        raise DataError(f"the label is {shortened(label.decode())}, expected 0.0 or 1.0")
    for which, text in (("first", first), ("second", second)):
        if not text.strip():
            raise DataError(f"the {which} text is empty, expected a paper")
    return label[:1].decode(), first, second


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="folder of the official files, or one above it as the release has them")
    parser.add_argument(
        "--level", default="bytes", choices=("bytes", "text"), help="how texts are read (default: bytes)"
    )
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
