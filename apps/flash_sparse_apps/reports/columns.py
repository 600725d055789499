"""Tables of the reports over many runs: columns that say what they show of a row, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from flash_sparse_apps.reports.page import table

Columns = Sequence[tuple[str, Callable[[dict], str]]]  # heads, and what each column shows of a row


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        heads: of the columns.
        rows: a cell for each head.
        words: which columns are no numbers, from 0; -1 is the last.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: tuple[int, ...] = (0, 1)

    @classmethod
    def of(cls, columns: Columns, rows: Sequence[dict], words: tuple[int, ...] = (0, 1)) -> Table:
        return cls([head for head, _ in columns], [[show(row) for _, show in columns] for row in rows], words)

    def html(self) -> str:
        kinds = ["n"] * len(self.heads)
        for column in self.words:
            kinds[column] = ""
        rows = [[escape(cell) for cell in row] for row in self.rows]
        return table([escape(head) for head in self.heads], rows, kinds)

    def markdown(self) -> str:
        lines = (self.heads, ["---"] * len(self.heads), *self.rows)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def or_none(show: Callable[[Any], str], value: Any) -> str:
    """Nothing where nothing was measured."""
    return "" if value is None else show(value)
