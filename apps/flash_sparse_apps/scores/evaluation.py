"""How good predictions are: F1 scores, accuracy and bootstrap intervals.

Letters: N documents, L labels. Predictions and targets are (N, L) of 0 and 1 for a multi-label task, (N,) class
positions for a single-label one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t

METRICS = ("micro_f1", "macro_f1", "accuracy")


def predict_labels(probabilities: np.ndarray, thresholds: np.ndarray | None, task: str) -> np.ndarray:
    """Decide by probabilities (N, L).

    A multi-label task gives each label whose probability is at least its threshold, (L,), or 0.5 where `thresholds` is
    None: (N, L) uint8. A single-label task gives the most probable one and has no thresholds: (N,) int64.
    """
    if task == "single-label":
        return probabilities.argmax(1)
    return (probabilities >= (0.5 if thresholds is None else thresholds)).astype(np.uint8)


def given_labels(decisions: np.ndarray) -> list[int]:
    """The labels that one document is given, by what `predict_labels` decides of it: (L,), or a class index."""
    return np.flatnonzero(decisions).tolist() if decisions.ndim else [int(decisions)]


def count_none(decisions: np.ndarray) -> np.ndarray:
    """Decisions (N, L) of a multi-label task with one more column, 1 for documents without a label: (N, L + 1)."""
    return np.hstack([decisions, decisions.sum(1, keepdims=True) == 0]).astype(np.uint8)


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    thresholds: np.ndarray | None,
    task: str,
    none_counts: bool = False,
) -> dict[str, Any]:
    """Score probabilities (N, L) against targets.

    Args:
        none_counts: score a multi-label task with a further label, the last, as `count_none` gives it.

    Returns:
        micro_f1: over all decisions of all labels. For a single-label task it equals accuracy, since each wrong
            document is one false positive and one false negative.
        macro_f1: the mean of the labels' F1, as scikit-learn takes it. Multi-label: over all L labels, where one that
            is neither present nor predicted counts 0 (LexGLUE and LibMultiLabel do so too). Single-label: over the
            labels that are present or predicted.
        accuracy: the share of documents whose labels are all right (multi-label: exactly the right set).
        per_label: dict with precision, recall, f1 and support (documents that have it), lists of L. What would be
            0 / 0 is 0.
        All as plain Python values.
    """
    predictions = predict_labels(probabilities, thresholds, task)
    if none_counts:
        predictions, targets = count_none(predictions), count_none(targets)
    num_labels = probabilities.shape[1] + none_counts
    right, wrong, missed = (
        kind.sum(0) for kind in _outcomes(_one_hot(predictions, num_labels), _one_hot(targets, num_labels))
    )  # (L,)
    f1 = _f1(right, wrong, missed)
    return {
        "micro_f1": micro_f1(predictions, targets),
        "macro_f1": float((f1 if task == "multi-label" else f1[right + wrong + missed > 0]).mean()),
        "accuracy": agreement(predictions, targets),
        "per_label": {
            "precision": (right / np.maximum(right + wrong, 1)).tolist(),
            "recall": (right / np.maximum(right + missed, 1)).tolist(),
            "f1": f1.tolist(),
            "support": (right + missed).tolist(),
        },
    }


def micro_f1(predictions: np.ndarray, targets: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all decisions; 0 where nothing is present and nothing predicted."""
    if predictions.ndim == 1:
        return agreement(predictions, targets)
    return float(_f1(*(kind.sum() for kind in _outcomes(predictions, targets))))


def agreement(predictions_a: np.ndarray, predictions_b: np.ndarray) -> float:
    """Share of documents for which both give exactly the same labels."""
    same = predictions_a == predictions_b
    return float((same if same.ndim == 1 else same.all(1)).mean())


def bootstrap_interval(
    predictions: np.ndarray, targets: np.ndarray, metric: str = "micro_f1", samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of a metric over test sets drawn anew from the same documents (Efron 1979).

    Args:
        metric: one of `METRICS`, as in `evaluate`. Macro-F1 of a resampled set is over the labels that are present or
            predicted in it: a rare label that is not drawn says nothing, where a 0 would pull the interval below the
            value. Those that are neither in the whole test keep their share of zeros (multi-label).
        samples: resampled test sets.
        seed: of the draws; the same seed gives the same interval.
    """
    scores = _resampled([predictions], targets, metric, samples, seed)[0]
    return _interval(scores)


def fold_interval(scores: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean score over the folds of a cross-validation, two or more.

    Student's t, with the variance enlarged by 1 / (folds - 1), the size of a test beside that of its training, because
    folds share most of their training documents (Nadeau and Bengio 2003).
    """
    count = len(scores)
    error = np.std(scores, ddof=1) * np.sqrt(1 / count + 1 / (count - 1))
    half = float(t.ppf(0.975, count - 1) * error)
    mean = float(np.mean(scores))
    return mean - half, mean + half


def paired_bootstrap(
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    targets: np.ndarray,
    metric: str = "micro_f1",
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile interval of metric(a) - metric(b), both scored on the same resampled documents.

    An interval that leaves out 0 says that the difference is more than the choice of test documents (Berg-Kirkpatrick
    et al. 2012). Arguments as of `bootstrap_interval`.
    """
    scores_a, scores_b = _resampled([predictions_a, predictions_b], targets, metric, samples, seed)
    return _interval(scores_a - scores_b)


def _resampled(
    systems: list[np.ndarray], targets: np.ndarray, metric: str, samples: int, seed: int
) -> list[np.ndarray]:
    """The metric of each system on the same resampled documents, (samples,) each."""
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}")
    if metric == "micro_f1" and targets.ndim == 1:
        metric = "accuracy"
    count = len(targets)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)  # (samples, N)
    draws = draws.astype(np.float32)  # a product of matrices then sums the documents of all samples at once
    scores = []
    for predictions in systems:
        if metric == "accuracy":
            right = predictions == targets
            right = (right if right.ndim == 1 else right.all(1)).astype(np.float32)  # (N,)
            scores.append(draws @ right / count)
        elif metric == "micro_f1":
            outcomes = _outcomes(predictions, targets)
            scores.append(_f1(*(draws @ kind.sum(1, dtype=np.float32) for kind in outcomes)))
        else:
            given, wanted = predictions, targets  # (N, L)
            if targets.ndim == 1:  # only the labels that are present or predicted
                both = np.unique(np.stack([predictions, targets]), return_inverse=True)[1].reshape(2, -1)
                given, wanted = np.eye(both.max() + 1, dtype=np.uint8)[both]
            outcomes = _outcomes(given, wanted)
            right, wrong, missed = (draws @ kind.astype(np.float32) for kind in outcomes)  # (samples, L)
            drawn = (right + wrong + missed > 0).sum(1)  # (samples,) labels that a resampled set says something of
            counted = (given | wanted).any(0).mean()  # share of labels that the whole test says something of
            scores.append(counted * _f1(right, wrong, missed).sum(1) / np.maximum(drawn, 1))
    return scores


def _outcomes(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where true positives, false positives and false negatives are, each (N, L) bool."""
    given, wanted = predictions.astype(bool), targets.astype(bool)
    return given & wanted, given & ~wanted, ~given & wanted


def _f1(right: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """F1 from numbers of true positives, false positives and false negatives; 0 / 0 is 0."""
    return 2 * right / np.maximum(2 * right + wrong + missed, 1)


def _one_hot(values: np.ndarray, num_labels: int) -> np.ndarray:
    return values if values.ndim == 2 else np.eye(num_labels, dtype=np.uint8)[values]


def _interval(scores: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)
