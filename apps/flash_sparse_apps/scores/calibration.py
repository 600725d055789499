"""How sure a model is, and whether it may be: temperature, reliability, what is better left to people.

Letters: N documents, L labels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 10
SHARES = (1.0, 0.9, 0.75, 0.5, 0.25)  # of the validation documents, for which a level of confidence is looked up
MOST = math.log(10.0)  # a temperature is between a tenth and ten


def fit_temperature(logits: np.ndarray, targets: np.ndarray, task: str) -> float:
    """What to divide logits by, so that probabilities of validation documents are right on average (Guo et al. 2017).

    The temperature with the least loss. Its logarithm costs half its square as well, as much as a document at a
    distance of about one, so that a few documents, all of them right, do not make a model certain.

    Args:
        logits: (N, L).
        targets: (N, L) of 0 and 1, or (N,) class indices.

    Returns:
        To three decimals: above 1 for a model that is too sure of itself.
    """
    logits = np.asarray(logits, np.float64)

    def loss(logarithm: float) -> float:
        return float(_losses(logits / math.exp(logarithm), targets, task).sum() + logarithm**2 / 2)

    return round(math.exp(minimize_scalar(loss, bounds=(-MOST, MOST), method="bounded", options={"xatol": 1e-6}).x), 3)


def _losses(logits: np.ndarray, targets: np.ndarray, task: str) -> np.ndarray:
    """(N,): cross-entropy, or the mean of the labels' binary cross-entropies, as in training."""
    if task == "single-label":
        return -log_softmax(logits, 1)[np.arange(len(logits)), targets]
    return (np.logaddexp(0, logits) - targets * logits).mean(1)


def reliability(probabilities: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> list[dict[str, Any]]:
    """Decisions for a label, sorted by their probability into ten bins of equal width; empty bins are left out.

    A decision is a label given to a document, with the probability that it has; it is right or not.

    Args:
        probabilities: (N, L).
        targets, predictions: (N, L) of 0 and 1, or (N,) class indices.

    Returns:
        low, high: of the bin.
        decisions: how many labels were given in it.
        probability: their mean.
        right: the share of them that is right.
    """
    shares, right = _given(probabilities, targets, predictions)
    places = np.minimum((shares * BINS).astype(int), BINS - 1)  # a probability of 1 is in the last bin
    return [
        {
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "decisions": int(inside.sum()),
            "probability": float(shares[inside].mean()),
            "right": float(right[inside].mean()),
        }
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def expected_calibration_error(bins: list[dict[str, Any]]) -> float | None:
    """How far probabilities are from the share that is right, in the mean of decisions (Naeini et al. 2015); None where
    no label was given."""
    count = sum(each["decisions"] for each in bins)
    if not count:
        return None
    return sum(each["decisions"] * abs(each["probability"] - each["right"]) for each in bins) / count


def _given(probabilities: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of all labels that are given, float64, and which of these are right."""
    if predictions.ndim == 1:
        shares = probabilities[np.arange(len(predictions)), predictions]
        return shares.astype(np.float64), predictions == targets
    given = predictions.astype(bool)
    return probabilities[given].astype(np.float64), targets[given].astype(bool)


def confidence(probabilities: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """How sure each document's labels are, (N,): the probability of the one given or, where there may be several, of
    the least sure decision: a label given has its probability, one not given what is left to 1."""
    if predictions.ndim == 1:
        return probabilities[np.arange(len(predictions)), predictions]
    return np.where(predictions.astype(bool), probabilities, 1 - probabilities).min(1)


def review_levels(
    validation_confidence: np.ndarray, test_confidence: np.ndarray, targets: np.ndarray, predictions: np.ndarray
) -> list[dict[str, Any]]:
    """What is decided, and how well, where people review the documents below a level of confidence.

    Levels are those that so many validation documents reach, rounded down to two decimals; the rest is counted on the
    test.

    Args:
        validation_confidence, test_confidence: as `confidence` gives them.
        targets, predictions: of the test documents, (N, L) of 0 and 1, or (N,) class indices.

    Returns:
        confidence: the level; the first is 0, which leaves nothing to people.
        documents, decided: how many reach it, and their share.
        accuracy: the share of these with exactly the right labels, None without any.
        precision: the share of the labels given to them that is right, None without any.
    """
    quantiles = np.quantile(validation_confidence, [1 - share for share in SHARES[1:]])
    levels = sorted({0.0, *(math.floor(100 * float(level)) / 100 for level in quantiles)})
    rows = []
    for level in levels:
        decided = test_confidence >= level  # (N,)
        given, wanted = predictions[decided], targets[decided]
        same = given == wanted
        right = same if same.ndim == 1 else same.all(1)
        of_labels = right if same.ndim == 1 else wanted[given.astype(bool)]
        rows.append(
            {
                "confidence": level,
                "documents": int(decided.sum()),
                "decided": float(decided.mean()),
                "accuracy": float(right.mean()) if len(right) else None,
                "precision": float(of_labels.mean()) if len(of_labels) else None,
            }
        )
    return rows
