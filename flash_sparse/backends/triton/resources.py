"""Compile the tuned kernels ahead of time for every architecture, on any machine, and show what they use.

`python -m flash_sparse.backends.triton.resources` prints registers, spills and shared memory of each, and fails if one
spills in its loops, needs more shared memory than the chip has, or misses the matrix instructions.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flash_sparse.backends.triton.backward import keys_kernel, query_kernel
from flash_sparse.backends.triton.forward import forward_kernel
from flash_sparse.backends.triton.tiles import TABLE, Tile, choose, split_head_dim

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# KiB for one program. sm_80 has 163, but its entries also serve sm_86, sm_89 and sm_120, which have 99.
SHARED_LIMITS = {"sm_80": 99, "sm_90": 227, "sm_100": 227, "gfx942": 64}
MATRIX_INSTRUCTIONS = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
TENSOR_COPIES = {"sm_90": "cp.async.bulk.tensor", "sm_100": "cp.async.bulk.tensor"}  # what descriptors are for
KERNELS = {"forward": forward_kernel, "query": query_kernel, "keys": keys_kernel}
LAYOUT = ("row_offsets", "row_blocks", "row_order", "column_offsets", "column_blocks", "column_order")
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


class Variant(NamedTuple):
    """One kernel for one use."""

    architecture: str
    kernel: str
    dtype: torch.dtype
    head_dim: int
    block_size: int = 0
    is_causal: bool = False
    dropout: bool = False
    packed: bool = False
    capped: bool = False
    sunk: bool = False
    crossed: bool = False  # keys packed by bounds of their own
    precision: str = "tf32"

    @property
    def tile(self) -> Tile:
        return getattr(choose(self.architecture, self.head_dim, self.dtype, self.block_size), self.kernel)

    def __str__(self) -> str:
        words = [self.architecture, self.kernel, TYPES[self.dtype], f"d{self.head_dim}"]
        words.append(f"block {self.block_size}" if self.block_size else "dense")
        uses = "is_causal", "dropout", "packed", "capped", "sunk", "crossed"
        words += [word for word in uses if getattr(self, word)]
        if self.dtype == torch.float32:
            words.append(self.precision)
        return " ".join(words)


class Usage(NamedTuple):
    """What a compiled kernel takes of the chip."""

    registers: int  # per thread
    spilled: int  # bytes of stack per thread
    inner_spills: int  # instructions in loops over tiles that use the stack
    shared: int  # bytes per program
    instructions: str  # the assembly


def compile_variant(variant: Variant, tile: Tile | None = None) -> Usage:
    """Compile it for its architecture, no GPU needed."""
    kernel = KERNELS[variant.kernel]
    tile = tile or variant.tile
    own, other = ("TILE_N", "TILE_M") if variant.kernel == "keys" else ("TILE_M", "TILE_N")
    main, tail = split_head_dim(variant.head_dim)
    constants = {
        "LEFT": False,
        "RIGHT": variant.is_causal,
        "DROPOUT": variant.dropout,
        "NEGATIVE": False,
        "BLOCK_SIZE": variant.block_size,
        "HEAD_DIM": variant.head_dim,
        "MAIN": main,
        "TAIL": tail,
        "WIDE": False,
        "PRECISION": variant.precision,
        own: tile.own,
        other: tile.other,
        "DESCRIPTORS": tile.descriptors,
        "key_lengths": None,
        "group": 1,
    }
    if not variant.block_size:
        constants |= dict.fromkeys(LAYOUT)
    if not variant.packed:
        constants["cu_seqlens"] = None
    if not variant.crossed:
        constants["cu_seqlens_k"] = None
    if not variant.dropout:
        constants["seed"] = None
    if not variant.capped:
        constants["cap"] = None
    if not variant.sunk:
        constants["sinks"] = None

    signature: dict[str, str | tuple[str, ...]] = {}
    attributes: dict[tuple[int, ...], list[list[str | int]]] = {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_strides"):
            dims = 2 if name == "layout_strides" else 3
            signature[name] = ("i32",) * dims
            if name != "layout_strides":  # whole tensors of even sizes: what the launcher finds
                attributes |= {(index, dim): [["tt.divisibility", 16]] for dim in range(dims)}
        else:
            signature[name] = kind = argument_type(name, TYPES[variant.dtype])
            if kind.startswith("*"):  # what 16-byte loads need
                attributes[(index,)] = [["tt.divisibility", 16]]
    constants = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=TARGETS[variant.architecture], options=options)
    if variant.architecture.startswith("gfx"):
        assembly = compiled.asm["amdgcn"]
        counts = {
            name: max(map(int, re.findall(rf"\.{name}: +(\d+)", assembly)))
            for name in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
        }
        spilled = max(4 * counts["vgpr_spill_count"], counts["private_segment_fixed_size"])
        accesses = len(re.findall(r"^\s+scratch_", assembly, re.MULTILINE))  # anywhere, which is stricter
        return Usage(counts["vgpr_count"], spilled, accesses, compiled.metadata.shared, assembly)
    return Usage(*registers(compiled.asm["cubin"]), compiled.metadata.shared, compiled.asm["ptx"])


def argument_type(name: str, dtype: str) -> str:
    """The type of a kernel's run-time argument, in Triton's notation."""
    if name in LAYOUT or name in ("cu_seqlens", "cu_seqlens_k"):
        return "*i32"
    if name == "seed":
        return "*i64"
    if name in ("logsumexp", "delta", "sinks"):
        return "*fp32"
    if name in ("query", "key", "value", "output", "grad_output", "grad_query", "grad_key", "grad_value"):
        return f"*{dtype}"
    return "fp32" if name.endswith("scale") or name == "cap" else "i32"


def registers(cubin: bytes) -> tuple[int, int, int]:
    """Registers and bytes of stack of each thread, and inner spills, as NVIDIA's own tool reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used, stack = (int(re.findall(rf"{name}:(\d+)", text)[0]) for name in ("REG", "STACK"))
    return used, stack, inner_spills(text)


