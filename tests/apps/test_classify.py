"""The command from end to end on tiny data, and how it ends when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flash_sparse_apps import classify
from flash_sparse_apps.command_line import load_settings
from flash_sparse_apps.models.blend import Blend
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.training import opening, training_run
from flash_sparse_apps.training.preparing import prepare

from .conftest import LABELS, SPARSE, TINY, write_planted

SCRIPT = Path(__file__).parents[2] / "apps" / "classify.py"


@pytest.fixture
def run_tiny(planted_files, cache_folder, tmp_path, capsys):
    """Run the command on the multi-label data; its exit code, stdout, stderr, and the run folder."""

    def run(*flags: str, dataset: Path = planted_files["multi-label"], output: Path = tmp_path / "run"):
        files = ("--cache-dir", str(cache_folder), "--output", str(output))
        capsys.readouterr()
        code = classify.main(["--dataset", str(dataset), *TINY, *files, *flags])
        return code, *capsys.readouterr(), output

    return run


def test_a_test_split_without_any_label_is_noted(planted_files, cache_folder, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "word1", "labels": []}\n' * 3)
    settings = Settings(
        dataset=str(planted_files["multi-label"]), test=str(tmp_path / "test.jsonl"), cache_dir=str(cache_folder)
    )
    notes = prepare(settings, None).dataset.notes
    assert "no test document has a label, so that its scores say nothing" in notes


def test_a_finished_run_has_everything(multi_label_run):
    names = {str(path.relative_to(multi_label_run)) for path in multi_label_run.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "data.json", "metrics.json", "report.html", "predictions.jsonl", "logs/history.csv"),
        *("split.npz", "model/SHA256SUMS", "checkpoints/last-before.ckpt"),
        *("model/model.safetensors", "model/tokenizer.json", "model/classifier.json", "model/README.md"),
        *("checkpoints/last.ckpt", "checkpoints/best.safetensors"),
    }
    settings = load_settings(multi_label_run / "config.yaml")
    assert (settings.seq_len, settings.sparse, settings.epochs) == (96, True, 3)


def test_metrics_of_a_multi_label_sparse_run(multi_label_run):
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    test, baseline, compare = metrics["test"], metrics["linear_baseline"], metrics["compare"]
    assert 0 <= test["micro_f1_interval"][0] <= test["micro_f1"] <= test["micro_f1_interval"][1] <= 1
    assert {entry["label"] for entry in test["per_label"]} == set(LABELS)
    assert baseline["difference"]["micro_f1"] == pytest.approx(test["micro_f1"] - baseline["micro_f1"])
    assert compare["speedup"] == pytest.approx(compare["dense_step_seconds"] / compare["sparse_step_seconds"])
    assert compare["documents"] == 4  # --compare-documents
    assert metrics["training"]["epochs"] == 3
    assert metrics["training"]["steps"] == metrics["training"]["history"][-1]["step"] == 30
    assert metrics["data"]["truncation"]["train"]["documents"] == 80
    assert metrics["settings"]["seq-len"] == 96
    assert metrics["versions"]["torch"]
    assert 0 < metrics["model"]["density"] < 1


def test_the_linear_model_votes(multi_label_run):
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    saved = json.loads((multi_label_run / "model" / "classifier.json").read_text())
    blend = metrics["blend"]
    assert blend["linear"] > 0
    assert {name: saved["blend"][name] for name in ("encoder", "linear", "bias")} == {
        name: blend[name] for name in ("encoder", "linear", "bias")
    }
    assert isinstance(SavedModel.load(multi_label_run).encoder, Blend)
    assert (
        f'micro-F1</td><td class="number">{blend["encoder_micro_f1"]:.2f}'
        in (multi_label_run / "report.html").read_text()
    )


def test_test_scores_are_those_of_the_written_predictions(multi_label_run):
    rows = [json.loads(line) for line in (multi_label_run / "predictions.jsonl").read_text().splitlines()]
    right = sum(len(set(row["labels"]) & set(row["predicted"])) for row in rows)
    given, wanted = (sum(len(row[key]) for row in rows) for key in ("predicted", "labels"))
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    assert metrics["test"]["micro_f1"] == pytest.approx(2 * right / (given + wanted))
    saved = json.loads((multi_label_run / "model" / "classifier.json").read_text())
    for row in rows:
        for label, threshold in zip(saved["labels"], saved["thresholds"], strict=True):
            assert (label in row["predicted"]) == (row["probabilities"][label] >= threshold)


def test_a_single_label_dense_run(single_label_run):
    metrics = json.loads((single_label_run / "metrics.json").read_text())
    assert metrics["compare"] is None
    assert metrics["test"]["micro_f1"] == pytest.approx(metrics["test"]["accuracy"])
    saved = json.loads((single_label_run / "model" / "classifier.json").read_text())
    assert saved["thresholds"] is None
    for line in (single_label_run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["predicted"] == [max(row["probabilities"], key=row["probabilities"].get)]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_it_learns_what_is_planted(run_tiny, tmp_path):
    """Four documents in ten have a label, so whoever always says yes has a micro-F1 of 0.57."""
    model = ("--width", "64", "--pooling", "max", "--dropout", "0", "--attention-dropout", "0", "--vocab-size", "600")
    training = ("--epochs", "14", "--patience", "14", "--learning-rate", "0.005")
    dataset = write_planted(tmp_path / "more.jsonl", "multi-label", count=200)
    code, _, _, run = run_tiny(*SPARSE, *model, *training, "--no-compare", "--no-linear-baseline", dataset=dataset)
    assert code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["micro_f1"] > 0.8
    assert metrics["blend"] is None


def test_truncation_is_said_before_training_and_the_results_after(run_tiny):
    code, out, _, run = run_tiny("--epochs", "1", "--seq-len", "16", "--tokens-per-batch", "64")
    assert code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    share = metrics["data"]["truncation"]["test"]["tokens_cut_share"]
    assert share > 0.3
    assert f"{100 * share:.1f}% of tokens" in out
    assert out.index("of tokens") < out.index("epoch 1/1") < out.index("micro-F1  ")
    assert f"{metrics['test']['micro_f1']:.2f}  [" in out
    assert str(run / "report.html") in out


def test_an_existing_folder_is_left_alone(run_tiny, multi_label_run):
    before = (multi_label_run / "metrics.json").read_bytes()
    code, out, err, _ = run_tiny(output=multi_label_run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "which exists" in err
    assert (multi_label_run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.jsonl", None, "missing.jsonl"),
        ("broken.jsonl", '{"text": "a", "labels": ["b"]}\n{"text": ', "line 2"),
        ("no_text.jsonl", '{"body": "a", "labels": ["b"]}\n', "no field 'text'"),
        ("few.jsonl", '{"text": "a", "labels": ["b"]}\n', "few.jsonl"),
        ("empty.csv", "", "empty"),
    ],
)
def test_bad_data_is_one_line_and_leaves_no_folder(run_tiny, tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    code, out, err, run = run_tiny(dataset=path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert said in err
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tokenizer", "/not/a/tokenizer"), "/not/a/tokenizer"),
        (("--text-field", "body"), "body"),
        (("--accelerator", "gpu"), "--accelerator is gpu"),
    ],
)
def test_arguments_that_only_the_data_refutes(run_tiny, monkeypatch, flags, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err, run = run_tiny(*flags)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not run.exists()


def test_an_option_the_named_dataset_lacks(capsys, tmp_path):
    code = classify.main(["--dataset", "python-stdlib", "--text-field", "body", "--output", str(tmp_path / "run")])
    assert code == 2
    assert "--text-field" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_before_the_first_checkpoint_leaves_nothing(run_tiny, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", full)
    code, _, err, run = run_tiny("--epochs", "1", "--checkpoint-every", "2")
    assert code == 2
    assert "No space left on device" in err
    assert not run.exists()


def test_a_full_disk_while_the_results_are_written_can_be_continued(run_tiny, monkeypatch, capsys):
    write = training_run.write_atomically

    def full(path, content):
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(training_run, "write_atomically", full)
    code, _, err, run = run_tiny("--epochs", "1")
    assert code == 2
    assert "No space left on device" in err
    assert f"--resume {run}" in err
    assert not (run / "report.html").exists()
    assert not (run / "metrics.json").exists()
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    assert (run / "report.html").exists()


def test_a_diverging_run_says_so(run_tiny):
    code, _, err, run = run_tiny("--epochs", "3", "--learning-rate", "1e30", "--gradient-clip", "1e30")
    assert code == 2
    assert "expected a lower --learning-rate than" in err
    assert not list(run.parent.glob("*.html"))


def test_max_time_ends_a_run_with_its_report(run_tiny):
    code, out, _, run = run_tiny("--epochs", "100000", "--patience", "100000", "--max-time", "0.02", "--no-compare")
    assert code == 0
    assert "--max-time 0.02 ended it" in out
    metrics = json.loads((run / "metrics.json").read_text())
    assert "--max-time 0.02 ended it" in metrics["training"]["stopped"]
    assert metrics["training"]["seconds"] < 30
    assert (run / "report.html").exists()


def test_max_time_before_the_first_validation_is_one_line(run_tiny):
    code, _, err, run = run_tiny("--max-time", "1e-9")
    assert (code, err.count("\n")) == (2, 1)
    assert "--max-time is 1e-09, over before the first validation" in err
    assert not run.exists()


def test_a_name_that_is_not_utf8(run_tiny, planted_files, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(planted_files["multi-label"].read_bytes())
    code, _, err, run = run_tiny("--epochs", "1", dataset=path)
    assert (code, err) == (0, "")
    assert json.loads((run / "metrics.json").read_text())["data"]["name"] == path.name
    assert r"caf\udce9.jsonl" in (run / "report.html").read_text()


def test_too_little_memory_is_one_line(run_tiny, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(training_run, "train", fail)
    code, _, err, run = run_tiny()
    assert (code, err.count("\n")) == (2, 1)
    assert "too little memory" in err
    assert not run.exists()


def test_a_folder_that_cannot_be_finished_is_taken_back(run_tiny, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(opening, "to_json", fail)
    code, _, err, run = run_tiny()
    assert (code, err.count("\n")) == (2, 1)
    assert not run.exists()


def test_a_finished_run_is_not_resumed_without_more_time(multi_label_run, capsys):
    assert classify.main(["--resume", str(multi_label_run)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_data_that_changed_is_noticed_on_resuming(run_tiny, planted_files, tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(planted_files["multi-label"].read_bytes())
    code, _, _, run = run_tiny("--epochs", "1", dataset=path)
    assert code == 0
    (run / "metrics.json").unlink()
    with open(path, "a") as file:
        file.write('{"name": "new", "text": "more", "labels": ["apple"]}\n')
    assert classify.main(["--resume", str(run)]) == 2
    assert "has changed" in capsys.readouterr().err


def test_ctrl_c_while_the_libraries_are_imported():
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--dataset", "/not/there"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, inherited)
    assert process.stderr is not None
    next(line for line in process.stderr if "torch." in line)  # its first modules are there, most are not
    process.send_signal(signal.SIGINT)
    said = [line for line in process.stderr if not line.startswith("import time:")]
    ends = [(-signal.SIGINT, []), (130, ["interrupted\n"]), (2, ["error: /not/there: no such file or folder\n"])]
    assert (process.wait(timeout=60), said) in ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_run_and_it_says_how_to_go_on(sent, code, said, planted_files, cache_folder, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--dataset", str(planted_files["multi-label"]), *TINY]
    files = ["--cache-dir", str(cache_folder), "--output", str(run)]
    command += [*files, "--epochs", "100000", "--patience", "100000", "--checkpoint-every", "1"]
    # A shell ignores SIGINT for what it starts in the background, and a process inherits that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, inherited)
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert re.fullmatch(rf"{said}; to continue: python {re.escape(str(SCRIPT))} --resume {re.escape(str(run))}\n", err)
