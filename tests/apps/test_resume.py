"""A run that is killed and resumed ends with the same weights, to the bit, as one that never stopped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from filelock import FileLock

from flash_sparse_apps import classify
from flash_sparse_apps.training import fitting
from flash_sparse_apps.training.callbacks import Checkpoints, History, KeepsState

from .conftest import SPARSE, TINY

SCRIPT = Path(__file__).parents[2] / "apps" / "classify.py"
# 10 steps an epoch, a checkpoint after steps 4, 8, 10, 12, 16, 20, ...
FLAGS = (*TINY, *SPARSE, "--epochs", "4", "--checkpoint-every", "4", "--no-compare", "--no-linear-baseline")


class Killed(BaseException):
    """Ends a run in this process where a SIGKILL would."""


@pytest.fixture(scope="module")
def data(planted_files, cache_folder) -> list[str]:
    return ["--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder)]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert classify.main([*data, *FLAGS, "--output", str(run)]) == 0
    return run


def kill_at(monkeypatch, phase: type, checkpoint: int) -> list[int]:
    """Let the callback `phase` end its process after it has saved so many checkpoints; the list gets their steps."""
    save, saved = phase._save, []

    def save_and_die(self, trainer):
        save(self, trainer)
        saved.append(trainer.global_step)
        if len(saved) >= checkpoint:
            raise Killed

    monkeypatch.setattr(phase, "_save", save_and_die)
    return saved


def same_results(run: Path, other: Path):
    for name in ("model/model.safetensors", "model/classifier.json", "predictions.jsonl"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    histories = []
    for folder in (run, other):
        with open(folder / "logs" / "history.csv") as file:
            histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert histories[0] == histories[1]
    curves = [json.loads((folder / "metrics.json").read_text())["training"]["curve"] for folder in (run, other)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("checkpoint", [1, 2, 3, 4, 6, 12])
def test_killed_after_a_checkpoint(checkpoint, data, uninterrupted, tmp_path, monkeypatch):
    """In the middle of an epoch (1, 2), after its validation (3), in the next one (4), and after the last (12)."""
    saved = kill_at(monkeypatch, Checkpoints, checkpoint)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        classify.main([*data, *FLAGS, "--output", str(run)])
    assert saved[-1] == [4, 8, 10, 12, 16, 20, 24, 28, 30, 32, 36, 40][checkpoint - 1]
    monkeypatch.undo()
    assert not (run / "metrics.json").exists()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


def test_killed_again_and_again(data, uninterrupted, tmp_path, monkeypatch):
    run = tmp_path / "run"
    kill_at(monkeypatch, Checkpoints, 1)
    with pytest.raises(Killed):
        classify.main([*data, *FLAGS, "--output", str(run)])
    for _ in range(4):
        with pytest.raises(Killed):
            classify.main(["--resume", str(run)])
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


def terminate_in(monkeypatch, hook: str, step: int):
    """Let SIGTERM come in a hook of the callback that keeps the state, first at this step."""
    called = getattr(KeepsState, hook)

    def terminated(self, trainer, *rest):
        if trainer.global_step == step and not self.terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        called(self, trainer, *rest)

    monkeypatch.setattr(KeepsState, hook, terminated)


@pytest.mark.parametrize("step", [3, 4, 11])
def test_sigterm_loses_no_step(step, data, uninterrupted, tmp_path, monkeypatch, capsys):
    """Between two checkpoints (3, 11), and where one is due (4)."""
    terminate_in(monkeypatch, "on_train_batch_end", step)
    run = tmp_path / "run"
    assert classify.main([*data, *FLAGS, "--output", str(run)]) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("terminated; to continue: ")
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    assert f"continuing after step {step}" in capsys.readouterr().out
    same_results(run, uninterrupted)


@pytest.mark.parametrize(("hook", "after"), [("on_validation_batch_end", 8), ("on_train_batch_end", 8)])
def test_sigterm_in_a_validation_goes_back_to_the_checkpoint_before(
    hook, after, data, uninterrupted, tmp_path, monkeypatch, capsys
):
    """Also in the last step before it, which no state is kept of."""
    terminate_in(monkeypatch, hook, 10)
    run = tmp_path / "run"
    assert classify.main([*data, *FLAGS, "--output", str(run)]) == 143
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    assert f"continuing after step {after}" in capsys.readouterr().out
    same_results(run, uninterrupted)


def test_early_stopping_counts_on(data, tmp_path, monkeypatch):
    """Killed right after the validation that ended training: nothing more is trained."""
    flags = (*FLAGS, "--patience", "1", "--epochs", "30", "--learning-rate", "1e-9")
    whole = tmp_path / "whole"
    assert classify.main([*data, *flags, "--output", str(whole)]) == 0
    stopped = json.loads((whole / "metrics.json").read_text())["training"]
    assert "stopped early" in stopped["stopped"]
    assert stopped["epochs"] < 30
    save = Checkpoints._save

    def save_and_die(self, trainer):
        save(self, trainer)
        if trainer.should_stop:
            raise Killed

    run = tmp_path / "run"
    monkeypatch.setattr(Checkpoints, "_save", save_and_die)
    with pytest.raises(Killed):
        classify.main([*data, *flags, "--output", str(run)])
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, whole)


def test_more_time_goes_on_with_a_run_that_time_ended(data, tmp_path):
    flags = (*FLAGS, "--epochs", "100000", "--patience", "100000")
    run = tmp_path / "run"
    assert classify.main([*data, *flags, "--max-time", "0.01", "--output", str(run)]) == 0
    first = json.loads((run / "metrics.json").read_text())["training"]
    assert classify.main(["--resume", str(run), "--max-time", "0.05"]) == 0
    second = json.loads((run / "metrics.json").read_text())["training"]
    assert second["steps"] > first["steps"]
    assert second["history"][: first["epochs"] - 1] == first["history"][: first["epochs"] - 1]
    steps = [entry["step"] for entry in second["curve"]]
    assert steps == sorted(set(steps))


def test_a_damaged_checkpoint_is_one_line(data, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_bytes((uninterrupted / "config.yaml").read_bytes())
    content = (uninterrupted / "checkpoints" / "last.ckpt").read_bytes()
    (run / "checkpoints" / "last.ckpt").write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert classify.main(["--resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "last.ckpt: damaged" in err


def test_a_state_that_the_disk_changed_is_passed_over(data, uninterrupted, tmp_path, capsys):
    """One byte is enough; the state before it leads to the same weights."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    path = run / "checkpoints" / "last.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert classify.main(["--resume", str(run)]) == 0
    assert f"note: {path}: damaged: " in (out := capsys.readouterr().out)
    assert "trying last-before.ckpt" in out
    same_results(run, uninterrupted)


