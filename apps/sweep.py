"""Does reading more of a document pay, and what does it cost? One table over sequence lengths, from one command.

    python apps/sweep.py --seq-lens 512 2048 16384 --output runs/sweep
    python apps/sweep.py --dataset my.jsonl --seq-lens 512 4096 --kinds sparse chunked --seeds 0 1 2 --output runs/mine

Every cell, a length, a kind of attention and a seed, is a run of `classify.py` in a process of its own,
in a folder of its own; all flags of `classify.py` go through to it. The same command again goes on with what is not
finished. The table, in HTML, Markdown, CSV, JSON and PNG, is written anew after each cell.

Exit codes: 0 done, 1 some cells failed, 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flash_sparse_apps.console import interruptible, plain_interrupt, print_anything

OWN = (
    "seq_len",
    "sparse",
    "chunked",
    "seed",
    "resume",
    "linear_baseline",
    "compare",
    "compare_peers",
)  # what sweeping decides


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        from flash_sparse_apps.settings import check_typed, make_parser, read_arguments
        from flash_sparse_apps.sweep_cells import check_folder, run_cells
        from flash_sparse_apps.sweep_report import write_table

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    print_anything()
    parser = make_parser("sweep.py", "Train and test over sequence lengths, dense and sparse, and compare.")
    group = parser.add_argument_group("sweep")
    group.add_argument("--seq-lens", type=int, nargs="+", default=[512, 2048, 8192], help="tokens that the models read")
    group.add_argument(
        "--kinds",
        type=str,
        nargs="+",
        choices=["dense", "sparse", "chunked"],
        default=["dense", "sparse"],
        help="attention; chunked is dense within windows of --chunk-tokens",
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds; results are over all of them")
    group.add_argument(
        "--parallel", type=int | None, default=None, help="cells at a time; null is the number of GPUs, or one"
    )
    try:
        options, typed, _ = read_arguments(parser, arguments)
        for name in OWN:
            if name in typed:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is for classify.py; expected --seq-lens, --kinds and --seeds in its place")
        if options.parallel is not None and options.parallel < 1:
            raise ValueError(f"--parallel is {options.parallel}; expected at least 1")
        folder = Path(options.output or f"runs/sweep-{datetime.now():%Y%m%d-%H%M%S}")
        cells = make_cells(options, folder)
        check_typed(typed, [cell.settings for cell in cells], "--kinds chunked")
    except ValueError as error:
        parser.error(str(error))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = shlex.join(["python", "apps/sweep.py", *arguments])
    try:
        check_folder(folder, cells)
        failed = run_cells(cells, options.parallel, lambda: write_table(cells, folder, command))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if options.output is None:  # a folder named by the time of day
            command += f" --output {shlex.quote(str(folder))}"
        print(f"interrupted; to continue: {command}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if (folder / "sweep.md").is_file():
        print((folder / "sweep.md").read_text(encoding="utf-8"))
        print(f"report: {folder / 'report.html'}")
    if failed:
        print(f"error: {len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def make_cells(options, folder: Path) -> list:
    """One cell for each length, kind and seed; those of the first seed first, so that a whole table is there early.

    The linear baseline and the timings do not depend on the seed: the first seed's cells have them.
    """
    from flash_sparse_apps.settings import Settings
    from flash_sparse_apps.sweep_cells import Cell

    for name in ("seq_lens", "kinds", "seeds"):
        if len(set(options[name])) < len(options[name]):
            given = " ".join(map(str, options[name]))
            raise ValueError(f"--{name.replace('_', '-')} is {given}; expected each only once")
    given = {field.name: options[field.name] for field in dataclasses.fields(Settings)}
    cells = []
    for seed in options.seeds:
        for length in sorted(options.seq_lens):
            for kind in options.kinds:
                name = f"{length}-{kind}-{seed}"
                first = seed == options.seeds[0]
                own = {
                    "seq_len": length,
                    "sparse": kind == "sparse",
                    "chunked": kind == "chunked",
                    "seed": seed,
                    "linear_baseline": first and kind == options.kinds[0],
                    "compare": first,
                    "compare_peers": first,
                    "output": str(folder / "cells" / name),
                }
                cells.append(Cell(name, length, kind, seed, Settings(**given | own)))
    return cells


if __name__ == "__main__":
    sys.exit(main())
