"""Images to label: PNG files and the like, folders of PNG files, and the .npz files that the generators write."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flash_sparse_apps.prediction.new_documents import STDIN, NewDocument, printable
from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.document_files import is_hidden
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
        for number, pixels in enumerate(_images_in(file, grid)):
            yield NewDocument(printable(f"{path}:{number}"), pixels)
        return
    files = [file]
    if file.is_dir():
        entries = (entry for entry in file.rglob("*") if entry.suffix.lower() == ".png")
        files = sorted(entry for entry in entries if not is_hidden(file, entry))
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


def _images_in(file: Path, grid: tuple[int, int]) -> Iterator[bytes]:
    """The pixels of one image after the other: together they may be more than there is memory."""
    try:
        with zipfile.ZipFile(file) as arrays, arrays.open("images.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, by_column, dtype = read_header(member)
            if len(shape) != 3 or dtype != np.uint8 or shape[1:] != grid or by_column:
                found = f"{shape} {dtype}{' in Fortran order' if by_column else ''}"
                raise DataError(f"{file}: images {found}, expected (count, {', '.join(map(str, grid))}) uint8")
            for _ in range(shape[0]):
                image = member.read(grid[0] * grid[1])
                if len(image) < grid[0] * grid[1]:
                    raise EOFError
                yield image
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}, expected an .npz file with `images`") from None
    except Exception as error:  # damaged archives raise many kinds
        raise DataError(f"{file}: {type(error).__name__}, expected an .npz file with `images`") from None
