"""One thing to compute: attention of a size, a dtype and a mask; and its tensors on a device.

Letters: B batch, H heads, N tokens, D head dimension, Hl heads with a layout of their own, R sampled rows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_sparse import BlockLayout
from flash_sparse_apps.benchmarking.densities import PATTERNS, layout_of_density

MASKS = ("dense", "causal", "padded", "packed", *PATTERNS)


@dataclass(frozen=True)
class Problem:
    """Plain values alone, so that it goes to JSON and to other processes.

    Attributes:
        mask: "dense", "causal"; "padded", sequences of different lengths side by side; "packed", documents end to end
            in one sequence; or the name of a pattern of blocks.
        density: share of the blocks that the pattern is to keep.
        document_length: the mean of the packed documents, in tokens.
    """

    batch: int
    heads: int
    length: int
    head_dim: int
    dtype: str = "bfloat16"
    mask: str = "dense"
    density: float = 1.0
    block_size: int = 128
    document_length: int | None = None
    dropout_p: float = 0.0

    def __post_init__(self):
        if self.mask not in MASKS:
            raise ValueError(f"mask is {self.mask!r}; expected one of {', '.join(MASKS)}")


class Case:
    """A problem's tensors on a device, the same for everyone who computes it.

    Attributes:
        query, key, value, grad_output: (B, H, N, D), normal.
        layout: the pattern's blocks, else None.
        key_lengths: (B,) int32 where the mask is "padded", else None: between a quarter and all of N.
        cu_seqlens: (documents + 1,) int32 where the mask is "packed", else None.
    """

    def __init__(self, problem: Problem, device: torch.device):
        self.problem, self.device = problem, device
        generator = torch.Generator(device).manual_seed(0)
        shape = (problem.batch, problem.heads, problem.length, problem.head_dim)
        dtype = getattr(torch, problem.dtype)
        self.query, self.key, self.value, self.grad_output = (
            torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype) for _ in range(4)
        )
        self.layout: BlockLayout | None = None
        self.key_lengths: Tensor | None = None
        self.cu_seqlens: Tensor | None = None
        if problem.mask in PATTERNS:
            self.layout = layout_of_density(
                problem.mask, problem.length, problem.block_size, problem.density, problem.heads
            ).to(device)
        elif problem.mask == "padded":
            draw = torch.Generator().manual_seed(0)
            least = max(1, problem.length // 4)
            lengths = torch.randint(least, problem.length + 1, (problem.batch,), generator=draw)  # (B,)
            self.key_lengths = lengths.int().to(device)
        elif problem.mask == "packed":
            self.cu_seqlens = _documents(problem.length, problem.document_length).to(device)

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each padded sequence or packed document."""
        if self.key_lengths is not None:
            return self.key_lengths.tolist()
        return self.cu_seqlens.diff().tolist()

    @functools.cached_property
    def documents(self) -> Tensor:
        """Which packed document each token belongs to, (N,) int32."""
        numbers = torch.arange(len(self.lengths), device=self.device, dtype=torch.int32)
        return numbers.repeat_interleave(self.cu_seqlens.diff())  # (N,)

    def visible(self, entry: int, rows: Tensor) -> Tensor:
        """The keys that the rows (R,) of a batch entry see: bool, (1 | Hl, R, N)."""
        keys = torch.arange(self.problem.length, device=self.device)
        if self.layout is not None:
            size = self.layout.block_size
            blocks = self.layout.to_blocks()[0][:, rows // size]  # (Hl, R, Kb)
            return blocks.repeat_interleave(size, 2)[:, :, : self.problem.length]
        if self.problem.mask == "causal":
            return (keys <= rows[:, None])[None]
        if self.key_lengths is not None:
            return (keys < self.key_lengths[entry]).expand(1, rows.numel(), -1)
        if self.cu_seqlens is not None:
            return (self.documents[rows][:, None] == self.documents)[None]
        return torch.ones(1, rows.numel(), self.problem.length, dtype=torch.bool, device=self.device)

    @functools.cached_property
    def mask(self) -> Tensor | None:
        """The whole mask over tokens, bool, which broadcasts to (B, H, N, N); None where every pair is visible.

        For who knows no other way to be told. Grows with length squared, save for padding.
        """
        if self.problem.mask == "dense":
            return None
        if self.layout is not None:
            return self.layout.to_mask()  # (1, Hl, N, N)
        if self.key_lengths is not None:
            keys = torch.arange(self.problem.length, device=self.device)
            return (keys < self.key_lengths[:, None])[:, None, None]  # (B, 1, 1, N)
        return self.visible(0, torch.arange(self.problem.length, device=self.device))[None]  # (1, 1, N, N)

    @property
    def pairs(self) -> int:
        """Query-key pairs that are computed, over batch and heads: of a layout, those in its blocks."""
        problem = self.problem
        if self.layout is not None:
            size = self.layout.block_size
            _, _, row, column = self.layout.indices()  # (nnz,) each
            height, width = (problem.length - index * size for index in (row, column))
            shared = problem.batch * problem.heads // self.layout.leading[1]
            return shared * int((height.clamp(max=size) * width.clamp(max=size)).sum())
        per_head = {
            "dense": lambda: problem.batch * problem.length**2,
            "causal": lambda: problem.batch * problem.length * (problem.length + 1) // 2,
            "padded": lambda: problem.length * sum(self.lengths),
            "packed": lambda: sum(length**2 for length in self.lengths),
        }[problem.mask]()
        return problem.heads * per_head

    @property
    def density(self) -> float:
        """Share of all query-key pairs that is computed."""
        return self.pairs / (self.problem.batch * self.problem.heads * self.problem.length**2)

    def flops(self, what: str) -> int:
        """Of the matrix products over the computed pairs: two forward, five backward."""
        products = {"forward": 2, "backward": 5, "both": 7}[what]
        return 2 * products * self.problem.head_dim * self.pairs


def _documents(total: int, mean: int) -> Tensor:
    """Where documents of 1/4 to 7/4 of the mean length begin, (documents + 1,) int32; the last is cut at the total."""
    draw = torch.Generator().manual_seed(0)
    least, most = max(1, mean // 4), max(1, 2 * mean - mean // 4)
    lengths = torch.randint(least, most + 1, (total // least + 1,), generator=draw)
    ends = lengths.cumsum(0)
    return torch.cat([ends.new_zeros(1), ends[ends < total], ends.new_tensor([total])]).int()
