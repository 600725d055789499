"""Predictions as text, a piece at a time: JSON lines, CSV, and a table to read; and as an Excel workbook.

What could not be read has an `error` in place of labels.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.evidence import LEAST_DROP
from flash_sparse_apps.prediction.spreadsheets import csv_line, describe_passages, wide_csv, workbook


def _ranked(prediction: dict, model: SavedModel, top_k: int | None) -> list[tuple[str, float]]:
    """Labels and probabilities, the most probable first: all, or `top_k` of them and whatever else is given."""
    ranked = sorted(zip(model.labels, prediction["probabilities"], strict=True), key=lambda pair: -pair[1])
    top = len(ranked) if top_k is None else top_k
    return [pair for rank, pair in enumerate(ranked) if rank < top or pair[0] in prediction["labels"]]


def _jsonl(predictions: Iterable[dict], model: SavedModel, top_k: int | None, evidence: bool) -> Iterator[str]:
    for prediction in predictions:
        if "error" not in prediction:
            prediction = prediction | {"probabilities": dict(_ranked(prediction, model, top_k))}
        yield json.dumps(prediction, ensure_ascii=False) + "\n"


def in_utf8(piece: str | bytes) -> bytes:
    """A piece as a file holds it."""
    return piece if isinstance(piece, bytes) else piece.encode(errors="backslashreplace")


def in_ascii(line: str) -> str:
    """A line of JSON with what is beyond ASCII escaped as JSON does it: for a stdout that is not UTF-8, as JSON is."""
    return re.sub(r"[^\x00-\x7f]", lambda character: json.dumps(character[0])[1:-1], line)


def _csv(predictions: Iterable[dict], model: SavedModel, top_k: int | None, evidence: bool) -> Iterator[str]:
    """One line for each document and listed label: the shape that data frames filter well."""
    heads = ["id", "label", "probability", "predicted", "confidence", "tokens", "truncated"]
    yield csv_line([*heads, *(["evidence"] * evidence), "error"])
    for prediction in predictions:
        id = prediction["id"]
        if "error" in prediction:
            yield csv_line([id, *[""] * (len(heads) - 1 + evidence), prediction["error"]])
            continue
        about = [prediction["confidence"], prediction["tokens"], prediction["truncated"]]
        for label, share in _ranked(prediction, model, top_k):
            passages = describe_passages(prediction.get("evidence", {}).get(label, []))
            given = label in prediction["labels"]
            yield csv_line([id, label, share, given, *about, *([passages] * evidence), ""])


def _wide_csv(predictions: Iterable[dict], model: SavedModel, top_k: int | None, evidence: bool) -> Iterator[str]:
    return wide_csv(_listed(predictions, model, top_k), model, evidence)


def _workbook(predictions: Iterable[dict], model: SavedModel, top_k: int | None, evidence: bool) -> Iterator[bytes]:
    yield workbook(_listed(predictions, model, top_k), model, evidence)


def _listed(
    predictions: Iterable[dict], model: SavedModel, top_k: int | None
) -> Iterator[tuple[dict, set[str] | None]]:
    """Predictions, and which labels of each are listed; None: all."""
    for prediction in predictions:
        some = top_k is not None and "error" not in prediction
        yield prediction, {label for label, _ in _ranked(prediction, model, top_k)} if some else None


def _table(predictions: Iterable[dict], model: SavedModel, top_k: int | None, evidence: bool) -> Iterator[str]:
    """Aligned columns: the labels given, their probabilities and, where there are any, the thresholds that these have
    reached; with --top-k the most probable too, and those given are marked."""
    thresholds = {} if model.thresholds is None else dict(zip(model.labels, model.thresholds, strict=True))
    rows = [("document", "labels", "tokens")]
    below: list[list[str]] = [[]]
    for prediction in predictions:
        if "error" in prediction:
            rows.append((_one_line(prediction["id"]), "not read", ""))
            below.append([f"    {_one_line(prediction['error'])}\n"])
            continue
        ranked = _ranked(prediction, model, top_k)
        if top_k is None:
            ranked = [(label, share) for label, share in ranked if label in prediction["labels"]]
        marks = [
            f"{label} {share:.3f}{'' if top_k is None or label not in prediction['labels'] else '*'}"
            + (f" (from {thresholds[label]:.3f})" if label in thresholds else "")
            for label, share in ranked
        ]
        tokens = f"{prediction['tokens']:,}{' (cut)' if prediction['truncated'] else ''}"
        rows.append((_one_line(prediction["id"]), _one_line(", ".join(marks) or "none"), tokens))
        below.append([
            f"    {_one_line(label)} {-passage['drop']:+.3f} without {passage['start']:,} to {passage['end']:,}"
            f"{'' if passage['drop'] >= LEAST_DROP else ' (no passage alone)'}: "
            f"{_one_line(textwrap.shorten(passage['text'], 100))}\n"
            for label, passages in prediction.get("evidence", {}).items()
            for passage in passages
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row, lines in zip(rows, below, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        yield from lines


def _one_line(text: str) -> str:
    """Without line breaks, and without characters that a terminal obeys instead of showing them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", " ".join(text.split()))


FORMATS: dict[str, Callable[[Iterable[dict], SavedModel, int | None, bool], Iterator[str] | Iterator[bytes]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "wide-csv": _wide_csv,
    "xlsx": _workbook,
    "table": _table,
}

ENDINGS = {".jsonl": "jsonl", ".csv": "csv", ".xlsx": "xlsx"}  # of a file to write, and the format that they promise
OTHER_ENDINGS = (".json", ".ods", ".parquet", ".tsv", ".xls")  # that promise what is not written


def format_for(output: str | None, asked: str | None) -> str:
    """The format that was asked for or, without, the one that the file's name promises.

    Raises:
        ValueError: the name promises another one.
    """
    ending = "" if output is None else Path(output).suffix.lower()
    promised = ENDINGS.get(ending)
    if ending in OTHER_ENDINGS:
        raise ValueError(f"--output is {output}; expected a name that ends in {', '.join(ENDINGS)}")
    if asked is not None and promised not in (None, asked.removeprefix("wide-")):
        raise ValueError(f"--output is {output}; expected a name that suits --format {asked}")
    if asked == "xlsx" and output is None:
        raise ValueError("--format is xlsx, which is no text to print; expected an --output as well, such as out.xlsx")
    return asked or promised or "jsonl"
