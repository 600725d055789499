"""The benchmark of a CPU.

Ratios are of measurements taken in turn, A B A B, so that they hold when the machine's speed drifts.
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from flash_sparse import BlockLayout, attention, patterns
from flash_sparse_apps.benchmarking.check import WrongResultError, check
from flash_sparse_apps.benchmarking.contenders import Attention, compiled_flex, layout_to_block_mask
from flash_sparse_apps.benchmarking.problem import Case, Problem
from flash_sparse_apps.benchmarking.stopwatch import MEBIBYTE, in_turn, spread
from flash_sparse_apps.benchmarking.tables import text_table
from flash_sparse_apps.command_line import OneLineParser
from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.settings import parse_share

DEVICE = torch.device("cpu")
Contest = tuple[Attention, Case]


def main(arguments: Sequence[str]) -> int:
    parser = OneLineParser(prog="benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=Literal["cpu", "cuda"], default="cpu", help="each has flags of its own")
    parser.add_argument("--heads", type=int, default=4, help="attention heads, batch 1")
    parser.add_argument("--head-dim", type=int, default=64, help="features of a head")
    parser.add_argument("--length", type=int, default=16384, help="tokens where the length is held fixed")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**power for power in range(10, 17)],
                        help="tokens where it varies")  # fmt: skip
    parser.add_argument("--density", type=str, default="1/16", help="share of blocks where it is held fixed")
    parser.add_argument("--densities", type=str, nargs="+", default=["1/2", "1/4", "1/8", "1/16", "1/32"],
                        help="shares of blocks where they vary")  # fmt: skip
    parser.add_argument("--block-size", type=int, default=128, help="tokens along each side of a block")
    parser.add_argument("--longest-dense", type=int, default=16384, help="tokens up to which dense attention is timed")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each cell, after one to warm up")
    parser.add_argument("--output", type=str, default=None, help="folder for benchmark.json; null writes none")
    options = parser.parse_args(arguments)
    try:
        benchmark = Benchmark(options)
        results = benchmark.run()
        if options.output is not None:
            write_atomically(Path(options.output) / "benchmark.json", to_json(results))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


class Benchmark:
    """Measures what the options ask for, and prints a table for each question."""

    def __init__(self, options):
        self.options = options
        for name in ("heads", "head_dim", "length", "block_size", "repeats"):
            if options[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {options[name]}; expected at least 1")
        self.density = parse_share("--density", options.density)
        self.densities = [parse_share("--densities", text) for text in options.densities]

    def run(self) -> dict:
        options = self.options
        print(
            f"{options.heads} heads of {options.head_dim}, batch 1, random layout of {options.block_size}-token blocks"
        )
        results = {
            "command": ["benchmark.py", *sys.argv[1:]],
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": describe_machine(torch.device(options.device)),
            "versions": describe_versions(),
            "options": vars(options),
        }
        sections = ("side_by_side", "by_density", "by_length", "layouts")
        with tqdm(sections, desc="benchmark", leave=False, disable=None) as progress:
            for section in progress:
                progress.set_postfix_str(section)
                rows = getattr(self, section)()
                results[section] = rows
                tqdm.write(text_table(section.replace("_", " "), rows))
        return results

    def layout(self, length: int, density: float) -> BlockLayout:
        return patterns.random(length, self.options.block_size, density=density, heads=self.options.heads)

    def dense(self, length: int, dtype: str = "float32") -> Case:
        return Case(Problem(1, self.options.heads, length, self.options.head_dim, dtype), DEVICE)

    def sparse(self, dense: Case, layout: BlockLayout) -> Contest:
        return functools.partial(attention, layout=layout), dense.seen_through(layout)

    def seconds(self, contests: Iterable[Contest], backward: bool = True) -> list[list[float]]:
        return in_turn([functools.partial(_run, *contest, backward) for contest in contests], self.options.repeats)

    def side_by_side(self) -> list[dict]:
        """One length, one layout: every implementation in turn, forward and forward with backward."""
        length, layout = self.options.length, self.layout(self.options.length, self.density)
        flex, why_not = _flex(layout)
        rows = []
        dtypes = ["float32"]
        if torch.cpu.get_capabilities().get("amx_bf16", False):
            dtypes.append("bfloat16")
        else:
            tqdm.write("bfloat16 not run: this CPU has no matrix instructions for it")
        for dtype in dtypes:
            dense = self.dense(length, dtype)
            contests = {
                "PyTorch dense": (scaled_dot_product_attention, dense),
                "flash_sparse dense": (attention, dense),
                "flash_sparse sparse": self.sparse(dense, layout),
            }
            if flex is not None:
                contests["FlexAttention sparse"] = flex, dense.seen_through(layout)
            for name, contest in contests.items():
                _check(name, contest, has_backward=name != "FlexAttention sparse")
            for what in ("forward", "both"):
                if what == "both":
                    contests.pop("FlexAttention sparse", None)
                seconds = self.seconds(contests.values(), backward=what == "both")
                for (name, (_, case)), measured in zip(contests.items(), seconds, strict=True):
                    ratios = [dense / own for dense, own in zip(seconds[0], measured, strict=True)]
                    rows.append({
                        "dtype": dtype,
                        "pass": "forward+backward" if what == "both" else what,
                        "what": name,
                        **_spread(measured),
                        "GFLOP/s": case.flops(what) / statistics.median(measured) / 1e9,
                        "times PyTorch dense": statistics.median(ratios),
                    })  # fmt: skip
        if why_not:
            tqdm.write(f"FlexAttention not run: {why_not}")
        return rows

    def by_density(self) -> list[dict]:
        """Forward with backward over the share of kept blocks; the ideal is the density itself."""
        dense = self.dense(self.options.length)
        layouts = [self.layout(self.options.length, density) for density in self.densities]
        contests = [(attention, dense), *(self.sparse(dense, layout) for layout in layouts)]
        densities = [1.0, *(layout.density for layout in layouts)]
        for contest, density in zip(contests, densities, strict=True):
            _check(f"density {density}", contest)
        seconds = self.seconds(contests)
        rows = []
        for density, measured in zip(densities, seconds, strict=True):
            share = [own / dense for own, dense in zip(measured, seconds[0], strict=True)]
            rows.append({"density": density, **_spread(measured), "share of dense time": statistics.median(share)})
        return rows

    def by_length(self) -> list[dict]:
        """Forward with backward over length: time, and the memory that it takes beyond its inputs."""
        rows = []
        for length in self.options.lengths:
            layout, dense = self.layout(length, self.density), self.dense(length)
            contests = {"sparse": self.sparse(dense, layout)}
            if length <= self.options.longest_dense:
                contests |= {"dense": (attention, dense), "PyTorch dense": (scaled_dot_product_attention, dense)}
            for name, contest in contests.items():
                _check(f"{name}, {length} tokens", contest)
            seconds = self.seconds(contests.values())
            medians = {f"{name} ms": 1e3 * statistics.median(own) for name, own in zip(contests, seconds, strict=True)}
            del dense, contests
            rows.append({
                "length": length,
                "blocks a row": layout.num_blocks // (self.options.heads * layout.num_query_blocks),
                **medians,
                "sparse MiB": self.peak_memory(length, dropout_p=0.0),
                "sparse with dropout MiB": self.peak_memory(length, dropout_p=0.1),
            })  # fmt: skip
        return rows

    def peak_memory(self, length: int, dropout_p: float) -> float:
        """Memory of one forward with backward beyond its inputs, in MiB, measured in a process of its own."""
        options = self.options
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(
                _peak_memory,
                (options.heads, length, options.head_dim, options.block_size, self.density, dropout_p),
            )

    def layouts(self) -> list[dict]:
        """How long making a layout takes, beside FlexAttention's `create_block_mask`, which asks about every pair."""
        rows = []
        for length in self.options.lengths:
            ours = in_turn([functools.partial(self.layout, length, self.density)], self.options.repeats)[0]
            row = {"length": length, "random ms": 1e3 * statistics.median(ours)}
            ours = in_turn(
                [functools.partial(patterns.longformer, length, self.options.block_size)], self.options.repeats
            )[0]
            row["longformer ms"] = 1e3 * statistics.median(ours)
            if length <= self.options.longest_dense:
                start = time.perf_counter()
                create_block_mask(_near, 1, 1, length, length, device="cpu", BLOCK_SIZE=self.options.block_size)
                row["create_block_mask ms"] = 1e3 * (time.perf_counter() - start)
            rows.append(row)
        return rows


