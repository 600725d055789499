"""The benchmark of a CPU: forward, backward and both, dense, block-sparse and of short sequences."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from jsonargparse import Namespace
from tqdm import tqdm

from flash_sparse.layout import count_blocks
from flash_sparse_apps.benchmarking.contests import DEVICE, compete, dense_and_sparse, packed
from flash_sparse_apps.benchmarking.footprint import footprint
from flash_sparse_apps.benchmarking.plots import draw_cpu
from flash_sparse_apps.benchmarking.problem import PRODUCTS, Case, Problem
from flash_sparse_apps.benchmarking.tables import markdown_table, text_table
from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.settings import parse_share
from flash_sparse_datasets.shared.exit_codes import UserError

PACKS = ((50, 20, 80, 4, 32), (64, 130, 198, 4, 16))  # sequences, of at least, of at most tokens, heads, head_dim
COMPILERS = ("numba", "llvmlite")
EXPLANATION = """\
Milliseconds are medians; all contenders of a length were measured in turn. `times SDPA` is how many times faster than
`scaled_dot_product_attention`, which is dense, and of short sequences padded to the longest. `slow-down` is beside as
many spinning processes as the row says. Each row that is `ok` was first compared with the textbook formula in float64,
on a sample of its rows, and in full with whoever computes the same.
"""


def main(options: Namespace, command: Sequence[str]) -> int:
    """Exit code 0; 1 if a contender computed something wrong. UserError for a wrong argument."""
    threads_before = torch.get_num_threads()
    try:
        benchmark = Benchmark(options)
        folder = None if options.output is None else Path(options.output)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # now, not after minutes, if it cannot be
        machine = describe_machine(DEVICE)
        machine |= {
            "instruction set": torch.backends.cpu.get_cpu_capability(),
            "capabilities": dict(torch.cpu.get_capabilities()),
        }
        print(f"{machine['processor']}, {machine['instruction set']}, {machine['cores']} cores\n\n{EXPLANATION}")
        rows = benchmark.run()
        if folder is not None:
            results = {
                "command": list(command),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "machine": machine,
                "versions": describe_versions() | {name: importlib.metadata.version(name) for name in COMPILERS},
                "options": vars(options),
                **rows,
            }
            write_atomically(folder / "benchmark.json", to_json(results))
            tables = [markdown_table(title, lines) for title, lines in benchmark.tables.items()]
            write_atomically(folder / "benchmark.md", "\n".join([EXPLANATION, *tables]).encode())
            if (png := draw_cpu(rows["attention"])) is not None:
                write_atomically(folder / "times_faster_over_length.png", png)
    except ValueError as error:
        raise UserError(str(error)) from error
    finally:
        torch.set_num_threads(threads_before)
    wrong = [row for row in (*rows["attention"], *rows["packs"]) if row["status"] == "wrong"]
    for row in wrong:
        where = f"{row['length']} tokens, head_dim {row['head_dim']}, {_count(row['threads'], 'thread')}"
        print(f"wrong: {row['contender']}, {where}: {row['reason']}", file=sys.stderr)
    return int(bool(wrong))


class Benchmark:
    """Measures what the options ask for, and prints a table as soon as it has one.

    Attributes:
        tables: what was printed: title to lines.
    """

    def __init__(self, options):
        self.options, self.tables = options, {}
        self.threads = options.threads or sorted({1, torch.get_num_threads()})
        for name in ("heads", "head_dims", "lengths", "threads", "repeats"):
            values = self.threads if name == "threads" else options[name]
            least = min(values) if isinstance(values, list) else values
            if least < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {least}; expected at least 1")
        if max(options.head_dims) > 256:
            raise ValueError(f"--head-dims is {max(options.head_dims)}; expected at most 256")
        count_blocks(max(options.lengths), options.block_size)
        self.densities = [parse_share("--densities", text) for text in options.densities]
        cores = describe_machine(DEVICE)["cores"]
        self.spinning_counts = (0, cores) if options.busy else (0,)

    def run(self) -> dict[str, list[dict]]:
        """The rows of each section, as they go to JSON."""
        return {"attention": self.attention(), "packs": self.packs(), "footprint": self.footprint()}

    def problem(self, length: int, head_dim: int) -> Problem:
        options = self.options
        return Problem(1, options.heads, length, head_dim, options.dtype, block_size=options.block_size)

    def attention(self) -> list[dict]:
        """Dense and block-sparse, a table for each head dimension and number of threads."""
        options, rows = self.options, []
        settings = list(itertools.product(options.head_dims, self.threads))
        with tqdm(total=len(settings) * len(options.lengths), desc="attention", leave=False, disable=None) as progress:
            for head_dim, threads in settings:
                torch.set_num_threads(threads)
                own = []
                for length in options.lengths:
                    densities = [density for density in self.densities if density * length >= options.block_size]
                    contests = dense_and_sparse(
                        self.problem(length, head_dim), densities, with_dense=length <= options.longest_dense
                    )
                    own += compete(contests, options.repeats, self.spinning_counts)
                    progress.update()
                title = f"{_count(options.heads, 'head')} of {head_dim}, {options.dtype}, {_count(threads, 'thread')}"
                self.show(title, [_line(row) for row in own])
                rows += own
        return rows

    def packs(self) -> list[dict]:
        """Short sequences end to end."""
        rows = []
        for sequences, least, most, heads, head_dim in PACKS:
            draw = torch.Generator().manual_seed(0)
            lengths = torch.randint(least, most + 1, (sequences,), generator=draw).tolist()
            problem = Problem(
                1, heads, sum(lengths), head_dim, self.options.dtype, mask="packed", document_length=(least + most) // 2
            )
            case = Case(problem, DEVICE).cut_at(lengths)
            for threads in self.threads:
                torch.set_num_threads(threads)
                own = compete(packed(case), self.options.repeats, self.spinning_counts)
                title = (
                    f"{sequences} sequences of {least} to {most} tokens, {heads} heads of {head_dim}, "
                    f"{self.options.dtype}, {_count(threads, 'thread')}"
                )
                self.show(title, [_line(row) for row in own])
                rows += own
        return rows

    def footprint(self) -> list[dict]:
        """Memory and the time to make layouts, at the largest head dimension and the lowest density."""
        options, rows = self.options, []
        torch.set_num_threads(max(self.threads))
        for length in tqdm(options.lengths, desc="footprint", leave=False, disable=None):
            problem = self.problem(length, max(options.head_dims)).with_random_blocks(min(self.densities))
            rows.append(footprint(problem, options.repeats, options.longest_dense))
        self.show("peak memory of forward and backward beside inputs, and the time to make layouts", rows)
        return rows

    def show(self, title: str, lines: list[dict]):
        self.tables[title] = lines
        tqdm.write(text_table(title, lines))


def _line(row: dict) -> dict:
    """The row as a table has it."""
    line = {"tokens": row["length"], "contender": row["contender"], "density": row["density"]}
    if row["status"] != "timed":
        return line | {"result": f"{row['status']}: {row['reason']}"}
    if row["spinning"]:
        line["spinning"] = row["spinning"]
    for figure, title in (("ms", "ms"), ("times SDPA", "times SDPA"), ("slow-down", "slow-down")):
        line |= {f"{what} {title}": row[what][figure] for what in PRODUCTS if figure in row.get(what, {})}
    return line | {"result": "ok" if "backward" in row else "ok; has no backward on CPUs"}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
