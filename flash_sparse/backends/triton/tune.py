"""Time candidate tiles on the GPU at hand and write the fastest as a file for FLASH_SPARSE_TILES.

`python -m flash_sparse.backends.triton.tune --head-dims 64 128 --dtypes bf16 --output tiles.json`, then
`FLASH_SPARSE_TILES=tiles.json` in the environment of whatever attends. Nothing is tuned at run time.

For each kernel, candidates that spill registers or need too much shared memory are left out by what the compiler says,
the others timed on the first workload, and the fastest few on all workloads. One is taken if it also compiles well in
every use of the table's entry (`resources.variants`) and beats the present entry by more than the noise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from tqdm import tqdm

from flash_sparse import dispatch, patterns
from flash_sparse.arguments import layout_arguments
from flash_sparse.backends.options import Options
from flash_sparse.backends.triton import resources, tiles
from flash_sparse.backends.triton.tiles import Kernels, Tile

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LENGTH = 8192
WIDTH = 2048  # heads times head dimension
FINALISTS = 4
GAIN = 1.02  # how many times faster than the present tile one must be to take its place: more than the noise


class Workload(NamedTuple):
    """What a tile is timed on."""

    is_causal: bool = False
    density: float | None = None  # of a random layout of blocks of 128; None is dense


WORKLOADS = (Workload(), Workload(is_causal=True), Workload(density=1 / 8))

# Milliseconds of `kernel` for head dimension and dtype, with the tiles now in the table; infinite if it cannot start.
Measure = Callable[[str, int, torch.dtype, Workload], float]
# For each variant and tile, whether it compiles without spilling within the chip's shared memory.
Screen = Callable[[Sequence[tuple[resources.Variant, Tile]]], list[bool]]


class Result(NamedTuple):
    """One kernel's tile, and the milliseconds of all workloads with the tile before and the one found."""

    kernel: str
    before: Tile
    found: Tile
    milliseconds_before: list[float]
    milliseconds_found: list[float]


def candidates(architecture: str, kernel: str, dtype: torch.dtype, width: int) -> list[Tile]:
    """Tiles worth a try for rows of `width` elements; where the chip copies tensors by itself, with descriptors too."""
    own: tuple[int, ...]
    other: tuple[int, ...]
    stages: tuple[int, ...]
    if dtype.itemsize == 4:
        own, other, stages = (16, 32, 64), (16, 32, 64), (1, 2)
    elif width > 128:
        own, other, stages = (32, 64, 128), (32, 64), (1, 2, 3)
    else:
        own, other, stages = (64, 128), (32, 64, 128), (2, 3, 4, 5)
    described = architecture in resources.TENSOR_COPIES and kernel != "keys" and dtype.itemsize == 2
    descriptors = (False, True) if described else (False,)
    return [Tile(*shape) for shape in product(own, other, (4, 8), stages, descriptors)]


@contextmanager
def in_table(architecture: str, key: tuple[int, int], kernels: Kernels) -> Iterator[None]:
    """Have the kernels run with these tiles."""
    with mock.patch.dict(tiles.table()[architecture], {key: kernels}):
        yield


def tune(
    architecture: str, head_dim: int, dtype: torch.dtype, screen: Screen, measure: Measure, bar: tqdm
) -> tuple[Kernels, list[Result]]:
    """The fastest tiles for one entry of the table, kernel by kernel, beside what was there."""
    key = tiles.table_key(architecture, head_dim, dtype)
    best, results = tiles.table()[architecture][key], []
    uses = [
        variant
        for variant in resources.variants()
        if variant.architecture == architecture
        and tiles.table_key(architecture, variant.head_dim, variant.dtype) == key
    ]
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    for kernel in Kernels._fields:
        present = getattr(best, kernel)

        def as_used(variant: resources.Variant, tile: Tile, best=best) -> tuple[resources.Variant, Tile]:
            with in_table(architecture, key, best._replace(**{variant.kernel: tile})):
                return variant, variant.tile  # cut to the block where there is a layout

        def time(tile: Tile, workload: Workload, best=best, kernel=kernel) -> float:
            with in_table(architecture, key, best._replace(**{kernel: tile})):
                return measure(kernel, head_dim, dtype, workload)

        bar.set_postfix_str(f"{kernel}: compiling")
        rivals = [tile for tile in candidates(architecture, kernel, dtype, key[1]) if tile != present]
        plain = resources.Variant(architecture, kernel, dtype, head_dim, precision=precision)
        fit = screen([(plain, tile) for tile in rivals])
        rivals = [tile for tile, fits in zip(rivals, fit, strict=True) if fits]
        first = {}
        for number, tile in enumerate(rivals, 1):
            bar.set_postfix_str(f"{kernel}: timing {number} of {len(rivals)}")
            first[tile] = time(tile, WORKLOADS[0])
        finalists = [present, *sorted(first, key=first.__getitem__)[:FINALISTS]]
        times = {tile: [time(tile, workload) for workload in WORKLOADS] for tile in finalists}
        total = {tile: _mean(times[tile]) for tile in finalists}

        found = present
        bar.set_postfix_str(f"{kernel}: checking")
        for tile in sorted(finalists[1:], key=total.__getitem__):
            if total[tile] * GAIN > total[present]:
                break
            if all(screen([as_used(variant, tile) for variant in uses if variant.kernel == kernel])):
                found = tile
                break
        results.append(Result(kernel, present, found, times[present], times[found]))
        best = best._replace(**{kernel: found})
        bar.update()
    return best, results


