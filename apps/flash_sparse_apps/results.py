"""Keep what finished runs and sweeps measured, and write one page of tables and plots from all that is kept.

    python apps/results.py runs/listops runs/ecthr-sweep      # keeps both in results/, and writes results/README.md
    python apps/results.py runs/pathx/last --name pathx       # under another name
    python apps/results.py                                    # writes results/README.md anew

A run leaves its metrics.json without its curves, a sweep its table and the metrics.json of each cell. What is kept is
small, names no paths of the machine, and can go into the repository. The page has the tables of the FlashAttention
paper, published rows marked as such, with what is measured here beside them.

Exit codes: 0 done, 2 something the user can mend (one line on stderr), 130 after Ctrl-C.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from flash_sparse_apps.console import plain_interrupt, print_anything, spoken
from flash_sparse_datasets.shared.exit_codes import UserError, ending
from flash_sparse_datasets.shared.one_line_parser import OneLineParser


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        from flash_sparse_apps.collecting.kept import keep
        from flash_sparse_apps.collecting.page import write_page
    print_anything()
    parser = _make_parser()
    options = parser.parse_args(list(arguments))
    if options.name is not None and len(options.runs) != 1:
        parser.error(f"--name is {options.name}, with {len(options.runs)} runs; expected one run to name")
    folder = Path(options.output)
    try:
        for run in map(Path, options.runs):
            place = folder / (options.name or run.resolve().name)
            keep(run, place)
            print(f"kept: {place}")
        write_page(folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"written: {folder / 'README.md'}")
    return 0


def _make_parser() -> ArgumentParser:
    parser = OneLineParser(
        prog=spoken("results"),
        description="Keep what finished runs and sweeps measured, and write one page of tables from all that is kept.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="folder of a finished run, or of a sweep; without one, only the page is written anew",
    )
    parser.add_argument("--name", help="name under which a single run is kept (default: its folder's name)")
    parser.add_argument("--output", default="results", help="folder of what is kept (default: results)")
    return parser
