"""Splits with the classes in the same shares everywhere, and the folds of a cross-validation, by scikit-learn.

Like `seeded_split`, both keep rows of equal text together, and every label in training. Which texts are drawn depends
on the order of their keys alone, so on the seed, and not on the order of the rows.
"""

from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from flash_sparse_datasets.shared.row_groups import RowGroups
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN, VALIDATION


def stratified_split(groups: RowGroups, shares: Mapping[int, float]) -> np.ndarray | None:
    """Draw splits in which each class has its share.

    A text that stands in more rows than a split shall have stays in training.

    Args:
        shares: VALIDATION and TEST -> share of the rows; 0 for none.

    Returns:
        (rows,) uint8: TRAIN, VALIDATION or TEST. None where a class has too few texts for scikit-learn to do so, or a
        split fewer than there are classes.
    """
    rows = int(groups.sizes.sum())
    wanted = {split: max(1, round(rows * share)) for split, share in shares.items() if share}
    split_of_group = np.full(len(groups.sizes), TRAIN, np.uint8)
    free = np.flatnonzero(groups.sizes <= min(wanted.values()))
    if not len(free):
        return None
    mean_size = groups.sizes[free].mean()
    for split, count in wanted.items():
        drawn = _draw(free, groups.classes, max(1, round(count / mean_size)))
        if drawn is None:
            return None
        split_of_group[drawn] = split
        free = np.setdiff1d(free, drawn)
    return groups.split_of_rows(split_of_group)


def fold_split(groups: RowGroups, folds: int, fold: int, validation_share: float) -> tuple[np.ndarray, int]:
    """One fold of a cross-validation: each text is in the test of exactly one fold, but for those that training needs.

    Classes have the same shares in all folds where each has as many texts as there are folds.

    Args:
        folds: not more than there are groups, less 2.
        fold: from 1 to `folds`, which of them is the test.
        validation_share: of the rows, from the others; 0 for none.

    Returns:
        (rows,) uint8: TRAIN, VALIDATION or TEST; and how many rows of the test went to training for their labels.
    """
    count = len(groups.sizes)
    everything, classes = np.arange(count), groups.classes
    even = classes is not None and np.unique(classes, return_counts=True)[1].min() >= folds
    splitter = StratifiedKFold(folds) if even else KFold(folds)  # keys are in random order: nothing to shuffle
    rest, test = list(splitter.split(everything, classes if even else None))[fold - 1]

    split_of_group = np.full(count, TRAIN, np.uint8)
    split_of_group[test] = TEST
    if validation_share:
        wanted = max(1, round(validation_share * count))
        drawn = _draw(rest, classes, wanted)
        split_of_group[_draw(rest, None, wanted) if drawn is None else drawn] = VALIDATION
    tested = split_of_group[groups.of_row] == TEST  # (rows,)
    split = groups.split_of_rows(split_of_group)
    return split, int((tested & (split != TEST)).sum())


def _draw(among: np.ndarray, classes: np.ndarray | None, count: int) -> np.ndarray | None:
    """So many of the groups, with the classes' shares; None where scikit-learn cannot have these."""
    try:
        return train_test_split(
            among, test_size=count, random_state=0, stratify=None if classes is None else classes[among]
        )[1]
    except ValueError:
        return None
