"""A sweep's table for people and for programs: HTML, Markdown, CSV, JSON, and its plots as PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch

from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.reports import figures
from flash_sparse_apps.reports.columns import Columns, Table, or_none
from flash_sparse_apps.reports.page import document, duration, interval, percent, picture, repeating, score, size
from flash_sparse_apps.sweeping.cells import Cell
from flash_sparse_apps.sweeping.table import cell_metrics, collect_sweep


def write_table(cells: Sequence[Cell], folder: Path, command: str):
    """Write everything anew from the cells that are finished; nothing before the first of them."""
    found = collect_sweep(cells)
    if not found["rows"]:
        return
    every = [cell_metrics(cell)["data"] for cell in cells if cell.finished]
    data = every[0]
    if found["rows"][0]["folds"] is not None:
        data = data | {"notes": list(dict.fromkeys(note for each in every for note in each["notes"]))}
        data["description"] = f"{cells[0].settings.folds} folds, each once the test. The first: {data['description']}"
    about = {
        "command": command,
        "dataset": data["name"],
        "description": data["description"],
        "notes": data["notes"],
        "machine": describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": describe_versions(),
    }
    pictures = _pictures(found, folder)
    write_atomically(folder / "sweep.json", to_json(about | found))
    write_atomically(folder / "sweep.csv", _csv(found).encode())
    write_atomically(folder / "sweep.md", _markdown(found, about).encode(errors="backslashreplace"))
    write_atomically(folder / "report.html", _page(found, about, pictures).encode(errors="backslashreplace"))


def _result_columns(found: dict) -> Columns:
    """Heads and cells of the first table."""
    columns = [
        ("tokens", lambda row: f"{row['length']:,}"),
        ("attention", lambda row: row["kind"]),
        ("micro-F1", lambda row: score(row["micro_f1"])),
        ("95% interval", lambda row: interval(row["micro_f1_interval"])),
        ("over the next shorter", _gain),
        ("macro-F1", lambda row: score(row["macro_f1"])),
        ("tokens cut", lambda row: percent(row["tokens_cut_share"])),
    ]
    if any(row["micro_f1_spread"] is not None for row in found["rows"]):
        columns.insert(4, ("sd of seeds", lambda row: or_none(score, row["micro_f1_spread"])))
    if any(row["over_folds"] is not None for row in found["rows"]):
        columns[4:4] = [
            ("mean of folds", lambda row: or_none(lambda over: score(over["micro_f1"]), row["over_folds"])),
            ("its 95% interval", lambda row: or_none(lambda o: interval(o["micro_f1_interval"]), row["over_folds"])),
        ]
    linear = {entry["length"]: entry["micro_f1"] for entry in found["linear"]}
    if linear:
        columns.append(("linear model, micro-F1", lambda row: or_none(score, linear.get(row["length"]))))
    return columns


def _cost_columns(found: dict) -> Columns:
    """Heads and cells of the second table."""
    columns = [
        ("tokens", lambda row: f"{row['length']:,}"),
        ("attention", lambda row: row["kind"]),
        ("blocks kept of the longest", lambda row: percent(row["density"])),
        ("tokens a second", lambda row: or_none("{:,.0f}".format, row["tokens_per_second"])),
        ("mean step", lambda row: or_none(duration, row["step_seconds"])),
        ("training", lambda row: duration(row["training_seconds"])),
        ("peak memory", lambda row: size(row["peak_memory_bytes"])),
    ]
    if any(row["peak_gpu_memory_bytes"] for row in found["rows"]):
        columns.append(("of the GPU", lambda row: or_none(size, row["peak_gpu_memory_bytes"])))
    if any(row["peers"] for row in found["rows"]):
        columns += [
            ("longest document", lambda row: or_none(lambda p: f"{p['step_tokens']:,} tokens", row["peers"])),
            ("its step", lambda row: or_none(lambda p: duration(p["own_seconds"]), row["peers"])),
            ("over PyTorch's", lambda row: _speedup(row["peers"], "pytorch_seconds")),
            ("over textbook", lambda row: _speedup(row["peers"], "textbook_seconds")),
        ]
    return columns


def _longer_columns(found: dict) -> Columns:
    """Heads and cells of the table over how long the documents are."""
    ranges = sorted({int(least) for row in found["rows"] for least in row["longer"]})
    columns = [("tokens", lambda row: f"{row['length']:,}"), ("attention", lambda row: row["kind"])]
    for index, least in enumerate(ranges):
        count = next(row["longer"][str(least)]["documents"] for row in found["rows"] if str(least) in row["longer"])
        most = f"{least:,} to {ranges[index + 1]:,}" if index + 1 < len(ranges) else f"over {least:,}"

        def cell(row: dict, key: str = str(least)) -> str:
            return or_none(lambda part: score(part["micro_f1"]), row["longer"].get(key))

        columns.append((f"{most} ({count} documents)", cell))
    return columns if ranges else []


def _gain(row: dict) -> str:
    return or_none(lambda gain: f"{gain['micro_f1']:+.4f} {interval(gain['micro_f1_interval'])}", row["gain"])


def _speedup(peers: dict | None, key: str) -> str:
    if peers is None:
        return ""
    return "does not fit" if peers[key] is None else f"{peers[key] / peers['own_seconds']:.2f}x"


def _markdown(found: dict, about: dict) -> str:
    parts = ["\n".join(f"- {note}" for note in about["notes"])] if about["notes"] else []
    for columns in (_result_columns(found), _longer_columns(found), _cost_columns(found)):
        if columns:
            parts.append(Table.of(columns, found["rows"]).markdown())
    if found["unfinished"]:
        parts.append(f"Not finished: {', '.join(found['unfinished'])}.")
    return "\n\n".join(parts) + "\n"


def _csv(found: dict) -> str:
    """Every figure of a row in a column of its own, as it is."""
    linear = {entry["length"]: entry for entry in found["linear"]}
    rows = []
    for row in found["rows"]:
        nested = ("longer", "gain", "peers", "seeds", "folds", "over_folds")
        flat = {key: value for key, value in row.items() if key not in nested}
        flat["seeds"] = " ".join(map(str, row["seeds"]))
        low, high = flat.pop("micro_f1_interval")
        flat |= {"micro_f1_low": low, "micro_f1_high": high}
        if row["folds"] is not None:
            over = row["over_folds"] or {"micro_f1": None, "micro_f1_interval": (None, None)}
            low, high = over["micro_f1_interval"]
            flat |= {"folds": len(row["folds"]), "mean_of_folds": over["micro_f1"]}
            flat |= {"mean_of_folds_low": low, "mean_of_folds_high": high}
        flat["linear_micro_f1"] = linear.get(row["length"], {}).get("micro_f1")
        flat |= {f"longest_{key}": (row["peers"] or {}).get(key)
                 for key in ("step_tokens", "own_seconds", "pytorch_seconds", "textbook_seconds")}  # fmt: skip
        rows.append(flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _pictures(found: dict, folder: Path) -> dict[str, str]:
    scores: dict[str, list[tuple]] = {}
    steps: dict[str, list[tuple]] = {}
    for row in found["rows"]:
        scores.setdefault(row["kind"], []).append((row["length"], row["micro_f1"], *row["micro_f1_interval"]))
        if row["peers"] is not None:
            names = {row["kind"]: "own_seconds"}
            if row["kind"] != "chunked":  # whose peers see windows alone
                names |= {"PyTorch's": "pytorch_seconds", "textbook": "textbook_seconds"}
            for name, key in names.items():
                seconds = row["peers"][key]
                if seconds is not None and row["length"] not in [point[0] for point in steps.get(name, ())]:
                    steps.setdefault(name, []).append((row["length"], *[seconds] * 3))
    for entry in found["linear"]:
        point = (entry["length"], entry["micro_f1"], *entry["micro_f1_interval"])
        scores.setdefault("linear model", []).append(point)
    pictures = {
        "score": figures.over_lengths("micro-F1 over length", "test micro-F1", scores, folder / "micro_f1.png", True)
    }
    if steps:
        pictures["step"] = figures.over_lengths(
            "time of a step over length", "seconds", steps, folder / "step.png", False
        )
    return pictures


def _about_folds(found: dict) -> str:
    if found["rows"][0]["folds"] is None:
        return ""
    return (
        " Every document is in the test of one fold, whose model was not trained on it; micro-F1 is over all of them "
        "together. Beside it the mean of the folds' own scores (which the linear model has alone), with an interval of "
        "Student's t that allows for the documents which folds share in training (Nadeau and Bengio 2003)."
    )


def _page(found: dict, about: dict, pictures: dict[str, str]) -> str:
    def shown(columns: Columns) -> str:
        return Table.of(columns, found["rows"], words=(1,)).html()

    notes = list(about["notes"])
    if found["unfinished"]:
        notes.append(f"Not finished: {', '.join(found['unfinished'])}.")
    together = ", the seeds together" if any(len(row["seeds"]) > 1 for row in found["rows"]) else ""
    parts = [
        f"<h1>{escape(about['dataset'])} over sequence length</h1>",
        '<p class="soft">Does reading more of a document pay, and what does it cost?</p>',
        f"<p>{escape(about['description'])}</p>",
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else "",
        '<div class="pair">',
        picture(pictures["score"], "Test micro-F1; shaded: 95% intervals."),
        picture(pictures["step"], "One training step on the longest test document.") if "step" in pictures else "",
        "</div>",
        "<h2>Test results</h2>",
        f'<p class="soft">Intervals are from resampled test documents{together}; the gain over the next shorter length '
        "is resampled in pairs, and is more than chance where its interval leaves out 0. The linear model: for each "
        f"label an SVM on TF-IDF of the same tokens.{_about_folds(found)}</p>",
        shown(_result_columns(found)),
    ]
    if longer := _longer_columns(found):
        parts += [
            "<h2>Micro-F1 by how long the documents are</h2>",
            '<p class="soft">Whole documents, by their length in tokens; a model reads as many as its row says.</p>',
            shown(longer),
        ]
    parts += [
        "<h2>Costs</h2>",
        '<p class="soft">The last columns: one training step on the longest test document, cut as the row says, and '
        "how many times as long it takes with PyTorch's scaled_dot_product_attention and with textbook attention, "
        "both dense (within the same windows, where the row is chunked), on the same weights.</p>",
        shown(_cost_columns(found)),
        *repeating(about["command"], about["machine"], about["versions"]),
        '<p class="soft">Each cell has its own report in cells/. Beside this page: sweep.json, sweep.csv, sweep.md, '
        "and the plots.</p>",
    ]
    return document(f"{about['dataset']} over sequence length", parts)
