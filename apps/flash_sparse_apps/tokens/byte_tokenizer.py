"""Values from 0 to 255 as tokens: the pixels of an image, or the bytes of a text. Nothing is learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flash_sparse_datasets.shared.naming import naming

FILE_NAME = "bytes.json"
_DESCRIPTION = {"tokens": "bytes", "mask": 256}


class ByteTokenizer:
    """A token for each value, the value itself; no token stands before them, so that pixels keep their place."""

    vocab_size = 257
    mask_id = 256
    cls_id = None

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides the ids."""
        return hashlib.sha256(json.dumps(_DESCRIPTION).encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """The values of each text, (n,) uint8; a string counts as its UTF-8 bytes.

        Raises:
            ValueError: a text without any.
        """
        encoded = [text.encode("utf-8", "replace") if isinstance(text, str) else text for text in texts]
        if not all(encoded):
            raise ValueError("a text is empty; expected at least one byte")
        return [np.frombuffer(values, np.uint8) for values in encoded]

    def encode_with_spans(self, text: str, at_most: int | None = None) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """The bytes of one text, (n,) uint8, and for each the character (start, end) that it is of.

        Args:
            at_most: tokens that are asked for; there may be more.
        """
        text = text[:at_most]
        (values,) = self.encode_batch([text])
        spans = [(at, at + 1) for at, character in enumerate(text) for _ in character.encode("utf-8", "replace")]
        return values, spans

    def first_unknown(self, tokens: Sequence[int], text: str | bytes) -> None:
        """Every byte is known."""

    def save(self, folder: str | Path) -> None:
        """Write `bytes.json` into an existing folder."""
        path = Path(folder) / FILE_NAME
        with naming(path):
            path.write_text(json.dumps(_DESCRIPTION) + "\n")
