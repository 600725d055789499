"""Training images that are made anew in each epoch."""

from __future__ import annotations

import numpy as np
import pytest

from flash_sparse_apps import classify
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.training.callbacks import Checkpoints
from flash_sparse_datasets import pathfinder

from .test_resume import Killed, kill_at, same_results
from .test_symbols import cifar10, run  # noqa: F401  (cifar10 is a fixture)

COUNTS = {"train_size": 12, "validation_size": 3, "test_size": 4}
OPTIONS = "{level: 6, distractors: 0, train_size: 12, validation_size: 3, test_size: 4}"
IMAGES = ("--dataset", "pathfinder32", "--dataset-options", OPTIONS, "--seq-len", "1024", "--no-linear-baseline")
FRESH = (
    *IMAGES,
    "--fresh-images",
    "--epochs",
    "3",
    "--batch-size",
    "4",
    "--patience",
    "3",
    "--tokens-per-batch",
    "3000",
)


@pytest.fixture
def trained(monkeypatch):
    """What training saw: for each document in turn its place in the split, its image and its class."""
    seen = []
    train = Classifier.training_step

    def training_step(self, batches, index):
        for made in batches:
            images = made.tokens.view(-1, 32, 32).numpy().astype(np.uint8)
            seen.extend(zip(made.indices.tolist(), images, made.targets.tolist(), strict=True))
        return train(self, batches, index)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    return seen


def test_every_epoch_has_its_own(tmp_path, trained):
    code, output = run(tmp_path, *FRESH)
    assert code == 0
    images, labels = pathfinder.generate(sum(COUNTS.values()) + 24, 32, level=6, distractors=0)
    assert len(trained) == 36
    for epoch in range(3):
        begin = 7 if epoch == 0 else 19 + 12 * (epoch - 1)  # behind those for testing and validation; behind all
        part = trained[12 * epoch : 12 * epoch + 12]
        assert sorted(index for index, *_ in part) == list(range(12))
        for index, image, position in part:
            assert (image == images[begin + index]).all()
            assert pathfinder.LABELS[position] == ("connected" if labels[begin + index] else "separate")
    assert "Every epoch but the first had new training images" in (output / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [4, 5])
def test_a_killed_run_goes_on_with_the_same(tmp_path, monkeypatch, checkpoint):
    """In the second epoch, while the images of later steps have been asked for."""
    code, whole = run(tmp_path / "whole", *FRESH, "--checkpoint-every", "1")
    assert code == 0
    with monkeypatch.context() as patch:
        steps = kill_at(patch, Checkpoints, checkpoint)
        with pytest.raises(Killed):
            run(tmp_path / "killed", *FRESH, "--checkpoint-every", "1")
    assert 3 < steps[-1] < 6
    (killed,) = {path.parent for path in (tmp_path / "killed").rglob("config.yaml")}
    assert classify.main(["--resume", str(killed)]) == 0
    same_results(killed, whole)


def test_files_cannot_be_made_anew(tmp_path, cifar10, capsys):  # noqa: F811
    code, _ = run(tmp_path, "--dataset", "cifar10", "--root", str(cifar10), "--seq-len", "1024", "--fresh-images")
    assert code == 2
    assert (
        "--fresh-images is given, which needs generated images; those of cifar10 are files" in capsys.readouterr().err
    )
    code, _ = run(tmp_path, *IMAGES, "--fresh-images", "--seq-len", "1000")
    assert code == 2
    assert "--seq-len is 1000; expected at least 1024, whole images, for --fresh-images" in capsys.readouterr().err
