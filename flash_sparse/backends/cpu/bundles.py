"""Which sequences of a batch, or of a pack, are computed together.

A long sequence is worked on by itself, and in place. Short ones are copied side by side and padded, as if they were
more heads of one sequence: the calls for each of them alone would take longer than its products.

Letters as in `plan.py`; n sequences in a bundle.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from flash_sparse.backends.cpu import plan as plans
from flash_sparse.backends.cpu.plan import DensePlan, Mask, SparsePlan

# The shortest sequence of a bundle has at least this share of the longest one's keys: the rest is work on padding.
SHORTEST = 0.75
# Elements of a sequence's queries, all heads: to copy those of a longer one takes as long as the calls that it saves.
SHORT = 1 << 15


class Sequence(NamedTuple):
    """Where the rows of one sequence are: its entry of the batch, and in it its queries and its keys, start to stop."""

    entry: int
    queries: tuple[int, int]
    keys: tuple[int, int]

    @property
    def lengths(self) -> tuple[int, int]:
        return self.queries[1] - self.queries[0], self.keys[1] - self.keys[0]


class InPlace:
    """The queries, or the keys, of one sequence: `rows` of an entry of the batch.

    Args:
        arrange: the plan's, for (H, N, D).
    """

    def __init__(self, entry: int, rows: tuple[int, int], arrange: Callable[[Tensor], Tensor]):
        self.entry, self.rows, self.arrange = entry, slice(*rows), arrange

    def load(self, tensor: Tensor, dtype: torch.dtype, padding: float | None = None) -> Tensor:
        """The rows of `tensor` (B, H, N, D) as the plan's groups read them: a view where one is possible."""
        return self.arrange(tensor[self.entry, :, self.rows].to(dtype))

    @contextlib.contextmanager
    def write(self, tensor: Tensor, initial: float, dtype: torch.dtype) -> Iterator[Tensor]:
        """`tensor` (B, H, N, D), whose elements are all `initial`, as the plan's groups write to it.

        A view where that is possible, else a copy whose contents go to `tensor` at the end.
        """
        rows = tensor[self.entry, :, self.rows]  # (H, N, D)
        arranged = self.arrange(rows.to(dtype))
        yield arranged
        if arranged.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr():
            rows.copy_(arranged.view(rows.shape[0], -1, rows.shape[2])[:, : rows.shape[1]])


