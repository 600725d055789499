"""One thing to compute: attention of a size, a dtype and a mask; and its tensors on a device.

Letters: B batch, H heads, N tokens, D head dimension, Hl heads with a layout of their own, R sampled rows.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_sparse import BlockLayout
from flash_sparse_apps.benchmarking.densities import PATTERNS, layout_of_density

MASKS = ("dense", "causal", "padded", "packed", *PATTERNS)
PRODUCTS = {"forward": 2, "backward": 5, "both": 7}  # matrix products of each pass


@dataclass(frozen=True)
class Problem:
    """Plain values alone, as they go to JSON.

    Attributes:
        mask: "dense", "causal"; "padded", sequences of different lengths side by side; "packed", documents end to end
            in one sequence; or the name of a pattern of blocks.
        density: share of the blocks that the pattern is to keep.
        document_length: the mean of the packed documents, in tokens; 0 where none are packed.
    """

    batch: int
    heads: int
    length: int
    head_dim: int
    dtype: str
    mask: str = "dense"
    density: float = 1.0
    block_size: int = 128
    document_length: int = 0
    dropout_p: float = 0.0

    def __post_init__(self):
        if self.mask not in MASKS:
            raise ValueError(f"mask is {self.mask!r}; expected one of {', '.join(MASKS)}")

    @property
    def name(self) -> str:
        """The same for the same work, also in another call."""
        parts = [f"{self.mask} {self.batch}x{self.heads}x{self.length}x{self.head_dim} {self.dtype}"]
        if self.mask in PATTERNS:
            parts.append(f"density {self.density:.4f} in blocks of {self.block_size}")
        if self.document_length:
            parts.append(f"documents of {self.document_length}")
        if self.dropout_p:
            parts.append(f"dropout {self.dropout_p}")
        return ", ".join(parts)

    def with_random_blocks(self, density: float) -> Problem:
        return dataclasses.replace(self, mask="random", density=density)

    def make_layout(self) -> BlockLayout:
        return layout_of_density(self.mask, self.length, self.block_size, self.density, self.heads)


class Case:
    """A problem's tensors on a device, the same for everyone who computes it.

    Attributes:
        inputs: query, key and value, (B, H, N, D) each, normal, which need gradients.
        grad_output: (B, H, N, D), normal.
        layout: the pattern's blocks, else None.
        key_lengths: (B,) int32 where the mask is "padded", else None: between a quarter and all of N.
        cu_seqlens: (documents + 1,) int32 where the mask is "packed", else None.
        lengths: tokens of each padded sequence or packed document.
    """

    def __init__(self, problem: Problem, device: torch.device):
        self.problem, self.device = problem, device
        generator = torch.Generator(device).manual_seed(0)
        *self.inputs, self.grad_output = (self._normal(generator) for _ in range(4))
        for tensor in self.inputs:
            tensor.requires_grad_()
        self.layout: BlockLayout | None = None
        self.key_lengths: Tensor | None = None
        self.cu_seqlens: Tensor | None = None
        self.lengths: list[int] = []
        draw = torch.Generator().manual_seed(0)
        if problem.mask in PATTERNS:
            self.layout = problem.make_layout().to(device)
        elif problem.mask == "padded":
            least = max(1, problem.length // 4)
            key_lengths = torch.randint(least, problem.length + 1, (problem.batch,), generator=draw)  # (B,)
            self.lengths = key_lengths.tolist()
            self.key_lengths = key_lengths.int().to(device)
        elif problem.mask == "packed":
            cu_seqlens = _document_starts(problem.length, problem.document_length, draw)
            self.lengths = cu_seqlens.diff().tolist()
            self.cu_seqlens = cu_seqlens.to(device)

    def _normal(self, generator: torch.Generator) -> Tensor:
        problem = self.problem
        shape = (problem.batch, problem.heads, problem.length, problem.head_dim)
        if problem.mask == "packed":  # in memory as those have it who take documents laid end to end
            shape = (problem.batch, problem.length, problem.heads, problem.head_dim)
        tensor = torch.randn(shape, generator=generator, device=self.device).to(getattr(torch, problem.dtype))
        return tensor.transpose(1, 2) if problem.mask == "packed" else tensor  # (B, H, N, D)

    def seen_through(self, layout: BlockLayout) -> Case:
        """The same tensors with only the pairs that a layout keeps."""
        seen = copy.copy(self)
        seen.layout = layout
        return seen

    def cut_at(self, lengths: list[int]) -> Case:
        """The same tensors of a packed case with documents of these lengths."""
        cut = copy.copy(self)
        cut.lengths = lengths
        cut.cu_seqlens = torch.tensor([0, *lengths], device=self.device).cumsum(0).int()  # (documents + 1,)
        return cut

    @functools.cached_property
    def documents(self) -> Tensor:
        """Which packed document each token belongs to, (N,) int32."""
        numbers = torch.arange(len(self.lengths), device=self.device, dtype=torch.int32)
        return numbers.repeat_interleave(torch.tensor(self.lengths, device=self.device))  # (N,)

    def visible(self, entry: int, rows: Tensor) -> Tensor:
        """The keys that the rows (R,) of a batch entry see: bool, (1 | Hl, R, N)."""
        keys = torch.arange(self.problem.length, device=self.device)  # (N,)
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

    def token_mask(self) -> Tensor | None:
        """The whole mask, bool, which broadcasts to (B, H, N, N); None where every pair is visible.

        For who knows no other way to be told. Grows with length squared, save for padding.
        """
        if self.problem.mask == "dense":
            return None
        if self.key_lengths is not None:
            keys = torch.arange(self.problem.length, device=self.device)
            return (keys < self.key_lengths[:, None])[:, None, None]  # (B, 1, 1, N)
        return self.visible(0, torch.arange(self.problem.length, device=self.device))[None]  # (1, 1 | Hl, N, N)

    @property
    def pairs(self) -> int:
        """Query-key pairs that count, over batch and heads: of a layout, those in its blocks."""
        problem = self.problem
        if self.layout is not None:
            size = self.layout.block_size
            _, _, row, column = self.layout.indices()  # (nnz,) each
            height, width = ((problem.length - index * size).clamp(max=size) for index in (row, column))
            shared = problem.batch * problem.heads // self.layout.leading[1]
            return shared * int((height * width).sum())
        per_head = {
            "dense": problem.batch * problem.length**2,
            "causal": problem.batch * problem.length * (problem.length + 1) // 2,
            "padded": problem.length * sum(self.lengths),
            "packed": sum(length**2 for length in self.lengths),
        }[problem.mask]
        return problem.heads * per_head

    @property
    def density(self) -> float:
        """Share of all query-key pairs that counts."""
        return self.pairs / (self.problem.batch * self.problem.heads * self.problem.length**2)

    def flops(self, what: str) -> int:
        """Of the matrix products of a pass, over the pairs that count."""
        return 2 * PRODUCTS[what] * self.problem.head_dim * self.pairs


def _document_starts(total: int, mean: int, draw: torch.Generator) -> Tensor:
    """Where documents of 1/4 to 7/4 of the mean length begin, (documents + 1,) int32; the last is cut at the total."""
    least, most = max(1, mean // 4), max(1, 2 * mean - mean // 4)
    lengths = torch.randint(least, most + 1, (total // least + 1,), generator=draw)
    ends = lengths.cumsum(0)
    return torch.cat([ends.new_zeros(1), ends[ends < total], ends.new_tensor([total])]).int()
