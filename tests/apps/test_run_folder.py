"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps.files import partial_path, remove_abandoned, remove_partial, to_json, write_atomically, writing
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.models.weights_file import load_weights
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.tokens.tokenization import train_tokenizer


@pytest.fixture
def saved_model() -> SavedModel:
    tokenizer = train_tokenizer(["one two three"], 260, progress=False)
    arguments = {"vocab_size": tokenizer.vocab_size, "width": 8, "depth": 1, "heads": 2, "num_outputs": 2}
    options = {"window": 16, "global_positions": [0, 16]}
    return SavedModel(
        encoder=Encoder(**arguments).eval(),
        encoder_arguments=arguments,
        attention={"sparse": True, "pattern": "longformer", "block_size": 16, "options": options},
        tokenizer=tokenizer,
        labels=("a", "b\n<b>"),
        task="multi-label",
        thresholds=np.array([0.1, 1 / 3]),
        seq_len=100,
        dataset="some",
    )


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*arguments):
        raise OSError("disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "usual")]
    assert modes[0] == modes[1]


def test_json_is_plain_and_has_no_nan():
    assert (
        to_json({"a": np.float32(0.5), "b": np.int64(3), "c": "日"}).decode()
        == '{\n  "a": 0.5,\n  "b": 3,\n  "c": "日"\n}\n'
    )
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    run = RunFolder.create(tmp_path / "new" / "run", "seq-len: 3\n")
    assert run.config.read_text() == "seq-len: 3\n"
    with pytest.raises(FileExistsError, match="which exists"):
        RunFolder.create(tmp_path / "new" / "run", "")
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", "")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="which exists"):
        RunFolder.create(tmp_path / "file", "")


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "check_new", lambda run: None)  # both looked, and there was nothing
    first = RunFolder.create(tmp_path / "run", "first\n")
    with pytest.raises(FileExistsError, match="another process is at this run"):
        RunFolder.create(tmp_path / "run", "second\n")
    assert first.config.read_text() == "first\n"


def test_a_run_killed_at_its_very_beginning_is_no_run(tmp_path):
    """The same command begins anew, and what the killed one left is gone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".config.yaml.partial-x7f").write_text("seq-")
    run = RunFolder.create(tmp_path / "run", "seq-len: 3\n")
    run.unlock()
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]
    assert run.config.read_text() == "seq-len: 3\n"


def test_what_was_cut_off_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".model.partial-a" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.ckpt.partial-0").touch()
    kept = [tmp_path / "checkpoints" / "last.ckpt", tmp_path / ".lock", tmp_path / "partial-notes.txt"]
    for path in kept:
        path.touch()
    remove_partial(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_what_a_killed_writer_left_goes_and_what_another_is_writing_stays(tmp_path):
    path = tmp_path / "out[1].jsonl"
    left = tmp_path / f"{partial_path(path)}abc"
    left.write_bytes(b"half")
    (tmp_path / f"{partial_path(tmp_path / 'other.jsonl')}abc").write_bytes(b"half")
    with writing(path) as file:
        remove_abandoned(path)
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.jsonl.partial-abc", "out[1].jsonl"]


def test_a_model_comes_back_as_it_was_saved(saved_model, tmp_path):
    saved_model.save(tmp_path / "run" / "model", "# Card\n")
    again = SavedModel.load(tmp_path / "run")
    for name in ("encoder_arguments", "attention", "labels", "task", "seq_len", "dataset"):
        assert getattr(again, name) == getattr(saved_model, name), name
    assert np.array_equal(again.thresholds, saved_model.thresholds)
    assert again.tokenizer.fingerprint == saved_model.tokenizer.fingerprint
    for name, value in saved_model.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], value), name
    assert not again.encoder.training
    assert torch.equal(again.layout().to_blocks(), saved_model.layout().to_blocks())
    assert again.layout().query_length == 100


def test_saving_again_replaces_the_folder(saved_model, tmp_path):
    saved_model.save(tmp_path / "model", "first")
    saved_model.save(tmp_path / "model", "second")
    assert (tmp_path / "model" / "README.md").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_nothing(saved_model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(type(saved_model.tokenizer), "save", fail)
    with pytest.raises(OSError, match="No space left"):
        saved_model.save(tmp_path / "model", "")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_encoder_are_refused(saved_model, tmp_path):
    saved_model.save(tmp_path / "model", "")
    other = Encoder(**(saved_model.encoder_arguments | {"width": 16}))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_weights(other, tmp_path / "model" / "model.safetensors")
