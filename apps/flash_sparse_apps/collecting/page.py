"""The page of all results that are kept: README.md, and the plots beside it."""

from __future__ import annotations

from pathlib import Path

from flash_sparse_apps.collecting.arena import FIVE, LONGEST, arena_runs, beside_published, details
from flash_sparse_apps.collecting.documents import (
    LINES,
    by_document_length,
    by_length,
    document_notes,
    document_rows,
    plots,
)
from flash_sparse_apps.collecting.kept import Kept, read_kept
from flash_sparse_apps.collecting.repeating import repeating
from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.metrics import Metrics
from flash_sparse_apps.reports.columns import Columns, Table
from flash_sparse_apps.reports.page import duration

HEAD = """\
# Results

Written by `python apps/results.py` from the `metrics.json` and `sweep.json` files in this folder; do not edit it.

**Ours** is measured here, with 95% intervals from resampled test documents. *Published* rows are other people's
figures, on other machines. They compare with ours where the task is the same; what makes it another one stands beside
each run. A row that says "cut short" ran out of time before its training was over."""
ARENA = """\
Percent of test documents that are given the right label. Of several runs of a task the tables have the one that did
best on validation; all of them stand under [Every run](#every-run)."""
DOCUMENTS = """\
Micro-F1 in percent, by how many tokens of a document are read. Does reading more pay? The next table has the gain over
the next shorter length, resampled in pairs: it is more than chance where its interval leaves out 0.

The paper does not say which labels its rows are of. By their level, those of ECtHR are alleged violations (here
`ecthr-b`), those of MIMIC-III the fifty most frequent codes."""

LONGER = """\
Micro-F1 in percent of whole documents by their own length in tokens, and in brackets how many documents there are; a
model reads as many tokens as its row says."""


def write_page(folder: Path):
    """Write README.md and the plots from everything in the folder.

    Raises:
        ValueError: nothing is kept there, or a file is damaged: one line that names it.
    """
    kept = read_kept(folder)
    if not kept.runs:
        raise ValueError(f"{folder}: no metrics.json in it; expected results that were kept: results.py RUN keeps one")
    arena = arena_runs(kept.runs)
    documents = document_rows(kept)
    parts = [HEAD]
    if arena:
        parts += ["## Long Range Arena", ARENA, beside_published(arena, FIVE).markdown()]
        parts += ["## Path-X and Path-256", beside_published(arena, LONGEST).markdown()]
        parts += ["## Every run", details(arena).markdown()]
    if documents:
        parts += ["## Long documents by length", DOCUMENTS, by_length(documents).markdown()]
        parts += [f"![{name}: micro-F1 over tokens read]({file})" for name, file in plots(documents, folder).items()]
        parts += [Table.of(LINES, documents).markdown()]
        if (longer := by_document_length(documents)) is not None:
            parts += [LONGER, longer.markdown()]
        parts += [f"To know of {name}:\n\n" + "\n".join(f"- {note}" for note in notes)
                  for name, notes in document_notes(kept).items()]  # fmt: skip
    parts += ["## How each was measured", Table.of(MEASURED, _measured(kept)).markdown()]
    write_atomically(folder / "README.md", ("\n\n".join(parts) + "\n").encode(errors="backslashreplace"))


MEASURED: Columns = [
    ("result", lambda row: row["name"]),
    ("command", lambda row: ", then ".join(f"`{command}`" for command in row["commands"])),
    ("date", lambda row: row["finished"][:10]),
    ("training", lambda row: duration(row["seconds"])),
    ("machine", lambda row: row["machine"]),
    ("versions", lambda row: row["versions"]),
]


def _measured(kept: Kept) -> list[dict]:
    """One for each run of its own, and one for each sweep, with the time of all its cells."""
    groups: dict[str, list[Metrics]] = {}
    for name, run in kept.runs.items():
        groups.setdefault(name.rpartition("/")[0] or name, []).append(run)
    return [
        {
            "name": name,
            "commands": repeating(kept.sweeps.get(name, runs[-1])["command"], runs[-1]),
            "finished": max(run["finished"] for run in runs),
            "seconds": sum(run["training"]["seconds"] for run in runs),
            "machine": _machine(runs[-1]),
            "versions": ", ".join(f"{library} {runs[-1]['versions'][library]}" for library in ("python", "torch")),
        }
        for name, runs in groups.items()
    ]


def _machine(run: Metrics) -> str:
    machine = run["machine"]
    threads = machine["torch threads"]
    return machine.get("GPU") or f"{machine['processor']}, {threads} thread{'s' * (threads > 1)}"
