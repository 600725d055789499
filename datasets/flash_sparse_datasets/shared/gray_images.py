"""Opening gray images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.exit_codes import one_line


def read_gray(path: Path, expected: str = "a PNG image") -> np.ndarray:
    """The gray values of an image file, (rows, columns) uint8.

    Args:
        expected: what the error asks for.

    Raises:
        DataError: it cannot be read, or is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except UnidentifiedImageError:
        raise DataError(f"{path}: no image; expected {expected}") from None
    except MemoryError:  # of this machine: the image may be whole
        raise
    except Exception as error:  # damaged images raise many kinds, of Pillow, zlib and struct
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or one_line(error)}, expected {expected}") from None
