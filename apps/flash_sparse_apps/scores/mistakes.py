"""Which labels are taken for one another, and which documents are wrong although the model was sure.

Letters: N documents, L labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from flash_sparse_apps.scores.thresholds import log_odds

PAIRS = 12  # of labels that are confused, at most
DOCUMENTS = 20  # that are wrong, at most


def most_confused(targets: np.ndarray, predictions: np.ndarray) -> list[tuple[int, int, int]]:
    """The pairs of labels that are most often taken for one another: the label that a document has, the one that it was
    given in its place, and how many documents there are of this kind, at most `PAIRS`.

    Where a document may have several labels, it counts for each pair of one that it has and was not given, and one that
    it was given and does not have.

    Args:
        targets, predictions: (N, L) of 0 and 1, or (N,) class indices.
    """
    if predictions.ndim == 1:
        wrong = np.flatnonzero(targets != predictions)
        found, counts = np.unique(np.stack([targets[wrong], predictions[wrong]]), axis=1, return_counts=True)
        has, given = found
    else:
        missed, wrong = (csr_matrix(a > b, dtype=np.int64) for a, b in ((targets, predictions), (predictions, targets)))
        pairs = (missed.T @ wrong).tocoo()
        has, given, counts = pairs.row, pairs.col, pairs.data
    order = np.lexsort((given, has, -counts))[:PAIRS]
    return [(int(has[at]), int(given[at]), int(counts[at])) for at in order]


class Mistake(NamedTuple):
    """The surest wrong decision about a document: a label `given` to it, or withheld, and how sure that was."""

    row: int
    label: int
    given: bool
    confidence: float


def surest_mistakes(
    probabilities: np.ndarray, targets: np.ndarray, predictions: np.ndarray, thresholds: np.ndarray | None
) -> list[Mistake]:
    """The documents whose labels are wrong, those first of which the model was surest: whose probability is the highest
    or, where there are thresholds, the furthest from its own in log-odds. Where the model is good, many of these are
    errors in the data.

    Args:
        probabilities: (N, L).
        targets, predictions: (N, L) of 0 and 1, or (N,) class indices.
        thresholds: (L,), None for a single-label task.
    """
    if thresholds is None:
        rows = np.flatnonzero(predictions != targets)
        labels = predictions[rows]
        given, far = np.ones(len(rows), dtype=bool), probabilities[rows, labels]
    else:
        distance = np.abs(log_odds(probabilities) - log_odds(thresholds))  # (N, L)
        distance = np.where(predictions == targets, -1.0, distance)
        rows = np.flatnonzero((predictions != targets).any(1))
        labels = distance[rows].argmax(1)
        given, far = predictions[rows, labels].astype(bool), distance[rows, labels]
    sure = np.where(given, probabilities[rows, labels], 1 - probabilities[rows, labels])
    order = np.argsort(-far, kind="stable")[:DOCUMENTS]
    return [Mistake(int(rows[at]), int(labels[at]), bool(given[at]), float(sure[at])) for at in order]


def micro_precision_recall(targets: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Of all labels given, the share that is right, and of all labels that documents have, the share that is given;
    None where there are none. Both (N, L) of 0 and 1."""
    right = int((predictions & targets).sum())
    given, wanted = int(predictions.sum()), int(targets.sum())
    return {"precision": right / given if given else None, "recall": right / wanted if wanted else None}
