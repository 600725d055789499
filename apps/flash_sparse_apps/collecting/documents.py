"""Long documents by how much of them is read: tables from kept sweeps and runs, and a plot for each dataset."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flash_sparse_apps.collecting.kept import Kept, cut_short
from flash_sparse_apps.collecting.published import BY_LENGTH, LENGTHS, SOURCE
from flash_sparse_apps.lra.tasks import NAMES
from flash_sparse_apps.metrics import Metrics
from flash_sparse_apps.reports import figures
from flash_sparse_apps.reports.columns import Columns, Table, or_none
from flash_sparse_apps.reports.page import duration, percent

LINEAR = "linear model"
# dataset, model, kind, length, micro_f1, micro_f1_interval, gain, longer, seeds, seconds, cut, short
Row = dict[str, Any]


def document_rows(kept: Kept) -> list[Row]:
    """One for each dataset, model, attention and length; those of a sweep are over its seeds.

    A sweep is named by its dataset and by the encoder of its cells. Where two sweeps have the same row, the one whose
    name comes last has it.
    """
    rows: dict[tuple, Row] = {}
    in_sweeps: set[str] = set()
    for name, table in kept.sweeps.items():
        cells = {cell: run for cell, run in kept.runs.items() if cell.startswith(f"{name}/")}
        in_sweeps |= cells.keys()
        if not cells or table["dataset"] in NAMES:
            continue
        first = next(iter(cells.values()))
        dataset, model = _dataset(first), _model(first)
        for row in table["rows"]:
            own = [
                run
                for run in cells.values()
                if (run["settings"]["seq-len"], _kind(run)) == (row["length"], row["kind"])
            ]
            _add(rows, {
                "dataset": dataset, "model": model, "kind": row["kind"], "length": row["length"],
                "micro_f1": row["micro_f1"], "micro_f1_interval": row["micro_f1_interval"], "gain": row["gain"],
                "longer": row["longer"], "seeds": len(row["seeds"]), "seconds": row["training_seconds"],
                "cut": row["tokens_cut_share"],
                "short": any(map(cut_short, own)),
            })  # fmt: skip
        for entry in table["linear"]:
            _add(rows, _linear(dataset, entry["length"], entry))
    for name, run in kept.runs.items():
        if name in in_sweeps or run["data"]["name"] in NAMES:
            continue
        length = run["settings"]["seq-len"]
        _add(rows, {
            "dataset": _dataset(run), "model": _model(run), "kind": _kind(run), "length": length,
            "micro_f1": run["test"]["micro_f1"], "micro_f1_interval": run["test"]["micro_f1_interval"], "gain": None,
            "longer": {}, "seeds": 1, "seconds": run["training"]["seconds"],
            "cut": run["data"]["truncation"]["test"]["tokens_cut_share"],
            "short": cut_short(run),
        })  # fmt: skip
        if run["linear_baseline"] is not None:
            _add(rows, _linear(_dataset(run), length, run["linear_baseline"]))
    return sorted(
        rows.values(),
        key=lambda row: (row["dataset"], row["model"] == LINEAR, row["model"], row["kind"], row["length"]),
    )


def document_notes(kept: Kept) -> dict[str, list[str]]:
    """Dataset -> what its reader said of it: which labels and documents there are, and what was left out."""
    notes: dict[str, list[str]] = {}
    for run in kept.runs.values():
        if run["data"]["name"] not in NAMES:
            said = (note for note in run["data"]["notes"] if not note.startswith("--"))  # of a run's own flags
            notes[_dataset(run)] = [*said]
    return {name: said for name, said in notes.items() if said}


def _add(rows: dict[tuple, Row], row: Row):
    rows[row["dataset"], row["model"], row["kind"], row["length"]] = row


def _linear(dataset: str, length: int, scores: Any) -> Row:
    row = {"dataset": dataset, "model": LINEAR, "kind": "", "length": length, "gain": None, "longer": {}, "seeds": 1}
    row |= {key: scores[key] for key in ("micro_f1", "micro_f1_interval")}
    return row | {"seconds": scores.get("seconds"), "cut": None, "short": False}


def _dataset(run: Metrics) -> str:
    """The name of the data, and of one's own files what their labels are: a file may hold several tasks."""
    name, field = run["data"]["name"], run["settings"]["label-field"]
    return name if field in (None, "label", "labels") else f"{name}, {field}"


