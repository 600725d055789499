"""Documents of the same text, whose labels differ: said, or made one document with all of their labels."""

from collections.abc import Callable

import numpy as np

from flash_sparse_datasets.shared.document_table import DocumentTable


class EqualTexts:
    """The texts of a table that stand in it more than once, their rows in the order of the file."""

    def __init__(self, table: DocumentTable):
        self._table = table
        _, group_of_row, sizes = np.unique(table.keys, return_inverse=True, return_counts=True)
        order = np.argsort(group_of_row, kind="stable")  # (rows,)
        begins = np.cumsum(sizes) - sizes
        self._groups = [order[begins[group] : begins[group] + sizes[group]] for group in np.flatnonzero(sizes > 1)]

    def _labels(self, row: int) -> tuple[int, ...]:
        begin, end = self._table.offsets[row : row + 2]
        return tuple(sorted(self._table.label_ids[begin:end].tolist()))

    def note(self, place: Callable[[int], str]) -> list[str]:
        """What to say of texts whose rows have different labels."""
        different = [rows for rows in self._groups if len({self._labels(row) for row in rows}) > 1]
        if not different:
            return []
        first = different[0]
        other = next(row for row in first if self._labels(row) != self._labels(first[0]))
        places = " and ".join(place(self._table.numbers[row]) for row in (first[0], other))
        return [
            f"texts that stand in several places with different labels, which no model can learn: {len(different)} "
            f"(first: {places}); --join-rows makes each one document with all of its labels"
        ]

    def joined(self) -> tuple[dict[int, list[int]], np.ndarray]:
        """All labels of the first row of each such text, and (rows,) whether a row is one of the others."""
        labels, others = {}, np.zeros(len(self._table.keys), bool)
        for rows in self._groups:
            labels[int(rows[0])] = sorted({label for row in rows for label in self._labels(row)})
            others[rows[1:]] = True
        return labels, others
