"""Ways to choose the blocks of a layout. Each is a function `pattern(length, block_size, ...)` to a `BlockLayout`.

A name that ends in `_blocks` counts blocks; every other size counts tokens. A pattern that is made of tokens keeps each
block with at least one of its pairs of tokens, so it can be cut to the very tokens by the masks of `attention`:
`local(n, 128, window=256)` with `window=(256, 256)` there is the exact sliding window. No pattern is causal by itself:
give `is_causal=True` to `attention`. Combine patterns with `|` and `&`.

A layout is on PyTorch's default device; made for "meta", where it could hold no numbers, it is on the CPU. It holds
numbers under a FakeTensorMode too.

All are built from lists of kept blocks, never from a picture of the whole matrix, so they cost time and memory in the
number of kept blocks.

Letters: Q blocks along either axis of the attention matrix, n blocks kept.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from flash_sparse.layout import MAX_NUMBER, BlockLayout, check_integer, count_blocks


def _pattern(make: Callable[..., BlockLayout]) -> Callable[..., BlockLayout]:
    """Make the layout on the CPU, so that it is the same whatever the default device is, and move it there."""

    @functools.wraps(make)
    def made(*arguments, **options) -> BlockLayout:
        device = torch.get_default_device()
        with torch.device("cpu"), unset_fake_temporarily():
            layout = make(*arguments, **options)
            return layout if device.type == "meta" else layout.to(device)

    return made


@_pattern
def local(length: int, block_size: int, window: int = 256) -> BlockLayout:
    """A band around the diagonal.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        window: tokens that each token sees on either side, at least 0.

    Raises:
        ValueError: an argument out of range.

    Source: Beltagy et al. 2020, "Longformer", section 3.1, "Sliding Window", whose w is twice this window.
    """
    check_integer("window", window, 0)
    start = torch.arange(count_blocks(length, block_size)) * block_size  # (Q,)
    window = min(window, length)
    return _from_ranges(start // block_size, start - window, start + block_size - 1 + window, length, block_size)


@_pattern
def global_tokens(length: int, block_size: int, positions: Sequence[int] = (0,)) -> BlockLayout:
    """Some tokens see all others and are seen by all; so do the others in their blocks.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        positions: the global tokens, each from 0 to length - 1; `range(64)` is the first 64.

    Raises:
        ValueError: an argument out of range.

    Source: Beltagy et al. 2020, "Longformer", section 3.1, "Global Attention".
    """
    return _see_all("positions", positions, length, block_size)


@_pattern
def strided(length: int, block_size: int, stride_blocks: int | None = None) -> BlockLayout:
    """A band of the stride's width, and every stride-th block before and after it.

    Block i keeps block j if |i - j| < stride or if the stride divides i - j. Any block reaches any other in two steps.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        stride_blocks: the stride in blocks, at least 1; None for the square root of the number of blocks, rounded up.

    Raises:
        ValueError: an argument out of range.

    Source: Child et al. 2019, "Generating Long Sequences with Sparse Transformers", section 4.3, "strided attention",
    both of its parts in every head, with blocks for tokens.
    """
    num_blocks = count_blocks(length, block_size)
    stride = math.isqrt(num_blocks - 1) + 1 if stride_blocks is None else stride_blocks
    check_integer("stride_blocks", stride, 1)
    stride = min(stride, num_blocks)
    row = torch.arange(num_blocks)[:, None]  # (Q, 1)
    band = row + torch.arange(1 - stride, stride)  # (Q, 2 stride - 1)
    far = row % stride + torch.arange(0, num_blocks, stride)  # (Q, Q / stride)
    return _from_rows(torch.cat([band, far], dim=1), length, block_size)


@_pattern
def random(
    length: int, block_size: int, density: float = 0.125, seed: int = 0, heads: int | None = None
) -> BlockLayout:
    """The diagonal and, in every row, the same number of other blocks, drawn uniformly without repeats.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        density: share of the blocks of a row that is kept, the diagonal counted, above 0 and up to 1; rounded to a
            number of blocks, at least one.
        seed: of the draw, which leaves PyTorch's own generator alone; the same seed gives the same layout.
        heads: draw a layout for each of so many heads; None draws one that all share.

    Raises:
        ValueError: an argument out of range.
    """
    num_blocks = count_blocks(length, block_size)
    if not isinstance(density, numbers.Real):
        raise TypeError(f"density is {density!r}; expected a number")
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}; expected 0 < density <= 1")
    others = max(1, round(density * num_blocks)) - 1
    return _random_others(length, block_size, others, seed, heads)


@_pattern
def butterfly(length: int, block_size: int, factors: int | None = None, global_blocks: int = 0) -> BlockLayout:
    """The union of the factors of a butterfly matrix: block i keeps block j if i == j or i xor j is a power of two.

    Any block reaches any other in as many steps as their numbers differ in bits, at most log2 of the number of blocks.
    A number of blocks that is no power of two takes the upper left part of the next larger one, where this still holds:
    a path that first clears bits and then sets them never leaves it. With Q blocks, a power of two, and all factors
    the density is (1 + log2 Q) / Q.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        factors: how many, from the one that pairs neighbours (i xor j == 1) on, each twice as far as the one before;
            None for all, the logarithm of the number of blocks.
        global_blocks: so many first blocks see all others and are seen by all.

    Raises:
        ValueError: an argument out of range.

    Source: Dao et al. 2021, "Pixelated Butterfly", section 3, flat block butterfly; the fixed sparsity pattern of
    block-sparse attention in Dao et al. 2022, "FlashAttention", section 3.3.
    """
    num_blocks = count_blocks(length, block_size)
    most = int(num_blocks - 1).bit_length()
    factors = most if factors is None else factors
    check_integer("factors", factors, 0)
    if factors > most:
        raise ValueError(f"factors is {factors}; expected 0 to {most}, for {num_blocks} blocks")
    flips = torch.tensor([0, *(2**factor for factor in range(factors))])  # (1 + factors,)
    layout = _from_rows(torch.arange(num_blocks)[:, None] ^ flips, length, block_size)
    return layout | _first_blocks(length, block_size, global_blocks)


@_pattern
def longformer(length: int, block_size: int, window: int = 256, global_positions: Sequence[int] = (0,)) -> BlockLayout:
    """A band around the diagonal, and global tokens.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        window: tokens that each token sees on either side, at least 0.
        global_positions: the tokens that see all others and are seen by all, each from 0 to length - 1.

    Raises:
        ValueError: an argument out of range.

    Source: Beltagy et al. 2020, "Longformer", section 3.1. Its base model has w = 512, which is window=256 here, and
    for classification one global token, the first.
    """
    return local(length, block_size, window) | _see_all("global_positions", global_positions, length, block_size)


@_pattern
def bigbird(
    length: int,
    block_size: int,
    window_blocks: int = 3,
    global_blocks: int = 2,
    random_blocks: int = 3,
    seed: int = 0,
    heads: int | None = None,
) -> BlockLayout:
    """A band around the diagonal, first blocks that are global, and random blocks.

    Args:
        length: tokens of the sequence.
        block_size: 16, 32, 64 or 128 tokens.
        window_blocks: width of the band in blocks, odd.
        global_blocks: so many first blocks see all others and are seen by all.
        random_blocks: blocks drawn uniformly without repeats in every row, off the diagonal; they may fall on blocks
            of the other two parts.
        seed: of the draw, which leaves PyTorch's own generator alone.
        heads: draw for each of so many heads; None draws once for all.

    Raises:
        ValueError: an argument out of range.

    Source: Zaheer et al. 2020, "Big Bird", section 2 and appendix D. The defaults are its base model's, which has
    blocks of 64.
    """
    num_blocks = count_blocks(length, block_size)
    check_integer("window_blocks", window_blocks, 1)
    if window_blocks % 2 == 0:
        raise ValueError(f"window_blocks is {window_blocks}; expected an odd number, with the diagonal in the middle")
    check_integer("random_blocks", random_blocks, 0)
    side = min(window_blocks // 2, num_blocks - 1)
    band = _from_rows(torch.arange(num_blocks)[:, None] + torch.arange(-side, side + 1), length, block_size)
    drawn = _random_others(length, block_size, min(random_blocks, num_blocks - 1), seed, heads)
    return band | _first_blocks(length, block_size, global_blocks) | drawn


@_pattern
def axial(length: int, block_size: int, width: int | None = None) -> BlockLayout:
    """An image, its rows laid end to end: each pixel sees its own row and its own column.

    Worth its name where blocks are narrower than rows: a block of a whole image row lies in every column, so
    `block_size >= width` keeps all blocks.

    Args:
        length: pixels of the image; the last image row may be incomplete.
        block_size: 16, 32, 64 or 128 pixels.
        width: pixels of an image row; None for a square image.

    Raises:
        ValueError: an argument out of range, or no width for a length that is not a square.

    Source: Ho et al. 2019, "Axial Attention in Multidimensional Transformers", section 3, rows and columns in one.
    """
    block = torch.arange(count_blocks(length, block_size))  # (Q,)
    width = _image_width(length, width)
    start = block * block_size  # (Q,)
    stop = (start + block_size).clamp(max=length)  # (Q,)
    own_rows = block, start // width * width, (stop - 1) // width * width + width - 1
    # The columns of a block are an interval that may wrap around the image's edge. Moved to another image row, it runs
    # on into the next row there too, which is why one begins before the first row.
    moves = torch.arange(-width, length, width) - (start // width * width)[:, None]  # (Q, image rows + 1)
    own_columns = block[:, None].expand_as(moves), start[:, None] + moves, stop[:, None] - 1 + moves
    rows, first, last = (torch.cat([a, b.flatten()]) for a, b in zip(own_rows, own_columns, strict=True))
    return _from_ranges(rows, first, last, length, block_size)


@_pattern
def neighborhood_2d(length: int, block_size: int, width: int | None = None, window: int = 8) -> BlockLayout:
    """An image, its rows laid end to end: each pixel sees the square around it.

    Args:
        length: pixels of the image; the last image row may be incomplete.
        block_size: 16, 32, 64 or 128 pixels.
        width: pixels of an image row; None for a square image.
        window: pixels seen on each of the four sides, at least 0; the square is cut at the image's edges.

    Raises:
        ValueError: an argument out of range, or no width for a length that is not a square.

    Source: Parmar et al. 2018, "Image Transformer", section 3.3, "2D local attention", with the square around each
    pixel as in Hassani et al. 2023, "Neighborhood Attention Transformer", section 3.1, but cut at the edges.
    """
    count_blocks(length, block_size)
    width = _image_width(length, width)
    check_integer("window", window, 0)
    window = min(window, length)
    # Pieces of image rows that lie in one block each
    cuts = torch.cat([torch.arange(0, length, block_size), torch.arange(0, length, width)]).unique()  # (pieces,)
    ends = torch.cat([cuts[1:], cuts.new_tensor([length])]) - 1  # (pieces,)
    moves = torch.arange(-window, window + 1)  # (2 window + 1,) image rows up and down
    row = (cuts // width)[:, None] + moves  # (pieces, 2 window + 1)
    first = row * width + (cuts % width - window).clamp(min=0)[:, None]
    last = row * width + (ends % width + window).clamp(max=width - 1)[:, None]
    block = (cuts // block_size)[:, None].expand_as(row)
    return _from_ranges(block.flatten(), first.flatten(), last.flatten(), length, block_size)


def _image_width(length: int, width: int | None) -> int:
    if width is None:
        width = math.isqrt(length)
        if width * width != length:
            raise ValueError(f"width is None and length {length} is no square; expected the pixels of an image row")
    check_integer("width", width, 1)
    return min(width, length)  # a wider image has one incomplete row as well


def _see_all(name: str, positions: Iterable[int], length: int, block_size: int) -> BlockLayout:
    """The blocks of these tokens see all others and are seen by all; `name` is what errors call the positions."""
    num_blocks = count_blocks(length, block_size)
    try:
        iter(positions)
    except TypeError:  # a tensor of one number has the method, and refuses
        raise TypeError(f"{name} is {positions!r}; expected integers, such as (0,) or range(64)") from None
    for position in positions:
        check_integer(name, position, 0)
        if position >= length:
            raise ValueError(f"{name} holds {position}; expected 0 to {length - 1}, tokens of the sequence")
    chosen = torch.tensor(sorted({position // block_size for position in positions}), dtype=torch.int64)
    return _from_pairs(*_crosses(chosen, num_blocks), length, block_size)


def _first_blocks(length: int, block_size: int, count: int) -> BlockLayout:
    """The first `count` blocks see all others and are seen by all."""
    num_blocks = count_blocks(length, block_size)
    check_integer("global_blocks", count, 0)
    if count > num_blocks:
        raise ValueError(f"global_blocks is {count}; expected 0 to {num_blocks}, the number of blocks")
    return _from_pairs(*_crosses(torch.arange(count), num_blocks), length, block_size)


def _crosses(chosen: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Query and key blocks of whole rows and whole columns: those of the blocks `chosen` (c,)."""
    every = torch.arange(num_blocks)  # (Q,)
    chosen, every = chosen.repeat_interleave(num_blocks), every.repeat(chosen.numel())  # (c Q,) each
    return torch.cat([chosen, every]), torch.cat([every, chosen])


