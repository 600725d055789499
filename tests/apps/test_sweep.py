"""Sweeps: cells run, killed and gone on with, their table against the cells' own figures, wrong inputs."""

from __future__ import annotations

import csv
import json
import os
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

from flash_sparse_apps import classify, sweep
from flash_sparse_apps.__main__ import main
from flash_sparse_apps.command_line import load_settings, read_arguments
from flash_sparse_apps.scores.evaluation import micro_f1
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping import cells as sweep_cells
from flash_sparse_apps.sweeping.sweep_report import write_table
from flash_sparse_apps.sweeping.table import collect_sweep

from .conftest import LABELS, TINY

SCRIPT = Path(__file__).parents[2] / "apps" / "sweep.py"
SPARSE = ("--block-size", "16", "--window", "16")


@pytest.fixture
def in_this_process(monkeypatch):
    """Cells run here, without the seconds that a new process takes; the commands that were run."""
    commands = []

    class Process:
        def __init__(self, command, **options):
            commands.append(command)
            self.command = command

        def wait(self, timeout=None):
            return main(self.command[2:])

        def terminate(self):
            pass

        kill = terminate

    # there alone: the standard library's own calls go on starting processes
    monkeypatch.setattr(sweep_cells, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Process}))
    return commands


@pytest.fixture
def flags(planted_files, cache_folder, tmp_path):
    def make(task: str = "multi-label", **changed: str) -> list[str]:
        given = dict(zip(TINY[::2], TINY[1::2], strict=True))
        del given["--seq-len"]
        given |= {"--dataset": str(planted_files[task]), "--cache-dir": str(cache_folder), "--epochs": "2"}
        given |= {"--output": str(tmp_path / "sweep")}
        given |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        return [word for pair in given.items() for word in pair] + list(SPARSE)

    return make


