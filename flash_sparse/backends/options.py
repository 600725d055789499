"""What every backend takes beside query, key and value: an option is named here, once, for all of them.

Letters: B batch, Bl and Hl the layout's own batch entries and heads (1 where shared), Qb and Kb blocks of queries and
keys, nnz blocks kept.
"""

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
    key_lengths: Tensor | None  # (B,)
    left: int  # of the window around the diagonal; negative: unbounded
    right: int
    dropout_p: float
    seed: Tensor | None  # (): None without dropout
    scale: float

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
