"""Rotary position embeddings: queries and keys are turned by angles that grow with position, so that their products
depend on distances alone.

Neighbouring features make a pair, which is a complex number: one multiplication turns it, in one pass over memory,
where real arithmetic needs four. Turns are complex numbers too, which mixed precision leaves as they are: rounded to
bfloat16 they would no longer tell far positions apart.

Letters: N tokens, H heads, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Turns for positions in a text, of any length.

    Args:
        head_dim: D, even.
        base: pair j of D / 2 turns by `base ** (-2 j / D)` radians for each position.

    Raises:
        ValueError: an odd head dimension.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim is {head_dim}; expected an even number, for pairs of features")
        self.head_dim = head_dim
        self.base = base

    def forward(self, positions: Tensor) -> Tensor:
        """Positions (N,), integer, to each pair's turn, (N, D / 2) complex64 of length 1."""
        return _turns(_angles(positions, self.head_dim, self.base))  # (N, D / 2)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, base={self.base}"


class AxialRotary(nn.Module):
    """Turns for the pixels of an image whose rows lie end to end: half of the head dimension for the row, half for the
    column.

    Args:
        head_dim: D, a multiple of 4.
        grid: (height, width) of the image in pixels.
        base: pair j of the D / 4 for an axis turns by `base ** (-4 j / D)` radians for each pixel along it.

    Raises:
        ValueError: a head dimension that is not a multiple of 4.

    Source: Heo et al. 2024, "Rotary Position Embedding for Vision Transformer", section 3.2, axial frequency.
    """

    def __init__(self, head_dim: int, grid: tuple[int, int], base: float = 10000.0):
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"head_dim is {head_dim}; expected a multiple of 4, for pairs of features on two axes")
        self.head_dim = head_dim
        self.grid = tuple(grid)
        self.base = base

    def forward(self, positions: Tensor) -> Tensor:
        """Pixel numbers (N,), integer, row by row, to each pair's turn, (N, D / 2) complex64 of length 1."""
        width = self.grid[1]
        axes = [_angles(axis, self.head_dim // 2, self.base) for axis in (positions // width, positions % width)]
        return _turns(torch.cat(axes, dim=1))  # (N, D / 2)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, grid={self.grid}, base={self.base}"


def rotate(rows: Tensor, turns: Tensor) -> Tensor:
    """Turn the pairs of queries or keys (N, H, D) by (N, D / 2), at least in float32; back in their dtype."""
    pairs = rows.to(torch.promote_types(rows.dtype, torch.float32)).unflatten(-1, (-1, 2))  # (N, H, D / 2, 2)
    if torch.compiler.is_compiling():
        cosines_sines = torch.view_as_real(turns) if turns.is_complex() else turns  # (N, D / 2, 2)
        (x, y), (cos, sin) = pairs.unbind(-1), cosines_sines[:, None].unbind(-1)
        turned = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns[:, None])
    return turned.flatten(-2).to(rows.dtype)  # (N, H, D)


def _angles(positions: Tensor, dim: int, base: float) -> Tensor:
    """(N,) to (N, dim / 2), float32 radians."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / -dim  # (dim / 2,)
    return positions.float()[:, None] * base**exponents


def _turns(angles: Tensor) -> Tensor:
    """Turns by so many radians; cosines and sines in pairs in a compiled model, which has no complex arithmetic."""
    pairs = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, D / 2, 2)
    return pairs if torch.compiler.is_compiling() else torch.view_as_complex(pairs)
