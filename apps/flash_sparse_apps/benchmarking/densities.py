"""Layouts of a pattern that keep about a given share of the blocks, so that patterns compare at equal work."""

from __future__ import annotations

from collections.abc import Callable

from flash_sparse import BlockLayout, patterns
from flash_sparse.layout import count_blocks


def layout_of_density(pattern: str, length: int, block_size: int, density: float, heads: int) -> BlockLayout:
    """The pattern with sizes that bring it near the density, never below one block a row.

    A pattern keeps a whole number of blocks in every row, so that what it really keeps is its `.density`. `random` is
    drawn for each head; the others are shared, save for BigBird's random blocks.
    """
    num_blocks = count_blocks(length, block_size)
    return PATTERNS[pattern](length, block_size, density, density * num_blocks, heads)


def _random(length: int, block_size: int, density: float, row_blocks: float, heads: int) -> BlockLayout:
    return patterns.random(length, block_size, density=density, heads=heads)


def _longformer(length: int, block_size: int, density: float, row_blocks: float, heads: int) -> BlockLayout:
    """One global block, which costs every row one block, and a band of what is left."""
    side = max(0, round((row_blocks - 2) / 2))
    return patterns.longformer(length, block_size, window=side * block_size)


def _bigbird(length: int, block_size: int, density: float, row_blocks: float, heads: int) -> BlockLayout:
    """An eighth of the blocks global (rows and columns), a band of one or three, the rest random."""
    num_blocks = count_blocks(length, block_size)
    window = 3 if row_blocks >= 8 else 1
    everyone = min(num_blocks, max(1, round(row_blocks / 16)))  # each costs a row and a column
    others = max(1, round(row_blocks - window - 2 * everyone))
    return patterns.bigbird(
        length, block_size, window_blocks=window, global_blocks=everyone, random_blocks=others, heads=heads
    )


def _butterfly(length: int, block_size: int, density: float, row_blocks: float, heads: int) -> BlockLayout:
    """As many factors as there are room for, then global blocks."""
    num_blocks = count_blocks(length, block_size)
    factors = min((num_blocks - 1).bit_length(), max(1, round(row_blocks) - 1))
    everyone = min(num_blocks, max(0, round((row_blocks - factors - 1) / 2)))
    return patterns.butterfly(length, block_size, factors=factors, global_blocks=everyone)


PATTERNS: dict[str, Callable[..., BlockLayout]] = {
    "random": _random,
    "longformer": _longformer,
    "bigbird": _bigbird,
    "butterfly": _butterfly,
}