def test_killed_between_the_old_state_and_the_new(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "last-before.ckpt")
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


def edit(run: Path, before: str, after: str):
    text = (run / "config.yaml").read_text()
    assert before in text
    (run / "config.yaml").write_text(text.replace(before, after))


def flip(path: Path):
    """Change a bit near the end of a file."""
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: edit(run, "width: 16", "width: 32"), "config.yaml: width is 32; expected 16"),
        (lambda run: edit(run, "learning-rate: 0.02", "learning-rate: 0.5"), "learning-rate is 0.5; expected 0.02"),
        (lambda run: (run / "data.json").write_bytes(b"\xff"), "data.json: damaged"),
        (lambda run: (run / "checkpoints" / "best.safetensors").unlink(), "best.safetensors"),
        (lambda run: (run / "checkpoints" / "best.safetensors").write_bytes(b"junk"), "best.safetensors"),
        (lambda run: flip(run / "checkpoints" / "best.safetensors"), "best.safetensors: damaged: its weights"),
    ],
)
def test_a_run_folder_that_was_tampered_with_is_one_line(damage, said, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    damage(run)
    capsys.readouterr()
    assert classify.main(["--resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert (run / "report.html").exists()


def test_weights_that_are_lost_are_trained_again_as_the_error_says(uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    flip(run / "checkpoints" / "best.safetensors")
    assert classify.main(["--resume", str(run)]) == 2
    said = (
        f"delete {run / 'checkpoints'} to train from the beginning; to continue: flash-sparse classify --resume {run}\n"
    )
    assert capsys.readouterr().err.endswith(said)
    shutil.rmtree(run / "checkpoints")
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


def test_a_finished_run_without_checkpoints_is_not_begun_anew(uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.json").read_bytes()
    assert classify.main(["--resume", str(run), "--max-time", "5"]) == 2
    assert "which is finished: its report is" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before

    metrics = json.loads(before)
    metrics["training"]["stopped"] = "--max-time 1 ended it."
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert classify.main(["--resume", str(run), "--max-time", "5"]) == 2
    assert "which is finished and has no" in capsys.readouterr().err


def test_two_processes_at_one_run(uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    with FileLock(run / ".lock"):  # as the other process has it
        assert classify.main(["--resume", str(run)]) == 2
    assert "another process is at this run" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


@pytest.mark.slow
def test_sigkill(data, uninterrupted, tmp_path):
    """The real thing, in processes of its own."""
    run = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), *data, *FLAGS, "--output", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "metrics.json").exists()
    resumed = subprocess.run([sys.executable, str(SCRIPT), "--resume", str(run)], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after step" in resumed.stdout
    same_results(run, uninterrupted)
    assert json.loads((run / "metrics.json").read_text())["command"].endswith(f" --output {run}")  # as the run began


def test_the_state_that_was_read_is_not_kept_during_training(tmp_path, monkeypatch):
    class State(dict):
        """A dict that can be referred to weakly."""

    module = L.LightningModule()
    module.layer = torch.nn.Linear(2, 1)
    state = State(state_dict=module.state_dict(), global_step=7)
    kept = weakref.ref(state)
    found = [(tmp_path / "last.ckpt", state)]
    del state
    monkeypatch.setattr(fitting, "newest_whole", lambda path: found.pop())
    begun = []

    def fit(*given, ckpt_path, **named):
        begun.append((ckpt_path, kept()))

    checkpoints = KeepsState(tmp_path / "last.ckpt", 4, History())
    fitting.fit(SimpleNamespace(fit=fit), module, None, checkpoints, None)
    assert begun == [(tmp_path / "last.ckpt", None)]
