"""Scores against scikit-learn, intervals against a plain bootstrap."""

import time
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from flash_sparse_apps.scores.evaluation import (
    METRICS,
    agreement,
    bootstrap_interval,
    count_none,
    evaluate,
    micro_f1,
    paired_bootstrap,
    predict_labels,
)


def multi_label(documents=150, labels=12, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((documents, labels)) < np.geomspace(0.5, 0.01, labels)).astype(np.uint8)
    targets[:, -1] = 0  # neither present nor predicted
    probabilities = np.clip(0.5 * targets + rng.random(targets.shape) * 0.7, 0, 1)
    probabilities[:, -1] = 0
    return probabilities, targets


def single_label(documents=150, labels=6, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, labels - 1, documents)
    return np.eye(labels)[targets] * 0.5 + rng.random((documents, labels)), targets


def test_multi_label_scores_are_those_of_scikit_learn():
    probabilities, targets = multi_label()
    thresholds = np.linspace(0.3, 0.8, 12)
    predictions = predict_labels(probabilities, thresholds, "multi-label")
    found = evaluate(probabilities, targets, thresholds, "multi-label")
    assert found["micro_f1"] == pytest.approx(f1_score(targets, predictions, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro", zero_division=0))
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, predictions))
    expected = precision_recall_fscore_support(targets, predictions, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found["per_label"][name], values)


def test_single_label_scores_are_those_of_scikit_learn():
    probabilities, targets = single_label()
    predictions = predict_labels(probabilities, None, "single-label")
    found = evaluate(probabilities, targets, None, "single-label")
    assert found["micro_f1"] == found["accuracy"] == pytest.approx(accuracy_score(targets, predictions))
    expected = precision_recall_fscore_support(targets, predictions, labels=range(6), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found["per_label"][name], values)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"))


def test_a_single_label_that_no_document_has_counts_nowhere():
    targets = np.array([0, 0, 2, 2])
    right = np.eye(6)[targets]
    assert evaluate(right, targets, None, "single-label")["macro_f1"] == 1
    predictions = np.array([0, 4, 2, 2])  # 4 is predicted, so it counts: (2/3 + 1 + 0) / 3
    found = evaluate(np.eye(6)[predictions], targets, None, "single-label")["macro_f1"]
    assert found == pytest.approx(f1_score(targets, predictions, average="macro")) == pytest.approx(5 / 9)
    low, high = bootstrap_interval(predictions, targets, "macro_f1", samples=2000)
    assert low < found < high


def test_values_are_plain_python():
    found = evaluate(*multi_label(), None, "multi-label")
    assert {type(found[name]) for name in METRICS} == {float}
    assert {type(v) for values in found["per_label"].values() for v in values} == {float, int}


def test_documents_without_labels_count_as_lexglue_counts_them():
    probabilities, targets = multi_label()
    targets[::3] = 0
    thresholds = np.full(targets.shape[1], 0.6)
    found = evaluate(probabilities, targets, thresholds, "multi-label", none_counts=True)
    wanted, given = (np.zeros((len(targets), targets.shape[1] + 1), int) for _ in range(2))
    for rows, decisions in ((wanted, targets), (given, probabilities >= 0.6)):
        rows[:, :-1] = decisions
        rows[:, -1] = (decisions.sum(1) == 0).astype(int)
    assert 0 < (wanted[:, -1] != given[:, -1]).sum() < len(wanted)
    for average in ("micro", "macro"):
        expected = f1_score(wanted, given, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(wanted, given))
    assert len(found["per_label"]["f1"]) == wanted.shape[1]
    np.testing.assert_array_equal(count_none(targets), wanted)


