"""Rows of equal text, which stay together in every split.

Letters: G groups of rows, in the order of their keys.
"""

import numpy as np

from flash_sparse_datasets.shared.seeded_split import with_all_labels_in_training


class RowGroups:
    """The groups of some rows.

    Args:
        keys, texts: (rows,) S16 each, as `DocumentTable` has them.
        offsets, label_ids: as of `seeded_split`.
        ranks: (labels,) where each label stands among all of them by name; None where labels shall play no part.

    Attributes:
        of_row: (rows,) the group of each row.
        first_rows: (G,) a row of each.
        sizes: (G,) rows of each.
        classes: (G,) the label of each, the first by name where equal texts have several; None where `ranks` is.
    """

    def __init__(
        self,
        keys: np.ndarray,
        texts: np.ndarray,
        offsets: np.ndarray,
        label_ids: np.ndarray,
        ranks: np.ndarray | None = None,
    ):
        self.keys, self.texts, self.offsets, self.label_ids = keys, texts, offsets, label_ids
        _, self.first_rows, self.of_row, self.sizes = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        self.classes: np.ndarray | None = None
        if ranks is not None:
            self.classes = np.full(len(self.sizes), len(ranks))
            np.minimum.at(self.classes, self.of_row, ranks[label_ids])

    def split_of_rows(self, split_of_group: np.ndarray) -> np.ndarray:
        """(rows,) from (G,), with every label in training."""
        return with_all_labels_in_training(split_of_group, self.of_row, self.offsets, self.label_ids)