def _mean(milliseconds: list[float]) -> float:
    """The geometric mean, so that each workload counts the same."""
    return math.prod(milliseconds) ** (1 / len(milliseconds))


def fits(variant: resources.Variant, tile: Tile) -> bool:
    """Whether it compiles without spilling within the chip's shared memory."""
    try:
        usage = resources.compile_variant(variant, tile)
    except Exception:  # whatever the compiler says of a tile it cannot make
        return False
    return not usage.inner_spills and usage.shared <= resources.SHARED_LIMITS[variant.architecture] * 1024


def measure_on_gpu(kernel: str, head_dim: int, dtype: torch.dtype, workload: Workload) -> float:
    """Milliseconds of the forward operator, or of the backward one, whose other kernel keeps its tile."""
    forward, backward = _calls(head_dim, dtype, workload)
    try:
        return triton.testing.do_bench(forward if kernel == "forward" else backward, warmup=10, rep=60)
    except triton.runtime.errors.OutOfResources:
        return math.inf


@functools.lru_cache(len(WORKLOADS))
def _calls(head_dim: int, dtype: torch.dtype, workload: Workload) -> tuple[Callable, Callable]:
    """Both operators with their inputs."""
    heads = max(1, WIDTH // head_dim)
    shape = (1, heads, LENGTH, head_dim)
    query, key, value, grad_output = (torch.randn(shape, dtype=dtype, device="cuda") for _ in range(4))
    layout = None
    if workload.density is not None:
        layout = patterns.random(LENGTH, 128, density=workload.density, heads=heads).to("cuda")
    right = 0 if workload.is_causal else -1
    options = Options(
        *layout_arguments(layout), cu_seqlens=None, max_seqlen=0, cu_seqlens_k=None, max_seqlen_k=0, key_lengths=None,
        left=-1, right=right, dropout_p=0.0, seed=None, scale=head_dim**-0.5, softcap=0.0, sinks=None,
    )  # fmt: skip
    output, logsumexp = dispatch.forward(query, key, value, *options)
    return (
        functools.partial(dispatch.forward, query, key, value, *options),
        functools.partial(
            torch.ops.flash_sparse.backward,
            grad_output,
            None,
            query,
            key,
            value,
            output,
            logsumexp,
            *options,
            [True, True, True, False],
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head-dims", type=int, nargs="+", default=[32, 64, 96, 128, 256], metavar="D")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--output", type=Path, default=Path("tiles.json"), help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that compile (default: every core)"
    )
    options = parser.parse_args(arguments)
    if not all(1 <= head_dim <= 256 for head_dim in options.head_dims):
        parser.error(f"--head-dims is {options.head_dims}; expected 1 to 256")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; expected at least 1")
    if not options.output.parent.is_dir():
        parser.error(f"--output is {options.output}; expected a folder that exists")
    if not torch.cuda.is_available():
        print("tune times kernels on a GPU; PyTorch reaches none here", file=sys.stderr)
        return 2
    architecture = tiles.architecture(torch.device("cuda"))
    # One head dimension for each entry: the largest asked for.
    asked = {}
    for dtype in options.dtypes:
        for head_dim in sorted(options.head_dims):
            asked[tiles.table_key(architecture, head_dim, DTYPES[dtype])] = (head_dim, DTYPES[dtype])
    found = {}
    context = multiprocessing.get_context("spawn")  # a copy of a process that uses the GPU would not work
    with (
        concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool,
        tqdm(total=3 * len(asked), desc="tuning", unit=" kernels") as bar,
    ):

        def screen(pairs: Sequence[tuple[resources.Variant, Tile]]) -> list[bool]:
            return list(pool.map(fits, *zip(*pairs, strict=True)))

        for key, (head_dim, dtype) in asked.items():
            kernels, results = tune(architecture, head_dim, dtype, screen, measure_on_gpu, bar)
            found[architecture, key] = kernels
            tiles.write_table(options.output, found)  # at once: whatever stops this leaves what was found
            for result in results:
                with bar.external_write_mode():
                    print(format_result(architecture, head_dim, dtype, result), flush=True)
    print(f"FLASH_SPARSE_TILES={options.output}")
    return 0


def format_result(architecture: str, head_dim: int, dtype: torch.dtype, result: Result) -> str:
    """One line: the tiles and the milliseconds of each workload, before and now."""
    name = f"{architecture} {resources.TYPES[dtype]} d{head_dim} {result.kernel}"
    before, now = (
        f"{tuple(tile)} {' '.join(f'{number:.3f}' for number in milliseconds)} ms"
        for tile, milliseconds in (
            (result.before, result.milliseconds_before),
            (result.found, result.milliseconds_found),
        )
    )
    return f"{name:26} {before} -> {'kept' if result.found == result.before else now}"


if __name__ == "__main__":
    sys.exit(main())
