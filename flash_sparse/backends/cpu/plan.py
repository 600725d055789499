"""How the attention matrix of a sequence, or of a bundle of short ones, is cut into products that suit a CPU.

A group is a set of query tiles that are computed together, in batched products. It walks over its keys in pieces that
are small enough for a piece's scores to stay in cache. Scores are kept transposed, keys by queries: all seven products
then run at the matrix library's best rate (the usual way round costs 10 to 15%), sums over keys add whole rows, and a
layout's block is contiguous.

`DensePlan` takes slices of the operands as they are. `SparsePlan` cuts them into blocks and gathers those that a layout
keeps. Both arrange operands for their groups once for each sequence, and both offer the same methods.

Letters: H query heads, Hkv key heads, G = H // Hkv, N length, D head dimension, S block size, Qb and Kb blocks of
queries and keys, C tiles in a group, M queries in a tile, K keys in a piece, n tiles in a row of the layout.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Scores of one piece, in elements: 4 MiB of float32, so that the passes over them stay in the last-level cache while
# there are tiles enough for all cores. Fixed, because dropout is drawn piece by piece.
PIECE_ELEMENTS = 1 << 20
# Keys of a tile in one piece of a sparse layout: long enough for a product to reach its full rate.
PIECE_KEYS = 1024
# Queries in a tile where no layout prescribes them.
DENSE_QUERIES = 256


class Workspace(threading.local):
    """Buffers that all pieces share, so that a piece's scores are written where the last one's are still in cache.

    Each thread keeps its own from call to call, some tens of MiB: fresh pages cost more than what is written to them.
    """

    def __init__(self):
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._latest: dict[str, Tensor] = {}  # most pieces have the shape of the one before

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised memory of this shape, the same for each call with this name and dtype."""
        latest = self._latest.get(name)
        if latest is not None and latest.shape == shape and latest.dtype == dtype:
            return latest
        elements = math.prod(shape)
        kept = self._buffers.get((name, dtype))
        if kept is None or kept.numel() < elements:
            with torch.inference_mode(False):  # else nothing outside of inference mode could write to it later
                kept = self._buffers[name, dtype] = torch.empty(elements, dtype=dtype)
        self._latest[name] = kept[:elements].view(shape)
        return self._latest[name]


WORK = Workspace()


