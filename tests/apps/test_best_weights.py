"""Which epoch's weights are kept, and what ends training early: what --metric names, then the validation loss."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from flash_sparse_apps import classify
from flash_sparse_apps.metrics import best_epoch, history_key
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.training import callbacks, training_run
from flash_sparse_apps.training.callbacks import Checkpoints, History

from .conftest import TINY


@pytest.mark.parametrize(
    ("scores", "losses", "kept"),
    [
        ([0.5, 0.7, 0.6], [0.9, 0.8, 0.1], 1),  # the score comes first
        ([0.7, 0.7, 0.7], [0.9, 0.4, 0.5], 1),  # then the loss
        ([0.7, 0.7], [0.4, 0.4], 0),  # then the earlier one
    ],
)
def test_the_weights_that_are_kept(tmp_path, monkeypatch, scores, losses, kept):
    monkeypatch.setattr(callbacks, "save_state", lambda *unused: None)
    run, history = RunFolder(tmp_path), History()
    checkpoints = Checkpoints(run, 100, history, cast(Any, None), "micro-f1")
    encoder = torch.nn.Linear(1, 1)
    for epoch, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        torch.nn.init.constant_(encoder.weight, epoch)
        history.epochs.append({"validation_micro_f1": score, "validation_loss": loss})
        trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, lightning_module=encoder)
        checkpoints.on_validation_end(trainer, SimpleNamespace(encoder=encoder))
    assert load_file(run.best_weights)["weight"] == kept


@pytest.mark.parametrize(("metric", "best"), [("micro-f1", 0), ("macro-f1", 1), ("accuracy", 2), ("loss", 3)])
def test_each_metric_has_its_own_best_epoch(metric, best):
    scores = [(0.9, 0.1, 0.1, 0.9), (0.1, 0.9, 0.1, 0.8), (0.1, 0.1, 0.9, 0.7), (0.1, 0.1, 0.1, 0.1)]
    keys = [history_key(name) for name in ("micro-f1", "macro-f1", "accuracy", "loss")]
    history = [dict(zip(keys, epoch, strict=True)) for epoch in scores]
    assert best_epoch(history, metric) is history[best]


@pytest.mark.parametrize(("growing", "best"), [([True, False, False], 2), ([True, True, True], 2), ([False] * 3, 0)])
def test_epochs_while_snakes_grow_do_not_count(growing, best):
    scores = [(0.9, 0.1), (0.5, 0.3), (0.6, 0.2)]
    history = [
        {"validation_micro_f1": score, "validation_loss": loss, "growing": still}
        for (score, loss), still in zip(scores, growing, strict=True)
    ]
    assert best_epoch(history, "micro-f1") is history[best]


@pytest.mark.parametrize("metric", ["macro-f1", "loss"])
def test_training_stops_by_the_metric_that_was_asked_for(metric, planted_files, cache_folder, tmp_path, monkeypatch):
    """Validation scores that tell of another best epoch each."""
    course = {"micro_f1": [0.5, 0.6, 0.7, 0.8], "macro_f1": [0.9, 0.5, 0.4, 0.3], "accuracy": [0.1] * 4}
    losses = [0.5, 0.1, 0.6, 0.7]

    def log(module, name, value):
        what = name.removeprefix("validation/")
        epoch = module.trainer.current_epoch
        real(module, name, losses[epoch] if what == "loss" else course[what][epoch])

    real = training_run.Classifier.log
    monkeypatch.setattr(training_run.Classifier, "log", log)
    run = tmp_path / "run"
    files = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder), "--output", str(run))
    flags = ("--epochs", "4", "--patience", "1", "--metric", metric, "--no-linear-baseline")
    assert classify.main([*files, *TINY, *flags]) == 0
    training = json.loads((run / "metrics.json").read_text())["training"]
    assert training["metric"] == metric
    assert (training["epochs"], training["best_epoch"]) == ((2, 1) if metric == "macro-f1" else (3, 2))
    assert training["best_validation_score"] == pytest.approx(0.9 if metric == "macro-f1" else 0.1)
    page = (run / "report.html").read_text()
    assert f"chosen by {'macro-F1 (0.90' if metric == 'macro-f1' else 'loss (0.10'}" in page


def test_the_table_of_epochs_takes_those_of_an_older_version(tmp_path):
    history = History()
    history.epochs = [{"epoch": 1, "validation_micro_f1": 0.5}]
    history.epochs.append({"epoch": 2, "validation_micro_f1": 0.6, "validation_macro_f1": 0.4})
    history.write_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().split() == [
        *("epoch,validation_micro_f1,validation_macro_f1", "1,0.5,", "2,0.6,0.4")
    ]
