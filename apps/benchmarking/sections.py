"""Which cells each section of the benchmark has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flash_sparse_apps.benchmarking.building_cell import BuildingCell
from flash_sparse_apps.benchmarking.densities import PATTERNS
from flash_sparse_apps.benchmarking.operator_cell import DENSE, OperatorCell
from flash_sparse_apps.benchmarking.problem import Problem
from flash_sparse_apps.benchmarking.step_cell import StepCell

Cell = OperatorCell | BuildingCell | StepCell

OURS, FLEX, TEXTBOOK = "flash_sparse", "FlexAttention", "textbook"
FUSED = ("SDPA flash", "SDPA cuDNN", "SDPA efficient")
EVERYONE = (OURS, FLEX, *FUSED, "SDPA math", TEXTBOOK)
MASKED = (OURS, FLEX, "SDPA cuDNN", "SDPA efficient", "SDPA math", TEXTBOOK)  # SDPA flash takes no mask


@dataclass(frozen=True)
class Sizes:
    """What the sections range over.

    Attributes:
        lengths: tokens of a sequence, where they vary.
        length: where they are held fixed.
        head_dims: features of a head; there are `width // head_dim` heads.
        tokens: of a call or step, in as many sequences as that makes, at least one.
        densities: of the patterns.
    """

    lengths: tuple[int, ...]
    length: int
    head_dims: tuple[int, ...]
    width: int
    tokens: int
    densities: tuple[float, ...]
    block_size: int
    dtype: str
    encoder_width: int
    encoder_depth: int

    def problem(self, length: int, head_dim: int, tokens: int | None = None, **mask) -> Problem:
        """Sequences of that length that make the tokens."""
        batch = max(1, (self.tokens if tokens is None else tokens) // length)
        heads = max(1, self.width // head_dim)
        return Problem(batch, heads, length, head_dim, self.dtype, block_size=self.block_size, **mask)


def _dense(sizes: Sizes) -> list[Cell]:
    return [
        OperatorCell("dense", sizes.problem(length, head_dim), EVERYONE)
        for head_dim in sizes.head_dims
        for length in sizes.lengths
    ]


def _causal(sizes: Sizes) -> list[Cell]:
    return [
        OperatorCell("causal", sizes.problem(length, head_dim, mask="causal"), EVERYONE)
        for head_dim in sizes.head_dims
        for length in sizes.lengths
    ]


def _sparse(sizes: Sizes) -> list[Cell]:
    """Who computes all blocks and masks them takes the same time at every density: timed at each pattern's first."""
    cells = []
    for head_dim in sizes.head_dims:
        for pattern in PATTERNS:
            for density in sizes.densities:
                masked = MASKED[2:] if density == sizes.densities[0] else ()
                names = (OURS, FLEX, *masked, OURS + DENSE, "SDPA flash" + DENSE, "SDPA cuDNN" + DENSE)
                problem = sizes.problem(sizes.length, head_dim, mask=pattern, density=density)
                cells.append(OperatorCell("sparse", problem, names))
    return cells


def _padded(sizes: Sizes) -> list[Cell]:
    """Four times the tokens, so that there are sequences of different lengths at the longest, too."""
    return [
        OperatorCell("padded", sizes.problem(length, head_dim, 4 * sizes.tokens, mask="padded"), MASKED)
        for head_dim in sizes.head_dims
        for length in _few(sizes)
    ]


def _packed(sizes: Sizes) -> list[Cell]:
    """Documents of different lengths end to end, twice the tokens."""
    total = 2 * sizes.tokens
    names = (*MASKED, "varlen_attn")
    return [
        OperatorCell("packed", sizes.problem(total, head_dim, mask="packed", document_length=mean), names)
        for head_dim in sizes.head_dims
        for mean in (length // 2 for length in _few(sizes))
    ]


def _few(sizes: Sizes) -> tuple[int, ...]:
    """The fixed length, a quarter and a sixteenth of it."""
    return tuple(max(2, sizes.length // part) for part in (16, 4, 1))


def _dropout(sizes: Sizes) -> list[Cell]:
    """On and off, at the fixed length and an eighth of it."""
    return [
        OperatorCell("dropout", sizes.problem(length, head_dim, dropout_p=dropout_p), EVERYONE)
        for head_dim in sizes.head_dims
        for length in (max(1, sizes.length // 8), sizes.length)
        for dropout_p in (0.0, 0.1)
    ]


def _step(sizes: Sizes) -> list[Cell]:
    heads = max(1, sizes.encoder_width // 64)
    return [
        StepCell(
            "step", length, sizes.tokens, sizes.encoder_width, sizes.encoder_depth, heads, sizes.dtype, sizes.block_size
        )
        for length in sizes.lengths
        if length <= sizes.tokens
    ]


def _building(sizes: Sizes) -> list[Cell]:
    heads = max(1, sizes.width // sizes.head_dims[0])
    return [BuildingCell("building", length, heads, 1 / 16, sizes.block_size) for length in sizes.lengths]


# In the order in which they run: should the time be short, the last ones are missing.
SECTIONS: dict[str, Callable[[Sizes], list[Cell]]] = {
    "dense": _dense,
    "sparse": _sparse,
    "packed": _packed,
    "padded": _padded,
    "step": _step,
    "causal": _causal,
    "dropout": _dropout,
    "building": _building,
}
