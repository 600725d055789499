"""Predictions for spreadsheets: a row for each document, a column for each label; as CSV and as an Excel workbook.

Text stays text: a spreadsheet must neither compute nor refuse what stands in a document.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.evidence import LEAST_DROP

BOM = "\ufeff"  # tells Excel that a CSV file is UTF-8
MOST_CHARACTERS = 32_767  # of a cell in Excel, in UTF-16
MOST_ROWS, MOST_COLUMNS = 1_048_576, 16_384  # of a sheet in Excel

_COMPUTED = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # how formulas begin, in East Asia too
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def guarded(text: str) -> str:
    """With an apostrophe before what a spreadsheet would compute when it opens a CSV file; numbers stay as they are.

    NUL, at which some readers of CSV stop, becomes U+FFFD.
    """
    text = text.replace("\0", "\ufffd")
    return f"'{text}" if text.startswith(_COMPUTED) and not _NUMBER.fullmatch(text) else text


def csv_line(values: Sequence[Any]) -> str:
    """One line of CSV, its texts guarded."""
    line = io.StringIO()
    csv.writer(line).writerow([guarded(value) if isinstance(value, str) else value for value in values])
    return line.getvalue()


def describe_passages(passages: Sequence[dict]) -> str:
    """Passages of one label for people: how far its probability falls without each, and its words."""
    shown = []
    for passage in passages:
        change = f"{abs(passage['drop']):.2f} {'less' if passage['drop'] >= 0 else 'more'} without"
        alone = "" if passage["drop"] >= LEAST_DROP else ", none alone"
        shown.append(f"[{change}{alone}] {' '.join(passage['text'].split())}")
    return " | ".join(shown)


def _heads(model: SavedModel, evidence: bool) -> list[str]:
    return ["id", "labels", "confidence", *model.labels, "tokens", "cut", *(["evidence"] * evidence), "error"]


def _row(prediction: dict, model: SavedModel, listed: set[str] | None, evidence: bool) -> list[Any]:
    """The cells of one document, None where nothing stands; of its labels, those listed have a probability."""
    if "error" in prediction:
        return [prediction["id"], *[None] * (len(_heads(model, evidence)) - 2), prediction["error"]]
    shares = [
        share if listed is None or label in listed else None
        for label, share in zip(model.labels, prediction["probabilities"], strict=True)
    ]
    passages = prediction.get("evidence", {}).items()
    told = "\n".join(f"{label}: {describe_passages(found)}" for label, found in passages if found)
    return [
        prediction["id"],
        "; ".join(prediction["labels"]),
        prediction["confidence"],
        *shares,
        prediction["tokens"],
        "yes" if prediction["truncated"] else "no",
        *([told] * evidence),
        None,
    ]


def wide_csv(rows: Iterable[tuple[dict, set[str] | None]], model: SavedModel, evidence: bool) -> Iterator[str]:
    """Lines of CSV, the first with a byte-order mark; shares with two decimals.

    Args:
        rows: predictions, and which of the labels have a probability; None: all.
        evidence: whether there is a column for it.
    """
    yield BOM + csv_line(_heads(model, evidence))
    for prediction, listed in rows:
        cells = _row(prediction, model, listed, evidence)
        yield csv_line([f"{cell:.2f}" if isinstance(cell, float) else cell for cell in cells])


def workbook(rows: Iterable[tuple[dict, set[str] | None]], model: SavedModel, evidence: bool) -> bytes:
    """An Excel file; arguments as of `wide_csv`. Labels that are given are in bold.

    Raises:
        ValueError: more labels or documents than a sheet has room for.
        ModuleNotFoundError: the extra [documents] is not installed.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    heads = _heads(model, evidence)
    if len(heads) > MOST_COLUMNS:
        raise ValueError(f"--format is xlsx, whose sheets have no room for {len(model.labels):,} labels; expected csv")
    documents = list(rows)  # before a sheet is begun, which must be ended
    if len(documents) >= MOST_ROWS:
        raise ValueError(f"--format is xlsx, whose sheets have room for {MOST_ROWS - 1:,} documents; expected csv")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")
    sheet.freeze_panes = "B2"
    for column, head in enumerate(heads, 1):
        width = 40 if head in ("id", "labels", "evidence", "error") else min(24, max(10, len(head) + 2))
        sheet.column_dimensions[get_column_letter(column)].width = width

    def cell(value: Any, bold: bool = False) -> Any:
        made = WriteOnlyCell(sheet, _fitting(value) if isinstance(value, str) else value)
        if isinstance(value, str):
            made.data_type = "s"  # openpyxl would make a formula of =, and an error of #N/A
            made.quotePrefix = value.startswith(_COMPUTED)  # it stays a text when somebody edits it
        elif isinstance(value, float):
            made.number_format = "0.00"
        if bold:
            made.font = Font(bold=True)
        return made

    sheet.append([cell(head, bold=True) for head in heads])
    for prediction, listed in documents:
        given = {3 + model.labels.index(label) for label in prediction.get("labels", ())}
        values = _row(prediction, model, listed, evidence)
        sheet.append([cell(value, bold=column in given) for column, value in enumerate(values)])
    sheet.auto_filter.ref = f"A1:{get_column_letter(len(heads))}{len(documents) + 1}"
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


def _fitting(text: str) -> str:
    """What a cell may hold: no characters that XML lacks, and not too many."""
    text = _NOT_IN_XML.sub("\ufffd", text)
    if len(text) * 2 > MOST_CHARACTERS:  # it may be too long: characters beyond the first plane count twice
        cut = text.encode("utf-16-le")[: 2 * (MOST_CHARACTERS - 1)].decode("utf-16-le", errors="ignore")
        text = text if len(text.encode("utf-16-le")) <= 2 * MOST_CHARACTERS else f"{cut}…"
    return text