def _model(run: Metrics) -> str:
    return run["settings"]["pretrained"] or "trained from nothing"


def _kind(run: Metrics) -> str:
    if run["settings"]["chunked"]:
        return "chunked"
    return "sparse" if run["settings"]["sparse"] else "dense"


def by_length(rows: Iterable[Row]) -> Table:
    """The paper's table: a line for each model and dataset, a column for each length, in percent."""
    rows = list(rows)
    lengths = sorted({row["length"] for row in rows} | set(LENGTHS))
    lines = [
        [name, "RoBERTa, dense", *(f"{dict(zip(LENGTHS, scores, strict=True)).get(n, '')}" for n in lengths),
         f"*published*: {SOURCE}"]
        for name, scores in BY_LENGTH.items()
    ]  # fmt: skip
    for dataset, model, kind in dict.fromkeys((row["dataset"], row["model"], row["kind"]) for row in rows):
        own = {row["length"]: row for row in rows if (row["dataset"], row["model"], row["kind"])
               == (dataset, model, kind)}  # fmt: skip
        cells = [_cell(own[length]) if length in own else "" for length in lengths]
        lines.append([f"**{dataset}**", f"{model}{f', {kind}' if kind else ''}", *cells, "measured here"])
    return Table(["documents", "model", *(f"{length:,}" for length in lengths), "from"], lines)


def _cell(row: Row) -> str:
    return f"{100 * row['micro_f1']:.1f}{', cut short' if row['short'] else ''}"


LINES: Columns = [
    ("documents", lambda row: row["dataset"]),
    ("model", lambda row: row["model"]),
    ("attention", lambda row: row["kind"]),
    ("tokens read", lambda row: f"{row['length']:,}"),
    ("micro-F1", lambda row: f"{row['micro_f1']:.3f}"),
    ("95% interval", lambda row: "{:.3f} to {:.3f}".format(*row["micro_f1_interval"])),
    ("over the next shorter", lambda row: or_none(_gain, row["gain"])),
    ("seeds", lambda row: str(row["seeds"])),
    ("tokens cut", lambda row: or_none(percent, row["cut"])),
    ("training", lambda row: or_none(duration, row["seconds"]) + (", cut short" if row["short"] else "")),
]


def by_document_length(rows: Iterable[Row]) -> Table | None:
    """Micro-F1 of the documents of each range of lengths, in percent; None where no sweep has it."""
    rows = [row for row in rows if row["longer"]]
    bounds = sorted({int(least) for row in rows for least in row["longer"]})
    if not bounds:
        return None
    ranges = [f"{low:,} to {high:,}" for low, high in itertools.pairwise(bounds)] + [f"over {bounds[-1]:,}"]
    lines = [
        [row["dataset"], ", ".join((row["model"], row["kind"])), f"{row['length']:,}",
         *(_percent_of(row["longer"].get(str(least))) for least in bounds)]
        for row in rows
    ]  # fmt: skip
    return Table(["documents", "model", "tokens read", *(f"of {each} tokens" for each in ranges)], lines)


def _percent_of(scores: dict | None) -> str:
    return "" if scores is None else f"{100 * scores['micro_f1']:.1f} ({scores['documents']:,})"


def _gain(gain: dict) -> str:
    low, high = gain["micro_f1_interval"]
    return f"{gain['micro_f1']:+.3f} ({low:+.3f} to {high:+.3f})"


def plots(rows: Iterable[Row], folder: Path) -> dict[str, str]:
    """Dataset -> its plot's file, for those with two lengths or more."""
    files = {}
    rows = list(rows)
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        lines: dict[str, list[tuple[int, float, float, float]]] = {}
        for row in (row for row in rows if row["dataset"] == dataset):
            point = (row["length"], row["micro_f1"], *row["micro_f1_interval"])
            lines.setdefault(", ".join(part for part in (row["model"], row["kind"]) if part), []).append(point)
        if len({length for points in lines.values() for length, *_ in points}) > 1:
            files[dataset] = re.sub(r"\W+", "-", dataset) + ".png"
            figures.over_lengths(
                f"{dataset}: micro-F1 over length", "test micro-F1", lines, folder / files[dataset], True
            )
    return files
