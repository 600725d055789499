"""Documents that cannot be read: left out and said, or all told at once."""

from array import array
from collections.abc import Iterator

import numpy as np

from flash_sparse_datasets.shared.documents import DataError, Document
from flash_sparse_datasets.shared.labelled_sources import Source
from flash_sparse_datasets.shared.reading_notes import Heard

SHOWN = 10


class BadRows:
    """Reads a source once and keeps apart what is wrong.

    Attributes:
        count: how many documents cannot be read.
        first: what is wrong with the first ten of them.
    """

    def __init__(self, source: Source):
        self._source = source
        self._indices = array("q")
        self.first: list[str] = []

    @property
    def count(self) -> int:
        return len(self._indices)

    def others(self, heard: Heard) -> Iterator[tuple[int, Document]]:
        """The documents that can be read, with their numbers."""
        for index, number, document in self._source.tried(heard=heard):
            if not isinstance(document, DataError):
                yield number, document
                continue
            self._indices.append(index)
            if len(self.first) < SHOWN:
                self.first.append(str(document))

    def among_all(self, wanted: np.ndarray) -> bytes:
        """A byte for each document of the source, from one for each that can be read: 0 for the others."""
        before = np.frombuffer(self._indices, np.int64) - np.arange(self.count)
        return np.insert(wanted.astype(np.uint8), before, 0).tobytes()

    def error(self, hint: str | None) -> DataError:
        """All of them in one line."""
        hint = f"; {hint}" if hint else ""
        if self.count == 1:
            return DataError(self.first[0] + hint)
        shown = "; ".join(problem.removeprefix(f"{self._source.path} ") for problem in self.first)
        more = "" if self.count <= SHOWN else f"; and {self.count - SHOWN} more"
        return DataError(
            f"{self._source.path}: {self.count} documents cannot be read, expected them mended, or bad_rows to be "
            f"skip: {shown}{more}{hint}"
        )

    def note(self) -> str:
        """What was left out."""
        shown = "; ".join(problem.removeprefix(f"{self._source.path} ") for problem in self.first)
        more = "" if self.count <= SHOWN else f"; and {self.count - SHOWN} more"
        return f"{self._source.path}: {self.count} documents left out that cannot be read: {shown}{more}"
