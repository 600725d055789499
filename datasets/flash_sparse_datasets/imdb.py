"""IMDB reviews, byte by byte: positive or negative? (Text of Long Range Arena; Maas et al. 2011)

The official folder is read: aclImdb/train/pos, train/neg, test/pos and test/neg, 12,500 text files in each; the
unlabelled train/unsup is not used. Long Range Arena's own code has no validation part and chooses models by the test
documents. Here a part of the training documents is for validation, drawn by a seed, and the test documents are for the
test alone.

    python datasets/prepare.py imdb --root data/aclImdb  # checks the files, prints statistics
"""

import hashlib
import os
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.seeded_split import TRAIN, VALIDATION, row_key, seeded_split
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.surprises import other_sizes
from flash_sparse_datasets.shared.text_files import reading

LABELS = ("neg", "pos")
SIZE = 25_000  # of training and test each, in the release
SOURCE = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"


def load(
    root: str | os.PathLike | None = None, validation_share: float = 0.1, split_seed: int = 0, level: str = "bytes"
) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder aclImdb, or the one above it.
        validation_share: Share of the training documents that is for validation; equal texts stay together.
        split_seed: Another seed draws others.
        level: "bytes" gives the UTF-8 bytes as they are, "text" a string for a tokenizer.

    Raises:
        DataError: for files that are missing or cannot be used.
        ValueError: for an argument's value.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share is {validation_share!r}, expected a share between 0 and 1")
    if level not in ("bytes", "text"):
        raise ValueError(f"level is {level!r}, expected 'bytes' or 'text'")
    root = locate(root)
    files = {part: _files(root, part) for part in ("train", "test")}
    digests = {
        part: [hashlib.sha256(_read(root, file).encode()).digest() for file, _ in Progress(members, f"reading {part}")]
        for part, members in files.items()
    }

    keys = np.array([row_key(split_seed, digest) for digest in digests["train"]], "S16")
    label_ids = np.array([LABELS.index(label) for _, label in files["train"]])
    assigned = seeded_split(keys, np.arange(len(keys) + 1), label_ids, validation_share, 0)
    members = {
        "train": [file for file, split in zip(files["train"], assigned, strict=True) if split == TRAIN],
        "validation": [file for file, split in zip(files["train"], assigned, strict=True) if split == VALIDATION],
        "test": files["test"],
    }
    if not members["validation"]:
        raise DataError(f"{root / 'train'}: {len(keys)} files are too few to have some for validation, expected more")

    digest = hashlib.sha256(repr(("single-label", LABELS, level)).encode() + assigned.tobytes())
    for part, documents in files.items():
        for (file, label), text_digest in zip(documents, digests[part], strict=True):
            digest.update(repr((file, label)).encode() + text_digest)

    counts = {part: len(documents) for part, documents in files.items()}
    notes = other_sizes(counts, dict.fromkeys(counts, SIZE))
    in_training = set(digests["train"])
    if shared := sum(text_digest in in_training for text_digest in digests["test"]):
        notes.append(f"test: {shared:,} documents have a text that is also in the release's training documents")
    splits = {
        split: Documents(partial(_documents, root, documents, level), len(documents))
        for split, documents in members.items()
    }
    sizes = " / ".join(f"{len(documents):,}" for documents in splits.values())
    return Dataset(
        name="imdb",
        task="single-label",
        labels=LABELS,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=digest.hexdigest(),
        description=(
            "IMDB reviews, positive or negative, as "
            + ("UTF-8 bytes" if level == "bytes" else "text")
            + f" (Text of Long Range Arena); {sizes} for training, validation and test. The validation documents are "
            f"{validation_share:.0%} of the release's training documents, drawn with seed {split_seed}; no model is "
            "chosen by the test documents."
        ),
        notes=tuple(notes),
    )


def locate(root: str | os.PathLike | None) -> Path:
    """The folder of the official files below `root`; DataError says which are missing and where to get them."""
    return official_folder("imdb", root, ("aclImdb",), ("train", "test"), SOURCE)


def _files(root: Path, part: str) -> list[tuple[str, str]]:
    """Path below root, with "/", and label of each file of one part, sorted."""
    found = []
    for label in LABELS:
        folder = root / part / label
        names = [path.name for path in visible(folder) if path.name.endswith(".txt")]
        if not names:
            raise DataError(f"{folder}: no .txt files, expected the reviews of {SOURCE}")
        found += [(f"{part}/{label}/{name}", label) for name in names]
    return found


def _read(root: Path, file: str) -> str:
    with reading(root / file), open(root / file, encoding="utf-8", newline="") as opened:
        text = opened.read()
    if not text.strip():
        raise DataError(f"{root / file}: the text is empty, expected a review")
    return text


def _documents(root: Path, files: list[tuple[str, str]], level: str) -> Iterator[Document]:
    for file, label in files:
        text = _read(root, file)
        yield Document(file, text.encode() if level == "bytes" else text, (label,))


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder aclImdb, or the one above it")
    parser.add_argument("--validation-share", type=float, default=0.1, help="of the training part (default: 0.1)")
    parser.add_argument("--split-seed", type=int, default=0, help="seed with which splits are drawn")
    parser.add_argument(
        "--level", default="bytes", choices=("bytes", "text"), help="how texts are read (default: bytes)"
    )
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