def _random_others(length: int, block_size: int, count: int, seed: int, heads: int | None) -> BlockLayout:
    """The diagonal and `count` other blocks in every row, a draw for each head."""
    num_blocks = count_blocks(length, block_size)
    heads = 1 if heads is None else heads
    check_integer("heads", heads, 1)
    if heads * num_blocks > MAX_NUMBER:
        raise ValueError(f"heads is {heads}: {heads * num_blocks} rows of blocks; expected at most {MAX_NUMBER}")
    check_integer("seed", seed, -(2**63))
    if seed >= 2**63:
        raise ValueError(f"seed is {seed}; expected a 64-bit integer")
    generator = torch.Generator().manual_seed(int(seed))
    drawn = _draw(heads * num_blocks, num_blocks - 1, count, generator)  # (H Q, count)
    head_row = torch.arange(heads * num_blocks)[:, None]  # (H Q, 1)
    row = head_row % num_blocks
    column = torch.cat([row, drawn + (drawn >= row)], dim=1)  # (H Q, 1 + count), past the diagonal
    head, row = (head_row // num_blocks).expand_as(column), row.expand_as(column)
    indices = torch.stack([torch.zeros_like(head), head, row, column]).flatten(1)  # (4, n)
    return BlockLayout.from_indices(indices, (1, heads), block_size, length, length)


def _draw(rows: int, choices: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different numbers below `choices` for each row, every set equally likely: (rows, count)."""
    if 16 * count > choices:
        return torch.stack([torch.randperm(choices, generator=generator)[:count] for _ in range(rows)])
    # Few of many: draw what a row lacks until it has enough. Nothing favours one number over another, so that every
    # set is as likely as any.
    kept = torch.empty(0, dtype=torch.int64)  # ascending row * choices + number
    lacking = torch.full((rows,), count)
    while bool(lacking.any()):
        row = torch.arange(rows).repeat_interleave(lacking)
        drawn = row * choices + torch.randint(choices, row.shape, generator=generator)
        kept = torch.cat([kept, drawn]).sort(stable=True).values.unique_consecutive()
        lacking = count - torch.bincount(kept // choices, minlength=rows)
    return (kept % choices).view(rows, count)


def _from_pairs(row: Tensor, column: Tensor, length: int, block_size: int) -> BlockLayout:
    """A layout that all heads share, from query and key blocks (n,)."""
    shared = torch.zeros_like(row)
    return BlockLayout.from_indices(torch.stack([shared, shared, row, column]), (1, 1), block_size, length, length)


def _from_rows(columns: Tensor, length: int, block_size: int) -> BlockLayout:
    """A layout from the key blocks of each query block, (Q, most per row), the diagonal in place of any outside."""
    row = torch.arange(columns.shape[0])[:, None].expand_as(columns)
    columns = columns.where((columns >= 0) & (columns < columns.shape[0]), row)
    return _from_pairs(row.flatten(), columns.flatten(), length, block_size)


def _from_ranges(row: Tensor, first: Tensor, last: Tensor, length: int, block_size: int) -> BlockLayout:
    """A layout in which query block `row` (n,) sees the tokens from `first` to `last`, cut at the sequence's ends."""
    first, last = first.clamp(min=0), last.clamp(max=length - 1)
    counts = (last // block_size - first // block_size + 1).where(first <= last, 0)  # (n,)
    first = first // block_size
    begins = counts.cumsum(0) - counts  # (n,)
    column = torch.arange(int(counts.sum())) + (first - begins).repeat_interleave(counts)
    return _from_pairs(row.repeat_interleave(counts), column, length, block_size)
