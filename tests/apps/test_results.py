"""What is kept of runs and sweeps, and the page of tables, from made-up figures."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from flash_sparse_apps import results
from flash_sparse_apps.collecting.repeating import repeating
from flash_sparse_apps.command_line import parse
from flash_sparse_apps.settings import Settings

SCORES = {"micro_f1": 0.4567, "micro_f1_interval": [0.44, 0.47], "macro_f1": 0.4, "macro_f1_interval": [0.3, 0.5]}
LABELS = [{"label": str(n), "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3} for n in range(60)]


def settings_of(**given) -> dict:
    """As metrics.json has them, keys with dashes."""
    return yaml.safe_load(Settings(**given).to_yaml())


def figures(name: str, **changed) -> dict:
    """A whole metrics.json; keys with a dot, such as `test__micro_f1`, change what is inside a section."""
    metrics = {
        "version": 1,
        "test": SCORES | {"accuracy": 0.4567, "per_label": LABELS, "documents": 2000, "answers": 10, "truths": 10,
                          "bootstrap_samples": 1000},
        "validation": {"micro_f1": 0.45, "macro_f1": 0.4, "accuracy": 0.45},
        "linear_baseline": None,
        "rule_baselines": {"first operator": 0.37},
        "compare": None,
        "peers": {"step_tokens": 1999, "own_seconds": 1.0, "pytorch_seconds": 2.0, "textbook_seconds": 2.5},
        "speed": {"step_seconds": 1.0, "tokens_per_second": 17000.0, "tokens": 1, "peak_memory_bytes": 1,
                  "peak_gpu_memory_bytes": None},
        "training": {"steps": 3000, "epochs": 1, "seconds": 5400.0, "stopped": "All epochs were trained.",
                     "best_epoch": 1, "best_validation_micro_f1": 0.45, "history": [{"epoch": 1}],
                     "curve": [{"step": step, "loss": 2.0} for step in range(3000)]},
        "pretraining": None,
        "model": {"pixels_read": 1.0, "parameters": 123456, "encoder": {}, "pretrained": None, "embeddings": None,
                  "attention": {}, "chunk_tokens": None, "density": 0.1, "computed": 0.1},
        "data": {"name": name, "task": "single-label", "num_labels": 10, "none_label": None, "fingerprint": "0",
                 "description": "", "notes": [f"{name} has a note", "--sparse skips only 1% of the blocks"],
                 "truncation": {"test": {"tokens_cut_share": 0.25}}, "pairs": False, "grid": None},
        "settings": settings_of(dataset="listops") | {"sparse": True, "root": "/somewhere/data/imdb"},
        "command": "python apps/classify.py --root /somewhere/data/imdb --output=/else/runs/x --seq-len 64",
        "predict_command": "python apps/predict.py /else/runs/x FILE",
        "finished": "2026-11-28T06:00:00+00:00",
        "machine": {"processor": "A processor", "torch threads": 1},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
    }  # fmt: skip
    for key, value in changed.items():
        section, _, inner = key.partition("__")
        if inner:
            key = inner.replace("_", "-") if section == "settings" else inner
            metrics[section] = metrics[section] | {key: value}
        else:
            metrics[section] = value
    return copy.deepcopy(metrics)


def write(folder: Path, metrics: dict):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def write_sweep(folder: Path, dataset: str, lengths: tuple[int, ...]):
    rows, before = [], None
    for n, length in enumerate(lengths):
        score = 0.60 + 0.05 * n
        gain = before and {"from": before, "micro_f1": 0.05, "micro_f1_interval": [0.01, 0.09]}
        rows.append({"length": length, "kind": "sparse", "seeds": [0, 1], "micro_f1": score, "gain": gain,
                     "micro_f1_interval": [score - 0.02, score + 0.02], "training_seconds": 100.0,
                     "tokens_cut_share": 0.5,
                     "longer": {"512": {"documents": 30, "micro_f1": score - 0.1}}})  # fmt: skip
        before = length
        for seed in (0, 1):
            stopped = "--max-time 1 ended it after 5 of 9 steps." if length == lengths[-1] else "All."
            settings = settings_of(seq_len=length, sparse=True, seed=seed)
            write(
                folder / "cells" / f"{length}-sparse-{seed}",
                figures(dataset, settings=settings, training__stopped=stopped, training__seconds=60.0),
            )
    linear = [{"length": length, "micro_f1": 0.58, "micro_f1_interval": [0.55, 0.61]} for length in lengths]
    table = {"dataset": dataset, "command": "python apps/sweep.py --root /somewhere", "rows": rows, "linear": linear}
    (folder / "sweep.json").write_text(json.dumps(table))


@pytest.fixture
def page(tmp_path) -> str:
    """The page of four runs of Long Range Arena, a document run and a sweep."""
    runs = tmp_path / "runs"
    write(runs / "listops-a", figures("listops"))
    better = figures("listops", test__micro_f1=0.4123, validation__micro_f1=0.5, settings__root=None)
    write(runs / "listops-b", better)
    easy = figures("listops", test__micro_f1=0.9, settings__dataset_options={"max_depth": 3}, settings__sparse=False)
    write(runs / "listops-easy", easy)
    short = figures("pathx", training__stopped="--max-time 60 ended it after 9 of 99 steps.", settings__skip_black=True)
    write(runs / "pathx", short)
    write(runs / "letters", figures("letters", settings__seq_len=4096))
    write_sweep(runs / "ecthr", "ecthr-a", (512, 1024, 16384))
    assert results.main([*(str(run) for run in sorted(runs.iterdir())), "--output", str(tmp_path / "results")]) == 0
    return (tmp_path / "results" / "README.md").read_text()


def test_what_is_kept_is_small_and_names_no_paths(page, tmp_path):
    kept = json.loads((tmp_path / "results" / "listops-a" / "metrics.json").read_text())
    assert "curve" not in kept["training"]
    assert kept["training"]["history"] == [{"epoch": 1}]
    assert kept["test"]["per_label"] == []  # of sixty
    assert kept["settings"]["root"] == "imdb"
    assert kept["command"] == "python apps/classify.py --root imdb --output=x --seq-len 64"
    for path in (tmp_path / "results").rglob("*.json"):
        assert path.stat().st_size < 10_000
        assert "/somewhere" not in path.read_text()
    assert (tmp_path / "results" / "ecthr" / "cells" / "512-sparse-1" / "metrics.json").is_file()


def test_what_readers_said_of_the_documents_stands_behind_them(page):
    documents = page.split("## Long documents by length")[1]
    assert "To know of ecthr-a:\n\n- ecthr-a has a note\n\n" in documents
    assert "- letters has a note" in documents
    assert "listops has a note" not in documents


def test_arena_rows_stand_beside_published_ones(page):
    sections = dict(re.findall(r"## (.*?)\n\n(.*?)(?=\n\n## |\Z)", page, re.DOTALL))
    arena = sections["Long Range Arena"]
    # of two runs the one that validation prefers, though its test is worse; the easier one is not among them
    assert "| **ours, block-sparse** | **41.2** (44.0 to 47.0) |  |  |  |  | measured here |" in arena
    assert "ours, dense" not in arena
    assert "| FlashAttention | 37.6 | 63.9 | 81.4 | 43.5 | 72.7 | *published*: Dao et al. 2022" in arena
    longest = sections["Path-X and Path-256"]
    assert "| **ours, block-sparse** | **45.7** (44.0 to 47.0), cut short |  | measured here |" in longest
    assert "| Block-sparse FlashAttention | 56.0 | 63.1 | *published*" in longest
    assert "| Transformer |" not in longest  # did not get above chance
    every = {line.split(" | ")[0]: line for line in sections["Every run"].splitlines()}
    assert "easier than the published task: max_depth 3" in every["| listops-easy"]
    assert "generated data" in every["| listops-b"]
    assert "generated data" not in every["| listops-a"]
    assert "cut short: --max-time 60 ended it after 9 of 99 steps.; black pixels left out" in every["| pathx"]
    assert " | 2.50x | " in every["| listops-a"]
    assert "first operator 37.0%" in every["| listops-a"]


def test_documents_by_length(page, tmp_path):
    assert "| ECtHR | RoBERTa, dense | 72.2 | 74.3 | 77.1 | 78.6 | 80.7 | 79.2 | *published*: Dao et al." in page
    assert (
        "| **ecthr-a** | trained from nothing, sparse | 60.0 | 65.0 |  |  |  | 70.0, cut short | measured here |"
        in page
    )
    assert "| **ecthr-a** | linear model | 58.0 | 58.0 |  |  |  | 58.0 | measured here |" in page
    assert "| **letters** | trained from nothing, sparse |  |  |  | 45.7 |  |  | measured here |" in page
    assert "+0.050 (+0.010 to +0.090)" in page
    assert "![ecthr-a: micro-F1 over tokens read](ecthr-a.png)" in page
    assert (tmp_path / "results" / "ecthr-a.png").read_bytes().startswith(b"\x89PNG")
    assert "| ecthr-a | trained from nothing, sparse | 1,024 | 55.0 (30) |" in page
    assert not (tmp_path / "results" / "letters.png").exists()  # one length alone


def test_a_real_run(single_label_run, tmp_path):
    given = [str(single_label_run), "--name", "mine", "--output", str(tmp_path / "results")]
    assert results.main(given) == 0
    metrics = json.loads((single_label_run / "metrics.json").read_text())
    page = (tmp_path / "results" / "README.md").read_text()
    length, score = metrics["settings"]["seq-len"], metrics["test"]["micro_f1"]
    name = metrics["data"]["name"]
    assert f"| {name} | trained from nothing | dense | {length:,} | {score:.3f} |" in page
    kept = (tmp_path / "results" / "mine" / "metrics.json").read_text()
    assert str(single_label_run.parent) not in kept
    assert "curve" not in json.loads(kept)["training"]


def test_two_tasks_of_one_file_are_two_datasets(tmp_path):
    for field in ("clauses", "type"):
        write(tmp_path / field, figures("cuad", settings__label_field=field))
    given = [str(tmp_path / "clauses"), str(tmp_path / "type"), "--output", str(tmp_path / "results")]
    assert results.main(given) == 0
    page = (tmp_path / "results" / "README.md").read_text()
    assert "| **cuad, clauses** |" in page
    assert "| **cuad, type** |" in page


def test_each_result_says_how_it_was_measured(page):
    assert (
        "| listops-a | `python apps/classify.py --root imdb --output=x --seq-len 64` | 2026-11-28 | 1:30:00 h | "
        "A processor, 1 thread | python 3.11.9, torch 2.13.0 |"
    ) in page
    assert "| ecthr | `python apps/sweep.py --root somewhere` | 2026-11-28 | 6 min 0 s |" in page  # of its six cells


def test_the_page_is_made_anew_from_what_is_kept(page, tmp_path, capsys):
    (tmp_path / "results" / "README.md").unlink()
    assert results.main(["--output", str(tmp_path / "results")]) == 0
    assert (tmp_path / "results" / "README.md").read_text() == page
    changed = figures("listops", test__micro_f1=0.5)
    write(tmp_path / "again", changed)
    given = [str(tmp_path / "again"), "--name", "listops-b", "--output", str(tmp_path / "results")]
    assert results.main(given) == 0
    kept = json.loads((tmp_path / "results" / "listops-b" / "metrics.json").read_text())
    assert kept["test"]["micro_f1"] == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nowhere",), "nowhere/metrics.json: No such file or directory; expected the folder of a finished run"),
        ((), "results: no metrics.json in it; expected results that were kept"),
        (("a", "b", "--name", "c"), "--name is c, with 2 runs; expected one run to name"),
        (("empty",), "empty: no finished cells; expected some in empty/cells"),
        (("damaged",), "damaged/metrics.json: damaged: command is missing; expected"),
    ],
)
def test_what_cannot_be_kept_is_one_line(tmp_path, monkeypatch, capsys, given, said):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty", "sweep.json").write_text("{}")
    Path("damaged").mkdir()
    Path("damaged", "metrics.json").write_text('{"version": 1}')
    try:
        code = results.main(list(given))
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not list(Path().rglob("results/*"))


@pytest.mark.parametrize(
    "command", ["flash-sparse sweep --folds 5", "python sweep.py --folds 5", "python /some/apps/sweep.py --folds 5"]
)
def test_a_command_is_given_as_a_clone_starts_it(command):
    assert repeating(command, {"settings": settings_of()}) == ["python apps/sweep.py --folds 5"]


@pytest.mark.parametrize("resume", ["--resume runs/x", "--resume=runs/x"])
def test_what_began_a_run_that_was_gone_on_with_stands_before_it(resume):
    settings = {"dataset": "imdb", "root": "a b", "seq_len": 128, "sparse": True, "compare": False, "output": "runs/x"}
    metrics = {"settings": settings_of(**settings, max_time=1.0)}
    began, then = repeating(f"flash-sparse classify {resume} --max-time 1", metrics)
    assert then == f"python apps/classify.py {resume} --max-time 1"
    flags = shlex.split(began)
    assert flags[:2] == ["python", "apps/classify.py"]
    again, _ = parse(flags[2:])
    assert again == Settings(**settings)