def _run(attend: Attention, case: Case, backward: bool):
    if not backward:
        attend(*(tensor.detach() for tensor in case.inputs))
        return
    torch.autograd.grad(attend(*case.inputs), case.inputs, case.grad_output)


def _check(name: str, contest: Contest, has_backward: bool = True):
    try:
        check(*contest, has_backward)
    except WrongResultError as error:
        raise WrongResultError(f"{name}: {error}") from None


def _peak_memory(heads: int, length: int, head_dim: int, block_size: int, density: float, dropout_p: float) -> float:
    """In a fresh process: the growth of its largest resident size over one forward with backward, in MiB."""
    layout = patterns.random(length, block_size, density=density, heads=heads)
    call = functools.partial(attention, layout=layout, dropout_p=dropout_p)
    # A short sequence first, so that code and thread pools are in memory already.
    short = Case(Problem(1, heads, block_size, head_dim, "float32"), DEVICE)
    _run(functools.partial(attention, dropout_p=dropout_p), short, backward=True)
    case = Case(Problem(1, heads, length, head_dim, "float32"), DEVICE)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _run(call, case, backward=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MEBIBYTE


def _flex(layout: BlockLayout) -> tuple[Attention | None, str | None]:
    """FlexAttention, compiled, with the blocks of the layout; or None and the reason why it does not run here."""
    attend = functools.partial(compiled_flex(), block_mask=layout_to_block_mask(layout))
    try:
        probe = torch.zeros(1, layout.leading[1], layout.query_length, 16)
        with torch.no_grad():
            attend(probe, probe, probe)
    except Exception as error:  # the compiler's own errors are of many kinds: no C++ compiler, an unsupported machine
        return None, str(error).strip().splitlines()[0]
    return attend, None


def _near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The longformer pattern's window, as `create_block_mask` wants it."""
    return (query - key).abs() <= 256


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return spread([1e3 * own for own in seconds])
