"""Tile shapes, warps and pipeline stages of every kernel, by architecture, head dimension and dtype.

Chosen ahead of time, so that nothing is tuned at run time and results do not depend on a machine's mood. The entries
are those that compile without spilling registers within the chip's shared memory; `resources` prints both for all of
them. None has been timed on a GPU yet. `tune` does so and writes a file; where the environment variable
FLASH_SPARSE_TILES names such a file, its entries stand in for those here.

docs/how-it-works.md, "Tiles on a GPU", says what registers, stages and tensor descriptors have to do with it.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """How one kernel is cut: `own` positions of a program's tile, `other` positions of the tiles it walks over.

    With `descriptors`, the latter are loaded through tensor descriptors where the tensors allow it; the kernel for the
    gradients of key and value has no such way.
    """

    own: int
    other: int
    warps: int
    stages: int
    descriptors: bool = False


class Kernels(NamedTuple):
    """The tiles of the three kernels: forward, gradient of the query, gradients of key and value."""

    forward: Tile
    query: Tile
    keys: Tile


# What a file's tiles may be made of: whole matrix instructions, and walks that a program can hold.
ALLOWED: dict[str, tuple[int, ...]] = {
    "own": (16, 32, 64, 128, 256),
    "other": (16, 32, 64, 128, 256),
    "warps": (1, 2, 4, 8, 16),
    "stages": (1, 2, 3, 4, 5, 6),
    "descriptors": (False, True),
}

# By architecture (sm_80 also serves sm_86, sm_89 and sm_120), then by the dtype's size in bytes and the largest padded
# head dimension that the entry serves.
TABLE: dict[str, dict[tuple[int, int], Kernels]] = {
    "sm_80": {
        (2, 32): Kernels(Tile(128, 128, 8, 3), Tile(128, 64, 8, 2), Tile(128, 64, 8, 2)),
        (2, 64): Kernels(Tile(128, 128, 8, 3), Tile(128, 64, 8, 2), Tile(128, 64, 8, 2)),
        (2, 96): Kernels(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        (2, 128): Kernels(Tile(128, 64, 8, 3), Tile(128, 32, 8, 2), Tile(64, 64, 8, 2)),
        (2, 256): Kernels(Tile(64, 32, 8, 2), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1)),
        (4, 64): Kernels(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(64, 32, 8, 1)),
        (4, 128): Kernels(Tile(32, 32, 8, 1), Tile(32, 16, 8, 1), Tile(32, 16, 8, 1)),
        (4, 256): Kernels(Tile(32, 16, 8, 1), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1)),
    },
    "sm_90": {
        (2, 32): Kernels(Tile(128, 128, 8, 3), Tile(128, 128, 8, 2), Tile(128, 64, 8, 2)),
        (2, 64): Kernels(Tile(128, 128, 8, 3), Tile(128, 128, 8, 2), Tile(128, 64, 8, 2)),
        (2, 96): Kernels(Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        (2, 128): Kernels(Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        (2, 256): Kernels(Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(32, 32, 8, 1)),
        (4, 64): Kernels(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(64, 32, 8, 1)),
        (4, 128): Kernels(Tile(32, 32, 8, 1), Tile(32, 16, 8, 1), Tile(32, 16, 8, 1)),
        (4, 256): Kernels(Tile(32, 16, 8, 1), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1)),
    },
    "sm_100": {
        (2, 32): Kernels(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        (2, 64): Kernels(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        (2, 96): Kernels(Tile(128, 32, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        (2, 128): Kernels(Tile(128, 32, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        (2, 256): Kernels(Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 1)),
        (4, 64): Kernels(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(64, 32, 8, 1)),
        (4, 128): Kernels(Tile(32, 32, 8, 1), Tile(32, 16, 8, 1), Tile(32, 16, 8, 1)),
        (4, 256): Kernels(Tile(32, 16, 8, 1), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1)),
    },
    "gfx942": {
        (2, 32): Kernels(Tile(128, 64, 4, 1), Tile(128, 64, 4, 1), Tile(128, 64, 4, 1)),
        (2, 64): Kernels(Tile(128, 64, 4, 1), Tile(64, 64, 4, 1), Tile(64, 64, 4, 1)),
        (2, 96): Kernels(Tile(128, 64, 4, 1), Tile(64, 64, 4, 1), Tile(64, 32, 4, 1)),
        (2, 128): Kernels(Tile(128, 64, 4, 1), Tile(64, 64, 4, 1), Tile(32, 32, 4, 1)),
        (2, 256): Kernels(Tile(64, 32, 4, 1), Tile(64, 32, 4, 1), Tile(32, 16, 4, 1)),
        (4, 64): Kernels(Tile(64, 32, 4, 1), Tile(64, 32, 4, 1), Tile(32, 32, 4, 1)),
        (4, 128): Kernels(Tile(64, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 16, 4, 1)),
        (4, 256): Kernels(Tile(32, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 16, 4, 1)),
    },
}


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """The two parts of the head dimension, powers of two of at least 16 with the least padding; the second may be 0."""
    padded = max(16, -(-head_dim // 16) * 16)
    main = 1 << (padded.bit_length() - 1)
    tail = padded - main
    if tail:
        tail = 1 << (tail - 1).bit_length()
    return (2 * main, 0) if tail == main else (main, tail)


def architecture(device: torch.device) -> str:
    """The table's entry for a device."""
    if device.type == "cpu":  # the interpreter
        return "sm_80"
    if torch.version.hip:
        return "gfx942"
    major = torch.cuda.get_device_capability(device)[0]
    return "sm_90" if major == 9 else "sm_100" if major == 10 else "sm_80"


