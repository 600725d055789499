"""How sure a model may be: temperature, reliability, levels of review; the same in every command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from served import make_model

from flash_sparse_apps import predict
from flash_sparse_apps.models.calibrated import Calibrated
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.scores.calibration import (
    confidence,
    expected_calibration_error,
    fit_temperature,
    reliability,
    review_levels,
)


def draw(task: str, count: int = 4000):
    """Logits, and targets drawn with just the probabilities that the logits say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 3))
    if task == "multi-label":
        return logits, (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return logits, (rng.random((count, 1)) > shares.cumsum(1)).sum(1)


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
@pytest.mark.parametrize("times", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_made_logits_too_sure(task, times):
    logits, targets = draw(task)
    assert fit_temperature(times * logits, targets, task) == pytest.approx(times, rel=0.06)


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_a_few_documents_all_right_make_no_model_certain(task):
    targets = np.array([0, 1, 2, 0])
    logits = 4.0 * np.eye(3)[targets] - 2
    found = fit_temperature(logits, np.eye(3)[targets] if task == "multi-label" else targets, task)
    assert 0.5 < found < 1


def test_bins_count_the_labels_that_are_given():
    probabilities = np.array([[0.95, 0.2], [0.91, 0.65], [1.0, 0.0]])
    predictions = np.array([[1, 0], [1, 1], [1, 0]])
    bins = reliability(probabilities, np.array([[1, 1], [0, 1], [1, 0]]), predictions)
    assert [(each["low"], each["high"], each["decisions"]) for each in bins] == [(0.6, 0.7, 1), (0.9, 1.0, 3)]
    assert (bins[0]["probability"], bins[0]["right"]) == (0.65, 1.0)
    assert bins[1]["probability"] == pytest.approx(2.86 / 3)
    assert bins[1]["right"] == pytest.approx(2 / 3)
    error = (0.35 + 3 * (2.86 / 3 - 2 / 3)) / 4
    assert expected_calibration_error(bins) == pytest.approx(error)
    assert expected_calibration_error([]) is None


def test_bins_of_a_single_label_task():
    bins = reliability(np.array([[0.7, 0.3], [0.25, 0.75]]), np.array([0, 0]), np.array([0, 1]))
    assert bins == [
        {"low": 0.7, "high": 0.8, "decisions": 2, "probability": pytest.approx(0.725), "right": 0.5},
    ]


def test_probabilities_that_are_what_they_say_have_no_error():
    logits, targets = draw("single-label", 40_000)
    for times, least, most in ((1, 0.0, 0.01), (3, 0.1, 0.5)):
        shares = np.exp(times * logits) / np.exp(times * logits).sum(1, keepdims=True)
        assert least < expected_calibration_error(reliability(shares, targets, shares.argmax(1))) < most


def test_confidence_is_that_of_the_least_sure_decision():
    probabilities = np.array([[0.9, 0.3], [0.4, 0.05]])
    assert confidence(probabilities, np.array([[1, 0], [1, 0]])) == pytest.approx([0.7, 0.4])
    assert confidence(probabilities, np.array([0, 1])) == pytest.approx([0.9, 0.05])


def test_levels_come_from_validation_and_shares_from_the_test():
    validation = np.linspace(0.005, 0.995, 100)
    targets, predictions = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1])
    rows = review_levels(validation, np.array([0.99, 0.8, 0.3, 0.02]), targets, predictions)
    assert [row["confidence"] for row in rows] == [0.0, 0.1, 0.25, 0.5, 0.74]
    assert [row["documents"] for row in rows] == [4, 3, 3, 2, 2]
    assert [row["decided"] for row in rows] == [1, 0.75, 0.75, 0.5, 0.5]
    assert [row["accuracy"] for row in rows] == pytest.approx([0.5, 2 / 3, 2 / 3, 1, 1])
    none = review_levels(validation, np.zeros(4), targets, predictions)[-1]
    assert (none["documents"], none["accuracy"], none["precision"]) == (0, None, None)


def test_precision_of_a_level_is_that_of_its_labels():
    targets, predictions = np.array([[1, 1], [0, 1]]), np.array([[1, 0], [1, 1]])
    (row,) = review_levels(np.ones(2) * 0.001, np.ones(2), targets, predictions)
    assert (row["accuracy"], row["precision"]) == (0.0, pytest.approx(2 / 3))


def labelled(run, text, capsys, *flags: str) -> dict:
    capsys.readouterr()
    assert predict.main([str(run), str(text), "--accelerator", "cpu", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_saved_model_applies_its_temperature(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("word1 keyapple word2")
    plain = make_model()
    plain.save(tmp_path / "plain" / "model", "")
    make_model(encoder=Calibrated(plain.encoder, 2.5)).save(tmp_path / "run" / "model", "")
    before, after = (labelled(tmp_path / name, tmp_path / "a.txt", capsys, "--evidence") for name in ("plain", "run"))
    for label, share in after["probabilities"].items():
        log_odds = np.log(before["probabilities"][label]) - np.log1p(-before["probabilities"][label])
        assert share == pytest.approx(1 / (1 + np.exp(-log_odds / 2.5)), abs=1e-5)
    assert after["confidence"] < before["confidence"]
    assert after["evidence"]["apple"][0]["drop"] < before["evidence"]["apple"][0]["drop"] - 0.05
    again = SavedModel.load(tmp_path / "run")
    assert again.encoder.temperature == 2.5
    assert not again.encoder.training

    # weights are kept as they were, and a model from before there were temperatures has 1
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (
        tmp_path / "plain/model/model.safetensors"
    ).read_bytes()
    (tmp_path / "run" / "model" / "SHA256SUMS").unlink()
    described = tmp_path / "run" / "model" / "classifier.json"
    content = json.loads(described.read_text())
    assert content.pop("temperature") == 2.5
    del content["linear"]
    described.write_text(json.dumps(content))
    assert labelled(tmp_path / "run", tmp_path / "a.txt", capsys, "--evidence") == before


@pytest.mark.parametrize("temperature", [0, -1.0, "1", None])
def test_a_temperature_that_no_run_wrote(tmp_path, temperature):
    make_model().save(tmp_path / "model", "")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    described = tmp_path / "model" / "classifier.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"temperature": temperature}))
    said = r"damaged: ValueError: temperature is .*(; expected a number above 0|, no number)$"
    with pytest.raises(ValueError, match=said):
        SavedModel.load(tmp_path)


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_a_run_says_how_sure_it_may_be(task, request):
    run = request.getfixturevalue(f"{task.replace('-', '_')}_run")
    metrics = json.loads((run / "metrics.json").read_text())
    found = metrics["calibration"]
    assert json.loads((run / "model" / "classifier.json").read_text())["temperature"] == found["temperature"]
    assert sum(each["decisions"] for each in found["bins"]) > 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for level in found["review"]:
        decided = [row for row in rows if row["confidence"] >= level["confidence"]]
        assert level["documents"] == len(decided)
        right = sum(set(row["labels"]) == set(row["predicted"]) for row in decided)
        assert level["accuracy"] is None if not decided else level["accuracy"] == pytest.approx(right / len(decided))
    assert found["review"][0]["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
