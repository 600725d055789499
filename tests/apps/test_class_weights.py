"""Weights that let rare classes count as much as frequent ones, against scikit-learn's and in training."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.sparse import csr_matrix
from sklearn.utils.class_weight import compute_class_weight

from flash_sparse_apps import classify
from flash_sparse_apps.models.class_weights import balanced
from flash_sparse_apps.models.lightning_module import document_losses
from flash_sparse_apps.training import testing

from .conftest import TINY

CLASSES = np.array([0, 0, 0, 0, 0, 1, 1, 3])  # nothing has class 2


def test_single_label_weights_are_scikit_learns():
    one_hot = csr_matrix(np.eye(4, dtype=np.uint8)[CLASSES])
    weights = balanced(one_hot, "single-label")
    present = [0, 1, 3]
    expected = compute_class_weight("balanced", classes=np.array(present), y=CLASSES)
    torch.testing.assert_close(weights[present], torch.tensor(expected, dtype=torch.float32))
    assert torch.isfinite(weights).all()
    assert weights[torch.from_numpy(CLASSES)].mean() == pytest.approx(1)


def test_multi_label_weights_are_those_of_each_label_alone():
    draw = np.random.default_rng(0)
    labels = (draw.random((50, 3)) < (0.1, 0.5, 0.8)).astype(np.uint8)
    weights = balanced(csr_matrix(labels), "multi-label")
    for label in range(3):
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels[:, label])
        torch.testing.assert_close(weights[:, label], torch.tensor(expected, dtype=torch.float32))


def test_weighted_losses():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    weights = torch.tensor([0.5, 3.0])
    single = document_losses(logits, torch.tensor([1, 0]), "single-label", weights)
    plain = F.cross_entropy(logits, torch.tensor([1, 0]), reduction="none")
    torch.testing.assert_close(single, plain * torch.tensor([3.0, 0.5]))
    targets, pair = torch.tensor([[1, 0], [0, 0]]), torch.tensor([[0.5, 2.0], [7.0, 9.0]])
    each = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    expected = (each * torch.tensor([[7.0, 2.0], [0.5, 2.0]])).mean(1)
    torch.testing.assert_close(document_losses(logits, targets, "multi-label", pair), expected)


def skewed(path, task: str):
    """Nine documents in ten have the label `often`, and a word tells them apart, but seldom."""
    draw = random.Random(0)
    rows = []
    for number in range(120):
        rare = number % 10 == 0
        words = [f"word{draw.randrange(30)}" for _ in range(12)]
        if rare and draw.random() < 0.6:
            words[3] = "telling"
        label = "rare" if rare else "often"
        rows.append({"text": " ".join(words), "labels": [label] if task == "multi-label" else label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_the_rare_label_is_more_probable(task, cache_folder, tmp_path, monkeypatch):
    """By the encoder itself: calibration comes after it, which knows how rare the label is."""
    monkeypatch.setattr(testing, "fit_temperature", lambda *unused: 1.0)
    data = ("--dataset", str(skewed(tmp_path / f"{task}.jsonl", task)), "--cache-dir", str(cache_folder))
    shares = {}
    for weights in ("none", "balanced"):
        run = tmp_path / weights
        flags = ("--epochs", "2", "--class-weights", weights, "--no-blend", "--examples", "0", "--test-share", "0.3")
        assert classify.main([*data, *TINY, *flags, "--output", str(run)]) == 0
        rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        shares[weights] = np.mean([row["probabilities"]["rare"] for row in rows])
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["settings"]["class-weights"] == weights
        assert ("(--class-weights)" in (run / "report.html").read_text()) == (weights == "balanced")
    assert shares["balanced"] > shares["none"] + 0.1


def test_weights_are_not_part_of_the_model(cache_folder, tmp_path):
    data = ("--dataset", str(skewed(tmp_path / "a.jsonl", "single-label")), "--cache-dir", str(cache_folder))
    flags = ("--epochs", "1", "--class-weights", "balanced", "--examples", "0", "--no-linear-baseline")
    assert classify.main([*data, *TINY, *flags, "--output", str(tmp_path / "run")]) == 0
    assert "weights" not in load_file(tmp_path / "run" / "model" / "model.safetensors")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert "weights" not in state
