"""CIFAR-10 as gray pixels, one after the other. (Image of Long Range Arena; Krizhevsky 2009)

The binary version of the official release is read: cifar-10-batches-bin with data_batch_1.bin to data_batch_5.bin and
test_batch.bin, which hold for each image a byte for the class and 3 x 1024 for red, green and blue. (The Python version
is pickles, which can run code when they are opened; it holds the same images.) An image becomes 1024 values from 0 to
255, row by row. The last tenth of the training images, which are in random order, is for validation.

    python datasets/prepare.py cifar10 --root data/cifar-10-batches-bin  # checks the files, prints statistics
"""

import hashlib
import os
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.surprises import other_sizes, unused_labels
from flash_sparse_datasets.shared.text_files import file_stamp, reading

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # as numbered
TRAIN_FILES = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST_FILES = ("test_batch.bin",)
GRID = (32, 32)
PIXELS = GRID[0] * GRID[1]
RECORD = 1 + 3 * PIXELS
IMAGES = 10_000  # in each file of the release
VALIDATION_SHARE = 0.1
LUMINANCE = np.array([0.2989, 0.5870, 0.1140])  # of red, green, blue: TensorFlow's, as in Long Range Arena
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (the binary version; the Python version is not read)"


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Prepare the dataset: each text is 1024 bytes, the gray values of an image row by row.

    Args:
        root: The folder cifar-10-batches-bin, or the one above it.

    Raises:
        DataError: for files that are missing or cannot be used.
    """
    folder = locate(root)
    stamps = {file: file_stamp(folder / file) for file in (*TRAIN_FILES, *TEST_FILES)}
    digest = hashlib.sha256(repr(("single-label", CLASSES, VALIDATION_SHARE)).encode())
    counts: dict[str, int] = {}
    used: set[str] = set()
    for file in stamps:
        images = _images(folder / file, stamps[file])  # (images, 1 + 3 * 1024)
        counts[file] = len(images)
        used.update(CLASSES[number] for number in np.unique(images[:, 0]))
        digest.update(file.encode() + images.tobytes())

    training = [(file, image) for file in TRAIN_FILES for image in range(counts[file])]
    validation_size = round(VALIDATION_SHARE * len(training))
    if not validation_size:
        raise DataError(f"{folder}: {len(training)} training images, expected enough for a tenth of them to be some")
    ends = {
        "train": (TRAIN_FILES, 0, len(training) - validation_size),
        "validation": (TRAIN_FILES, len(training) - validation_size, len(training)),
        "test": (TEST_FILES, 0, counts[TEST_FILES[0]]),
    }
    splits = {
        split: Documents(partial(_documents, folder, {file: stamps[file] for file in files}, begin, end), end - begin)
        for split, (files, begin, end) in ends.items()
    }
    sizes = " / ".join(f"{len(documents):,}" for documents in splits.values())
    return Dataset(
        name="cifar10",
        task="single-label",
        labels=CLASSES,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=digest.hexdigest(),
        description=(
            "CIFAR-10, ten classes of images of 32 x 32 pixels as gray values from 0 to 255, row by row (Image of Long "
            f"Range Arena); {sizes} for training, validation and test; validation is the last tenth of the training "
            "images."
        ),
        notes=(
            *other_sizes(counts, dict.fromkeys(counts, IMAGES), "images"),
            *unused_labels(CLASSES, used, "image"),
        ),
        grid=GRID,
    )


def locate(root: str | os.PathLike | None) -> Path:
    """The folder of the official files below `root`; DataError says which are missing and where to get them."""
    return official_folder("cifar10", root, ("cifar-10-batches-bin",), (*TRAIN_FILES, *TEST_FILES), SOURCE)


def to_gray(images: np.ndarray) -> np.ndarray:
    """Gray values, rounded as TensorFlow does when it converts 8-bit images.

    Args:
        images: (..., 3, 1024) uint8: red, green, blue.

    Returns:
        (..., 1024) uint8.
    """
    gray = np.einsum("...cp,c->...p", images / 255, LUMINANCE)  # (..., 1024) from 0 to 0.9999
    return (gray * 255.5).astype(np.uint8)


def _images(path: Path, stamp: tuple[int, int]) -> np.ndarray:
    """All images of a file, (images, 1 + 3 * 1024) uint8."""
    if file_stamp(path) != stamp:
        raise DataError(f"{path}: changed since it was first read")
    with reading(path):
        content = path.read_bytes()
    if len(content) % RECORD:
        raise DataError(f"{path}: {len(content):,} bytes, expected {RECORD} for each of {IMAGES:,} images")
    images = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(images[:, 0] >= len(CLASSES))
    if len(wrong):
        found = f"the class is {images[wrong[0], 0]}, expected 0 to {len(CLASSES) - 1}"
        raise DataError(f"{path} image {wrong[0] + 1}: {found}")
    return images


def _documents(folder: Path, stamps: dict[str, tuple[int, int]], begin: int, end: int) -> Iterator[Document]:
    """The images from begin to end, counted through the files."""
    first = 0
    for file, stamp in stamps.items():
        images = _images(folder / file, stamp)
        for index in range(max(begin - first, 0), min(end - first, len(images))):
            label, pixels = images[index, 0], images[index, 1:].reshape(3, PIXELS)
            yield Document(f"{file}:{index + 1}", to_gray(pixels).tobytes(), (CLASSES[label],))
        first += len(images)


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder cifar-10-batches-bin, or the one above it")
    return print_statistics(partial(load, parser.parse_args(arguments).root))
