"""What is kept in memory of documents that were read once: their labels and hashes, never their texts."""

import hashlib
from array import array
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import numpy as np

from flash_sparse_datasets.shared.documents import Document
from flash_sparse_datasets.shared.seeded_split import row_key


class DocumentTable:
    """Read documents to the end.

    Args:
        numbered: Each document with its number for messages.
        label_ids: Label -> number, to which new labels are added; tables of one dataset share it.
        seed: For the keys.

    Attributes:
        numbers: (rows,) the documents' numbers.
        keys: (rows,) S16, equal for equal texts, see `row_key`.
        texts: (rows,) S16, hashes of the texts alone, whatever the seed.
        offsets, label_ids: (rows + 1,) and (labels of all rows,): the labels of row i are label_ids[offsets[i]:...].
        digest: SHA-256 of all ids, texts and labels.
    """

    def __init__(self, numbered: Iterable[tuple[int, Document]], label_ids: dict[str, int], seed: int):
        numbers, offsets, labels, digest = array("q"), array("q", [0]), array("i"), hashlib.sha256()
        keys, texts = bytearray(), bytearray()
        for number, document in numbered:
            text_digest = hashlib.sha256(cast(str, document.text).encode()).digest()
            digest.update(repr((document.id, document.labels)).encode() + text_digest)
            numbers.append(number)
            keys += row_key(seed, text_digest)
            texts += text_digest[:16]
            labels.extend(label_ids.setdefault(label, len(label_ids)) for label in document.labels)
            offsets.append(len(labels))
        self.numbers = numbers
        self.keys = np.frombuffer(keys, "S16")  # (rows,)
        self.texts = np.frombuffer(texts, "S16")  # (rows,)
        self.offsets = np.frombuffer(offsets, np.int64)  # (rows + 1,)
        self.label_ids = np.frombuffer(labels, np.intc)  # (labels of all rows,)
        self.digest = digest.digest()

    def replace_labels(self, labels_of: dict[int, list[int]], without: np.ndarray):
        """Give rows other labels.

        Args:
            labels_of: row -> its labels.
            without: (rows,) whether a row has none.
        """
        rows = []
        for row, (begin, end) in enumerate(pairwise(self.offsets)):
            rows.append([] if without[row] else labels_of.get(row, self.label_ids[begin:end]))
        self.offsets = np.cumsum([0, *map(len, rows)])
        self.label_ids = np.array([label for labels in rows for label in labels], np.intc)
