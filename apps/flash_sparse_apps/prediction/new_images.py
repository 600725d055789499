"""Images to label: PNG files and the like, folders of PNG files, and the .npz files that the generators write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flash_sparse_apps.prediction.new_documents import STDIN, NewDocument, printable
from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.gray_images import read_gray


def read_images(path: str, grid: tuple[int, int]) -> Iterator[NewDocument]:
    """The images behind one argument of `predict.py`, their gray pixels row by row.

    Args:
        path: an image file; a folder, whose .png files are read in the order of their names; or an .npz file with
            `images` (count, rows, columns) uint8, as `datasets/prepare.py pathfinder --output` writes it.
        grid: rows and columns that the run reads.

    An image that cannot be read or has another size is a document with an `error`.

    Raises:
        DataError: one line with the file, nothing of which can be read.
    """
    file, size = Path(path), f"{grid[0]} x {grid[1]}"
    if path == STDIN:
        raise DataError(f"standard input: a text, but the run is on images; expected files of {size} pixels")
    if file.suffix.lower() == ".npz":
        images = _images_in(file)
        if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1:] != grid:
            raise DataError(
                f"{path}: images {images.shape} {images.dtype}, expected (count, {', '.join(map(str, grid))}) uint8"
            )
        for number, image in enumerate(images):
            yield NewDocument(printable(f"{path}:{number}"), image.tobytes())
        return
    files = sorted(entry for entry in file.rglob("*") if entry.suffix.lower() == ".png") if file.is_dir() else [file]
    if not files:
        raise DataError(f"{path}: no .png files in this folder")
    for image in files:
        yield _of_file(image, grid)


def _of_file(image: Path, grid: tuple[int, int]) -> NewDocument:
    name = printable(str(image))
    try:
        pixels = read_gray(image, "PNG or .npz, as the run is on images")
    except DataError as error:
        return NewDocument(name, error=str(error))
    if pixels.shape != grid:
        found, expected = (" x ".join(map(str, shape)) for shape in (pixels.shape, grid))
        return NewDocument(name, error=f"{name}: {found} pixels, expected {expected}")
    return NewDocument(name, pixels.tobytes())


def _images_in(file: Path) -> np.ndarray:
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return arrays["images"]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}, expected an .npz file with `images`") from None
    except Exception as error:  # damaged archives raise many kinds
        raise DataError(f"{file}: {type(error).__name__}, expected an .npz file with `images`") from None
