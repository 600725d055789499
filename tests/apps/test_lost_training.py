"""Training whose loss is no number: what is said, what is kept, and going on with a lower learning rate."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from flash_sparse_apps import classify
from flash_sparse_apps.models.lightning_module import Classifier

from .conftest import TINY

# 10 steps an epoch, a checkpoint after steps 4, 8, 10, 12, 16, ...
FLAGS = (*TINY, "--epochs", "2", "--checkpoint-every", "4", "--no-linear-baseline", "--examples", "0")


@pytest.fixture
def flags(planted_files, cache_folder, tmp_path) -> list[str]:
    data = ("--dataset", str(planted_files["multi-label"]), "--id-field", "name", "--cache-dir", str(cache_folder))
    return [*data, *FLAGS, "--output", str(tmp_path / "run")]


@pytest.fixture
def lost(monkeypatch) -> list[list[int]]:
    """The loss is NaN from step 14 on, at full rate; the rows of the documents that this step reads."""
    losses, rows = Classifier.losses, []

    def losing(self, batch):
        if self.learning_rate < 0.02 or self.global_step < 13 or not self.training:
            return losses(self, batch)
        rows.append(batch.indices.tolist())
        return losses(self, batch) * torch.nan

    monkeypatch.setattr(Classifier, "losses", losing)
    return rows


def test_what_is_advised_works(flags, lost, tmp_path, capsys):
    run = tmp_path / "run"
    assert classify.main(flags) == 2
    err = capsys.readouterr().err
    advice = f"flash-sparse classify --resume {run} --learning-rate 0.01"
    assert err.startswith("error: the loss is nan at step 14, which read 'document ")
    assert err.endswith(f"'; expected a lower --learning-rate than 0.02; to continue: {advice}\n")
    assert err.count("'document ") == sum(map(len, lost)) == 8

    assert classify.main(shlex.split(advice)[2:]) == 0
    assert "continuing after step 12" in capsys.readouterr().out
    training = json.loads((run / "metrics.json").read_text())["training"]
    assert training["lowered"] == [{"step": 12, "learning_rate": 0.01}]
    assert "After step 12 training went on with a lower learning rate, 0.01." in (run / "report.html").read_text()
    rates = {entry["step"]: entry["learning_rate"] for entry in training["curve"]}
    assert max(rate for step, rate in rates.items() if step <= 12) > 0.01
    assert 0 < rates[13] < 0.01  # the cosine is half-way down

    assert classify.main(["--resume", str(run)]) == 2
    assert "which is finished" in capsys.readouterr().err


def test_before_there_is_a_state_the_run_is_begun_anew(flags, lost, tmp_path, capsys):
    assert classify.main([*flags, "--checkpoint-every", "100", "--batch-size", "4"]) == 2
    err = capsys.readouterr().err
    assert err.endswith("; expected a lower --learning-rate than 0.02\n")
    assert not (tmp_path / "run").exists()


def test_a_higher_rate_is_refused(flags, lost, tmp_path, capsys):
    assert classify.main(flags) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        classify.main(["--resume", str(tmp_path / "run"), "--learning-rate", "0.03"])
    assert "--learning-rate is 0.03; expected at most the run's 0.02" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_not_kept(flags, tmp_path, monkeypatch, capsys):
    """A finite loss may have gradients that are not."""
    losses = Classifier.losses

    def losing(self, batch):
        (weight, *_) = self.encoder.parameters()
        return losses(self, batch) + ((0 * weight).sqrt().sum() if self.global_step == 11 else 0)

    monkeypatch.setattr(Classifier, "losses", losing)
    assert classify.main(flags) == 2
    assert "error: weights are no longer finite after step 12, which read 'document " in capsys.readouterr().err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 10
    assert all(weight.isfinite().all() for weight in state["state_dict"].values())