class SideBySide:
    """The queries, or the keys, of n sequences, as if they were more heads of one: a copy, padded to the longest.

    Args:
        places: of each sequence, its entry of the batch and its rows.
        arrange: the plan's, for (n * H, longest, D).
    """

    def __init__(self, places: list[tuple[int, tuple[int, int]]], arrange: Callable[[Tensor], Tensor]):
        self.arrange = arrange
        entry, start, stop = torch.tensor([(entry, *rows) for entry, rows in places])[:, :, None, None, None].unbind(1)
        self.entry = entry  # (n, 1, 1, 1)
        row = start + torch.arange(int((stop - start).max()))[:, None]  # (n, 1, longest, 1)
        self.row = row.minimum(stop - 1)
        self.padding = row >= stop  # (n, 1, longest, 1)
        self.padded = bool(self.padding.any())
        self._units: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}

    def load(self, tensor: Tensor, dtype: torch.dtype, padding: float | None = None) -> Tensor:
        """The rows of `tensor` (B, H, N, D) as the plan's groups read them.

        Behind a sequence that is shorter than another stands `padding`, or if that is None its last row repeatedly.
        """
        memory, units, _ = self._in_memory(tensor)
        rows = memory.index_select(0, units).to(dtype).view(self._shape(tensor))
        if padding is not None and self.padded:
            rows.masked_fill_(self.padding, padding)
        return self.arrange(rows.flatten(0, 1))

    @contextlib.contextmanager
    def write(self, tensor: Tensor, initial: float, dtype: torch.dtype) -> Iterator[Tensor]:
        """Memory for the plan's groups, all `initial`, whose contents go to `tensor` (B, H, N, D) at the end."""
        results = tensor.new_full(self._shape(tensor), initial, dtype=dtype)
        yield self.arrange(results.flatten(0, 1))
        memory, units, own = self._in_memory(tensor)
        rows = results.to(tensor.dtype).view(-1, memory.shape[1])
        if self.padded:
            units, rows = units.index_select(0, own), rows.index_select(0, own)
        memory.index_copy_(0, units, rows)

    def _shape(self, tensor: Tensor) -> tuple[int, ...]:
        return self.row.shape[0], tensor.shape[1], self.row.shape[2], tensor.shape[3]  # (n, H, longest, D)

    def _in_memory(self, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The memory of `tensor` (B, H, N, D) cut into units, which of them the sequences' rows are, padded, and which
        of these are no padding (None: all).

        A unit is a row (units, D) if the memory can be cut into such, else an element (units, 1).
        """
        _, heads, _, width = tensor.shape
        *strides, stride = tensor.stride()
        whole = width == 1 or (stride == 1 and not any(other % width for other in strides))
        unit, columns = (width, 1) if whole else (1, width)
        elements = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
        memory = tensor.as_strided((elements // unit, unit), (unit, 1))
        key = (heads, width, *tensor.stride())
        if key not in self._units:
            head, column = torch.arange(heads)[:, None, None], torch.arange(columns)
            index = self.entry * strides[0] + head * strides[1] + self.row * strides[2] + column * stride
            own = (~self.padding).expand(index.shape).flatten().nonzero().flatten() if self.padded else None
            found = index.flatten() // unit, own
            if not whole:  # as large as the tensor: not to be kept
                return memory, *found
            self._units[key] = found
        return memory, *self._units[key]


class Bundle(NamedTuple):
    """Sequences that are computed together."""

    queries: InPlace | SideBySide
    keys: InPlace | SideBySide
    plan: DensePlan | SparsePlan


def bundles(
    query: Tensor,  # (B, H, Nq, D)
    key: Tensor,  # (B, Hkv, Nk, D)
    row_offsets: Tensor | None,  # (Bl, Hl, Qb + 1)
    row_blocks: Tensor | None,  # (nnz,)
    block_size: int,
    cu_seqlens: Tensor | None,  # (sequences + 1,)
    key_lengths: Tensor | None,  # (B,)
    left: int,
    right: int,
) -> Iterator[Bundle]:
    """Every sequence that sees anything, once."""
    heads, key_heads = query.shape[1], key.shape[1]
    if cu_seqlens is None:
        lengths = [key.shape[2]] * key.shape[0] if key_lengths is None else key_lengths.tolist()
        sequences = [Sequence(entry, (0, query.shape[2]), (0, length)) for entry, length in enumerate(lengths)]
        diagonal = key.shape[2] - query.shape[2]
    else:
        bounds = cu_seqlens.tolist()
        sequences = [Sequence(0, pair, pair) for pair in itertools.pairwise(bounds)]
        diagonal = 0

    if row_offsets is None:
        visible = tuple(sequence for sequence in sequences if all(sequence.lengths))
        yield from _dense_bundles(
            visible, heads, key_heads, query.shape[3], diagonal, left, right, plans.PIECE_ELEMENTS
        )
        return
    for index, sequence in enumerate(sequences):
        if all(sequence.lengths):
            own = row_offsets[index if row_offsets.shape[0] > 1 else 0]  # (Hl, Qb + 1)
            mask = Mask(*sequence.lengths, diagonal, left, right)
            yield _bundle([sequence], SparsePlan(heads, key_heads, mask, own, row_blocks, block_size))


@lru_cache(maxsize=2)  # the layers of a model ask for the same ones, forward and backward
def _dense_bundles(
    sequences: tuple[Sequence, ...],
    heads: int,
    key_heads: int,
    width: int,
    diagonal: int,
    left: int,
    right: int,
    room: int,
) -> list[Bundle]:
    """All sequences, without a layout, rows of `width`; those of a bundle together have at most `room` scores."""
    found = []
    with torch.inference_mode(False):  # what is kept may be used outside of it later
        for some in _alike(sequences, heads, width, room):
            mask = Mask(*some[0].lengths, diagonal, left, right)
            plan = DensePlan(heads * len(some), key_heads * len(some), mask, _padding(some, key_heads))
            found.append(_bundle(some, plan))
    return found


def _bundle(some: list[Sequence], plan: DensePlan | SparsePlan) -> Bundle:
    if len(some) == 1:
        (only,) = some
        queries = InPlace(only.entry, only.queries, plan.arrange_queries)
        return Bundle(queries, InPlace(only.entry, only.keys, plan.arrange_keys), plan)
    queries = SideBySide([(sequence.entry, sequence.queries) for sequence in some], plan.arrange_queries)
    keys = SideBySide([(sequence.entry, sequence.keys) for sequence in some], plan.arrange_keys)
    return Bundle(queries, keys, plan)


def _alike(sequences: tuple[Sequence, ...], heads: int, width: int, room: int) -> Iterator[list[Sequence]]:
    """Short sequences of similar lengths, the longest first, and each longer one by itself."""
    some: list[Sequence] = []
    for sequence in sorted(sequences, key=lambda sequence: sequence.lengths, reverse=True):
        if some:
            queries, keys = some[0].lengths
            full = (len(some) + 1) * heads * queries * keys > room
            if full or heads * queries * width > SHORT or sequence.lengths[1] < SHORTEST * keys:
                yield some
                some = []
        some.append(sequence)
    if some:
        yield some


def _padding(some: list[Sequence], key_heads: int) -> Tensor | None:
    """The keys of each sequence, for each of its key heads, (n * Hkv,); None if none is shorter than another."""
    lengths = [sequence.lengths[1] for sequence in some]
    if min(lengths) == max(lengths):
        return None
    return torch.tensor(lengths).repeat_interleave(key_heads)
