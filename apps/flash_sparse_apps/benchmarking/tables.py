"""Rows as text: aligned for a terminal, or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(title: str, rows: Sequence[dict]) -> str:
    """A column for each key of any row."""
    lines = _cells(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([f"\n{title}", *aligned])


def markdown_table(title: str, rows: Sequence[dict]) -> str:
    heads, *lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in _cells(rows))
    return "\n".join([f"## {title}", "", heads, "|---" * len(_cells(rows)[0]) + "|", *lines, ""])


def _cells(rows: Sequence[dict]) -> list[list[str]]:
    heads = list(dict.fromkeys(name for row in rows for name in row))
    return [heads, *([_cell(row.get(head)) for head in heads] for row in rows)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return str(value)
