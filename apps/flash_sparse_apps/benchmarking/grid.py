"""Which cells the GPU's benchmark has, the ones worth most first: should the time be short, the last are missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flash_sparse_apps.benchmarking.cell import GridCell
from flash_sparse_apps.benchmarking.contenders import CONTENDERS
from flash_sparse_apps.benchmarking.densities import PATTERNS
from flash_sparse_apps.benchmarking.problem import Problem

DROPOUT = 0.1
BLOCKWISE = ("flash_sparse", "FlexAttention")  # who skips blocks; all others compute every pair and mask it


@dataclass(frozen=True)
class Sizes:
    """What the cells range over.

    Attributes:
        length: tokens of a sequence where they are held fixed; `lengths` where they vary.
        head_dims: features of a head; there are `width // head_dim` heads.
        tokens: of a call, in as many sequences as that makes, at least one.
        densities: shares of the blocks that patterns keep.
    """

    length: int
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]
    width: int
    tokens: int
    densities: tuple[float, ...]
    block_size: int
    dtype: str

    def problem(self, length: int, head_dim: int, tokens: int, **mask) -> Problem:
        batch, heads = max(1, tokens // length), max(1, self.width // head_dim)
        return Problem(batch, heads, length, head_dim, self.dtype, block_size=self.block_size, **mask)


def make_cells(sizes: Sizes, contenders: Iterable[str] = tuple(CONTENDERS)) -> list[GridCell]:
    cells = [
        GridCell(problem, name)
        for problem in dict.fromkeys(_problems(sizes))
        for name in contenders
        if _worth(name, problem, sizes)
    ]
    # a stable sort: within each of the two, problems stay in the order of their worth
    return sorted(cells, key=lambda cell: cell.contender in ("SDPA math", "textbook"))


def _worth(name: str, problem: Problem, sizes: Sizes) -> bool:
    """Who computes all pairs takes the same time at every density: timed at the lowest, where it matters most."""
    if name == "varlen_attn":  # is for documents end to end
        return problem.mask == "packed"
    return problem.mask not in PATTERNS or name in BLOCKWISE or problem.density == min(sizes.densities)


def _problems(sizes: Sizes) -> Iterator[Problem]:
    """By section, each for all head dimensions."""
    for section in (_fixed, _sparse, _over_length, _other_patterns, _dropout, _causal, _sparse_over_length):
        for head_dim in sizes.head_dims:
            yield from section(sizes, head_dim)


def _fixed(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    """Dense, padded and packed at the fixed length; the latter two with more tokens, that lengths may differ."""
    length, tokens = sizes.length, sizes.tokens
    yield sizes.problem(length, head_dim, tokens)
    yield sizes.problem(length, head_dim, 4 * tokens, mask="padded")
    yield sizes.problem(2 * tokens, head_dim, 2 * tokens, mask="packed", document_length=max(2, length // 8))


def _sparse(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    for density in sizes.densities:
        yield sizes.problem(sizes.length, head_dim, sizes.tokens, mask="random", density=density)


def _over_length(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    for length in sizes.lengths:
        yield sizes.problem(length, head_dim, sizes.tokens)


def _other_patterns(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    for pattern in PATTERNS:
        for density in sizes.densities:
            yield sizes.problem(sizes.length, head_dim, sizes.tokens, mask=pattern, density=density)


def _dropout(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    """Of the dense, packed and sparsest problems above, which are its other half."""
    sparsest = sizes.problem(sizes.length, head_dim, sizes.tokens, mask="random", density=min(sizes.densities))
    for problem in (*_fixed(sizes, head_dim), sparsest):
        yield dataclasses.replace(problem, dropout_p=DROPOUT)


def _causal(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    for length in sizes.lengths:
        yield sizes.problem(length, head_dim, sizes.tokens, mask="causal")


def _sparse_over_length(sizes: Sizes, head_dim: int) -> Iterator[Problem]:
    """Where there are blocks enough for the lowest density."""
    for length in sizes.lengths:
        if min(sizes.densities) * length >= sizes.block_size:
            yield sizes.problem(length, head_dim, sizes.tokens, mask="random", density=min(sizes.densities))