def inner_spills(assembly: str) -> int:
    """How many loads and stores of the stack stand in loops that hold products, in NVIDIA's own assembly."""
    products, stack, branches, last_exit = [], [], [], 0
    for address, name, target in re.findall(
        r"/\*([0-9a-f]{4,})\*/ +(?:@!?\w+ +)?(\w+)[^;]*?(0x[0-9a-f]+)? *;", assembly
    ):
        place = int(address, 16)
        if re.fullmatch(r"\w*MMA|FFMA", name):
            products.append(place)
        elif name in ("LDL", "STL"):
            stack.append(place)
        elif name == "BRA" and target:
            branches.append((int(target, 16), place))
        elif name == "EXIT":
            last_exit = place
    loops = [
        (begin, end)
        for begin, end in branches
        # Behind the last exit stands what waits in vain and goes back to where it came from: no loops.
        if begin < end < last_exit and any(begin <= product <= end for product in products)
    ]
    return sum(any(begin <= place <= end for begin, end in loops) for place in stack)


def variants(quick: bool = False) -> Iterator[Variant]:
    """Every tuned entry, dense and in the uses that change its code; `quick`: the most used of each architecture."""
    half, single = torch.bfloat16, torch.float32
    for architecture in TABLE:
        for kernel in KERNELS:
            if quick:
                yield Variant(architecture, kernel, half, 64, 128, is_causal=True, dropout=True)
                yield Variant(architecture, kernel, half, 128)
                continue
            for head_dim in (32, 64, 80, 96, 128, 256):
                for block_size in (0, 16, 32, 64, 128):
                    yield Variant(architecture, kernel, half, head_dim, block_size, is_causal=True)
                yield Variant(architecture, kernel, torch.float16, head_dim)
                yield Variant(architecture, kernel, half, head_dim, dropout=True, packed=True)
                yield Variant(architecture, kernel, half, head_dim, 64, dropout=True)
                yield Variant(architecture, kernel, half, head_dim, is_causal=True, capped=True)
                yield Variant(architecture, kernel, half, head_dim, is_causal=True, packed=True, crossed=True)
                if kernel == "forward":  # the others do not know of sinks
                    yield Variant(architecture, kernel, half, head_dim, is_causal=True, sunk=True)
            for head_dim in (64, 128, 256):
                yield Variant(architecture, kernel, single, head_dim, is_causal=True)
                yield Variant(architecture, kernel, single, head_dim, precision="ieee")
                yield Variant(architecture, kernel, single, head_dim, 64, dropout=True)


