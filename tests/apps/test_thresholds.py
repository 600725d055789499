"""Thresholds: the best F1 where there is enough to learn it from, the common one where there is not."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flash_sparse_apps.scores.thresholds import PRIOR_POSITIVES, _best_f1_thresholds, tune_thresholds


def skewed(documents, seed, labels=30):
    """Log-odds that a calibrated model would have, off by some 0.5 for each label; labels from frequent to rare."""
    rng = np.random.default_rng(seed)
    share = np.geomspace(0.4, 0.04, labels)
    targets = rng.random((documents, labels)) < share
    evidence = 2 * targets + rng.normal(0, 1, targets.shape)  # the log-likelihood ratio is 2 * evidence - 2
    off = np.random.default_rng(7).normal(0, 0.5, labels)
    log_odds = np.log(share / (1 - share)) + 2 * evidence - 2 + off
    return 1 / (1 + np.exp(-log_odds)), targets.astype(np.uint8)


def test_the_best_f1_is_found():
    rng = np.random.default_rng(0)
    for documents in (1, 2, 7, 40):
        scores = rng.integers(0, 8, (documents, 6)) / 8  # many are equal
        targets = rng.integers(0, 2, (documents, 6))
        thresholds = _best_f1_thresholds(scores.T, targets.T)
        for label in range(6):
            reached = f1_score(targets[:, label], scores[:, label] >= thresholds[label], zero_division=0)
            possible = [f1_score(targets[:, label], scores[:, label] >= t, zero_division=0) for t in scores[:, label]]
            assert reached == pytest.approx(max(possible))


def test_many_positives_give_the_labels_own_threshold():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (20_000, 2)).astype(np.uint8)
    probabilities = np.where(targets == 1, [0.3, 0.9], [0.1, 0.7]) + rng.uniform(0, 0.05, (20_000, 2))
    thresholds = tune_thresholds(probabilities, targets)
    assert 0.15 < thresholds[0] < 0.3
    assert 0.75 < thresholds[1] < 0.9


def test_a_label_without_positives_gets_the_common_threshold():
    probabilities, targets = skewed(100, 0)
    targets[:, 3] = 0
    thresholds = tune_thresholds(probabilities, targets)
    common = _best_f1_thresholds(probabilities.reshape(1, -1), targets.reshape(1, -1))[0]
    assert thresholds[3] == pytest.approx(common)


def test_few_positives_move_a_threshold_little():
    probabilities, targets = skewed(300, 1)
    common = _best_f1_thresholds(probabilities.reshape(1, -1), targets.reshape(1, -1))[0]
    own = _best_f1_thresholds(probabilities.T, targets.T)
    log_odds = [np.log(t / (1 - t)) for t in (tune_thresholds(probabilities, targets), own, common)]
    positives = targets.sum(0)
    np.testing.assert_allclose(
        (log_odds[0] - log_odds[2]) / (log_odds[1] - log_odds[2]), positives / (positives + PRIOR_POSITIVES), atol=1e-6
    )


def test_better_on_new_documents_than_what_it_is_made_of():
    """On skewed labels: micro-F1 of the common threshold or better, and macro-F1 better than both."""
    scores = {"tuned": [], "own": [], "common": []}
    for seed in range(10):
        validation, validation_targets = skewed(120, 2 * seed)
        test, test_targets = skewed(1000, 2 * seed + 1)
        candidates = {
            "tuned": tune_thresholds(validation, validation_targets),
            "own": _best_f1_thresholds(validation.T, validation_targets.T),
            "common": _best_f1_thresholds(validation.reshape(1, -1), validation_targets.reshape(1, -1)),
        }
        for name, thresholds in candidates.items():
            given = test >= thresholds
            scores[name].append([f1_score(test_targets, given, average=a, zero_division=0) for a in ("micro", "macro")])
    micro, macro = ({name: np.mean(values, 0)[k] for name, values in scores.items()} for k in range(2))
    assert micro["tuned"] > micro["common"]
    assert micro["tuned"] > micro["own"]
    assert macro["tuned"] > macro["common"]
    assert macro["tuned"] > macro["own"]


def test_order_of_documents_does_not_matter():
    probabilities, targets = skewed(80, 3)
    order = np.random.default_rng(0).permutation(80)
    np.testing.assert_array_equal(
        tune_thresholds(probabilities, targets), tune_thresholds(probabilities[order], targets[order])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_stay_inside_zero_and_one(dtype):
    probabilities = np.array([[0, 1], [1, 1], [0, 1]], dtype)
    for targets in ([[0, 1], [1, 1], [0, 1]], [[1, 0], [0, 0], [1, 0]], [[0, 0], [0, 0], [0, 0]]):
        thresholds = tune_thresholds(probabilities, np.array(targets))
        assert thresholds.dtype == np.float64
        assert ((thresholds > 0) & (thresholds < 1)).all()
    assert tune_thresholds(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [0.5, 0.5]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"targets have the shape \(3, 2\); expected that of probabilities, \(3, 1\)"):
        tune_thresholds(np.zeros((3, 1)), np.zeros((3, 2)))


def test_parts_of_the_labels_change_nothing(monkeypatch):
    generator = np.random.default_rng(3)
    probabilities = generator.random((60, 11)).round(2)
    targets = (generator.random((60, 11)) < probabilities**2).astype(np.uint8)
    whole = tune_thresholds(probabilities, targets)
    for size in (1, 130, 600):  # one label at a time, two, ten
        monkeypatch.setattr("flash_sparse_apps.scores.thresholds.SORTED", size)
        np.testing.assert_array_equal(tune_thresholds(probabilities, targets), whole)
