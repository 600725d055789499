"""Long Range Arena as a sweep: which tasks run, what the table says of them, and going on with it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flash_sparse_apps import sweep
from flash_sparse_apps.command_line import read_arguments
from flash_sparse_apps.lra import suite as lra_suite
from flash_sparse_apps.lra import suite_report, tasks
from flash_sparse_apps.lra import table as lra_table
from flash_sparse_apps.lra.published import PUBLISHED
from flash_sparse_apps.lra.suite_report import write_suite

from .test_sweep import in_this_process  # noqa: F401  (a fixture)

TINY = """\
width: 16
depth: 1
heads: 2
epochs: 1
batch-size: 8
tokens-per-batch: 8192
accelerator: cpu
bootstrap-samples: 20
compare-documents: 2
examples: 0
pooling: mean
sparse: true
"""
RECIPES = {
    "listops": """\
seq-len: 64
block-size: 16
window: 16
dataset-options: {train_size: 24, validation_size: 12, test_size: 12, min_length: 20, max_length: 60, max_depth: 3}
""",
    "cifar10": """\
seq-len: 1024
block-size: 32
window: 2
pattern: neighborhood_2d
rotary: 2d
linear-baseline: false
""",
    "imdb": "seq-len: 64\nblock-size: 16\n",
}


@pytest.fixture
def recipes(tmp_path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, own in RECIPES.items():
        (folder / f"{name}.yaml").write_text(f"dataset: {name}\n{own}{TINY}")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    """Official files of CIFAR-10 alone, 20 images each."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        images = np.hstack([np.arange(20)[:, None] % 10, rng.integers(0, 256, (20, 3 * 1024))])
        images.astype(np.uint8).tofile(folder / name)
    return folder.parent


@pytest.fixture
def flags(recipes, root, cache_folder, tmp_path) -> list[str]:
    given = ("--suite", "lra", "--recipes", str(recipes), "--root", str(root), "--cache-dir", str(cache_folder))
    return [*given, "--output", str(tmp_path / "suite")]