def problems(variant: Variant, usage: Usage) -> list[str]:
    """What must not be in a tuned entry."""
    found = []
    # What is put on the stack before the loops and taken back after them costs nothing.
    if usage.inner_spills:
        found.append(f"spills {usage.spilled} bytes in its loops")
    limit = SHARED_LIMITS[variant.architecture] * 1024
    if usage.shared > limit:
        found.append(f"needs {usage.shared} bytes of shared memory of {limit}")
    if not has_matrix_instructions(variant, usage):
        found.append("has no matrix instructions")
    if variant.tile.descriptors and TENSOR_COPIES.get(variant.architecture, "") not in usage.instructions:
        found.append("has no tensor copies")
    return found


def has_matrix_instructions(variant: Variant, usage: Usage) -> bool:
    """Whether its products run on the chip's matrix units, in the newest form for tiles that are large enough."""
    if variant.dtype == torch.float32 and variant.precision == "ieee" and not variant.architecture.startswith("gfx"):
        return True  # exact float32 has none
    newest = variant.tile.own >= 64 and variant.tile.warps >= 4 and variant.dtype != torch.float32
    name = MATRIX_INSTRUCTIONS[variant.architecture]
    if name == "v_mfma" or newest:
        return name in usage.instructions
    return "mma" in usage.instructions


class Row(NamedTuple):
    """One line of the printed table."""

    variant: str
    own: int
    other: int
    warps: int
    stages: int
    descriptors: bool
    registers: int
    stack: int  # bytes per thread
    shared: int  # bytes per program
    problems: str


def inspect_variant(variant: Variant) -> Row:
    """Compile a variant and judge it."""
    usage = compile_variant(variant)
    found = "; ".join(problems(variant, usage))
    return Row(str(variant), *variant.tile, usage.registers, usage.spilled, usage.shared, found)


def format_line(row: Row | Iterable[str]) -> str:
    widths = (-60, 4, 5, 5, 6, 11, 9, 6, 7, -1)
    return " ".join(
        f"{cell!s:{'<' if width < 0 else '>'}{abs(width)}}" for cell, width in zip(row, widths, strict=True)
    )


def write_rows(path: Path, rows: list[Row]) -> None:
    """As Markdown or as JSON, by the file's name."""
    if path.suffix == ".md":
        lines = [Row._fields, ["---"] * len(Row._fields), *rows]
        text = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
    else:
        text = json.dumps({"triton": triton.__version__, "kernels": [row._asdict() for row in rows]}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the most used kernels")
    parser.add_argument("--match", default="", help="only variants whose name holds these words, in this order")
    parser.add_argument("--workers", type=int, default=1, help="processes that compile (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the table here: a .json or a .md file")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; expected at least 1")
    if options.output and (options.output.suffix not in (".json", ".md") or not options.output.parent.is_dir()):
        parser.error(f"--output is {options.output}; expected a .json or .md file in a folder that exists")
    chosen = [
        variant for variant in variants(options.quick) if re.search(options.match.replace(" ", ".*"), str(variant))
    ]
    if not chosen:
        parser.error(f"--match is {options.match!r}; no variant's name holds that")
    rows = []
    print(format_line(Row._fields).rstrip(), flush=True)
    # New processes, not copies: a copy of one with running threads may hang.
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool,
        tqdm(total=len(chosen), desc="compiling", unit=" kernels", file=sys.stderr, disable=None) as bar,
    ):
        for row in pool.map(inspect_variant, chosen):
            rows.append(row)
            with bar.external_write_mode():
                print(format_line(row).rstrip(), flush=True)
            bar.update()
    if options.output:
        write_rows(options.output, rows)
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