def test_the_convention_of_eleven_labels(in_this_process, flags, tmp_path, capsys):
    root = tmp_path / "ecthr"
    root.mkdir()
    articles = ([], ["3"], ["6"], ["3", "6"], ["8"], [])
    for part, count in (("train", 60), ("dev", 24), ("test", 24)):
        cases = []
        for index in range(count):
            given = articles[index % len(articles)]
            facts = [" ".join(f"article {article} " * 8 for article in given), f"nothing else in {part} {index}"]
            cases.append({"case_id": str(index), "facts": facts, "allegedly_violated_articles": given})
        (root / f"{part}.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    options = flags(dataset="ecthr-b", root=str(root), dataset_options="{convention: 10+1}")
    assert sweep.main([*options, "--seq-lens", "64", "--kinds", "dense"]) == 0
    cell = tmp_path / "sweep" / "cells" / "64-dense-0"
    metrics = json.loads((cell / "metrics.json").read_text())
    assert [entry["label"] for entry in metrics["test"]["per_label"]][-1] == "none"
    assert metrics["test"]["per_label"][-1]["support"] == 8
    assert (metrics["data"]["num_labels"], metrics["data"]["none_label"]) == (10, "none")
    rows = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
    truth, found = ([set(row[key] or ["none"]) for row in rows] for key in ("labels", "predicted"))
    shared = sum(len(one & other) for one, other in zip(truth, found, strict=True))
    expected = 2 * shared / sum(len(one) + len(other) for one, other in zip(truth, found, strict=True))
    assert metrics["test"]["micro_f1"] == pytest.approx(expected)
    swept = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert swept["rows"][0]["micro_f1"] == pytest.approx(expected)
    assert 'micro-F1 ("none" counted)' in capsys.readouterr().out
    for page in (cell / "report.html", cell / "model" / "README.md", tmp_path / "sweep" / "report.html"):
        assert "metric convention 10+1" in " ".join(page.read_text().split())
    assert "convention 10+1" in (tmp_path / "sweep" / "sweep.md").read_text()


@pytest.mark.parametrize(("task", "kinds"), [("multi-label", ("dense", "sparse")), ("single-label", ("dense",))])
def test_the_table_says_what_the_cells_say(task, kinds, flags, in_this_process, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert sweep.main([*flags(task), "--seq-lens", "64", "16", "--seeds", "3", "4", "--kinds", *kinds]) == 0
    assert len(in_this_process) == 4 * len(kinds)
    found = json.loads((folder / "sweep.json").read_text())
    assert found["unfinished"] == []
    assert [(row["kind"], row["length"]) for row in found["rows"]] == [(k, n) for k in kinds for n in (16, 64)]
    for row in found["rows"]:
        cells = [
            json.loads((folder / "cells" / f"{row['length']}-{row['kind']}-{seed}" / "metrics.json").read_text())
            for seed in (3, 4)
        ]
        assert row["macro_f1"] == pytest.approx(np.mean([cell["test"]["macro_f1"] for cell in cells]))
        scores = [cell["test"]["micro_f1"] for cell in cells]
        assert row["micro_f1_spread"] == pytest.approx(np.std(scores, ddof=1))
        assert min(scores) - 1e-9 <= row["micro_f1"] <= max(scores) + 1e-9
        assert row["micro_f1_interval"][0] <= row["micro_f1"] <= row["micro_f1_interval"][1]
        assert row["tokens_cut_share"] == cells[0]["data"]["truncation"]["test"]["tokens_cut_share"]
        assert [cell["settings"]["compare"] for cell in cells] == [True, False]
        assert row["peers"] == cells[0]["peers"]
        assert all(row["peers"][f"{name}_seconds"] > 0 for name in ("own", "pytorch", "textbook"))
        assert (row["gain"] is None) == (row["length"] == 16)
        assert sum(cell["linear_baseline"] is not None for cell in cells) == (row["kind"] == "dense")
    long, short = found["rows"][1], found["rows"][0]
    assert long["gain"]["micro_f1"] == pytest.approx(long["micro_f1"] - short["micro_f1"])
    assert [entry["length"] for entry in found["linear"]] == [16, 64]

    with open(folder / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["micro_f1"]) for row in rows] == [row["micro_f1"] for row in found["rows"]]
    markdown = (folder / "sweep.md").read_text()
    assert markdown in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    for row in found["rows"]:
        assert f"{row['micro_f1']:.4f}" in markdown
        assert f"{row['micro_f1']:.4f}" in page
    assert "<script" not in page
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("micro_f1.png", "step.png"))


