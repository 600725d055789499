"""Long Range Arena's table for people and for programs, beside what others published: HTML, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from html import escape
from pathlib import Path

import torch

from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.lra.published import PUBLISHED, Published
from flash_sparse_apps.lra.suite import Suite
from flash_sparse_apps.lra.table import collect_suite
from flash_sparse_apps.lra.tasks import TASKS
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.reports.columns import Columns, Table, or_none
from flash_sparse_apps.reports.page import document, duration, percent, repeating, size

TITLES = {task.name: task.title for task in TASKS}


def write_suite(suite: Suite, folder: Path, scale: str, command: str):
    """Write everything anew from the cells that are finished; nothing before the first of them."""
    found = collect_suite(suite)
    if not found["rows"]:
        return
    about = {
        "command": command,
        "scale": scale,
        "machine": describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": describe_versions(),
    }
    published = {"published": [asdict(row) for row in _published(found)]}
    write_atomically(folder / "sweep.json", to_json(about | found | published))
    write_atomically(folder / "sweep.csv", _csv(found).encode())
    write_atomically(folder / "sweep.md", _markdown(found).encode())
    write_atomically(folder / "report.html", _page(found, about).encode(errors="backslashreplace"))


RESULTS: Columns = [
    ("task", lambda row: row["title"]),
    ("attention", lambda row: row["kind"]),
    ("right", lambda row: percent(row["micro_f1"])),
    ("95% interval", lambda row: " to ".join(percent(bound) for bound in row["micro_f1_interval"])),
    ("sd of seeds", lambda row: or_none(percent, row["micro_f1_spread"])),
    ("tokens", lambda row: f"{row['length']:,}"),
    ("data", lambda row: row["data"]),
    ("recipe", lambda row: row["recipe"] + (", knows neighbouring pixels" if row["knows_pixels"] else "")),
]
COSTS: Columns = [
    ("task", lambda row: row["title"]),
    ("attention", lambda row: row["kind"]),
    ("blocks kept", lambda row: percent(row["density"])),
    ("mean step", lambda row: or_none(duration, row["step_seconds"])),
    ("training", lambda row: duration(row["training_seconds"])),
    ("peak memory", lambda row: size(row["peak_gpu_memory_bytes"] or row["peak_memory_bytes"])),
    ("timed step", lambda row: or_none(lambda peers: f"{peers['step_tokens']:,} tokens", row["peers"])),
    ("its time", lambda row: or_none(lambda peers: duration(peers["own_seconds"]), row["peers"])),
    ("textbook's", lambda row: or_none(lambda peers: _textbook(peers["textbook_seconds"]), row["peers"])),
    ("over textbook", lambda row: or_none("{:.2f}x".format, row["textbook_speedup"])),
]
COMPARABLE = (
    "Published figures are not measured here. They compare with ours where the task is the same: generated data comes "
    "near the official files without being them, and models that are told which pixels are neighbours have it easier. "
    "Their speedups are of training on a GPU, the geometric mean over the five tasks before Path-X; ours are of one "
    "step on the longest test document."
)
EASIER = "{} here: easier than the published task of that name, so that no published figure stands beside it."


def _comparable(found: dict) -> list[str]:
    """The tasks that are the published ones."""
    return [task for task in TITLES if any(row["task"] == task and not row["easier"] for row in found["rows"])]


def _published(found: dict) -> list[Published]:
    """What others published of the tasks that ran, where these were the published tasks."""
    tasks = _comparable(found)
    scores = [{task: row.scores[task] for task in tasks} for row in PUBLISHED]
    return [replace(row, scores=kept) for row, kept in zip(PUBLISHED, scores, strict=True) if any(kept.values())]


def _about_published(found: dict) -> str:
    """What to know of the published figures, and of which tasks there are none."""
    easier = [TITLES[task] for task in dict.fromkeys(row["task"] for row in found["rows"] if row["easier"])]
    parts = [COMPARABLE] if _comparable(found) else []
    return " ".join([*parts, *([EASIER.format(" and ".join(easier))] if easier else [])])


def _textbook(seconds: float | None) -> str:
    return "does not fit" if seconds is None else duration(seconds)


def _mean_lines(found: dict) -> list[str]:
    """A sentence for each kind, and one for the speedups."""
    lines = []
    for kind, means in found["means"].items():
        count = len(means["tasks"])
        lines.append(
            f"{kind}: {percent(means['accuracy'])} right on average over the {count} task{'s' * (count > 1)} that ran "
            f"({', '.join(TITLES[task] for task in means['tasks'])})"
        )
        if means["textbook_speedup"] is not None:
            timed = len(means["speedup_tasks"])
            lines[-1] += (
                f"; a step is {means['textbook_speedup']:.2f}x as fast as with textbook attention, the geometric mean "
                f"over {timed} task{'s' * (timed > 1)}"
            )
        lines[-1] += "."
    return lines


def _missing_lines(found: dict) -> list[str]:
    lines = [f"{TITLES[task]} was not run: {why}." for task, why in found["missing"].items()]
    lines += [f"{cell}: {why}" for cell, why in found["cut_short"].items()]
    return lines + ([f"Not finished: {', '.join(found['unfinished'])}."] if found["unfinished"] else [])


def _beside(found: dict) -> Table:
    """Ours and the published results, a column for each task that ran."""
    tasks = [task for task in TITLES if any(row["task"] == task for row in found["rows"])]

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    head = [
        "model",
        *(TITLES[task] for task in tasks),
        "average of these",
        "average as published",
        "over textbook",
        "from",
    ]
    lines = []
    for kind, means in found["means"].items():
        scores = {row["task"]: 100 * row["micro_f1"] for row in found["rows"] if row["kind"] == kind}
        complete = len(scores) == len(tasks)
        average = share(100 * means["accuracy"]) if complete else ""
        speedup = or_none("{:.2f}x".format, means["textbook_speedup"])
        lines.append(
            [f"ours, {kind}", *(share(scores.get(task)) for task in tasks), average, "", speedup, "measured here"]
        )
    for name in dict.fromkeys(entry["name"] for entry in found["baselines"]):
        scores = {entry["task"]: 100 * entry["accuracy"] for entry in found["baselines"] if entry["name"] == name}
        lines.append([name, *(share(scores.get(task)) for task in tasks), "", "", "", "measured here"])
    for row in _published(found):
        speedup = or_none("{:.1f}x".format, row.speedup)
        cells = [share(row.scores.get(task)) for task in tasks]
        averages = share(row.average(tasks)), f"{row.own_average:.1f}"
        lines.append([row.model, *cells, *averages, speedup, f"published: {row.source}"])
    return Table(head, lines, words=(0, -1))


def _markdown(found: dict) -> str:
    parts = [Table.of(columns, found["rows"]).markdown() for columns in (RESULTS, COSTS)]
    parts += ["\n".join(_mean_lines(found)), _beside(found).markdown(), _about_published(found)]
    parts += ["\n".join(missing)] if (missing := _missing_lines(found)) else []
    return "\n\n".join(parts) + "\n"


def _csv(found: dict) -> str:
    """One line for each of our rows, and for each published accuracy."""
    text = io.StringIO()
    names = ["task", "model", "source", "accuracy", "low", "high", "length", "data", "recipe", "step_seconds"]
    names.append("textbook_speedup")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in found["rows"]:
        low, high = row["micro_f1_interval"]
        kept = {name: row[name] for name in names if name in row}
        writer.writerow(
            kept | {"model": row["kind"], "source": "measured", "accuracy": row["micro_f1"], "low": low, "high": high}
        )
    for entry in found["baselines"]:
        writer.writerow({"task": entry["task"], "model": entry["name"], "source": "measured"}
                        | {"accuracy": entry["accuracy"]})  # fmt: skip
    for row in _published(found):
        for task, value in row.scores.items():
            if value is not None:
                writer.writerow(
                    {"task": task, "model": row.model, "source": f"published: {row.source}", "accuracy": value / 100}
                )
    return text.getvalue()


def _page(found: dict, about: dict) -> str:
    missing = "".join(f"<li>{escape(line)}</li>" for line in _missing_lines(found))
    parts = [
        "<h1>Long Range Arena</h1>",
        f'<p class="soft">Recipes: --scale {escape(about["scale"])}</p>',
        f'<ul class="notes">{missing}</ul>' if missing else "",
        *(f"<p>{escape(line)}</p>" for line in _mean_lines(found)),
        "<h2>Test results</h2>",
        '<p class="soft">The share of test documents that are given the right label; intervals are from resampled test '
        "documents, the seeds together.</p>",
        Table.of(RESULTS, found["rows"]).html(),
        f"<h2>{'Beside published results' if _comparable(found) else 'Side by side'}</h2>",
        f'<p class="soft">Percent. {escape(_about_published(found))}</p>',
        _beside(found).html(),
        "<h2>Costs</h2>",
        '<p class="soft">The last columns: one training step on the longest test document, and the same step on the '
        "same weights with textbook attention, dense.</p>",
        Table.of(COSTS, found["rows"]).html(),
        *repeating(about["command"], about["machine"], about["versions"]),
        '<p class="soft">Each cell has its own report in cells/. Beside this page: sweep.json, sweep.csv and '
        "sweep.md.</p>",
    ]
    return document("Long Range Arena", parts)
