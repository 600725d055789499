"""Pathfinder images that grow while a model trains on them."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from flash_sparse_apps import classify
from flash_sparse_apps.models.lightning_module import Classifier, rate
from flash_sparse_apps.tokens.growing import Growth
from flash_sparse_apps.training import growing
from flash_sparse_apps.training.callbacks import Checkpoints, History
from flash_sparse_apps.training.growing import SETTLED, Growing
from flash_sparse_datasets import load
from flash_sparse_datasets.snakes.images import images_of

from .test_resume import Killed, kill_at, same_results
from .test_symbols import cifar10, run  # noqa: F401  (cifar10 is a fixture)

OPTIONS = "{level: 5, distractors: 0, train_size: 12, validation_size: 3, test_size: 4}"
IMAGES = ("--dataset", "pathfinder32", "--dataset-options", OPTIONS, "--seq-len", "1024", "--no-linear-baseline")
GROWN = (*IMAGES, "--grow-from", "2", "--epochs", "3", "--batch-size", "4", "--patience", "3")


@pytest.fixture
def fresh(tmp_path):
    return load("pathfinder32", cache_dir=tmp_path, level=6, train_size=8, validation_size=2, test_size=2).fresh


def test_half_of_a_step_has_the_newest_length(fresh):
    growth = Growth(fresh, 2, seed=0)
    assert growth.levels(0, list(range(8))) == [2] * 8
    growth.newest = 5
    levels = [growth.levels(epoch, list(range(9))) for epoch in range(50)]
    assert all(step.count(5) == 5 for step in levels)
    others = np.bincount([level for step in levels for level in step])[2:5]
    assert others.sum() == 200
    assert others.min() > 40  # each shorter length about a third of them
    assert growth.levels(3, list(range(9))) == levels[3]


def test_images_are_of_their_levels(fresh):
    pixels, classes = fresh.make([0, 5, 3], [2, 6, 4])
    for number, level, image, label in zip([0, 5, 3], [2, 6, 4], pixels, classes, strict=True):
        made = images_of([12 + number], 32, level, "released", 10, 0)  # behind the twelve of the files
        assert (image == made.images[0].ravel()).all()
        assert label == 1 - made.labels[0]


def module_with_trainer():
    """A classifier whose rate is 1, and what it asks its trainer for."""
    recipe = {"learning_rate": 1.0, "weight_decay": 0.0, "warmup_share": 0.1, "gradient_clip": 1.0, "seed": 0}
    module = Classifier(nn.Linear(2, 1), None, "single-label", **recipe)
    optimizer = torch.optim.AdamW(module.encoder.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    configs = [SimpleNamespace(scheduler=schedule)]
    module.trainer = SimpleNamespace(global_step=0, optimizers=[optimizer], lr_scheduler_configs=configs)
    return module, module.trainer


def steps(callback, trainer, module, loss: float, count: int):
    for _ in range(count):
        trainer.global_step += 1
        trainer.optimizers[0].zero_grad()
        module.encoder(torch.ones(1, 2)).sum().backward()
        trainer.optimizers[0].step()
        module.lr_schedulers().step()
        callback.on_train_batch_end(trainer, module, torch.tensor(loss), None, 0)


def test_a_length_joins_when_the_loss_is_low_and_training_goes_back_when_it_falls(fresh, capsys):
    growth = Growth(fresh, 2, seed=0)
    callback = Growing(growth, 0.3, History())
    module, trainer = module_with_trainer()
    steps(callback, trainer, module, math.log(2), 3 * SETTLED)  # at chance from the beginning: nothing to go back to
    assert (growth.newest, callback.falls) == (2, [])
    steps(callback, trainer, module, 0.1, SETTLED)
    assert growth.newest == 3
    learnt = trainer.global_step
    while callback.joined[-1]["step"] == learnt and trainer.global_step < learnt + SETTLED - 1:
        steps(callback, trainer, module, 0.1, 1)
        learnt = callback.joined[-1]["step"]
    # the weights at the moment when the third length joined are what a fall goes back to
    kept = {name: value.clone() for name, value in callback._kept["encoder"].items()}
    steps(callback, trainer, module, math.log(2), 6 * SETTLED)
    assert len(callback.falls) >= 1
    assert growth.newest == 2 + len(callback.joined) - 1
    assert module.rate_factor == 0.5 ** len(callback.falls)
    assert trainer.optimizers[0].param_groups[0]["lr"] == module.rate_factor
    assert all(torch.equal(callback._kept["encoder"][name], value) for name, value in kept.items())
    assert "back at chance" in capsys.readouterr().out

    again = Growing(Growth(fresh, 2, seed=0), 0.3, History())
    state = {"callbacks": {again.state_key: callback.state_dict()}}
    again.load_state_dict(callback.state_dict())
    other, resumed = module_with_trainer()
    resumed.optimizers[0].load_state_dict(trainer.optimizers[0].state_dict())
    other.lr_schedulers().load_state_dict(module.lr_schedulers().state_dict())
    again.on_load_checkpoint(resumed, other, state)
    assert (again.growth.newest, other.rate_factor) == (growth.newest, module.rate_factor)
    assert not other.change_rate()  # the state has the rate that training fell back to
    other.learning_rate = 0.3
    assert other.change_rate()
    other.lr_schedulers().step()
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.3 * other.rate_factor)
    assert not other.change_rate()
    steps(callback, trainer, module, 0.1, 10 * SETTLED)
    assert growth.newest == growth.last == 6


class ReadsLate(SingleDeviceStrategy):
    """A strategy that reads the state when the model is set up, as those do that part the weights."""

    restore_checkpoint_after_setup = True


class Begins(L.Callback):
    """Keeps what is left of the rate when training begins."""

    def on_train_start(self, trainer, module):
        self.rate_factor = module.rate_factor


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy, ReadsLate])
def test_a_lowered_rate_is_known_when_training_goes_on(fresh, tmp_path, strategy):
    begins = Begins()
    for steps_wanted, rate_factor in ((1, 0.5), (2, 1.0)):
        callback, module = Growing(Growth(fresh, 2, seed=0), 0.3, History()), BoringModel()
        callback._rate_factor, module.rate_factor = rate_factor, 1.0
        trainer = L.Trainer(
            accelerator="cpu", strategy=strategy("cpu"), callbacks=[begins, callback], max_steps=steps_wanted,
            limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        path = tmp_path / "state.ckpt"
        trainer.fit(module, ckpt_path=path if path.exists() else None)
        trainer.save_checkpoint(path)
    assert begins.rate_factor == 0.5


def test_the_rate_stays_and_then_falls_in_a_straight_line():
    shares = [rate(step, 100, 0.05, 0.4) for step in range(101)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5:61] == [1.0] * 56
    assert shares[80] == pytest.approx(0.5)
    assert shares[100] == 0


def test_a_run_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "SETTLED", 2)
    seen = []
    train = Classifier.training_step

    def training_step(self, batches, index):
        seen.append(sorted(int((made > 0).sum()) for batch in batches for made in batch.tokens.view(-1, 1024)))
        return train(self, batches, index)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    code, output = run(tmp_path, *GROWN, "--grow-below", "9")
    assert code == 0
    assert len(seen) == 9
    assert np.mean(seen[-1]) > np.mean(seen[0])  # longer snakes have more ink
    assert "began with snakes of 2 dashes" in (output / "report.html").read_text()
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["settings"]["grow-from"] == 2
    growing_epochs = [entry["growing"] for entry in metrics["training"]["history"]]
    assert (growing_epochs[0], growing_epochs[-1]) == (True, False)
    assert metrics["training"]["best_epoch"] > sum(growing_epochs)


def test_a_run_whose_snakes_grow_to_its_end_keeps_the_last_weights(tmp_path):
    code, output = run(tmp_path, *GROWN, "--grow-below", "0.001")
    training = json.loads((output / "metrics.json").read_text())["training"]
    assert (code, training["best_epoch"]) == (0, 3)
    assert all(entry["growing"] for entry in training["history"])


@pytest.mark.parametrize("checkpoint", [3, 5, 6])
def test_a_killed_run_goes_on_with_the_same(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr(growing, "SETTLED", 2)
    flags = (*GROWN, "--grow-below", "9", "--checkpoint-every", "1")
    code, whole = run(tmp_path / "whole", *flags)
    assert code == 0
    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, checkpoint)
        with pytest.raises(Killed):
            run(tmp_path / "killed", *flags)
    (killed,) = {path.parent for path in (tmp_path / "killed").rglob("config.yaml")}
    assert classify.main(["--resume", str(killed)]) == 0
    same_results(killed, whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--grow-from", "6"), "--grow-from is 6; expected 2 to 5, the dataset's own level"),
        (("--grow-from", "1"), "--grow-from is 1; expected at least 2"),
        (("--grow-from", "2", "--fresh-images"), "--grow-from is 2; it cannot be used with --fresh-images"),
        (("--grow-from", "2", "--devices", "2", "--batch-size", "4"), "--grow-from is 2; expected one device, not 2"),
        (("--grow-from", "2", "--seq-len", "1000"), "expected at least 1024, whole images, for --grow-from"),
        (("--grow-below", "0.2"), "--grow-below is 0.2; it needs --grow-from"),
        (("--black", "16"), "--black is 16; it needs --skip-black"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, said):
    try:
        code, _ = run(tmp_path, *IMAGES, *flags)
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_files_do_not_grow(tmp_path, cifar10, capsys):  # noqa: F811
    code, _ = run(tmp_path, "--dataset", "cifar10", "--root", str(cifar10), "--seq-len", "1024", "--grow-from", "2")
    assert code == 2
    assert "--grow-from is 2, which needs generated images; those of cifar10 are files" in capsys.readouterr().err