class Mask(NamedTuple):
    """The element mask of one sequence. Query i stands at key position i + `diagonal`."""

    query_length: int
    key_length: int  # keys at or past it are padding
    diagonal: int
    left: int  # keys further to the left of the diagonal are hidden; negative: unbounded
    right: int

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Which keys are seen by which queries; positions broadcast against each other."""
        mask = keys < self.key_length
        if self.right >= 0:
            mask = mask & (keys <= queries + (self.diagonal + self.right))
        if self.left >= 0:
            mask = mask & (keys >= queries + (self.diagonal - self.left))
        return mask

    def seen_by(self, first_query: int, last_query: int) -> tuple[int, int]:
        """The range of keys outside which the queries first..last see nothing."""
        start = 0 if self.left < 0 else max(0, first_query + self.diagonal - self.left)
        stop = self.key_length if self.right < 0 else min(self.key_length, last_query + self.diagonal + self.right + 1)
        return start, max(start, stop)

    def seen_by_all(self, first_query: int, last_query: int) -> tuple[int, int]:
        """The range of keys that each of the queries first..last sees; empty when stop <= start."""
        start = 0 if self.left < 0 else max(0, last_query + self.diagonal - self.left)
        stop = self.key_length if self.right < 0 else min(self.key_length, first_query + self.diagonal + self.right + 1)
        return start, stop


class DensePlan:
    """Every key that the mask lets through. Groups are slices of queries, all heads together.

    Args:
        key_lengths: (Hkv,), the keys of each head, where those of some are fewer than the mask's.
    """

    def __init__(self, heads: int, key_heads: int, mask: Mask, key_lengths: Tensor | None = None):
        self.key_heads = key_heads
        self.group_heads = heads // key_heads
        self.mask = mask
        self.key_lengths = key_lengths
        self.shortest = mask.key_length if key_lengths is None else int(key_lengths.min())

    def arrange_queries(self, rows: Tensor) -> Tensor:
        """(H, N, D) as (Hkv, G, N, D): a view, through which groups read and write."""
        return rows.unflatten(0, (self.key_heads, self.group_heads))

    def arrange_keys(self, rows: Tensor) -> Tensor:
        return rows  # (Hkv, N, D)

    def groups(self) -> Iterator[DenseGroup]:
        for start in range(0, self.mask.query_length, DENSE_QUERIES):
            stop = min(start + DENSE_QUERIES, self.mask.query_length)
            keys = self.mask.seen_by(start, stop - 1)
            if keys[0] < keys[1]:  # else they see nothing
                yield DenseGroup(self, start, stop, keys)


class DenseGroup:
    """The queries `start` to `stop` of all heads: C = Hkv tiles of M = G * (stop - start) queries."""

    def __init__(self, plan: DensePlan, start: int, stop: int, keys: tuple[int, int]):
        self.plan, self.start, self.stop, self.keys = plan, start, stop, keys

    def load(self, arranged: Tensor) -> Tensor:
        return arranged[:, :, self.start : self.stop].flatten(1, 2)  # (C, M, D), a view where one is possible

    def store(self, arranged: Tensor, tiles: Tensor) -> None:
        target = arranged[:, :, self.start : self.stop]  # (Hkv, G, stop - start, D)
        target.copy_(tiles.unflatten(1, target.shape[1:3]))

    def pieces(self) -> Iterator[DensePiece]:
        start, stop = self.keys
        tiles = self.plan.key_heads * self.plan.group_heads * (self.stop - self.start)
        step = max(64, PIECE_ELEMENTS // tiles // 64 * 64)
        if (stop - start) * tiles <= PIECE_ELEMENTS:
            step = stop - start
        for first in range(start, stop, step):
            yield DensePiece(self, first, min(first + step, stop))


class DensePiece:
    """The keys `start` to `stop` beside a `DenseGroup`."""

    def __init__(self, group: DenseGroup, start: int, stop: int):
        self.group, self.start, self.stop = group, start, stop
        queries = group.plan.group_heads * (group.stop - group.start)
        self.shape = (group.plan.key_heads, stop - start, queries)  # (C, K, M)

    def load(self, arranged: Tensor, name: str) -> Tensor:
        return arranged[:, self.start : self.stop]  # (C, K, D)

    def add(self, arranged: Tensor, tiles: Tensor) -> None:
        arranged[:, self.start : self.stop] += tiles  # (C, K, D)

    def hide(self, scores: Tensor) -> bool:
        """Set hidden scores (C, K, M) to minus infinity; whether there were any."""
        group, mask = self.group, self.group.plan.mask
        full_start, full_stop = mask.seen_by_all(group.start, group.stop - 1)
        full_start, full_stop = max(full_start, self.start), min(full_stop, self.stop)
        if full_stop <= full_start:
            partial = [(self.start, self.stop)]
        else:
            partial = [(self.start, full_start), (full_stop, self.stop)]
        partial = [(start, stop) for start, stop in partial if start < stop]
        queries = torch.arange(group.start, group.stop)  # (stop - start,)
        for start, stop in partial:
            hidden = ~mask.visible(queries, torch.arange(start, stop)[:, None, None])  # (k, 1, stop - start)
            part = scores[:, start - self.start : stop - self.start].unflatten(2, (-1, group.stop - group.start))
            part.masked_fill_(hidden, -torch.inf)  # (C, k, G, stop - start)
        start = max(self.start, group.plan.shortest)
        if start < self.stop:
            padding = torch.arange(start, self.stop)[:, None] >= group.plan.key_lengths[:, None, None]  # (C, k, 1)
            scores[:, start - self.start :].masked_fill_(padding, -torch.inf)
        return bool(partial) or start < self.stop


class SparsePlan:
    """The blocks that a layout keeps and the mask lets through, rows with equally many blocks grouped together.

    Args:
        row_offsets, row_blocks: (Hl, >= Qb + 1) and (nnz,), the layout's compressed rows, Hl 1 or H. The layout may be
            larger than the sequence: its upper left part counts.
    """

    def __init__(self, heads: int, key_heads: int, mask: Mask, row_offsets: Tensor, row_blocks: Tensor, block: int):
        self.mask, self.block = mask, block
        self.query_blocks = -(-mask.query_length // block)
        self.key_blocks = -(-mask.key_length // block)
        row_offsets = row_offsets[:, : self.query_blocks + 1].long()  # (Hl, Qb + 1)

        # Every kept block of every head, ordered by head and row.
        counts = row_offsets.diff(dim=1)  # (Hl, Qb)
        starts = row_offsets[:, :-1].expand(heads, -1).flatten()  # (H * Qb,)
        counts = counts.expand(heads, -1).flatten()  # (H * Qb,)
        item = torch.arange(counts.numel()).repeat_interleave(counts)  # (tiles,)
        slot = torch.arange(item.numel()) - (counts.cumsum(0) - counts)[item]  # (tiles,)
        column = row_blocks[starts[item] + slot].long()  # (tiles,)

        first_query = item % self.query_blocks * block  # (tiles,)
        last_query = (first_query + (block - 1)).clamp(max=mask.query_length - 1)
        first_key = column * block
        low, high = self._key_bounds(first_query, last_query)
        kept = (first_key < high) & (first_key + block > low)
        item, column, first_query, last_query, first_key = (
            part[kept] for part in (item, column, first_query, last_query, first_key)
        )
        low, high = self._key_bounds(last_query, first_query)
        partial = (first_key < low) | (first_key + block > high)  # (tiles,)
        self.any_partial = bool(partial.any())

        # Rows by descending number of tiles, so that equal ones stand together and the longest come first.
        counts = torch.bincount(item, minlength=counts.numel())  # (H * Qb,)
        self.order = counts.argsort(descending=True, stable=True)  # (H * Qb,)
        self.lengths, self.repeats = torch.unique_consecutive(counts[self.order], return_counts=True)
        by_row = self.order.argsort()[item].argsort(stable=True)  # (tiles,): a group's tiles follow each other
        self.item, self.column, self.partial = item[by_row], column[by_row], partial[by_row]  # (tiles,) each
        key_head = self.item // self.query_blocks // (heads // key_heads)
        self.key_block = key_head * self.key_blocks + self.column  # (tiles,), into the arranged keys

    def _key_bounds(self, first_query: Tensor, last_query: Tensor) -> tuple[Tensor, Tensor]:
        """`Mask.seen_by` for many tiles; with the queries exchanged it is `Mask.seen_by_all`."""
        mask = self.mask
        low = torch.zeros_like(first_query) if mask.left < 0 else first_query + (mask.diagonal - mask.left)
        high = torch.full_like(last_query, mask.key_length)
        if mask.right >= 0:
            high = high.minimum(last_query + (mask.diagonal + mask.right + 1))
        return low, high

    def arrange_queries(self, rows: Tensor) -> Tensor:
        """(H, N, D) as blocks (H * Qb, S, D): a view where one is possible, else a copy padded with zeros."""
        return self._to_blocks(rows, self.query_blocks)

    def arrange_keys(self, rows: Tensor) -> Tensor:
        """(Hkv, N, D) as blocks (Hkv * Kb, S, D)."""
        return self._to_blocks(rows, self.key_blocks)

    def _to_blocks(self, rows: Tensor, blocks: int) -> Tensor:
        missing = blocks * self.block - rows.shape[1]
        if missing:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        return rows.reshape(-1, self.block, rows.shape[2])

    def groups(self) -> Iterator[SparseGroup]:
        row = tile = 0
        for length, repeats in zip(self.lengths.tolist(), self.repeats.tolist(), strict=True):
            if length == 0:
                return  # the rest see nothing
            keys = min(length * self.block, PIECE_KEYS)
            most = max(1, PIECE_ELEMENTS // (keys * self.block))
            for start in range(row, row + repeats, most):
                items = self.order[start : min(start + most, row + repeats)]
                yield SparseGroup(self, items, slice(tile, tile + items.numel() * length))
                tile += items.numel() * length
            row += repeats


class SparseGroup:
    """The query blocks `items` (C,), each with equally many key blocks of its own: C tiles of M = S queries.

    Args:
        tiles: where the plan has those n key blocks of each, (C * n,).
    """

    def __init__(self, plan: SparsePlan, items: Tensor, tiles: slice):
        self.plan, self.items, self.tiles = plan, items, tiles
        first, last = items[0].item(), items[-1].item()  # ascending, as the order is stable
        self.neighbours = slice(first, last + 1) if last - first + 1 == items.numel() else None

    def load(self, arranged: Tensor) -> Tensor:
        if self.neighbours is not None:
            return arranged[self.neighbours]  # (C, M, D), nothing copied
        return arranged.index_select(0, self.items)  # (C, M, D)

    def store(self, arranged: Tensor, tiles: Tensor) -> None:
        if self.neighbours is not None:
            arranged[self.neighbours] = tiles
        else:
            arranged.index_copy_(0, self.items, tiles)

    def pieces(self) -> Iterator[SparsePiece]:
        tiles = self.items.numel()
        length = (self.tiles.stop - self.tiles.start) // tiles
        step = max(1, PIECE_KEYS // self.plan.block)
        for start in range(0, length, step):
            yield SparsePiece(self, slice(start, min(start + step, length)))


class SparsePiece:
    """The key blocks `slots` out of the n beside each query block of a `SparseGroup`."""

    def __init__(self, group: SparseGroup, slots: slice):
        self.plan, self.group, self.slots = group.plan, group, slots
        tiles = group.items.numel()
        self.index = self._of_tiles(self.plan.key_block)  # (C * K // S,)
        self.shape = (tiles, self.index.numel() // tiles * self.plan.block, self.plan.block)  # (C, K, M)

    def _of_tiles(self, facts: Tensor) -> Tensor:
        """What the plan knows of this piece's tiles: (tiles,) to (C * K // S,)."""
        group = self.group
        return facts[group.tiles].view(group.items.numel(), -1)[:, self.slots].flatten()

    def load(self, arranged: Tensor, name: str) -> Tensor:
        tiles = WORK.buffer(name, (*self.shape[:2], arranged.shape[2]), arranged.dtype)  # (C, K, D)
        torch.index_select(arranged, 0, self.index, out=tiles.view(-1, *arranged.shape[1:]))
        return tiles

    def add(self, arranged: Tensor, tiles: Tensor) -> None:
        arranged.index_add_(0, self.index, tiles.view(-1, self.plan.block, tiles.shape[2]))

    def hide(self, scores: Tensor) -> bool:
        """Set hidden scores (C, K, M) to minus infinity; whether there were any."""
        plan = self.plan
        if not plan.any_partial:
            return False
        partial = self._of_tiles(plan.partial).nonzero().flatten()  # (p,)
        if partial.numel() == 0:
            return False
        items, columns = (self._of_tiles(facts)[partial] for facts in (plan.item, plan.column))  # (p,) each
        offset = torch.arange(plan.block)
        queries = (items % plan.query_blocks * plan.block)[:, None, None] + offset  # (p, 1, S)
        keys = (columns * plan.block)[:, None, None] + offset[:, None]  # (p, S, 1)
        blocks = scores.view(-1, plan.block, plan.block)  # (C * K // S, S, S)
        hidden = ~plan.mask.visible(queries, keys)  # (p, S, S)
        blocks[partial] = blocks[partial].masked_fill_(hidden, -torch.inf)
        return True
