"""Long Range Arena's tables from kept runs: accuracies beside published ones, and what is behind each of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flash_sparse_apps.collecting.kept import cut_short
from flash_sparse_apps.lra.published import PUBLISHED
from flash_sparse_apps.lra.table import SAME_TASK
from flash_sparse_apps.lra.tasks import TASKS
from flash_sparse_apps.metrics import Metrics
from flash_sparse_apps.reports.columns import Columns, Table, or_none
from flash_sparse_apps.reports.page import duration, percent
from flash_sparse_apps.settings import IMAGE_PATTERNS

TITLES = {task.name: task.title for task in TASKS}
FIVE = ("listops", "imdb", "aan", "cifar10", "pathfinder32")
LONGEST = ("pathx", "pathfinder256")
CUT_SHORT = "cut short"
Runs = Mapping[str, Metrics]


def arena_runs(runs: Runs) -> dict[str, Metrics]:
    """Those of a task of Long Range Arena, in its order."""
    order = list(TITLES)
    named = ((name, run) for name, run in runs.items() if run["data"]["name"] in TITLES)
    return dict(sorted(named, key=lambda pair: (order.index(pair[1]["data"]["name"]), kind(pair[1]), pair[0])))


def kind(run: Metrics) -> str:
    return "sparse" if run["settings"]["sparse"] else "dense"


def easier(run: Metrics) -> bool:
    """Whether the task was made another one than the published."""
    return bool(set(run["settings"]["dataset-options"] or {}) - SAME_TASK)


def beside_published(runs: Runs, tasks: Sequence[str]) -> Table:
    """Ours and others', a column for each task; of several runs, the one that did best on validation."""
    lines = []
    for which, title in (("dense", "ours, dense"), ("sparse", "ours, block-sparse")):
        cells = [_cell(_best(runs, task, which)) for task in tasks]
        if any(cells):
            lines.append([f"**{title}**", *cells, "measured here"])
    for row in PUBLISHED:
        if any(row.scores[task] is not None for task in tasks):
            cells = [or_none("{:.1f}".format, row.scores[task]) for task in tasks]
            lines.append([row.model, *cells, f"*published*: {row.source}"])
    return Table(["model", *(TITLES[task] for task in tasks), "from"], lines)


def _best(runs: Runs, task: str, which: str) -> Metrics | None:
    own = [run for run in runs.values() if run["data"]["name"] == task and kind(run) == which and not easier(run)]
    return max(own, key=lambda run: run["validation"]["micro_f1"], default=None)


def _cell(run: Metrics | None) -> str:
    if run is None:
        return ""
    low, high = (100 * bound for bound in run["test"]["micro_f1_interval"])
    short = f", {CUT_SHORT}" if cut_short(run) else ""
    return f"**{100 * run['test']['micro_f1']:.1f}** ({low:.1f} to {high:.1f}){short}"


DETAILS: Columns = [
    ("run", lambda row: row["name"]),
    ("task", lambda row: TITLES[row["run"]["data"]["name"]]),
    ("attention", lambda row: kind(row["run"])),
    ("right", lambda row: percent(row["run"]["test"]["micro_f1"])),
    ("95% interval", lambda row: " to ".join(percent(bound) for bound in row["run"]["test"]["micro_f1_interval"])),
    ("simple rules", lambda row: _rules(row["run"])),
    ("training", lambda row: duration(row["run"]["training"]["seconds"])),
    ("weights", lambda row: f"{row['run']['model']['parameters']:,}"),
    ("step over textbook", lambda row: _speedup(row["run"])),
    ("to know", lambda row: "; ".join(remarks(row["run"]))),
]


def details(runs: Runs) -> Table:
    """One line for each run."""
    rows: list[dict[str, Any]] = [{"name": name, "run": run} for name, run in runs.items()]
    return Table.of(DETAILS, rows)


def _rules(run: Metrics) -> str:
    rules = dict(run["rule_baselines"])
    if run["linear_baseline"] is not None:
        rules["linear model"] = run["linear_baseline"]["micro_f1"]
    return ", ".join(f"{name} {percent(value)}" for name, value in rules.items())


def _speedup(run: Metrics) -> str:
    peers = run["peers"]
    if peers is None or peers["textbook_seconds"] is None:
        return ""
    return f"{peers['textbook_seconds'] / peers['own_seconds']:.2f}x"


def remarks(run: Metrics) -> list[str]:
    """What a reader must know before comparing a run with another."""
    settings = run["settings"]
    said = []
    if cut_short(run):
        said.append(f"{CUT_SHORT}: {run['training']['stopped']}")
    if easier(run):
        options = ", ".join(f"{name} {value}" for name, value in settings["dataset-options"].items())
        said.append(f"easier than the published task: {options}")
    if settings["root"] is None:
        said.append("generated data")
    if settings["init-from"] is not None:
        said.append("begins with weights of other data, an earlier stage")
    if settings["pretrain"]:
        said.append(f"{settings['pretrain']} epochs of self-pretraining first")
    if settings["fresh-images"] or settings.get("grow-from") is not None:
        said.append("more training images than released")
    if settings["skip-black"]:
        black = settings.get("black", 0)
        said.append(f"pixels up to {black} left out" if black else "black pixels left out")
    if settings["augment"] != "none":
        said.append("training images turned")
    if settings["rotary"] == "2d" or (settings["sparse"] and settings["pattern"] in IMAGE_PATTERNS):
        said.append("knows which pixels are neighbours")
    return said