def test_windows_stand_beside_whole_documents(flags, in_this_process, tmp_path):
    folder = tmp_path / "sweep"
    assert sweep.main([*flags(chunk_tokens="16"), "--seq-lens", "64", "--kinds", "chunked", "sparse"]) == 0
    rows = json.loads((folder / "sweep.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["chunked", "sparse"]
    settings = json.loads((folder / "cells" / "64-chunked-0" / "metrics.json").read_text())["settings"]
    assert (settings["chunked"], settings["sparse"], settings["chunk-tokens"]) == (True, False, 16)


def test_every_document_is_tested_in_one_fold(flags, in_this_process, tmp_path):
    folder = tmp_path / "sweep"
    given = [*flags("single-label", folds="3", id_field="name"), "--kinds", "dense", "--seeds", "0", "1"]
    assert sweep.main([*given, "--seq-lens", "16", "64"]) == 0
    assert len(in_this_process) == 12
    found = json.loads((folder / "sweep.json").read_text())
    for row in found["rows"]:
        assert (row["folds"], row["seeds"]) == ([1, 2, 3], [0, 1])
        scores, right, ids = [], [], []
        for fold in row["folds"]:
            cells = [folder / "cells" / f"{row['length']}-dense-{seed}-fold{fold}" for seed in (0, 1)]
            results = [json.loads((cell / "metrics.json").read_text()) for cell in cells]
            assert all(result["linear_baseline"] and result["blend"] for result in results)  # whole runs
            scores.append(np.mean([result["test"]["micro_f1"] for result in results]))
            for cell in cells:
                lines = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
                right += [line["labels"] == line["predicted"] for line in lines]
                ids += [line["id"] for line in lines]
        assert sorted(ids) == sorted([f"document {number}" for number in range(100)] * 2)
        assert row["micro_f1"] == pytest.approx(np.mean(right))
        over = row["over_folds"]
        half = 4.302653 * np.std(scores, ddof=1) * (1 / 3 + 1 / 2) ** 0.5  # Student's t of two degrees of freedom
        assert over["micro_f1"] == pytest.approx(np.mean(scores))
        assert over["micro_f1_interval"] == pytest.approx([np.mean(scores) - half, np.mean(scores) + half])
        assert f"{over['micro_f1']:.4f}" in (folder / "sweep.md").read_text()
    linear = [
        json.loads((folder / "cells" / f"16-dense-0-fold{fold}" / "metrics.json").read_text())["linear_baseline"]
        for fold in (1, 2, 3)
    ]
    assert found["linear"][0]["micro_f1"] == pytest.approx(np.mean([each["micro_f1"] for each in linear]))
    assert "Every document is in the test of one fold" in (folder / "report.html").read_text()

    shutil.rmtree(folder / "cells" / "64-dense-1-fold2")  # as if it had failed
    cells = sweep.make_cells(cell_options(given, "16", "64"), folder)
    rows = collect_sweep(cells)["rows"]
    assert [row["folds"] for row in rows] == [[1, 2, 3], [1, 3]]
    assert rows[1]["gain"] is None


def cell_options(given, *lengths):
    return read_arguments(sweep._make_parser(), [*given, "--seq-lens", *lengths])[0]


def test_folds_of_a_file_that_was_changed_are_not_mixed(flags, in_this_process, tmp_path, planted_files, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text(planted_files["multi-label"].read_text())
    command = [*flags(dataset=str(data), folds="2"), "--kinds", "dense", "--seq-lens", "16"]
    assert sweep.main(command) == 0
    shutil.rmtree(tmp_path / "sweep" / "cells" / "16-dense-0-fold2")
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    assert sweep.main(command) == 2
    assert "16-dense-0-fold2: trained on other data than" in capsys.readouterr().err


def test_documents_are_told_apart_by_their_length(flags, in_this_process, tmp_path):
    folder = tmp_path / "sweep"
    assert sweep.main([*flags(test_share="0.4"), "--seq-lens", "8", "40", "--kinds", "dense"]) == 0
    lines = (folder / "cells" / "40-dense-0" / "predictions.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines if json.loads(line)["tokens"] > 40]
    assert 10 <= len(entries) < len(lines)
    given, wanted = (np.array([[label in entry[key] for label in LABELS] for entry in entries])
                     for key in ("predicted", "labels"))  # fmt: skip
    row = json.loads((folder / "sweep.json").read_text())["rows"][1]
    assert row["longer"]["40"]["documents"] == len(entries)
    assert row["longer"]["40"]["micro_f1"] == pytest.approx(micro_f1(given.astype(int), wanted.astype(int)))


def test_what_is_finished_is_not_run_again_and_what_is_not_is(flags, in_this_process, tmp_path):
    folder, kinds = tmp_path / "sweep", ("--kinds", "dense")
    assert sweep.main([*flags(), *kinds, "--seq-lens", "16"]) == 0
    before = (folder / "cells" / "16-dense-0" / "metrics.json").read_bytes()
    half = folder / "cells" / "32-dense-0"  # killed as it began: an empty file is all there is
    half.mkdir()
    (half / "config.yaml").touch()
    assert sweep.main([*flags(), *kinds, "--seq-lens", "16", "32", "--seeds", "0"]) == 0
    assert [Path(command[-1]).name for command in in_this_process] == ["16-dense-0.yaml", "32-dense-0.yaml"]
    assert (folder / "cells" / "16-dense-0" / "metrics.json").read_bytes() == before

    (half / "metrics.json").unlink()  # killed before its end
    assert sweep.main([*flags(), *kinds, "--seq-lens", "16", "32"]) == 0
    assert in_this_process[-1][-2:] == ["--resume", str(half)]

    (half / "metrics.json").unlink()
    assert sweep.main([*flags(max_time="5"), *kinds, "--seq-lens", "16", "32"]) == 0
    assert in_this_process[-1][-3:] == ["--resume", str(half), "--max-time=5.0"]
    assert load_settings(half / "config.yaml").max_time == 5


def test_a_cell_that_fails_does_not_end_the_sweep(flags, in_this_process, tmp_path, capsys, monkeypatch):
    real = classify.main
    monkeypatch.setattr(classify, "main", lambda arguments: 2 if "16-dense" in arguments[-1] else real(arguments))
    assert sweep.main([*flags(), "--kinds", "dense", "--seq-lens", "16", "32"]) == 1
    out, err = capsys.readouterr()
    assert "error: 1 of 2 cells failed: 16-dense-0" in err
    assert "Not finished: 16-dense-0." in out
    assert "Not finished: 16-dense-0." in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--seq-len", "64"), "--seq-len is for classify.py; expected --seq-lens"),
        (("--sparse",), "--sparse is for classify.py"),
        (("--seed", "1"), "--seed is for classify.py"),
        (("--seq-lens", "0"), "--seq-len is 0; expected at least 1"),
        (("--seq-lens", "32", "32"), "--seq-lens is 32 32; expected each only once"),
        (("--seeds", "1", "1"), "--seeds is 1 1; expected each only once"),
        (("--kinds", "half"), "half"),
        (("--parallel", "0"), "--parallel is 0; expected at least 1"),
        (("--seq-lens", "8"), "--block-size is 16; expected at most --seq-len 8"),
        (("--nonsense",), "--nonsense"),
        (("--pretrained", "some"), "--vocab-size is 400; it cannot be used with --pretrained some, which decides that"),
        (
            ("--init-from", "some", "--embeddings", "random"),
            "--embeddings is random; it cannot be used with --init-from",
        ),
        (("--chunk-tokens", "64"), "--chunk-tokens is 64; it needs --kinds chunked"),
        (("--folds", "3", "--fold", "1"), "--fold is for classify.py"),
        (("--folds", "3", "--test", "a.csv"), "--folds is 3; it cannot be used with --test"),
        (("--folds", "3", "--suite", "lra"), "--folds is 3; it cannot be used with --suite"),
        (("--no-blend",), "--blend is for classify.py"),
    ],
)
def test_wrong_flags_are_one_line(flags, given, said, capsys):
    with pytest.raises(SystemExit) as end:
        sweep.main([*flags(), *given])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_its_own_flags_may_be_in_a_file(flags, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("seq-lens: [16, 32]\nkinds: [dense]\nseeds: [5]\nsparse: true\n")
    given = ["--config", str(tmp_path / "a.yaml"), *flags(), "--seq-lens", "64"]
    for arguments in (given, ["--config", str(tmp_path / "b.yaml")]):
        with pytest.raises(SystemExit) as end:
            sweep.main([*arguments, "--print-config"])
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert printed.startswith("seq-lens:\n- 64\nkinds:\n- dense\nseeds:\n- 5\n")
        (tmp_path / "b.yaml").write_text(printed)


def test_one_sweep_at_a_folder(flags, tmp_path, capsys):
    """Another sweep, or a cell that outlives the sweep that was killed."""
    cells = tmp_path / "sweep" / "cells"
    with sweep_cells.alone(cells) as lock:
        cell = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
        assert sweep.main(flags()) == 2
    assert sweep.main(flags()) == 2
    cell.communicate()
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert err.count(f"{tmp_path / 'sweep'}: another sweep, or the run of one that was killed, is at it") == 2
    with sweep_cells.alone(cells):
        assert [path.name for path in cells.iterdir()] == [".lock"]


@pytest.mark.parametrize("flag", [(), ("--parallel", "2")])
def test_a_cell_that_is_killed_is_named(flag, flags, in_this_process, monkeypatch, capsys):
    monkeypatch.setattr(sweep_cells.subprocess.Popen, "wait", lambda process, timeout=None: -signal.SIGKILL)
    assert sweep.main([*flags(), "--kinds", "dense", "--seq-lens", "16", *flag]) == 1
    assert "error: 1 of 1 cells failed: 16-dense-0 (SIGKILL)\n" in capsys.readouterr().err


def test_where_to_see_why_a_cell_failed(flags, in_this_process, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweep_cells.subprocess.Popen, "wait", lambda process, timeout=None: 2)
    assert sweep.main([*flags(), "--kinds", "dense", "--seq-lens", "16", "--parallel", "2"]) == 1
    log = tmp_path / "sweep" / "cells" / "16-dense-0.log"
    assert f"failed: 16-dense-0 ({log})\n" in capsys.readouterr().err
    assert log.is_file()


def test_ctrl_c_leaves_time_to_the_cell_and_says_how_to_go_on(flags, in_this_process, monkeypatch, tmp_path, capsys):
    ended, said = [], []

    def wait(process, timeout=None):
        time.sleep(0.5)
        ended.append("by itself")
        return 130

    def interrupted(futures):
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_cells.subprocess.Popen, "wait", wait)
    monkeypatch.setattr(sweep_cells.subprocess.Popen, "terminate", lambda process: said.append("terminate"))
    monkeypatch.setattr(sweep_cells, "as_completed", interrupted)
    monkeypatch.chdir(tmp_path)
    command = [*flags(), "--kinds", "dense", "--seq-lens", "16", "32"]
    command[command.index("--output") : command.index("--output") + 2] = []
    assert sweep.main(command) == 130
    assert (ended, said, len(in_this_process)) == (["by itself"], [], 1)
    (folder,) = (tmp_path / "runs").iterdir()
    err = capsys.readouterr().err
    assert err.startswith("interrupted; to continue: flash-sparse sweep ")
    assert err.endswith(f"--seq-lens 16 32 --output runs/{folder.name}\n")


def test_a_folder_of_something_else_is_left_alone(flags, tmp_path, capsys):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").write_text("all of it")
    assert sweep.main(flags()) == 2
    assert "which is no sweep" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["thesis.tex"]


def test_cells_of_other_settings_are_not_mixed_in(flags, in_this_process, capsys):
    assert sweep.main([*flags(), "--kinds", "dense", "--seq-lens", "16"]) == 0
    capsys.readouterr()
    assert sweep.main([*flags(epochs="3"), "--kinds", "dense", "--seq-lens", "16", "32"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--epochs is 3, but 2 in" in err


def test_a_damaged_cell_is_named(flags, in_this_process, tmp_path, capsys):
    """Files that were cut off, and those that no run wrote; one after the other, as to make a cell takes seconds."""
    command = [*flags(), "--kinds", "dense", "--seq-lens", "16"]
    assert sweep.main(command) == 0
    cell = tmp_path / "sweep" / "cells" / "16-dense-0"
    predictions = (cell / "predictions.jsonl").read_text()
    half = f"damaged; remove {cell} to run"
    for name, damage, said in (
        ("metrics.json", '{"id": "half', half),
        ("predictions.jsonl", '{"id": "half', half),
        ("config.yaml", "a: [1\nb: }{", ""),
        ("metrics.json", "{}", ""),
        ("predictions.jsonl", predictions.split("\n", 1)[1], ""),
    ):
        whole = (cell / name).read_text()
        (cell / name).write_text(damage)
        capsys.readouterr()
        assert sweep.main(command) == 2, name
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"{cell / name}: {said}" in err
        (cell / name).write_text(whole)
    assert sweep.main(command) == 0


def test_figures_of_another_cell_are_refused(flags, in_this_process, tmp_path, capsys):
    command = [*flags(), "--kinds", "dense", "--seq-lens", "16", "64"]
    assert sweep.main(command) == 0
    cells = tmp_path / "sweep" / "cells"
    metrics, predictions = (cells / "16-dense-0" / name for name in ("metrics.json", "predictions.jsonl"))
    whole = {path: path.read_text() for path in (metrics, predictions)}
    changed = json.loads(whole[metrics]) | {"data": json.loads(whole[metrics])["data"] | {"num_labels": "x"}}
    lines = whole[predictions].splitlines(keepends=True)
    for path, content, said in (
        (metrics, json.dumps(changed), "damaged: data.num_labels is 'x', no int"),
        (metrics, (cells / "64-dense-0" / "metrics.json").read_text(), "of a run with seq-len 64, not 16"),
        (predictions, "".join([*lines[:-1], lines[0]]), "damaged"),
    ):
        path.write_text(content)
        capsys.readouterr()
        assert sweep.main(command) == 2
        assert (
            capsys.readouterr().err == f"error: {path}: {said}; remove {cells / '16-dense-0'} to run that cell again\n"
        )
        path.write_text(whole[path])
    assert sweep.main(command) == 0


def test_data_that_was_changed_between_cells_is_noticed(flags, in_this_process, tmp_path, capsys, planted_files):
    data, folder = tmp_path / "data.jsonl", tmp_path / "sweep"
    lines = planted_files["multi-label"].read_text().splitlines(keepends=True)
    data.write_text("".join(lines))
    command = [*flags(dataset=str(data)), "--kinds", "dense", "--seq-lens"]
    assert sweep.main([*command, "16"]) == 0
    data.write_text("".join(lines[:-1]))
    capsys.readouterr()
    assert sweep.main([*command, "16", "32"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{folder / 'cells' / '32-dense-0'}: trained on other data than {folder / 'cells' / '16-dense-0'}" in err


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, ["3"] * 3 + ["5"] * 3),
        ({"devices": 2}, ["3,5"] * 6),
        ({"devices": 4, "batch_size": 4}, ["3,5"] * 6),  # which is too few, and the cell says so
        ({"accelerator": "cpu"}, ["3,5"] * 6),
    ],
)
def test_cells_at_a_time_each_have_a_gpu(asked, given, monkeypatch, tmp_path):
    """Which GPU a cell is given, with processes that only say so."""
    seen = []

    class Process:
        def __init__(self, command, env, **options):
            seen.append(env["CUDA_VISIBLE_DEVICES"])

        def wait(self, timeout=None):
            time.sleep(0.1)
            return 0

    # there alone: the standard library's own calls go on starting processes
    monkeypatch.setattr(sweep_cells, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Process}))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    (tmp_path / "cells").mkdir()
    cells = [
        sweep_cells.Cell(f"{n}", n, "dense", 0, Settings(seq_len=n, output=str(tmp_path / "cells" / f"{n}"), **asked))
        for n in range(1, 7)
    ]
    assert sweep_cells.run_cells(cells, None, lambda: None) == []
    assert sorted(seen) == given


def test_nothing_is_written_before_a_cell_is_finished(tmp_path):
    cell = sweep_cells.Cell("8-dense-0", 8, "dense", 0, Settings(seq_len=8, output=str(tmp_path / "cells" / "a")))
    write_table([cell], tmp_path / "sweep", "command")
    assert not (tmp_path / "sweep").exists()
    assert collect_sweep([cell]) == {"rows": [], "linear": [], "unfinished": ["8-dense-0"]}


@pytest.mark.slow
def test_a_sweep_that_is_terminated_ends_its_cell_and_can_go_on(flags, tmp_path):
    """The real thing: processes, a signal, the same command again."""
    folder = tmp_path / "sweep"
    command = [sys.executable, str(SCRIPT), *flags(epochs="100000", patience="100000", checkpoint_every="1")]
    command += ["--kinds", "dense", "--seq-lens", "16", "--max-time", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = folder / "cells" / "16-dense-0"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 143, said
    assert "terminated; to continue" in said
    assert not (run / "metrics.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert again.returncode == 0, again.stderr
    assert "continuing after step" in again.stdout
    assert (folder / "report.html").is_file()
    shutil.rmtree(folder)
