"""Does reading more of a document pay, and what does it cost? One table over sequence lengths, from one command.

    python apps/sweep.py --seq-lens 512 2048 16384 --output runs/sweep
    python apps/sweep.py --dataset my.jsonl --seq-lens 512 4096 --kinds sparse chunked --seeds 0 1 2 --output runs/mine
    python apps/sweep.py --dataset my.jsonl --seq-lens 4096 --kinds sparse --folds 5 --output runs/folds
    python apps/sweep.py --suite lra --root data --output runs/lra
    python apps/sweep.py --dataset my.jsonl --seq-lens 512 4096 --output runs/mine --ray auto

Every cell, a length, a kind of attention and a seed, is a run of `classify.py` in a process of its own,
in a folder of its own; all flags of `classify.py` go through to it. The same command again goes on with what is not
finished. The table, in HTML, Markdown, CSV, JSON and PNG, is written anew after each cell.

With `--ray` each cell is a task of a Ray cluster, the longest first. A cell whose machine dies is taken up by another,
from its checkpoint.

With `--folds` each cell is a run for each fold, whole as `classify.py` does it, the linear model's vote included: every
document is tested once, by a model that was not trained on it.

With `--suite lra` the cells are the tasks of Long Range Arena instead of lengths, dense and block-sparse, as the
recipes in configs/lra have them, and the table stands beside published results. Tasks that need official files are run
where those are below `--root`; the others are generated.

Exit codes: 0 done, 1 some cells failed, 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flash_sparse_apps.console import ended_by_sigterm, outlive_readers, plain_interrupt, print_anything, spoken
from flash_sparse_apps.files import room_to_write
from flash_sparse_datasets.shared.exit_codes import UserError, ending, stop

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flash_sparse_apps.lra.suite import Suite
    from flash_sparse_apps.sweeping.cells import Cell

OWN = (
    "seq_len",
    "sparse",
    "chunked",
    "seed",
    "fold",
    "resume",
    "linear_baseline",
    "blend",
    "compare",
    "compare_peers",
)  # what sweeping decides
RECIPE = ("seq_lens", "dataset", "dataset_options")  # what a suite's recipes decide


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        from flash_sparse_apps.command_line import read_arguments
    print_anything()
    outlive_readers()
    parser = _make_parser()
    try:
        options, typed, files = read_arguments(parser, arguments)
        _check(options, typed)
        folder = Path(options.output or f"runs/sweep-{datetime.now():%Y%m%d-%H%M%S}")
        cells, write = _plan(options, typed, files, folder)
    except ValueError as error:
        parser.error(str(error))
    return _run(cells, write, folder, options, f"{spoken('sweep')} {shlex.join(arguments)}")


def _make_parser() -> ArgumentParser:
    from flash_sparse_apps.command_line import make_parser
    from flash_sparse_apps.lra.tasks import NAMES, SCALES

    parser = make_parser("sweep", "Train and test over sequence lengths, dense and sparse, and compare.")
    group = parser.add_argument_group(
        "sweep",
        "Each cell of the table is a run of its own, and --max-time is for each. --seq-lens, --kinds and --seeds take "
        "the place of --seq-len, --sparse, --chunked and --seed. The same command again, with the same --output and "
        "without --resume, goes on where it stopped.",
    )
    group.add_argument("--seq-lens", type=int, nargs="+", default=[512, 2048, 8192], help="tokens that the models read")
    group.add_argument(
        "--kinds",
        type=Literal["dense", "sparse", "chunked"],
        nargs="+",
        default=["dense", "sparse"],
        help="kinds of attention; chunked is dense within windows of --chunk-tokens",
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, a run for each; results are over all")
    group.add_argument(
        "--parallel", type=int | None, default=None, help="cells at a time; null is the number of GPUs, or one"
    )
    group.add_argument(
        "--ray",
        type=str | None,
        default=None,
        help="address of a Ray cluster on which cells run, such as auto, or local for one of this machine; null: this "
        "machine, without Ray",
    )
    group = parser.add_argument_group("suite")
    group.add_argument(
        "--suite",
        type=Literal["lra"] | None,
        default=None,
        help="lra: the tasks of Long Range Arena in place of --seq-lens and --dataset",
    )
    group.add_argument("--tasks", type=Literal[NAMES], nargs="+", default=list(NAMES), help="tasks of the suite to run")
    group.add_argument(
        "--scale",
        type=Literal[tuple(SCALES)],
        default="paper",
        help="which recipes: paper has the published sizes, 1gpu those for one GPU where there are any, cpu small "
        "ListOps and Pathfinder",
    )
    group.add_argument(
        "--recipes",
        type=str | None,
        default=None,
        help="folder of the recipes; null takes configs/lra of the repository",
    )
    return parser


def _check(options: Namespace, typed: dict):
    """Raise ValueError for flags that a sweep does not take."""
    for name in OWN:
        if name in typed and not (options.folds is not None and name in ("linear_baseline", "blend")):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is for classify.py; expected --seq-lens, --kinds and --seeds in its place")
    if options.parallel is not None and options.parallel < 1:
        raise ValueError(f"--parallel is {options.parallel}; expected at least 1")
    if options.ray is not None and options.parallel is not None:
        raise ValueError(
            f"--parallel is {options.parallel}; it cannot be used with --ray, where the cluster decides it"
        )
    if options.ray is not None and options.num_nodes > 1:
        raise ValueError(f"--num-nodes is {options.num_nodes}; expected 1 with --ray, where a cell is on one machine")
    if options.suite is not None and options.folds is not None:
        raise ValueError(f"--folds is {options.folds}; it cannot be used with --suite, whose tasks have their tests")
    if options.suite is None:
        for name in ("tasks", "scale", "recipes"):
            if name in typed:
                raise ValueError(f"--{name} is given; it needs --suite")


def _plan(options: Namespace, typed: dict, files: list[str], folder: Path) -> tuple[list[Cell], Callable[[str], None]]:
    """The cells, and what writes the table of those that are finished."""
    with plain_interrupt():
        from flash_sparse_apps.command_line import check_typed
        from flash_sparse_apps.lra.suite_report import write_suite
        from flash_sparse_apps.sweeping.sweep_report import write_table

    if options.suite is None:
        cells = make_cells(options, folder)
        write = functools.partial(write_table, cells, folder)
    else:
        suite = plan_suite(options, typed, files, folder)
        cells = suite.cells
        write = functools.partial(write_suite, suite, folder, options.scale)
    check_typed(typed, [cell.settings for cell in cells], "--kinds chunked")
    return cells, write


def _run(cells: list[Cell], write: Callable[[str], None], folder: Path, options: Namespace, command: str) -> int:
    """Run what is not finished and show the table; the exit code."""
    from flash_sparse_apps.sweeping.cells import check_folder, run_cells
    from flash_sparse_apps.sweeping.on_ray import run_on_ray

    try:
        with ended_by_sigterm():
            check_folder(folder, cells)
            if options.ray is None:
                failed = run_cells(cells, options.parallel, lambda: write(command))
            else:
                failed = run_on_ray(cells, options.ray, lambda: write(command))
    except ValueError as error:  # the folder holds something else, or damaged cells
        raise UserError(str(error)) from error
    except (KeyboardInterrupt, SystemExit, OSError) as error:
        stopped = stop(error)
        if stopped is None:
            raise
        if options.output is None:  # a folder named by the time of day
            command += f" --output {shlex.quote(str(folder))}"
        room = room_to_write(error, {"--output": folder})
        if stopped.code != 2 or room:
            stopped.line += f"{room}; to continue: {command}"
        raise stopped from error
    if (folder / "sweep.md").is_file():
        print((folder / "sweep.md").read_text(encoding="utf-8"))
        print(f"report: {folder / 'report.html'}")
    if failed:
        print(f"error: {len(failed)} of {len(cells)} cells failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def plan_suite(options: Namespace, typed: dict, files: list[str], folder: Path) -> Suite:
    """The cells of a suite, from its recipes and what was typed over them; says which tasks are not run and why."""
    from flash_sparse_apps.lra import suite as lra_suite
    from flash_sparse_apps.lra.tasks import RECIPES
    from flash_sparse_apps.settings import Settings

    _check_once(options, "tasks", "kinds", "seeds")
    if files:
        raise ValueError(f"--config is {files[0]}; expected --recipes in its place, with --suite")
    for name in RECIPE:
        if name in typed:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} cannot be given with --suite, whose recipes decide it; --recipes takes others")
    if "chunked" in options.kinds:
        raise ValueError("--kinds has chunked; expected dense or sparse with --suite")
    settings = {field.name for field in dataclasses.fields(Settings)} - {"root", "output"}
    suite = lra_suite.plan(
        folder,
        tasks=options.tasks,
        scale=options.scale,
        recipes=RECIPES if options.recipes is None else Path(options.recipes),
        kinds=options.kinds,
        seeds=options.seeds,
        root=options.root,
        overrides={name: options[name] for name in typed if name in settings},
    )
    if options.root is not None and not Path(options.root).expanduser().is_dir():
        print(
            f"--root is {options.root}, no folder: tasks that can be generated are, and no others are run", flush=True
        )
    for task, why in suite.missing.items():
        print(f"{task} is not run: {why}", flush=True)
    if not suite.cells:
        raise ValueError(f"none of the tasks {', '.join(options.tasks)} can be run; the lines above say why")
    return suite


def _check_once(options: Namespace, *names: str):
    for name in names:
        if len(set(options[name])) < len(options[name]):
            given = " ".join(map(str, options[name]))
            raise ValueError(f"--{name.replace('_', '-')} is {given}; expected each only once")


def make_cells(options: Namespace, folder: Path) -> list[Cell]:
    """One cell for each length, kind, seed and fold; the first seed's come first, so that a whole table is there early.

    The linear baseline and the timings do not depend on the seed: the first seed's cells have them. The timings are for
    one fold.
    """
    from flash_sparse_apps.settings import Settings
    from flash_sparse_apps.sweeping.cells import Cell

    _check_once(options, "seq_lens", "kinds", "seeds")
    given = {field.name: options[field.name] for field in dataclasses.fields(Settings)}
    folds = [None] if options.folds is None else range(1, options.folds + 1)
    cells = []
    for seed, fold, length, kind in itertools.product(options.seeds, folds, sorted(options.seq_lens), options.kinds):
        name = f"{length}-{kind}-{seed}" + ("" if fold is None else f"-fold{fold}")
        first = seed == options.seeds[0]
        own = {
            "seq_len": length,
            "sparse": kind == "sparse",
            "chunked": kind == "chunked",
            "seed": seed,
            "fold": fold,
            "compare": first and fold in (None, 1),
            "compare_peers": first and fold in (None, 1),
            "output": str(folder / "cells" / name),
        }
        if fold is None:
            own["linear_baseline"] = first and kind == options.kinds[0]
            own["blend"] = False  # encoders are compared
        cells.append(Cell(name, length, kind, seed, Settings(**given | own), fold))
    return cells
