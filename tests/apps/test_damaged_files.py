"""Bytes that the disk changed: each is noticed before it is used, made anew where it can be, named where it cannot."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from flash_sparse_apps import classify
from flash_sparse_apps.models.saved_model import SavedModel

from .conftest import SPARSE, TINY

CHECKED = ("SHA256SUMS", "classifier.json", "model.safetensors", "tokenizer.json")


def flip(path: Path, place: int):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.fixture
def model(multi_label_run, tmp_path) -> Path:
    return Path(shutil.copytree(multi_label_run / "model", tmp_path / "model"))


def test_every_file_of_a_model_is_checked(model):
    draw = random.Random(0)
    assert {path.name for path in model.iterdir()} == {*CHECKED, "README.md"}
    for name in CHECKED:
        path = model / name
        whole = path.read_bytes()
        for _ in range(20):
            flip(path, draw.randrange(len(whole)))
            with pytest.raises(ValueError, match=r"damaged: its sha256|expected the checksum"):
                SavedModel.load(model)
            path.write_bytes(whole)
    SavedModel.load(model)


def test_a_missing_file_of_a_model_is_named(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"SHA256SUMS: '[0-9a-f]{64}  tokenizer\.json'; expected the checksum"):
        SavedModel.load(model)


def test_whoever_changes_a_model_knowingly_removes_the_checksums(model):
    path = model / "classifier.json"
    described = json.loads(path.read_text())
    described["thresholds"][0] = 0.75
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"classifier\.json: damaged: .*if you changed it yourself, delete SHA256SUMS"):
        SavedModel.load(model)
    (model / "SHA256SUMS").unlink()
    assert SavedModel.load(model).thresholds[0] == 0.75


def test_weights_are_checked_without_the_other_checksums(model):
    (model / "SHA256SUMS").unlink()
    path = model / "model.safetensors"
    flip(path, path.stat().st_size - 10)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged: its weights do not have the checksum"):
        SavedModel.load(model)


def test_training_writes_nothing_outside_its_folders(planted_files, cache_folder, tmp_path, monkeypatch):
    """The system's folder for temporary files may be small, or full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    flags = [*TINY, "--epochs", "1", "--no-compare", "--no-linear-baseline", "--cache-dir", str(cache_folder)]
    assert (
        classify.main(["--dataset", str(planted_files["multi-label"]), *flags, "--output", str(tmp_path / "run")]) == 0
    )


def test_a_damaged_cache_is_made_anew_and_trains_the_same(planted_files, tmp_path, capsys):
    flags = [*("--dataset", str(planted_files["multi-label"])), *TINY, *SPARSE, "--epochs", "1", "--no-compare"]
    flags += ["--cache-dir", str(tmp_path / "cache"), "--no-linear-baseline"]
    assert classify.main([*flags, "--output", str(tmp_path / "first")]) == 0

    (tokenizer,) = (tmp_path / "cache").rglob("tokenizer.json")
    stores = sorted((tmp_path / "cache").rglob("*.tokens"))
    assert len(stores) == 3
    for path in (tokenizer, *stores):
        flip(path, path.stat().st_size // 2)
    capsys.readouterr()
    assert classify.main([*flags, "--output", str(tmp_path / "second")]) == 0

    out, err = capsys.readouterr()
    assert f"note: {tokenizer}: damaged: " in out
    assert all(f"note: {path}: damaged token store: " in err for path in stores)
    first, second = (tmp_path / name / "model" / "SHA256SUMS" for name in ("first", "second"))
    assert first.read_text() == second.read_text()
