"""Which key blocks each query block sees: a block-sparse layout in compressed rows and columns.

Letters: B batch, H heads, Qb query blocks, Kb key blocks, nnz blocks kept.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_SIZES = (16, 32, 64, 128)
MAX_NUMBER = 2**31 - 1  # of tokens, rows or blocks: layouts hold 32-bit integers


class BlockLayout:
    """The blocks of the attention matrix that are computed; all others count as masked.

    Immutable. Costs memory in the number of kept blocks, never in length squared. The leading shape `(Bl, Hl)` is
    `(1, 1)` for a layout that all heads and batch entries share, `(1, H)` for one per head, `(B, H)` (or `(B, 1)`) for
    one per batch entry. Make one with `from_blocks`, or with a function of `flash_sparse.patterns`.

    Attributes:
        block_size: rows and columns of a block, in tokens: 16, 32, 64 or 128.
        query_length, key_length: tokens covered; the last block of a row or column may be partly outside.
        row_offsets: (Bl, Hl, Qb + 1) int32. Row (b, h, i) keeps the key blocks
            `row_blocks[row_offsets[b, h, i]:row_offsets[b, h, i + 1]]`, ascending.
        row_blocks: (nnz,) int32.
        column_offsets: (Bl, Hl, Kb + 1) int32, the same for columns: which query blocks see key block j.
        column_blocks: (nnz,) int32.
        row_order, column_order: (Bl, Hl, Qb + 1) and (Bl, Hl, Kb + 1) int32, in which order a GPU had best begin rows
            and columns: heavy ones first, all others as they stand. The last entry is how many are to come first.
    """

    __slots__ = (
        "__weakref__",
        "block_size",
        "column_blocks",
        "column_offsets",
        "column_order",
        "key_length",
        "query_length",
        "row_blocks",
        "row_offsets",
        "row_order",
    )

    def __init__(
        self,
        row_offsets: Tensor,
        row_blocks: Tensor,
        column_offsets: Tensor,
        column_blocks: Tensor,
        block_size: int,
        query_length: int,
        key_length: int,
    ):
        """Take compressed rows and columns that agree; nothing is checked. `from_blocks` and `from_indices` check."""
        self.row_offsets = row_offsets  # (Bl, Hl, Qb + 1)
        self.row_blocks = row_blocks  # (nnz,)
        self.column_offsets = column_offsets  # (Bl, Hl, Kb + 1)
        self.column_blocks = column_blocks  # (nnz,)
        self.block_size = block_size
        self.query_length = query_length
        self.key_length = key_length
        self.row_order = _heavy_first(row_offsets)  # (Bl, Hl, Qb + 1)
        self.column_order = _heavy_first(column_offsets)  # (Bl, Hl, Kb + 1)

    @classmethod
    def from_blocks(
        cls, blocks: Tensor, block_size: int, query_length: int, key_length: int | None = None
    ) -> BlockLayout:
        """Make a layout from a boolean picture of its blocks.

        Args:
            blocks: bool, (Qb, Kb), (H, Qb, Kb) or (B, H, Qb, Kb); True where the block is computed.
            block_size: 16, 32, 64 or 128 tokens.
            query_length: Nq in tokens; Qb is its number of blocks, rounded up.
            key_length: Nk in tokens; `query_length` if None.

        Raises:
            TypeError: `blocks` is not a dense boolean tensor.
            ValueError: an unknown block size, a length below 1, or a shape that does not fit the lengths.
        """
        key_length = query_length if key_length is None else key_length
        check_dense("blocks", blocks)
        if blocks.dtype != torch.bool:
            raise TypeError(f"blocks is {blocks.dtype}; expected a tensor of torch.bool")
        num_rows = count_blocks(query_length, block_size, "query_length")
        num_columns = count_blocks(key_length, block_size, "key_length")
        if not 2 <= blocks.dim() <= 4 or blocks.shape[-2:] != (num_rows, num_columns):
            raise ValueError(
                f"blocks has shape {tuple(blocks.shape)}; expected its last two sizes to be {(num_rows, num_columns)} "
                f"(lengths {query_length} and {key_length} in blocks of {block_size}) with at most two before them"
            )
        blocks = blocks.reshape((1,) * (4 - blocks.dim()) + blocks.shape)  # (Bl, Hl, Qb, Kb)
        leading = blocks.shape[0], blocks.shape[1]
        return cls.from_indices(blocks.nonzero().T, leading, block_size, query_length, key_length)

    @classmethod
    def from_indices(
        cls, indices: Tensor, leading: tuple[int, int], block_size: int, query_length: int, key_length: int
    ) -> BlockLayout:
        """Make a layout from the coordinates of its blocks, in any order, repeats allowed.

        Args:
            indices: integers, (4, n): batch entry, head, query block, key block.
            leading: (Bl, Hl), the sizes that the first two rows of `indices` stay below.
            block_size, query_length, key_length: as in `from_blocks`.

        Raises:
            TypeError: `indices` is not a dense tensor of integers, or `leading` not two integers.
            ValueError: another shape, a block outside the layout, an unknown block size, a length below 1, or more rows
                of blocks than 32-bit integers count.
        """
        num_rows = count_blocks(query_length, block_size, "query_length")
        num_columns = count_blocks(key_length, block_size, "key_length")
        leading = _check_leading(leading, num_rows, num_columns)
        shape = (*leading, num_rows, num_columns)
        check_dense("indices", indices)
        if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
            raise TypeError(f"indices is {indices.dtype}; expected a tensor of integers")
        if indices.dim() != 2 or indices.shape[0] != 4:
            raise ValueError(
                f"indices has shape {tuple(indices.shape)}; expected (4, n): batch entry, head, query block, key block"
            )
        indices = indices.long()  # int8 ones would overflow below
        if indices.numel():
            names = ("batch entry", "head", "query block", "key block")
            for name, index, size in zip(names, indices, shape, strict=True):
                low, high = int(index.min()), int(index.max())
                if low < 0 or high >= size:
                    raise ValueError(f"indices: {name} {low if low < 0 else high} is outside 0..{size - 1}")
        batch, head, row, column = indices  # (n,) each
        keys = ((batch * leading[1] + head) * num_rows + row) * num_columns + column  # (n,)
        keys = _ascending(_narrow(keys, math.prod(shape)))  # (nnz,)
        return cls._from_keys(keys, leading, block_size, query_length, key_length)

    @classmethod
    @torch.inference_mode(False)  # made in an evaluation, it may serve in training
    def _from_keys(
        cls, keys: Tensor, leading: tuple[int, int], block_size: int, query_length: int, key_length: int
    ) -> BlockLayout:
        """Make a layout from ascending flat indices into (Bl, Hl, Qb, Kb), (nnz,), without repeats."""
        num_rows = count_blocks(query_length, block_size, "query_length")
        num_columns = count_blocks(key_length, block_size, "key_length")
        if keys.numel() > MAX_NUMBER:
            raise ValueError(f"a layout of {keys.numel()} blocks; expected at most {MAX_NUMBER}")
        num_matrices = leading[0] * leading[1]
        row_key = keys // num_columns  # (nnz,), matrix and query block
        row_blocks = keys - row_key * num_columns  # (nnz,)
        matrix = row_key // num_rows
        # A stable sort by column keeps each column's query blocks ascending.
        column_key, order = _narrow(matrix * num_columns + row_blocks, num_matrices * num_columns).sort(stable=True)
        return cls(
            _offsets(row_key, num_matrices, num_rows).view(*leading, num_rows + 1),
            row_blocks.int(),
            _offsets(column_key, num_matrices, num_columns).view(*leading, num_columns + 1),
            (row_key - matrix * num_rows).int()[order],
            block_size,
            query_length,
            key_length,
        )

    @property
    def leading(self) -> tuple[int, int]:
        """(Bl, Hl): how many batch entries and heads have a layout of their own; 1 means shared."""
        return self.row_offsets.shape[0], self.row_offsets.shape[1]

    @property
    def num_query_blocks(self) -> int:
        return self.row_offsets.shape[2] - 1

    @property
    def num_key_blocks(self) -> int:
        return self.column_offsets.shape[2] - 1

    @property
    def num_blocks(self) -> int:
        """Blocks kept, over all heads and batch entries that have a layout of their own."""
        return self.row_blocks.numel()

    @property
    def density(self) -> float:
        """Share of blocks kept, 0 to 1."""
        all_blocks = self.leading[0] * self.leading[1] * self.num_query_blocks * self.num_key_blocks
        return self.num_blocks / max(1, all_blocks)  # a layout for each of no batch entries has none

    @property
    def device(self) -> torch.device:
        return self.row_blocks.device

    def indices(self) -> Tensor:
        """The kept blocks as (4, nnz) int64: batch entry, head, query block, key block; ordered by row."""
        counts = self.row_offsets.diff(dim=-1).flatten().long()  # (Bl * Hl * Qb,)
        row_key = torch.arange(counts.numel(), device=self.device).repeat_interleave(counts)  # (nnz,)
        matrix, row = row_key // self.num_query_blocks, row_key % self.num_query_blocks
        heads = self.leading[1]
        return torch.stack([matrix // heads, matrix % heads, row, self.row_blocks.long()])

    def to_blocks(self) -> Tensor:
        """The boolean picture, (Bl, Hl, Qb, Kb). Its size grows with length squared over block size squared."""
        shape = (*self.leading, self.num_query_blocks, self.num_key_blocks)
        blocks = torch.zeros(shape, dtype=torch.bool, device=self.device)
        blocks[tuple(self.indices())] = True
        return blocks  # (Bl, Hl, Qb, Kb)

    def to_mask(self) -> Tensor:
        """The mask over tokens, bool (Bl, Hl, Nq, Nk). Grows with length squared: for tests and small examples."""
        mask = self.to_blocks().repeat_interleave(self.block_size, 2).repeat_interleave(self.block_size, 3)
        return mask[:, :, : self.query_length, : self.key_length]  # (Bl, Hl, Nq, Nk)

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> BlockLayout:
        """The same layout on another device; itself when it is there already."""
        device = torch.device(device)
        if device == self.device or (device.type == self.device.type and device.index is None):
            return self
        return BlockLayout(
            self.row_offsets.to(device),
            self.row_blocks.to(device),
            self.column_offsets.to(device),
            self.column_blocks.to(device),
            self.block_size,
            self.query_length,
            self.key_length,
        )

    def cuda(self, device: torch.device | int | None = None) -> BlockLayout:
        """The same layout on a GPU, the current one if None."""
        if not isinstance(device, torch.device):
            device = torch.device("cuda", torch.cuda.current_device() if device is None else device)
        return self.to(device)

    def cpu(self) -> BlockLayout:
        """The same layout in the CPU's memory."""
        return self.to("cpu")

    def crop(self, query_length: int, key_length: int | None = None) -> BlockLayout:
        """The upper left part, for shorter sequences.

        Args:
            query_length: tokens, at most those of this layout.
            key_length: likewise; `query_length` if None.

        Raises:
            ValueError: a length below 1 or above this layout's.
        """
        key_length = query_length if key_length is None else key_length
        if (query_length, key_length) == (self.query_length, self.key_length):
            return self
        num_rows = count_blocks(query_length, self.block_size, "query_length")
        num_columns = count_blocks(key_length, self.block_size, "key_length")
        if query_length > self.query_length or key_length > self.key_length:
            raise ValueError(
                f"crop to {query_length} x {key_length} tokens of a layout made for {self.query_length} x "
                f"{self.key_length}; expected no more"
            )
        indices = self.indices()  # (4, nnz)
        kept = (indices[2] < num_rows) & (indices[3] < num_columns)  # (nnz,)
        return BlockLayout.from_indices(indices[:, kept], self.leading, self.block_size, query_length, key_length)

    def __or__(self, other: BlockLayout) -> BlockLayout:
        """Blocks that either layout keeps. A shared layout is repeated over the other's heads and batch entries."""
        return self._combine(other, at_least=1)

    def __and__(self, other: BlockLayout) -> BlockLayout:
        """Blocks that both layouts keep."""
        return self._combine(other, at_least=2)

    def _combine(self, other: BlockLayout, at_least: int) -> BlockLayout:
        if not isinstance(other, BlockLayout):
            return NotImplemented
        ours = (self.block_size, self.query_length, self.key_length)
        theirs = (other.block_size, other.query_length, other.key_length)
        if ours != theirs:
            raise ValueError(
                f"layouts with (block_size, query_length, key_length) {ours} and {theirs}; expected the same three"
            )
        if any(1 not in sizes and sizes[0] != sizes[1] for sizes in zip(self.leading, other.leading, strict=True)):
            raise ValueError(
                f"layouts for (batch entries, heads) {self.leading} and {other.leading}; expected the same or 1"
            )
        leading = max(self.leading[0], other.leading[0]), max(self.leading[1], other.leading[1])
        both = torch.cat([self._keys(leading), other.to(self.device)._keys(leading)])  # (n,)
        kept, count = both.sort(stable=True).values.unique_consecutive(return_counts=True)
        return BlockLayout._from_keys(kept[count >= at_least], leading, *ours)

    def _keys(self, leading: tuple[int, int]) -> Tensor:
        """Flat indices into (Bl, Hl, Qb, Kb), a shared layout repeated for every head and batch entry of `leading`."""
        batch, head, row, column = self.indices()  # (nnz,) each
        within = row * self.num_key_blocks + column  # (nnz,)
        own_batch, own_heads = self.leading
        batches = torch.arange(leading[0] // own_batch, device=self.device)[:, None, None]
        heads = torch.arange(leading[1] // own_heads, device=self.device)[:, None]
        matrix = (batch + batches) * leading[1] + head + heads  # (copies over batch, copies over heads, nnz)
        size = self.num_query_blocks * self.num_key_blocks
        return _narrow((matrix * size + within).flatten(), math.prod(leading) * size)

    def draw(self, width: int = 64) -> str:
        """A picture in text of the first head of the first batch entry, at most `width` characters wide.

        One character is a block, or a square of several where the layout is larger: a space for none kept, `█` for all,
        shades between.
        """
        check_integer("width", width, 1)
        _, _, row, column = self.indices()[:, : int(self.row_offsets[0, 0, -1])]  # (n,)
        step = -(-max(self.num_query_blocks, self.num_key_blocks) // width)
        rows, columns = -(-self.num_query_blocks // step), -(-self.num_key_blocks // step)
        kept = torch.bincount(row // step * columns + column // step, minlength=rows * columns).view(rows, columns)
        heights = (self.num_query_blocks - step * torch.arange(rows, device="cpu")).clamp(max=step)  # (rows,)
        widths = (self.num_key_blocks - step * torch.arange(columns, device="cpu")).clamp(max=step)  # (columns,)
        share = kept.cpu() / (heights[:, None] * widths)  # (rows, columns), 0 to 1
        return "\n".join("".join(" ░▒▓█"[int(-(-value * 4 // 1))] for value in line) for line in share.tolist())

    def __reduce__(self) -> tuple:
        rows, columns = (self.row_offsets, self.row_blocks), (self.column_offsets, self.column_blocks)
        return BlockLayout, (*rows, *columns, self.block_size, self.query_length, self.key_length)

    def __eq__(self, other: object) -> bool:
        """Whether both keep the same blocks for the same lengths, on the same device."""
        if not isinstance(other, BlockLayout):
            return NotImplemented
        ours = (self.block_size, self.query_length, self.key_length, self.leading, self.device)
        theirs = (other.block_size, other.query_length, other.key_length, other.leading, other.device)
        return (
            ours == theirs
            and torch.equal(self.row_offsets, other.row_offsets)
            and torch.equal(self.row_blocks, other.row_blocks)
        )

    def __hash__(self) -> int:
        return hash((self.block_size, self.query_length, self.key_length, self.leading, self.num_blocks))

    def __repr__(self) -> str:
        return (
            f"BlockLayout({self.query_length} x {self.key_length} tokens, blocks of {self.block_size}, "
            f"{self.num_blocks} kept, density {self.density:.4f}, batch and heads {self.leading}, {self.device})"
        )


torch.serialization.add_safe_globals([BlockLayout])  # torch.load takes it with weights_only, which is its default


def count_blocks(length: int, block_size: int, name: str = "length") -> int:
    """Blocks along an axis of `length` tokens, the last one perhaps incomplete; raises on sizes no layout can have."""
    check_integer("block_size", block_size, 1)
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size is {block_size}; expected one of {BLOCK_SIZES}")
    check_integer(name, length, 1)
    if length > MAX_NUMBER:
        raise ValueError(f"{name} is {length}; expected at most {MAX_NUMBER}")
    return -(-length // block_size)


def check_integer(name: str, value: int, least: int) -> None:
    """Raise TypeError for what is no integer, as 2.0 and True are none, and ValueError for one below `least`."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")


def check_dense(name: str, value: Tensor) -> None:
    """Raise TypeError for what is no tensor, and for tensors that are sparse, nested or on "meta"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}; expected a tensor")
    if value.layout != torch.strided or value.is_nested:
        raise TypeError(f"{name} is a {'nested' if value.is_nested else 'sparse'} tensor; expected a dense one")
    if value.is_meta:
        raise TypeError(f"{name} is on the device meta, where it holds no numbers; expected it on another")


def _check_leading(leading: tuple[int, int], num_rows: int, num_columns: int) -> tuple[int, int]:
    """(Bl, Hl) as two numbers; raises for any other, and for more rows or columns of blocks than can be counted."""
    if not isinstance(leading, Sequence) or len(leading) != 2:
        raise TypeError(f"leading is {leading!r}; expected two integers, (batch entries, heads)")
    for size in leading:
        check_integer("leading", size, 0)
    lines = math.prod(leading) * (max(num_rows, num_columns) + 1)
    if lines > MAX_NUMBER:
        raise ValueError(f"leading is {tuple(leading)}: {lines} rows of blocks; expected at most {MAX_NUMBER}")
    return int(leading[0]), int(leading[1])


def _ascending(keys: Tensor) -> Tensor:
    """The keys (n,) in ascending order, each once."""
    if keys.numel() < 2 or bool((keys[1:] > keys[:-1]).all()):
        return keys
    return keys.sort(stable=True).values.unique_consecutive()  # stable: the faster algorithm on a CPU


def _narrow(keys: Tensor, limit: int) -> Tensor:
    """The keys, all below `limit`, in 32-bit integers where they fit, which sort faster."""
    return keys.int() if limit <= torch.iinfo(torch.int32).max else keys


def _offsets(keys: Tensor, num_matrices: int, num_lines: int) -> Tensor:
    """Where each line's blocks begin and end, (num_matrices, num_lines + 1) int32, for ascending line keys (nnz,)."""
    bounds = torch.arange(num_matrices * num_lines + 1, device=keys.device, dtype=keys.dtype)
    ends = torch.searchsorted(keys, bounds, out_int32=True)  # (num_matrices * num_lines + 1,)
    lines = torch.arange(num_matrices, device=keys.device)[:, None] * num_lines
    return ends[lines + torch.arange(num_lines + 1, device=keys.device)]


def _heavy_first(offsets: Tensor) -> Tensor:
    """The lines with more than twice the mean of blocks, then all others: (Bl, Hl, lines + 1) for such offsets.

    A line that all others see, of global tokens, takes as long as dozens of others: begun last, it would run alone.
    """
    counts = offsets.diff(dim=-1)  # (Bl, Hl, lines)
    heavy = counts > 2 * counts.float().mean()  # (Bl, Hl, lines)
    order = heavy.logical_not().int().argsort(dim=-1, stable=True)  # (Bl, Hl, lines)
    most = torch.nn.functional.pad(heavy.sum(-1).flatten(), (0, 1)).max()  # padded: no batch entries have no maximum
    return torch.cat([order, most.expand(*order.shape[:2], 1)], dim=-1).int()
