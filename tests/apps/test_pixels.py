"""Images turned for training, and black pixels left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.tokens.pixels import turn_images

from .test_settings import one_error_line
from .test_symbols import LISTOPS, cifar10, run  # noqa: F401  (cifar10 is a fixture)

IMAGES = ("--dataset", "cifar10", "--seq-len", "1024", "--no-linear-baseline", "--tokens-per-batch", "8192")


def batch(images: torch.Tensor, indices: list[int]) -> PackedBatch:
    count, side = len(images), images.shape[1]
    starts = torch.arange(count + 1, dtype=torch.int32) * side**2
    targets = torch.zeros(count, dtype=torch.int64)
    return PackedBatch(images.flatten().clone(), starts, side**2, targets, torch.tensor(indices), count)


def eight(image: np.ndarray) -> list[list]:
    turned = [np.rot90(image, quarter) for quarter in range(4)]
    return [way.tolist() for way in (*turned, *(way.T for way in turned))]


class TestTurning:
    IMAGE = torch.arange(25).view(5, 5)

    def test_all_eight_ways_and_no_other(self):
        images = self.IMAGE.expand(200, 5, 5)
        turned = batch(images, list(range(200)))
        turn_images(turned, 5, seed=0, epoch=0)
        ways = eight(self.IMAGE.numpy())
        found = [ways.index(image.tolist()) for image in turned.tokens.view(-1, 5, 5)]
        counts = np.bincount(found, minlength=8)
        assert counts.min() > 10

    def test_by_seed_epoch_and_place_in_the_split_alone(self):
        def turned(indices, seed=0, epoch=0):
            made = batch(self.IMAGE.expand(len(indices), 5, 5), indices)
            turn_images(made, 5, seed, epoch)
            return made.tokens.view(-1, 5, 5)

        first = turned(list(range(20)))
        assert torch.equal(first, turned(list(range(20))))
        assert torch.equal(first[[7, 3]], turned([7, 3]))
        assert not torch.equal(first, turned(list(range(20)), epoch=1))
        assert not torch.equal(first, turned(list(range(20)), seed=1))


def test_only_training_images_are_turned(tmp_path, cifar10, monkeypatch):  # noqa: F811
    trained, tested = [], []
    train, validate = Classifier.training_step, Classifier.validation_step

    def training_step(self, batches, index):
        for made in batches:
            trained.extend(zip(made.indices.tolist(), made.tokens.view(-1, 32, 32).clone(), strict=True))
        return train(self, batches, index)

    def validation_step(self, made, index):
        tested.extend(zip(made.indices.tolist(), made.tokens.view(-1, 32, 32).clone(), strict=True))
        return validate(self, made, index)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(Classifier, "validation_step", validation_step)
    flags = (*IMAGES, "--root", str(cifar10), "--augment", "dihedral", "--sparse", "--pattern", "butterfly")
    code, output = run(tmp_path, *flags, "--epochs", "2", "--no-compare")
    assert code == 0
    middle = len(trained) // 2
    once, again = dict(trained[:middle]), dict(trained[middle:])
    assert once.keys() == again.keys()
    changed = [not torch.equal(once[i], again[i]) for i in once]
    assert 0.5 < np.mean(changed) < 1  # one in eight is as it was
    for i in once:
        assert once[i].flatten().sort()[0].equal(again[i].flatten().sort()[0])
    half = len(tested) // 2
    for (i, one), (j, other) in zip(tested[:half], tested[half:], strict=True):
        assert i == j
        assert torch.equal(one, other)
    assert "Training images were turned and mirrored at random" in (output / "report.html").read_text()


def blacken(folder: Path, where: slice):
    """Make these pixels of all images black, and no others."""
    for file in folder.iterdir():
        rows = np.fromfile(file, np.uint8).reshape(-1, 3073)
        pixels = rows[:, 1:].reshape(-1, 3, 1024)
        pixels[...] = pixels.clip(3)
        pixels[:, :, where] = 0
        rows.tofile(file)


def test_black_pixels_are_left_out_and_the_report_says_so(tmp_path, cifar10):  # noqa: F811
    blacken(cifar10, slice(None, None, 3))  # a third of the pixels
    flags = (*IMAGES, "--root", str(cifar10), "--skip-black", "--rotary", "2d", "--pretrain", "1")
    code, output = run(tmp_path, *flags)
    assert code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    read = metrics["model"]["pixels_read"]
    assert read == pytest.approx(2 / 3, abs=0.01)
    assert metrics["speed"]["tokens"] == pytest.approx(
        read * 1024 * metrics["data"]["truncation"]["train"]["documents"]
    )
    assert metrics["pretraining"]["mask_share"] == 0.5
    for name in ("report.html", "model/README.md"):
        assert "black pixels are left out, 66.6% of the pixels are read" in (output / name).read_text(), name
    (encoder,) = (part for part in SavedModel.load(output).encoder.modules() if isinstance(part, Encoder))
    assert (encoder.skip_token, encoder.skip_through, encoder.iterations) == (0, 0, 1)


def test_dark_pixels_count_as_black(tmp_path, cifar10, capsys):  # noqa: F811
    flags = (*IMAGES, "--root", str(cifar10), "--skip-black", "--black", "100", "--iterations", "2")
    code, output = run(tmp_path, *flags)
    assert code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert 0.05 < metrics["model"]["pixels_read"] < 0.95
    page = (output / "report.html").read_text()
    assert "pixels of values up to 100 are left out" in page
    assert "all layers are applied 2 times" in page
    (encoder,) = (part for part in SavedModel.load(output).encoder.modules() if isinstance(part, Encoder))
    assert (encoder.skip_token, encoder.skip_through, encoder.iterations) == (0, 100, 2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--augment", "dihedral"), "--augment is dihedral, which needs images; listops has none"),
        (("--skip-black",), "--skip-black is given, which needs images; listops has none"),
    ],
)
def test_what_texts_cannot_have(tmp_path, capsys, flags, said):
    code, output = run(tmp_path, "--dataset", "listops", "--dataset-options", LISTOPS, "--seq-len", "32", *flags)
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not output.exists()


def test_parts_of_images_cannot_be_turned(tmp_path, cifar10, capsys):  # noqa: F811
    code, _ = run(tmp_path, *IMAGES, "--root", str(cifar10), "--augment", "dihedral", "--seq-len", "1000")
    assert code == 2
    assert "--seq-len is 1000; expected at least 1024, whole images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--skip-black", "--chunked"], "--skip-black is given; it cannot be used with --chunked"),
        (["--skip-black", "--sparse", "--pattern", "axial"], "--pattern is axial, which needs all pixels"),
        (["--augment", "crop"], "--augment: expected ['none', 'dihedral'], got crop"),
    ],
)
def test_wrong_flags_are_one_line(capsys, flags, said):
    assert said in one_error_line(capsys, flags)


def test_images_whose_pixels_that_are_read_are_all_black(tmp_path, cifar10):  # noqa: F811
    blacken(cifar10, slice(300))
    sparse = ("--sparse", "--block-size", "16", "--window", "16", "--seq-len", "256")
    code, output = run(tmp_path, "--dataset", "cifar10", "--root", str(cifar10), "--skip-black", *sparse)
    assert code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["model"]["pixels_read"] == 1 / 256  # the one that the encoder keeps
    assert metrics["model"]["computed"] == 1
    assert "--sparse skips only 0% of the blocks in training: --dense may be as fast" in metrics["data"]["notes"]
