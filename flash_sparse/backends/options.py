"""What every backend takes beside query, key and value: an option is named here, once, for all of them.

Letters: B batch, H query heads, Bl and Hl the layout's own batch entries and heads (1 where shared), Qb and Kb blocks
of queries and keys, nnz blocks kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Options(NamedTuple):
    """The operators' arguments behind their tensors of rows, in the schema's order (`SCHEMA`)."""

    row_offsets: Tensor | None  # (Bl, Hl, Qb + 1): the layout's blocks by rows; None for all blocks
    row_blocks: Tensor | None  # (nnz,)
    row_order: Tensor | None  # (Bl, Hl, Qb + 1)
    column_offsets: Tensor | None  # (Bl, Hl, Kb + 1): the same blocks by columns
    column_blocks: Tensor | None  # (nnz,)
    column_order: Tensor | None  # (Bl, Hl, Kb + 1)
    block_size: int  # 0: no layout
    cu_seqlens: Tensor | None  # (sequences + 1,): packed sequences, which are one batch entry
    max_seqlen: int
    cu_seqlens_k: Tensor | None  # (sequences + 1,): of the keys, where they are not packed as the queries are
    max_seqlen_k: int
    key_lengths: Tensor | None  # (B,)
    left: int  # of the window around the diagonal; negative: unbounded
    right: int
    dropout_p: float
    seed: Tensor | None  # (): None without dropout
    scale: float
    softcap: float  # scores become softcap * tanh(score / softcap); 0: they stay
    sinks: Tensor | None  # (H,) of the log-sum-exp's dtype: what joins the denominator of each of a head's rows

    @property
    def rows(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The layout by rows: offsets, blocks and order."""
        return self.row_offsets, self.row_blocks, self.row_order

    @property
    def columns(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The layout by columns: offsets, blocks and order."""
        return self.column_offsets, self.column_blocks, self.column_order


_TYPES = {Tensor | None: "Tensor?", int: "SymInt", float: "float"}
SCHEMA = ", ".join(f"{_TYPES[kind]} {name}" for name, kind in Options.__annotations__.items())

# Where query, key, value and sinks stand among the forward operator's arguments: those that have gradients.
DIFFERENTIABLE = 0, 1, 2, 3 + Options._fields.index("sinks")


def in_places(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients that are wanted, each in the place of its argument of the forward operator."""
    places: list[Tensor | None] = [None] * (3 + len(Options._fields))
    for place, gradient, want in zip(DIFFERENTIABLE, gradients, wanted, strict=True):
        places[place] = gradient if want else None
    return places
