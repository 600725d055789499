"""What the finished cells of a sweep say together: one row for each length and kind, over all its seeds.

Scores over several seeds are of all their decisions together, and intervals draw documents, each with what every seed
says of it: so they tell of the choice of documents, while the spread tells of the seeds.

Of a cross-validation, the decisions of all folds are taken together too: each document has those of the one model that
was not trained on it. The mean over the folds, and its interval, stand beside.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import yaml

from flash_sparse_apps.metrics import ROUNDING, Metrics, read_metrics
from flash_sparse_apps.scores.evaluation import bootstrap_interval, fold_interval, micro_f1, paired_bootstrap
from flash_sparse_apps.sweeping.cells import NO_MATTER, Cell
from flash_sparse_datasets import NAMED

FEWEST = 10  # documents that a score is given for


def collect_sweep(cells: Sequence[Cell]) -> dict:
    """The figures of all finished cells.

    Returns:
        rows: dicts with length, kind, seeds and what `_row` adds, by kind and length; `gain` compares a row with the
            row of the next shorter length of its kind; `folds` are those that are finished for all of its seeds.
        linear: dicts with length, micro_f1, micro_f1_interval and macro_f1 of the linear baseline.
        unfinished: names of cells.
    """
    finished = [cell for cell in cells if cell.finished]
    lengths = sorted({cell.length for cell in cells})
    metrics = {cell.name: cell_metrics(cell) for cell in finished}
    _check_same_data(finished, metrics)
    rows: list[dict[str, Any]] = []
    linear: list[dict[str, Any]] = []
    for kind in dict.fromkeys(cell.kind for cell in cells):
        shorter = None
        for length in lengths:
            seeds = _by_seed([cell for cell in finished if (cell.kind, cell.length) == (kind, length)])
            if not seeds:
                continue
            group = [cell for cells_of_seed in seeds.values() for cell in cells_of_seed]
            results = [metrics[cell.name] for cell in group]
            tested = [_joined([_tested(cell, metrics[cell.name]) for cell in folds]) for folds in seeds.values()]
            settings = group[0].settings
            row: dict[str, Any] = {"length": length, "kind": kind, "seeds": list(seeds)}
            row["folds"] = None if group[0].fold is None else [cell.fold for cell in seeds[group[0].seed]]
            row |= _row(results, tested, lengths, settings.bootstrap_samples)
            row["over_folds"] = _over_folds([result["test"]["micro_f1"] for result in results], row["folds"])
            predictions, targets, _ = _stacked(tested)
            row["gain"] = None
            if shorter is not None and all(shorter[0][key] == row[key] for key in ("seeds", "folds")):
                bounds = paired_bootstrap(predictions, shorter[1], targets, samples=settings.bootstrap_samples)
                gained = row["micro_f1"] - shorter[0]["micro_f1"]
                row["gain"] = {"from": shorter[0]["length"], "micro_f1": gained, "micro_f1_interval": list(bounds)}
            shorter = row, predictions
            rows.append(row)
            if length not in [entry["length"] for entry in linear]:
                linear += _linear(length, results[: len(seeds[group[0].seed])])
    linear.sort(key=lambda entry: entry["length"])
    return {"rows": rows, "linear": linear, "unfinished": [cell.name for cell in cells if not cell.finished]}


def cell_metrics(cell: Cell) -> Metrics:
    """A finished cell's metrics.json; ValueError says how to run the cell again where it is damaged, or another's."""
    again = f"remove {cell.run.path} to run that cell again"
    try:
        found = read_metrics(cell.run.metrics)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from None
    expected = yaml.safe_load(cell.settings.to_yaml())
    for key, value in found["settings"].items():
        free = key.replace("-", "_") in NO_MATTER and not (key == "dataset" and cell.settings.dataset in NAMED)
        if not free and key in expected and value != expected[key]:
            raise ValueError(f"{cell.run.metrics}: of a run with {key} {value}, not {expected[key]}; {again}")
    return found


def _by_seed(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """The cells of each seed, one for each fold; only folds that all of these seeds have."""
    folds = set.intersection(
        *({c.fold for c in cells if c.seed == seed} for seed in {cell.seed for cell in cells}),
        {cell.fold for cell in cells},
    )
    seeds: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.fold in folds:
            seeds.setdefault(cell.seed, []).append(cell)
    return seeds


def _over_folds(scores: Sequence[float], folds: Sequence[int] | None) -> dict | None:
    """Mean and interval over the folds of `scores`, seed after seed; None without at least two folds."""
    if folds is None or len(folds) < 2:
        return None
    means = np.reshape(scores, (-1, len(folds))).mean(0).tolist()  # (folds,), over the seeds
    return {"micro_f1": statistics.mean(means), "micro_f1_interval": list(fold_interval(means)), "each": means}


def _linear(length: int, results: Sequence[Metrics]) -> list[dict]:
    """What the linear model reaches at a length, from the cells of one seed: the mean of folds, where there are any."""
    found = [result["linear_baseline"] for result in results]
    scores = [each for each in found if each is not None]
    if not scores:
        return []
    entry = {key: cast(dict, scores[0])[key] for key in ("micro_f1", "micro_f1_interval", "macro_f1")}
    if len(scores) > 1:
        each = [score["micro_f1"] for score in scores]
        entry |= {"micro_f1": statistics.mean(each), "micro_f1_interval": list(fold_interval(each))}
        entry["macro_f1"] = statistics.mean(score["macro_f1"] for score in scores)
    return [{"length": length} | entry]


def _check_same_data(cells: Sequence[Cell], metrics: dict[str, Metrics]):
    """Raise ValueError where cells were trained on different data: the file was changed between them.

    Of other folds it is known how many documents they have.
    """

    def documents(cell: Cell) -> int:
        return sum(split["documents"] for split in metrics[cell.name]["data"]["truncation"].values())

    for cell in cells:
        first = next(other for other in cells if other.fold == cell.fold)
        same = metrics[cell.name]["data"]["fingerprint"] == metrics[first.name]["data"]["fingerprint"]
        if not same or documents(cell) != documents(cells[0]):
            raise ValueError(
                f"{cell.run.path}: trained on other data than {(cells[0] if same else first).run.path}; expected the "
                "same: remove the one whose data is no longer meant, to run that cell again"
            )


def _tested(cell: Cell, result: Metrics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and targets, (N, L) uint8 each, and the whole documents' lengths in tokens, (N,)."""
    try:
        position = {entry["label"]: index for index, entry in enumerate(result["test"]["per_label"])}
        with open(cell.run.predictions, encoding="utf-8") as lines:
            entries = [json.loads(line) for line in lines]
        if len(entries) != result["test"]["documents"]:
            raise ValueError
        predictions, targets = np.zeros((2, len(entries), len(position)), np.uint8)
        for row, entry in enumerate(entries):
            predictions[row, [position[label] for label in entry["predicted"]]] = 1
            targets[row, [position[label] for label in entry["labels"]]] = 1
        if (none := result["data"]["none_label"]) is not None:
            for decisions in (predictions, targets):
                decisions[:, position[none]] = ~decisions.any(1)
        if abs(micro_f1(predictions, targets) - result["test"]["micro_f1"]) > ROUNDING:
            raise ValueError
        return predictions, targets, np.array([entry["tokens"] for entry in entries])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise ValueError(f"{cell.run.predictions}: damaged; remove {cell.run.path} to run that cell again") from None


