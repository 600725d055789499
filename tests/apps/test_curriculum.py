"""Training that begins with a finished run's weights, and stages of it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from flash_sparse.nn import Encoder
from flash_sparse_apps import classify, curriculum
from flash_sparse_apps.models.chunking import Chunked
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping import stages
from flash_sparse_apps.training.callbacks import Checkpoints
from flash_sparse_apps.training.preparing import prepare
from flash_sparse_apps.training.starting_weights import load_start
from flash_sparse_datasets.shared.exit_codes import UserError

from .conftest import LABELS, TINY, write_planted
from .test_resume import Killed, kill_at, same_results
from .test_settings import one_error_line

CONFIG = Path(__file__).parents[2] / "configs" / "lra" / "pathx-curriculum.yaml"
SHORT = ("--no-linear-baseline", "--no-compare", "--examples", "0", "--pooling", "max")


class TestLoadStart:
    @pytest.fixture
    def load(self, single_label_run):
        """Load the weights of the finished run into an encoder with other arguments; the encoder, and what is said."""
        saved = SavedModel.load(single_label_run)

        def load(labels=saved.labels, tokenizer=saved.tokenizer, **changes):
            arguments = saved.encoder_arguments | changes
            torch.manual_seed(1)
            encoder = Encoder(**arguments)
            fresh = {name: value.clone() for name, value in encoder.state_dict().items()}
            settings = Settings(init_from=str(single_label_run))
            with_head = load_start(settings, arguments, tokenizer, labels, encoder)
            return with_head, encoder.state_dict(), fresh, saved.encoder.encoder.state_dict()

        return load

    def test_all_weights_where_labels_are_the_same(self, load):
        with_head, now, fresh, saved = load()
        assert with_head
        assert all(torch.equal(now[name], saved[name]) for name in saved)
        assert not torch.equal(now["embedding.weight"], fresh["embedding.weight"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"labels": ("a", "b", "c"), "num_outputs": 3},
            {"labels": tuple(reversed(LABELS))},
            {"pooling": "label"},
            {"pooling": "mean"},
        ],
    )
    def test_a_new_head_where_labels_or_pooling_differ(self, load, changes):
        with_head, now, fresh, saved = load(**changes)
        assert not with_head
        for name in now:
            assert torch.equal(now[name], (fresh if name.startswith("head.") else saved)[name]), name

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"width": 32}, "a run with --width 16; expected the same here, not --width 32"),
            ({"depth": 2}, "a run with --depth 1; expected the same here, not --depth 2"),
            ({"heads": 4}, "a run with --heads 2; expected the same here, not --heads 4"),
            ({"rotary": None}, "a run with --rotary 1d; expected the same here, not --rotary none"),
            ({"mlp_width": 8}, "expected the same here, not --mlp-width 8"),
            ({"tokenizer": SimpleNamespace(fingerprint="other")}, "whose tokens are others"),
        ],
    )
    def test_what_does_not_fit_is_said(self, load, changes, said):
        with pytest.raises(UserError, match="--init-from is ") as error:
            load(**changes)
        assert said in str(error.value)

    def test_windows_are_refused(self, single_label_run):
        saved = SavedModel.load(single_label_run)
        settings = Settings(init_from=str(single_label_run))
        with pytest.raises(UserError, match="but the model to train is a Chunked; expected an Encoder"):
            load_start(settings, {}, saved.tokenizer, saved.labels, Chunked(saved.encoder, 8))

    def test_a_run_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=f"--init-from: {tmp_path}: no model/classifier.json in it"):
            load_start(Settings(init_from=str(tmp_path)), {}, None, (), None)


def test_a_run_begins_with_them_and_resumes_without(
    planted_files, cache_folder, single_label_run, tmp_path, monkeypatch
):
    first = tmp_path / "first"
    shutil.copytree(single_label_run, first)
    began = []
    start = Checkpoints.on_train_start

    def on_train_start(self, trainer, module):
        began.append({name: value.clone() for name, value in module.encoder.state_dict().items()})
        start(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "on_train_start", on_train_start)
    data = ("--dataset", str(planted_files["single-label"]), "--cache-dir", str(cache_folder))
    flags = (*data, *TINY, *SHORT, "--epochs", "2", "--checkpoint-every", "4", "--init-from", str(first))
    assert classify.main([*flags, "--output", str(tmp_path / "whole")]) == 0
    before = load_file(first / "model" / "model.safetensors")
    assert all(torch.equal(began[0][name], before[f"encoder.{name}"]) for name in began[0])
    assert f"It began with the weights of {first}" in (tmp_path / "whole" / "report.html").read_text()

    save = Checkpoints._save

    def save_and_die(self, trainer):
        save(self, trainer)
        raise Killed

    monkeypatch.setattr(Checkpoints, "_save", save_and_die)
    with pytest.raises(Killed):
        classify.main([*flags, "--output", str(tmp_path / "run")])
    monkeypatch.setattr(Checkpoints, "_save", save)
    shutil.rmtree(first)
    assert classify.main(["--resume", str(tmp_path / "run")]) == 0
    same_results(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["chunked", "pretrained=name"])
def test_wrong_flags_are_one_line(capsys, name):
    said = f"--init-from is run; it cannot be used with --{name.partition('=')[0]}"
    assert said in one_error_line(capsys, ["--init-from", "run", f"--{name}"])


def test_a_wrong_run_is_said_before_anything_is_read(capsys, tmp_path):
    flags = ["--init-from", f"{tmp_path}/none", "--dataset", f"{tmp_path}/none.csv", "--output", f"{tmp_path}/run"]
    assert classify.main(flags) == 2
    said = f"error: --init-from: {tmp_path}/none: no such folder; expected the folder of a finished run\n"
    assert capsys.readouterr().err == said


# Stages


@pytest.fixture
def in_this_process(monkeypatch):
    """Stages run here, without the seconds that a new process takes; the commands that were run."""
    commands = []

    class Process:
        def __init__(self, command):
            commands.append(command)
            self.waited = False

        def wait(self, timeout=None):
            again, self.waited = self.waited, True
            return None if again else classify.main(commands[-1][3:])

        def terminate(self):
            pass

        kill = terminate

    # there alone: the standard library's own calls go on starting processes
    monkeypatch.setattr(stages, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Process}))
    return commands


LISTOPS = {"train_size": 24, "validation_size": 8, "test_size": 8, "min_length": 4, "max_length": 20, "max_depth": 3}
CURRICULUM = {
    "dataset": "listops",
    "dataset-options": LISTOPS,
    **{"width": 16, "batch-size": 8, "pooling": "max", "epochs": 1, "accelerator": "cpu", "examples": 0},
    **{"bootstrap-samples": 20, "linear-baseline": False, "checkpoint-every": 1, "learning-rate": "1e-2"},
    "stages": [
        {"name": "short", "seq-len": 20},
        {"name": "long", "seq-len": 40, "dataset-options": LISTOPS | {"max_length": 40}, "epochs": 2},
    ],
}


@pytest.fixture
def command(tmp_path, cache_folder):
    """The command of a curriculum, written with changes."""

    def command(*flags, output="out", **changes) -> list[str]:
        path = tmp_path / "curriculum.yaml"
        path.write_text(yaml.safe_dump(CURRICULUM | changes))
        return ["--config", str(path), "--output", str(tmp_path / output), "--cache-dir", str(cache_folder), *flags]

    return command


@pytest.fixture
def fails(capsys):
    """Run a command that must fail; the one line that it says."""

    def fails(arguments) -> str:
        with pytest.raises(SystemExit) as stopped:
            curriculum.main(arguments)
        assert stopped.value.code == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    return fails


def test_stages_run_in_order_and_go_on(command, fails, in_this_process, tmp_path, capsys, monkeypatch):
    assert curriculum.main(command()) == 0
    printed = capsys.readouterr().out
    whole = tmp_path / "out"
    assert printed.index("== stage 1 of 2: short") < printed.index("== stage 2 of 2: long")
    assert f"beginning with the weights of {whole / 'short'}\n" in printed
    rows = [line.split() for line in printed.splitlines()[-3:-1]]
    for (name, seq_len, steps, _, score), length in zip(rows, ("20", "40"), strict=True):
        metrics = json.loads((whole / name / "metrics.json").read_text())
        assert (seq_len, steps) == (length, str(metrics["training"]["steps"]))
        assert score == f"{metrics['test']['micro_f1']:.4f}"
        assert metrics["settings"]["learning-rate"] == 0.01
    assert len(in_this_process) == 2
    assert curriculum.main(command()) == 0  # nothing is left to do
    assert len(in_this_process) == 2

    with monkeypatch.context() as patch:
        kill_at(patch, Checkpoints, 5)  # the second checkpoint of the second stage
        with pytest.raises(Killed):
            curriculum.main(command(output="again"))
    assert not (tmp_path / "again" / "long" / "metrics.json").exists()
    assert "stage short: width is 32, but 16 in" in fails(command("--width", "32", output="again"))
    assert curriculum.main(command(output="again")) == 0
    assert "--resume" in in_this_process[-1]
    same_results(tmp_path / "again" / "long", whole / "long")


def test_a_stage_whose_metrics_are_damaged_is_named(command, in_this_process, tmp_path, capsys):
    stages = {"stages": CURRICULUM["stages"][:1]}
    assert curriculum.main(command(**stages)) == 0
    metrics = tmp_path / "out" / "short" / "metrics.json"
    capsys.readouterr()
    for content, why in (
        ({}, "damaged: command is missing; expected what a finished run leaves"),
        ({"version": 0}, "of version 0, not 1; expected what a finished run leaves"),
    ):
        metrics.write_text(json.dumps(content))
        assert curriculum.main(command(**stages)) == 2
        assert capsys.readouterr().err.startswith(f"error: {metrics}: {why}")


def test_more_time_reaches_a_stage_that_had_too_little(command, in_this_process, tmp_path, capsys):
    before = {"pretrain": 1, "stages": CURRICULUM["stages"][:1]}
    assert curriculum.main(command("--max-time", "1e-5", **before)) == 1
    assert "over before the end of --pretrain; expected more" in capsys.readouterr().err
    assert curriculum.main(command("--max-time", "10", **before)) == 0
    assert "--resume" in in_this_process[-1]


def test_a_stage_that_fails_ends_it(command, in_this_process, tmp_path, capsys):
    second = {"name": "long", "seq-len": 40, "rotary": "none"}
    assert curriculum.main(command(stages=[CURRICULUM["stages"][0], second])) == 1
    err = capsys.readouterr().err
    assert "a run with --rotary 1d; expected the same here, not --rotary none" in err
    assert "error: stage long ended with exit code 2" in err
    assert (tmp_path / "out" / "short" / "metrics.json").is_file()
    assert not (tmp_path / "out" / "long").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": []}, "curriculum.yaml: no list of stages"),
        ({"stages": ["short"]}, "curriculum.yaml: no list of stages"),
        ({"stages": [{"seq-len": 20}]}, "stage 1 has the name ''; expected one of its own"),
        ({"stages": [{"name": "../up"}]}, "stage 1 has the name '../up'"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "stage 2 has the name 'a'"),
        ({"stages": [{"name": "a", "output": "there"}]}, "stage a has output, which the curriculum decides"),
        ({"stages": [{"name": "a", "seq-lem": 20}]}, "curriculum.yaml: stage a: "),
        ({"stages": [{"name": "a", "seq-len": 0}]}, "stage a: --seq-len is 0; expected at least 1"),
        (
            {"stages": [{"name": "a", "dataset": "pathfinder32", "dataset-options": {"distractor": 3}}]},
            "stage a: pathfinder32 has no option 'distractor'; it has: ",
        ),
        ({"width": 15}, "stage short: --heads is 2; expected a divisor of --width 15"),
    ],
)
def test_wrong_files_are_one_line(command, fails, changes, said):
    assert said in fails(command(**changes))


def test_wrong_commands_are_one_line(command, fails, tmp_path):
    assert "--config is given 0 times" in fails(["--output", str(tmp_path / "out")])
    assert "--resume is for classify.py" in fails(command("--resume", "run"))
    assert "not-there.yaml: No such file" in fails(["--config", str(tmp_path / "not-there.yaml")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    assert "full, which has no short.yaml; expected a new folder" in fails(command(output="full"))


def test_typed_flags_override_every_stage(command, capsys):
    assert curriculum.main([*command("--epochs", "7"), "--print-config"]) == 0
    first, second = yaml.safe_load_all(capsys.readouterr().out.replace("# long", "---"))
    assert first["epochs"] == second["epochs"] == 7
    assert (first["init-from"], second["init-from"]) == (None, first["output"])


@pytest.mark.slow
def test_one_that_is_terminated_ends_its_stage_and_can_go_on(command, tmp_path):
    """The real thing: processes, a signal, the same command again."""
    endless = {"epochs": 100_000, "patience": 100_000}
    stages = [CURRICULUM["stages"][0], {"name": "long", "seq-len": 40} | endless]
    words = [sys.executable, str(CONFIG.parents[2] / "apps" / "curriculum.py"), *command(stages=stages)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = tmp_path / "out" / "long"
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 143, said
    assert "terminated; to continue" in said
    assert not (run / "metrics.json").exists()
    again = subprocess.run([*words, "--max-time", "0.1"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "== stage 2 of 2: long" in again.stdout
    assert "== stage 1 of 2" not in again.stdout
    assert "continuing after step" in again.stdout
    assert (run / "metrics.json").exists()


@pytest.mark.slow
def test_the_config_for_pathx_runs_in_small(in_this_process, cache_folder, tmp_path):
    """With a few images and a tiny encoder; the first and last stage of each size."""
    content = yaml.safe_load(CONFIG.read_text())
    kept = ("32-baseline", "32-length-14", "64-length-14", "pathx")
    content["stages"] = [stage for stage in content["stages"] if stage["name"] in kept]
    for stage in content["stages"]:
        stage["dataset-options"] |= {"train_size": 4, "validation_size": 2, "test_size": 2}
    content |= {"width": 8, "depth": 1, "heads": 1, "precision": "32-true", "accelerator": "cpu", "batch-size": 2}
    content |= {"bootstrap-samples": 10, "cache-dir": str(cache_folder)}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    assert curriculum.main(["--config", str(path), "--output", str(tmp_path / "out"), "--epochs", "1"]) == 0
    metrics = [json.loads((tmp_path / "out" / name / "metrics.json").read_text()) for name in kept]
    assert [entry["data"]["truncation"]["train"]["max_length"] for entry in metrics] == [1024, 1024, 4096, 16384]
    assert [entry["model"]["encoder"]["grid"][0] for entry in metrics] == [32, 32, 64, 128]
    assert [entry["model"]["attention"]["sparse"] for entry in metrics] == [False, False, True, True]


def test_with_more_documents_nothing_is_tested_that_was_trained_on(cache_folder, tmp_path, monkeypatch, capsys):
    """Also its tokens are those of the weights, and it goes on where the first run is gone."""
    few, more = tmp_path / "few.jsonl", tmp_path / "more.jsonl"
    write_planted(more, "single-label", count=160)
    few.write_text("".join(more.read_text().splitlines(keepends=True)[::2]))
    flags = ("--cache-dir", str(cache_folder), *TINY, *SHORT, "--epochs", "1", "--id-field", "name")
    first = tmp_path / "first"
    assert classify.main(["--dataset", str(few), *flags, "--output", str(first)]) == 0
    capsys.readouterr()

    again = ["--dataset", str(more), *flags, "--init-from", str(first), "--checkpoint-every", "4"]
    assert classify.main([*again, "--output", str(tmp_path / "whole")]) == 0
    assert re.search(rf"note: \d+ documents stay in the part that they had in {first}", capsys.readouterr().out)
    for part in ("train", "validation", "test"):
        before, now = (np.load(run / "split.npz")[part] for run in (first, tmp_path / "whole"))
        assert np.isin(before, now).all()
    assert np.load(first / "split.npz")["train"].size == 64
    tokens = [run / "model" / "tokenizer.json" for run in (first, tmp_path / "whole")]
    assert tokens[0].read_bytes() == tokens[1].read_bytes()

    kill_at(monkeypatch, Checkpoints, 1)
    with pytest.raises(Killed):
        classify.main([*again, "--output", str(tmp_path / "run")])
    monkeypatch.undo()
    shutil.rmtree(first)
    assert classify.main(["--resume", str(tmp_path / "run")]) == 0
    same_results(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_does_not_say_what_it_was_trained_on(planted_files, cache_folder, single_label_run, tmp_path):
    shutil.copytree(single_label_run, tmp_path / "old")
    (tmp_path / "old" / "split.npz").unlink()
    settings = Settings(
        dataset=str(planted_files["single-label"]), init_from=str(tmp_path / "old"), cache_dir=str(cache_folder)
    )
    notes = prepare(settings, None).dataset.notes
    assert f"{tmp_path / 'old'} does not say which documents it was trained on: the test may have some" in notes
