"""How much each class counts in the loss, where rare ones shall not be drowned by frequent ones.

Letters: N documents, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor


def balanced(labels: csr_matrix, task: str) -> Tensor:
    """Weights with which every class weighs the same over all documents, and an average document weighs 1.

    They are those of scikit-learn's `class_weight="balanced"`. For a multi-label task each label is a task of two
    classes: not having it, and having it.

    Args:
        labels: (N, C) of 0 and 1.

    Returns:
        (C,) float32 for single-label, (2, C) for multi-label. What no document has keeps the weight of one that has it.
    """
    documents = labels.shape[0]
    having = np.asarray(labels.sum(0, dtype=np.int64)).ravel()  # (C,)
    if task == "single-label":
        return torch.from_numpy(documents / (np.count_nonzero(having) * np.maximum(having, 1))).float()
    both = np.stack([documents - having, having])  # (2, C)
    return torch.from_numpy(documents / (2 * np.maximum(both, 1))).float()