def test_one_label_and_nothing_present():
    one = evaluate(np.array([[0.9], [0.2], [0.8]]), np.array([[1], [1], [0]]), None, "multi-label")
    assert one["micro_f1"] == one["macro_f1"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = evaluate(np.zeros((3, 2)), np.zeros((3, 2), np.uint8), None, "multi-label")
    assert nothing["micro_f1"] == nothing["macro_f1"] == 0
    assert nothing["accuracy"] == 1


def test_a_probability_at_its_threshold_counts():
    probabilities = np.array([[0.5, 0.3], [0.49, 0.7]])
    assert predict_labels(probabilities, None, "multi-label").tolist() == [[1, 0], [0, 1]]
    assert predict_labels(probabilities, np.array([0.5, 0.3]), "multi-label").tolist() == [[1, 1], [0, 1]]
    assert predict_labels(probabilities, None, "single-label").tolist() == [0, 1]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_intervals_are_those_of_a_plain_bootstrap(metric, task):
    probabilities, targets = (multi_label if task == "multi-label" else single_label)()
    predictions = predict_labels(probabilities, None, task)
    if task == "single-label":  # one column for each label, to choose those that a sample has
        wanted, given = np.eye(6, dtype=int)[targets], np.eye(6, dtype=int)[predictions]
    else:
        wanted, given = targets, predictions
    counted = (wanted | given).any(0)

    def macro(rows):
        some = (wanted[rows] | given[rows]).any(0)
        share = counted.mean() if task == "multi-label" else 1
        return share * f1_score(wanted[rows][:, some], given[rows][:, some], average="macro")

    score = {
        "accuracy": lambda rows: accuracy_score(targets[rows], predictions[rows]),
        "micro_f1": lambda rows: f1_score(targets[rows], predictions[rows], average="micro"),
        "macro_f1": macro,
    }[metric]
    draws = np.random.default_rng(5).multinomial(150, np.full(150, 1 / 150), size=60)
    samples = [np.repeat(np.arange(150), counts) for counts in draws]
    scores = [score(rows) for rows in samples]
    found = bootstrap_interval(predictions, targets, metric, samples=60, seed=5)
    np.testing.assert_allclose(found, np.quantile(scores, [0.025, 0.975]), rtol=1e-6)


def test_intervals_hold_the_score_and_repeat():
    probabilities, targets = multi_label()
    predictions = predict_labels(probabilities, None, "multi-label")
    low, high = bootstrap_interval(predictions, targets)
    assert low < micro_f1(predictions, targets) < high
    assert bootstrap_interval(predictions, targets) == (low, high)
    assert bootstrap_interval(predictions, targets, seed=1) != (low, high)


@pytest.mark.parametrize("labels", [50, 240])
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_rare_labels_do_not_pull_the_interval_of_macro_f1_below_its_value(labels, task):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, labels, 100)
    right = np.eye(labels)[targets]
    wanted = targets if task == "single-label" else right.astype(np.uint8)

    # a perfect classifier has no doubt, whatever is drawn
    value = evaluate(right, wanted, None, task)["macro_f1"]
    perfect = predict_labels(right, None, task)
    assert bootstrap_interval(perfect, wanted, "macro_f1") == pytest.approx((value, value))

    # others have some, on either side
    guessed = np.where((rng.random(100) < 0.3)[:, None], np.eye(labels)[rng.integers(0, labels, 100)], right)
    value = evaluate(guessed, wanted, None, task)["macro_f1"]
    low, high = bootstrap_interval(predict_labels(guessed, None, task), wanted, "macro_f1")
    assert low < value < high


def test_pairs_share_their_documents():
    probabilities, targets = multi_label(400)
    a = predict_labels(probabilities, None, "multi-label")
    b = a.copy()
    changed = np.random.default_rng(0).choice(400, 25, replace=False)
    b[changed, 0] = 1 - targets[changed, 0]
    low, high = paired_bootstrap(a, b, targets)
    assert 0 < low < micro_f1(a, targets) - micro_f1(b, targets) < high
    alone = bootstrap_interval(a, targets)
    assert high - low < (alone[1] - alone[0]) / 2
    assert paired_bootstrap(a, a, targets) == (0, 0)
    assert paired_bootstrap(b, a, targets) == pytest.approx((-high, -low))


def test_a_thousand_samples_take_less_than_a_second():
    rng = np.random.default_rng(0)
    targets, predictions = (rng.random((2, 2000, 100)) < 0.1).astype(np.uint8)
    began = time.monotonic()
    bootstrap_interval(predictions, targets, "micro_f1", samples=1000)
    assert time.monotonic() - began < 1


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric is 'f2'; expected one of micro_f1, macro_f1, accuracy"):
        bootstrap_interval(np.zeros(3, int), np.zeros(3, int), "f2")


def test_agreement_is_of_whole_documents():
    assert agreement(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]])) == 0.5
    assert agreement(np.array([1, 2, 3, 3]), np.array([1, 2, 3, 0])) == 0.75
