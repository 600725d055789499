"""The benchmark of a GPU: cell after cell, as far as the time goes; another call goes on with the rest."""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from jsonargparse import Namespace
from tqdm import tqdm

from flash_sparse.layout import count_blocks
from flash_sparse_apps.benchmarking.cell import BrokenDeviceError, GridCell
from flash_sparse_apps.benchmarking.grid import Sizes, make_cells
from flash_sparse_apps.benchmarking.plots import draw
from flash_sparse_apps.benchmarking.records import Records
from flash_sparse_apps.benchmarking.stopwatch import GpuClock, WallClock
from flash_sparse_apps.benchmarking.summary import summarize
from flash_sparse_apps.benchmarking.tables import markdown_table, text_table
from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.settings import parse_share
from flash_sparse_datasets.shared.exit_codes import UserError

TIME_IS_UP, GPU_BROKE_DOWN = "the time is up", "the GPU refuses all further work of this process"
EXPLANATION = """# Attention on a GPU

Milliseconds are medians; `forward` and `backward` are parts of the same runs, `both` their sum. TFLOP/s count the
matrix products of the pairs that the mask allows (of a block pattern: the pairs in its blocks) and no others, so who
computes more gains nothing. `MiB` is the peak of forward and backward beside inputs and mask; `mask MiB` and `mask ms`
are what making a layout or mask takes. `over flash_sparse` and `over our dense` divide forward plus backward by that of
`flash_sparse` on the same problem, and on the dense one. Each row that is `ok` was first compared, on a sample of its
rows, with the textbook formula in float64.
"""


def main(options: Namespace, command: Sequence[str], clock: WallClock | None = None) -> int:
    """Exit code 0; 1 if a contender computed something wrong or the GPU broke down. UserError for a wrong argument."""
    began = time.monotonic()
    try:
        sizes = _sizes(options)
        cells = make_cells(sizes, options.contenders)
        if clock is None and not torch.cuda.is_available():
            raise ValueError("--device is cuda, but PyTorch finds no CUDA GPU here")
        clock = clock or GpuClock()
        folder = None if options.output is None else Path(options.output)
        deadline = math.inf if options.max_time is None else began + 60 * options.max_time
        machine = describe_machine(clock.device)
        call = {
            "command": list(command),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine,
            "options": vars(options),
        }
        setting = {"gpu": machine.get("GPU"), "versions": describe_versions()}
        records = Records(folder, call, setting)
        stopped = run(cells, records, clock, deadline)
        tables = summarize(records.rows)
        if folder is not None:
            text = "\n".join([EXPLANATION, *(markdown_table(title, rows) for title, rows in tables.items())])
            write_atomically(folder / "benchmark.md", text.encode())
            for name, png in draw(records.rows).items():
                write_atomically(folder / name, png)
    except ValueError as error:
        raise UserError(str(error)) from error
    if folder is None:
        print(*(text_table(title, rows) for title, rows in tables.items()), sep="\n")
    return _conclude(cells, records, stopped)


def _sizes(options) -> Sizes:
    for name in ("length", "lengths", "head_dims", "width", "tokens"):
        values = options[name] if isinstance(options[name], list) else [options[name]]
        if min(values) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {min(values)}; expected at least 1")
    count_blocks(options.length, options.block_size)
    return Sizes(
        length=options.length,
        lengths=tuple(options.lengths),
        head_dims=tuple(options.head_dims),
        width=options.width,
        tokens=options.tokens,
        densities=tuple(parse_share("--densities", text) for text in options.densities),
        block_size=options.block_size,
        dtype=options.dtype,
    )


def run(cells: Sequence[GridCell], records: Records, clock: WallClock, deadline: float) -> str | None:
    """Measure the cells that the records lack. Returns why it stopped before the end, or None.

    No cell is begun that would end after the deadline (of `time.monotonic`) if it took as long as the longest so far.
    """
    longest = 0.0
    known = records.keys
    missing = [cell for cell in cells if cell.key not in known]
    for cell in tqdm(missing, desc="cells", leave=False, disable=None):
        if time.monotonic() + longest > deadline:
            return TIME_IS_UP
        began, row, stopped = time.monotonic(), None, None
        records.begin(cell.row())
        try:
            row = cell.measure(clock)
        except BrokenDeviceError as error:
            (row,), stopped = error.args, GPU_BROKE_DOWN
        finally:
            records.end(row)
        figures = f"{row['both']['ms']:.3f} ms" if row["status"] == "timed" else f"{row['status']}: {row['reason']}"
        tqdm.write(f"{cell.key}: {figures}")
        if stopped:
            return stopped
        longest = max(longest, time.monotonic() - began)
    return None


def _conclude(cells: Sequence[GridCell], records: Records, stopped: str | None) -> int:
    counts = collections.Counter(row["status"] for row in records.rows)
    missing = len({cell.key for cell in cells} - records.keys)
    print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()) + f", {missing} to go")
    if stopped:
        print(f"{stopped}; the same command goes on from here, if it has --output")
    for row in records.rows:
        if row["status"] == "wrong":
            print(f"wrong: {row['key']}: {row['reason']}", file=sys.stderr)
    return int(counts["wrong"] > 0 or stopped == GPU_BROKE_DOWN)
