"""What the finished runs of Long Range Arena say together: one row for each task and kind of attention, and means."""

from __future__ import annotations

import statistics

from flash_sparse_apps.lra.suite import Suite
from flash_sparse_apps.lra.tasks import KINDS, TASKS
from flash_sparse_apps.settings import IMAGE_PATTERNS
from flash_sparse_apps.sweeping.table import cell_metrics, collect_sweep

# Options that leave a generated task what it is.
SAME_TASK = {"workers", "seed", "preset", "train_size", "validation_size", "test_size"}


def collect_suite(suite: Suite) -> dict:
    """The figures of all finished cells.

    Returns:
        rows: dicts with task, title, recipe, data (generated or official), knows_pixels (whether the model is told
            which pixels are neighbours), easier (whether the recipe makes the task another than the published one),
            textbook_speedup, and what a sweep's row has; accuracy is its micro-F1, as
            every task gives one label to a document.
        baselines: dicts with task, name and accuracy: the linear model and the dataset's rules.
        means: for each kind its tasks, the average accuracy over them, and the geometric mean of the speedups over
            textbook attention with the tasks that it is of; a kind without a finished cell is left out.
        unfinished: names of cells; missing: task -> why it is not run; cut_short: cell -> where --max-time ended it.
    """
    rows, baselines, unfinished = [], [], []
    cut_short: dict[str, str] = {}
    for task in TASKS:
        cells = [cell for cell in suite.cells if cell.settings.dataset == task.name]
        found = collect_sweep(cells)
        unfinished += found["unfinished"]
        baselines += [
            {"task": task.name, "name": "linear model", "accuracy": entry["micro_f1"]} for entry in found["linear"]
        ]
        finished = [cell for cell in cells if cell.finished]
        metrics = {cell.name: cell_metrics(cell) for cell in finished}
        stopped = {name: read["training"]["stopped"] for name, read in metrics.items()}
        cut_short |= {name: why for name, why in stopped.items() if why.startswith("--max-time")}
        if finished:
            rules = metrics[finished[0].name].get("rule_baselines", {})
            baselines += [{"task": task.name, "name": name, "accuracy": value} for name, value in rules.items()]
        for row in found["rows"]:
            first = next(cell for cell in finished if cell.kind == row["kind"])
            settings, root = first.settings, metrics[first.name]["settings"]["root"]
            images = settings.sparse and settings.pattern in IMAGE_PATTERNS
            about = {
                "task": task.name,
                "title": task.title,
                "recipe": suite.recipes[task.name].stem,
                "data": "generated" if task.generated and root is None else "official",
                "knows_pixels": images or settings.rotary == "2d",
                "easier": bool(set(settings.dataset_options or {}) - SAME_TASK),
                "textbook_speedup": _speedup(row["peers"]),
            }
            rows.append(about | row)
    return {
        "rows": rows,
        "baselines": baselines,
        "means": {kind: means for kind in KINDS if (means := _means([row for row in rows if row["kind"] == kind]))},
        "unfinished": unfinished,
        "missing": suite.missing,
        "cut_short": cut_short,
    }


def _speedup(peers: dict | None) -> float | None:
    """Of a step over the same step with textbook attention; None where that was not timed."""
    if peers is None or peers["textbook_seconds"] is None:
        return None
    return peers["textbook_seconds"] / peers["own_seconds"]


def _means(rows: list[dict]) -> dict | None:
    if not rows:
        return None
    timed = [row for row in rows if row["textbook_speedup"] is not None]
    return {
        "tasks": [row["task"] for row in rows],
        "accuracy": statistics.mean(row["micro_f1"] for row in rows),
        "speedup_tasks": [row["task"] for row in timed],
        "textbook_speedup": statistics.geometric_mean(row["textbook_speedup"] for row in timed) if timed else None,
    }
