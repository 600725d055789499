"""From an uploaded file to a document. This is the one place where a file becomes text."""

from __future__ import annotations

import asyncio
import io
from pathlib import PurePath

import numpy as np
from PIL import Image

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.new_documents import NewDocument, printable
from flash_sparse_apps.serving.document_reader import DocumentReader
from flash_sparse_apps.serving.errors import Refused
from flash_sparse_datasets.shared.document_files import LIBRARIES, OLDER
from flash_sparse_datasets.shared.text_files import is_blank

EXPECTED = "plain text in UTF-8, PDF, Word (.docx) or HTML"
IMAGES = (".png", ".bmp", ".gif", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff", ".webp")
OTHERS = {  # what is no plain text, by suffix; without this a file that happens to be UTF-8 would be read as it stands
    "a document of an older or another kind": tuple(OLDER),
    "a table; predict.py reads its rows": (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx"),
    "an archive": (".gz", ".zip", ".tar", ".7z", ".rar"),
    "an image, but this run reads texts": IMAGES,
}


async def read_file(name: str, content: bytes, model: SavedModel, reader: DocumentReader) -> NewDocument:
    """The document in a file.

    Args:
        name: as the client gave it; the document's id.
        reader: of PDF, Word and HTML files.

    Raises:
        Refused: one line with the name, what it is and what is expected.
    """
    name = printable(name)
    suffix = PurePath(name).suffix.lower()
    if model.grid is not None:
        return NewDocument(name, await asyncio.to_thread(_pixels, name, content, model.grid))
    if model.pairs:
        raise _wrong(f"{name}: a file, but this run compares two texts; expected both as text")
    for what, suffixes in OTHERS.items():
        if suffix in suffixes:
            raise _wrong(f"{name}: {what}; expected {EXPECTED}")
    if not content:
        raise Refused(f"{name}: empty, expected a text", "Empty")
    if suffix in LIBRARIES:
        return NewDocument(name, await reader.text(name, content), made=True)
    return NewDocument(name, await asyncio.to_thread(_plain, name, content))


def _plain(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(f"{name}: not UTF-8 at byte {error.start + 1}, expected {EXPECTED}") from None
    if "\0" in text:
        raise _wrong(f"{name}: not a text, expected {EXPECTED}")
    if is_blank(text):
        raise Refused(f"{name}: empty, expected a text", "Empty")
    return text


def _pixels(name: str, content: bytes, grid: tuple[int, int]) -> bytes:
    size = f"{grid[0]} x {grid[1]} pixels"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if (image.height, image.width) != grid:  # before it is unpacked
                raise _wrong(f"{name}: {image.height} x {image.width} pixels, expected {size}")
            return np.asarray(image.convert("L")).tobytes()
    except Refused:
        raise
    except Exception:  # damaged images raise many kinds
        raise _wrong(f"{name}: no image that can be read, expected a PNG image of {size}") from None


def _wrong(message: str) -> Refused:
    return Refused(message, status=422)