def _joined(folds: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The test documents of all folds end to end, in the forms of `_tested`."""
    predictions, targets, tokens = (np.concatenate(parts) for parts in zip(*folds, strict=True))
    return predictions, targets, tokens


def _stacked(tested: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Several seeds side by side, as if they were further labels: (N, seeds * L) twice, and (N,)."""
    predictions, targets, tokens = zip(*tested, strict=True)
    return np.hstack(predictions), np.hstack(targets), tokens[0]


def _row(results: Sequence[Metrics], tested: Sequence[tuple], lengths: Sequence[int], samples: int) -> dict:
    """Scores and costs of one length and kind. Times and memory are means over the seeds; None is not measured."""
    predictions, targets, tokens = _stacked(tested)
    scores = [micro_f1(*decisions[:2]) for decisions in tested]
    peers = next((result["peers"] for result in results if result["peers"] is not None), None)
    longer = {}
    for least, most in itertools.pairwise([*lengths, None]):
        chosen = (tokens > least) & ((tokens <= most) if most is not None else True)
        if chosen.sum() >= FEWEST:
            longer[str(least)] = {
                "documents": int(chosen.sum()),
                "micro_f1": micro_f1(predictions[chosen], targets[chosen]),
                "micro_f1_interval": list(bootstrap_interval(predictions[chosen], targets[chosen], samples=samples)),
            }

    def mean(section: Literal["test", "speed", "training"], key: str) -> float | None:
        values = [cast(dict[str, Any], result[section])[key] for result in results]
        return None if None in values else statistics.mean(values)

    return {
        "micro_f1": micro_f1(predictions, targets),
        "micro_f1_interval": list(bootstrap_interval(predictions, targets, samples=samples)),
        "micro_f1_spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "macro_f1": mean("test", "macro_f1"),
        "longer": longer,
        "tokens_cut_share": results[0]["data"]["truncation"]["test"]["tokens_cut_share"],
        "tokens_per_second": mean("speed", "tokens_per_second"),
        "step_seconds": mean("speed", "step_seconds"),
        "training_seconds": mean("training", "seconds"),
        "peak_memory_bytes": mean("speed", "peak_memory_bytes"),
        "peak_gpu_memory_bytes": mean("speed", "peak_gpu_memory_bytes"),
        "density": results[0]["model"]["density"],
        "peers": peers,
    }
