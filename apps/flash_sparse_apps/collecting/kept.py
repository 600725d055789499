"""What is kept of finished runs and sweeps: every figure, without curves and without paths of the machine.

results/NAME/metrics.json               of a run
results/NAME/sweep.json                 of a sweep: its table
results/NAME/cells/CELL/metrics.json    and the figures of each of its finished cells
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.metrics import Metrics, read_metrics

MOST_LABELS = 50  # that keep their scores each
PATHS = ("dataset", "root", "output", "cache-dir", "validation", "test", "init-from", "pretrained", "tokenizer")


@dataclass(frozen=True)
class Kept:
    """Everything in a folder of results.

    Attributes:
        runs: name -> the figures of a run, or of a sweep's cell, named SWEEP/CELL.
        sweeps: name -> the table of a sweep over lengths, as its sweep.json has it.
    """

    runs: dict[str, Metrics]
    sweeps: dict[str, dict[str, Any]]


def keep(run: Path, place: Path):
    """Copy what is kept of a run or sweep, in place of what was kept under that name.

    Raises:
        ValueError: the folder has no finished run and no sweep, or a file of it is damaged.
    """
    if (run / "sweep.json").is_file():
        cells = sorted(path.parent for path in (run / "cells").glob("*/metrics.json"))
        if not cells:
            raise ValueError(f"{run}: no finished cells; expected some in {run / 'cells'}")
        files = {place / "sweep.json": _trimmed_table(_read(run / "sweep.json"))}
        files |= {place / "cells" / cell.name / "metrics.json": trimmed(_figures(cell)) for cell in cells}
    else:
        files = {place / "metrics.json": trimmed(_figures(run))}
    for path, content in files.items():
        write_atomically(path, to_json(content))


def read_kept(folder: Path) -> Kept:
    """All that is kept in a folder, by name; ValueError names a file that is damaged."""
    runs = {}
    for path in sorted(folder.rglob("metrics.json")):
        parts = path.parent.relative_to(folder).parts
        runs["/".join(part for part in parts if part != "cells")] = read_metrics(path)
    sweeps = {
        path.parent.relative_to(folder).as_posix(): table
        for path in sorted(folder.rglob("sweep.json"))
        if "dataset" in (table := _read(path))  # a suite's has tasks instead: its cells say everything
    }
    return Kept(runs, sweeps)


def trimmed(metrics: Metrics) -> dict[str, Any]:
    """The figures of a run without those of every few steps, and with names for paths."""
    kept = cast(dict[str, Any], json.loads(to_json(metrics)))
    for section in ("training", "pretraining"):
        if kept[section] is not None:
            del kept[section]["curve"]
    for section in ("test", "linear_baseline"):
        if kept[section] is not None and len(kept[section]["per_label"]) > MOST_LABELS:
            kept[section]["per_label"] = []
    kept["settings"] = {name: _named(value) if name in PATHS else value for name, value in kept["settings"].items()}
    for name in ("command", "predict_command"):
        kept[name] = _without_paths(kept[name])
    return kept


def _trimmed_table(table: dict[str, Any]) -> dict[str, Any]:
    return table | {"command": _without_paths(table["command"])}


def _without_paths(command: str) -> str:
    """The same command with the last name of each absolute path alone."""
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(flag + equals + (_named(value) if value else ""))
    return shlex.join(words)


def _named(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def cut_short(run: Metrics) -> bool:
    """Whether time ended the training before its epochs did."""
    return run["training"]["stopped"].startswith("--max-time")


def _figures(run: Path) -> Metrics:
    try:
        return read_metrics(run / "metrics.json")
    except ValueError as error:
        raise ValueError(f"{error}; expected the folder of a finished run or of a sweep") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path}: damaged; expected what a sweep writes") from None