def table() -> dict[str, dict[tuple[int, int], Kernels]]:
    """`TABLE`, or a copy with the entries of the file that FLASH_SPARSE_TILES names."""
    path = os.environ.get("FLASH_SPARSE_TILES")
    return read_table(path) if path else TABLE


@functools.lru_cache
def read_table(path: str) -> dict[str, dict[tuple[int, int], Kernels]]:
    """`TABLE` with the entries of a JSON file, as `tune` writes it, in their places.

    Raises:
        ValueError: a file that cannot be read, or an entry that fits no kernel; one line with the path and the value.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"FLASH_SPARSE_TILES: {path}: {error}; expected a JSON file as `tune` writes it") from None
    result = {architecture: dict(own) for architecture, own in TABLE.items()}
    if not isinstance(entries, list):
        raise ValueError(f"FLASH_SPARSE_TILES: {path}: found {type(entries).__name__}; expected a list of entries")
    for number, entry in enumerate(entries, 1):
        try:
            architecture, key, kernels = _parse(entry)
        except ValueError as error:
            raise ValueError(f"FLASH_SPARSE_TILES: {path}: entry {number}: {error}") from None
        result[architecture][key] = kernels
    return result


def write_table(path: Path, found: dict[tuple[str, tuple[int, int]], Kernels]) -> None:
    """Write entries by architecture and key so that `read_table` reads them; never half of them."""
    entries = [
        {"architecture": architecture, "element_bytes": key[0], "head_dim": key[1]}
        | {kernel: tile._asdict() for kernel, tile in kernels._asdict().items()}
        for (architecture, key), kernels in found.items()
    ]
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _parse(entry: object) -> tuple[str, tuple[int, int], Kernels]:
    """One entry of a file: architecture, key and tiles."""
    names = {"architecture", "element_bytes", "head_dim", *Kernels._fields}
    if not isinstance(entry, dict) or set(entry) != names:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"has {found}; expected {sorted(names)}")
    architecture, key = entry["architecture"], (entry["element_bytes"], entry["head_dim"])
    if not isinstance(architecture, str) or architecture not in TABLE:
        raise ValueError(f"architecture is {architecture!r}; expected one of {', '.join(TABLE)}")
    if not all(type(number) is int for number in key) or key not in TABLE[architecture]:
        raise ValueError(
            f"(element_bytes, head_dim) is {key}; expected one of {', '.join(map(str, TABLE[architecture]))}"
        )
    tiles = []
    for kernel in Kernels._fields:
        tile = entry[kernel]
        if not isinstance(tile, dict) or set(tile) != set(Tile._fields):
            found = sorted(tile) if isinstance(tile, dict) else type(tile).__name__
            raise ValueError(f"{kernel} has {found}; expected {sorted(Tile._fields)}")
        allowed = {**ALLOWED, "descriptors": (False,)} if kernel == "keys" else ALLOWED
        for name, values in allowed.items():
            if type(tile[name]) is not type(values[0]) or tile[name] not in values:
                raise ValueError(f"{kernel}.{name} is {tile[name]!r}; expected one of {', '.join(map(str, values))}")
        tiles.append(Tile(**tile))
    return architecture, key, Kernels(*tiles)


def table_key(name: str, head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Under which key an architecture's tiles for a head dimension and a dtype stand."""
    width = sum(split_head_dim(head_dim))
    return min(key for key in TABLE[name] if key[0] == dtype.itemsize and key[1] >= width)


def choose(name: str, head_dim: int, dtype: torch.dtype, block_size: int) -> Kernels:
    """The kernels' tiles for an architecture; a tile of a sparse layout's own axis lies inside one block."""
    width = sum(split_head_dim(head_dim))
    kernels = table()[name][table_key(name, head_dim, dtype)]
    if not block_size:
        return kernels
    # Rows of `width` sums kept in registers for each position of the own axis: of the output, of the query's gradient,
    # of both others.
    tiles = (within_block(tile, block_size, width, rows) for tile, rows in zip(kernels, (1, 1, 2), strict=True))
    # One descriptor loads rows that follow each other: not those of several blocks.
    return Kernels(*(tile._replace(descriptors=tile.descriptors and tile.other <= block_size) for tile in tiles))


def within_block(tile: Tile, block_size: int, width: int, rows: int) -> Tile:
    """The tile with an own axis of at most `block_size`, and fewer warps where each still has rows of its own.

    Args:
        width: the padded head dimension.
        rows: how often `width` float32 sums are kept for each position of the own axis; a thread keeps at most 64 of
            them, or 44 where it adds to two rows in turn.
    """
    if tile.own <= block_size:
        return tile
    warps = max(2, block_size // 16)
    while warps < tile.warps and block_size * rows * width > (64 if rows == 1 else 44) * 32 * warps:
        warps *= 2
    # Few warps have few registers, and pointers into several blocks take some: longer walks or pipelines would spill.
    other = 64 if width <= 64 or block_size > 32 else 32
    stages = min(tile.stages, 2)
    return tile._replace(own=block_size, other=min(tile.other, other), warps=min(warps, tile.warps), stages=stages)