def test_the_table_says_what_the_cells_say(flags, in_this_process, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "suite"
    assert sweep.main(flags) == 0
    said = capsys.readouterr().out
    assert "imdb is not run: " in said
    assert "aclImdb_v1.tar.gz" in said  # where to get it
    assert "pathx is not run: " in said
    assert "no recipe for --scale paper" in said

    found = json.loads((folder / "sweep.json").read_text())
    assert [(row["task"], row["kind"], row["data"], row["knows_pixels"]) for row in found["rows"]] == [
        ("listops", "dense", "generated", False),
        ("listops", "sparse", "generated", False),
        ("cifar10", "dense", "official", True),
        ("cifar10", "sparse", "official", True),
    ]
    cells = {}
    for row in found["rows"]:
        name = f"{row['task']}-{row['kind']}-0"
        cells[name] = cell = json.loads((folder / "cells" / name / "metrics.json").read_text())
        assert row["micro_f1"] == pytest.approx(cell["test"]["accuracy"])
        assert cell["model"]["attention"]["sparse"] == (row["kind"] == "sparse")
        peers = cell["peers"]
        assert row["textbook_speedup"] == pytest.approx(peers["textbook_seconds"] / peers["own_seconds"])
    for kind, means in found["means"].items():
        rows = [row for row in found["rows"] if row["kind"] == kind]
        assert means["tasks"] == means["speedup_tasks"] == ["listops", "cifar10"]
        assert means["accuracy"] == pytest.approx(np.mean([row["micro_f1"] for row in rows]))
        product = math.prod(row["textbook_speedup"] for row in rows)
        assert means["textbook_speedup"] == pytest.approx(product ** (1 / len(rows)))
    rules = cells["listops-dense-0"]["rule_baselines"]
    linear = cells["listops-dense-0"]["linear_baseline"]["micro_f1"]
    assert found["baselines"] == [
        {"task": "listops", "name": "linear model", "accuracy": linear},
        *({"task": "listops", "name": name, "accuracy": value} for name, value in rules.items()),
    ]

    markdown, page = (folder / "sweep.md").read_text(), (folder / "report.html").read_text()
    assert markdown in said
    assert (
        "| FlashAttention |  | 43.5 |  | 59.8 | 2.4x | published: Dao et al. 2022" in markdown
    )  # ListOps is a small one
    assert "published: README of google-research/long-range-arena" in page
    assert "Text was not run: " in markdown
    assert "Text was not run: " in page
    assert "ListOps here: easier than the published task" in markdown
    with open(folder / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["source"] == "measured" and row["model"] in ("dense", "sparse")]
    assert [float(row["accuracy"]) for row in measured] == [row["micro_f1"] for row in found["rows"]]
    assert all(row["source"].startswith("published: ") for row in rows if row["model"] == "FlashAttention")


def test_it_goes_on_where_it_was_stopped_and_flags_override_recipes(flags, in_this_process, tmp_path, capsys):  # noqa: F811
    folder, chosen = tmp_path / "suite", ("--tasks", "listops", "--width", "8")
    assert sweep.main([*flags, *chosen, "--kinds", "dense"]) == 0
    assert json.loads((folder / "cells" / "listops-dense-0" / "metrics.json").read_text())["settings"]["width"] == 8
    assert sweep.main([*flags, *chosen, "--seeds", "0", "1"]) == 0
    assert [Path(command[-1]).name for command in in_this_process] == [
        *("listops-dense-0.yaml", "listops-sparse-0.yaml", "listops-dense-1.yaml", "listops-sparse-1.yaml")
    ]
    found = json.loads((folder / "sweep.json").read_text())
    assert [row["seeds"] for row in found["rows"]] == [[0, 1], [0, 1]]
    capsys.readouterr()
    assert sweep.main([*flags, "--tasks", "listops"]) == 2
    assert "--width is 16, but 8 in" in capsys.readouterr().err


def test_data_is_what_a_cell_was_trained_on(recipes, root, tmp_path, monkeypatch):
    """Official files that came later do not make a generated cell's result an official one."""
    asked = {"tasks": ["listops"], "scale": "paper", "recipes": recipes, "kinds": ["dense"], "seeds": [0]}
    suite = lra_suite.plan(tmp_path / "suite", **asked, root=None, overrides={})
    settings = dataclasses.replace(suite.cells[0].settings, root=str(root))
    cell = dataclasses.replace(suite.cells[0], settings=settings)
    cell.run.path.mkdir(parents=True)
    cell.run.metrics.touch()
    row = {"kind": "dense", "peers": None, "micro_f1": 0.5}
    monkeypatch.setattr(
        lra_table, "collect_sweep", lambda cells: {"rows": [row] * len(cells), "linear": [], "unfinished": []}
    )
    for trained_with, data in ((None, "generated"), (str(root), "official")):
        metrics = {"settings": {"root": trained_with}, "training": {"stopped": "--max-time 1 ended it."}}
        monkeypatch.setattr(lra_table, "cell_metrics", lambda cell, own=metrics: own)
        found = lra_table.collect_suite(dataclasses.replace(suite, cells=[cell]))
        assert [row["data"] for row in found["rows"]] == [data]
        assert found["cut_short"] == {"listops-dense-0": "--max-time 1 ended it."}
        assert suite_report._missing_lines(found) == [
            *(f"{suite_report.TITLES[task]} was not run: {why}." for task, why in suite.missing.items()),
            "listops-dense-0: --max-time 1 ended it.",
        ]


def test_a_recipe_of_another_dataset_is_one_line(flags, recipes, capsys):
    (recipes / "imdb.yaml").write_text((recipes / "listops.yaml").read_text())
    with pytest.raises(SystemExit):
        sweep.main(flags)
    assert "imdb.yaml: dataset is listops; expected imdb" in capsys.readouterr().err


def test_a_scale_chooses_its_recipes(recipes, tmp_path):
    def planned(scale: str, **changed):
        asked = {"tasks": ["listops"], "scale": scale, "recipes": recipes, "kinds": ["dense", "sparse"]}
        return lra_suite.plan(tmp_path, **asked | {"seeds": [0], "root": None, "overrides": {}} | changed)

    assert planned("1gpu").recipes["listops"].name == "listops.yaml"
    (recipes / "listops-1gpu.yaml").write_text(f"dataset: listops\n{RECIPES['listops']}{TINY}".replace("16", "32"))
    assert planned("1gpu").recipes["listops"].name == "listops-1gpu.yaml"
    assert planned("paper").recipes["listops"].name == "listops.yaml"
    assert planned("cpu").missing == {"listops": f"{recipes} has no recipe for --scale cpu"}
    dense_alone = f"dataset: listops\n{RECIPES['listops']}{TINY}".replace("sparse: true", "sparse: false")
    (recipes / "listops-cpu.yaml").write_text(dense_alone)
    assert [cell.name for cell in planned("cpu").cells] == ["listops-dense-0"]
    assert planned("cpu", kinds=["sparse"]).missing == {"listops": "listops-cpu.yaml has no block-sparse layout"}


def test_the_recipes_that_come_with_it_give_every_task(tmp_path):
    suite = lra_suite.plan(
        tmp_path, tasks=tasks.NAMES, scale="1gpu", recipes=tasks.RECIPES, kinds=["dense", "sparse"], seeds=[0],
        root=None, overrides={},
    )  # fmt: skip
    assert set(suite.recipes) | set(suite.missing) == set(tasks.NAMES)
    assert set(suite.missing) == {"imdb", "aan", "cifar10"}
    assert len(suite.cells) == 2 * len(suite.recipes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--dataset", "listops"), "--dataset cannot be given with --suite"),
        (("--seq-lens", "64"), "--seq-lens cannot be given with --suite"),
        (("--kinds", "chunked"), "--kinds has chunked; expected dense or sparse"),
        (("--tasks", "imdb"), "none of the tasks imdb can be run"),
        (("--tasks", "listops", "listops"), "--tasks is listops listops; expected each only once"),
        (("--tasks", "chess"), "chess"),
        (("--scale", "huge"), "huge"),
        (("--heads", "3"), "--heads is 3"),
        (("--config", "RECIPE"), "expected --recipes in its place"),
    ],
)
def test_wrong_flags_are_one_line(flags, recipes, given, said, capsys):
    given = [str(recipes / "imdb.yaml") if word == "RECIPE" else word for word in given]
    with pytest.raises(SystemExit) as end:
        sweep.main([*flags, *given])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_without_the_folder_of_official_files_generated_tasks_are_run(tmp_path, capsys):
    asked = ["--suite", "lra", "--scale", "1gpu", "--root", str(tmp_path / "data"), "--output", str(tmp_path / "suite")]
    parser = sweep._make_parser()
    options, typed, files = read_arguments(parser, asked)
    suite = sweep.plan_suite(options, typed, files, tmp_path / "suite")
    assert set(suite.recipes) == {"listops", "pathfinder32", "pathx", "pathfinder256"}
    assert all(cell.settings.root is None for cell in suite.cells)
    said = capsys.readouterr().out
    assert f"--root is {tmp_path / 'data'}, no folder" in said
    assert "cifar10 is not run: " in said
    with pytest.raises(ValueError, match="none of the tasks imdb can be run"):
        sweep.plan_suite(*read_arguments(parser, [*asked, "--tasks", "imdb"]), tmp_path / "suite")


