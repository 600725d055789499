"""Splitting rows into training, validation and test by their texts and a seed."""

import hashlib

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2


def row_key(seed: int, text_digest: bytes) -> bytes:
    """16 bytes that order a row among the others: equal for equal texts, unrelated for another seed."""
    return hashlib.sha256(b"%d " % seed + text_digest).digest()[:16]


def seeded_split(
    keys: np.ndarray, offsets: np.ndarray, label_ids: np.ndarray, validation_share: float, test_share: float
) -> np.ndarray:
    """Deal rows out to training, validation and test.

    1. The rows are ordered by their keys. Rows with equal keys (equal texts) stay together.
    2. In this order they go to test until its share is full, then to validation, then to training. Equal rows too many
       for what is left of a share go on to the next.
    3. Each label that training would lack then gets its first row in the file, with all of equal text, moved to
       training.

    Args:
        keys: (rows,) S16, from `row_key`.
        offsets: (rows + 1,) where each row's labels begin in `label_ids`.
        label_ids: (labels of all rows,) integers from 0.
        validation_share, test_share: shares of the rows; 0 for none.

    Returns:
        (rows,) uint8: TRAIN, VALIDATION or TEST.
    """
    rows = len(keys)
    _, group_of_row, group_sizes = np.unique(keys, return_inverse=True, return_counts=True)  # in the order of the keys
    split_of_group = np.full(len(group_sizes), TRAIN, np.uint8)
    shares = {TEST: test_share, VALIDATION: validation_share}
    left = {split: max(1, round(rows * share)) for split, share in shares.items() if share}
    for group, size in enumerate(group_sizes):
        if not any(left.values()):
            break
        for split in left:
            if size <= left[split]:
                split_of_group[group] = split
                left[split] -= size
                break
    return with_all_labels_in_training(split_of_group, group_of_row, offsets, label_ids)


def with_all_labels_in_training(
    split_of_group: np.ndarray, group_of_row: np.ndarray, offsets: np.ndarray, label_ids: np.ndarray
) -> np.ndarray:
    """The split of each row, (rows,), where a label that training lacks gets its first row moved there, with its group.

    Args:
        split_of_group: (groups,) uint8, changed in place.
        group_of_row: (rows,) the group of rows that stay together.
        offsets, label_ids: as of `seeded_split`.
    """
    group_of_label = np.repeat(group_of_row, np.diff(offsets))  # the group of each entry of label_ids
    in_training = np.zeros(label_ids.max(initial=-1) + 1, bool)
    in_training[label_ids[split_of_group[group_of_label] == TRAIN]] = True
    by_group = np.argsort(group_of_label, kind="stable")  # to find all labels of a group that moves
    for entry in np.flatnonzero(~in_training[label_ids]):
        if not in_training[label_ids[entry]]:
            group = group_of_label[entry]
            split_of_group[group] = TRAIN
            begin, end = np.searchsorted(group_of_label, [group, group + 1], sorter=by_group)
            in_training[label_ids[by_group[begin:end]]] = True
    return split_of_group[group_of_row]