def test_small_tasks_stand_beside_no_published_ones():
    """Where one task is easier than the published one of that name, and another is not."""
    shared = {"kind": "dense", "micro_f1": 0.5, "micro_f1_interval": [0.4, 0.6], "textbook_speedup": None}
    rows = [
        shared | {"task": "listops", "title": "ListOps", "easier": True},
        shared | {"task": "pathx", "title": "Path-X", "easier": False},
    ]
    means = {"dense": {"tasks": ["listops", "pathx"], "accuracy": 0.5, "textbook_speedup": None, "speedup_tasks": []}}
    found = {"rows": rows, "baselines": [], "means": means}
    table = suite_report._beside(found)
    published = [line for line in table.rows if line[-1].startswith("published")]
    assert [line[:3] for line in published] == [
        ["FlashAttention", "", "61.4"],
        ["Block-sparse FlashAttention", "", "56.0"],
        ["Mega-chunk", "", "93.8"],
        ["Mega", "", "98.0"],
    ]
    assert "ListOps here: easier" in suite_report._about_published(found)
    found["rows"] = [rows[0]]
    assert not any(line[-1].startswith("published") for line in suite_report._beside(found).rows)
    assert "Published figures" not in suite_report._about_published(found)


def test_the_recipes_for_a_cpu_are_there(tmp_path):
    suite = lra_suite.plan(
        tmp_path, tasks=["listops", "pathfinder32"], scale="cpu", recipes=tasks.RECIPES, kinds=["dense"], seeds=[0],
        root=None, overrides={},
    )  # fmt: skip
    assert set(suite.recipes) == {"listops", "pathfinder32"}


def test_its_flags_need_it(capsys):
    with pytest.raises(SystemExit) as end:
        sweep.main(["--scale", "cpu"])
    assert end.value.code == 2
    assert "--scale is given; it needs --suite" in capsys.readouterr().err


def test_nothing_is_written_before_a_cell_is_finished(tmp_path):
    write_suite(lra_suite.Suite([], {}, {"imdb": "no files"}), tmp_path / "suite", "paper", "command")
    assert not (tmp_path / "suite").exists()


def test_published_averages_are_those_of_the_papers():
    five = ["listops", "imdb", "aan", "cifar10", "pathfinder32"]
    for row in PUBLISHED:
        tasks = [*five, "pathx"] if row.model.startswith("Mega") else five
        assert row.average(tasks) == pytest.approx(row.own_average, abs=0.11)  # of rounded scores
    performer = next(row for row in PUBLISHED if row.model == "Performer")
    assert performer.average([*five, "pathx"]) is None
