"""Where the tokens of packed sequences belong.

Letters: B sequences, total tokens of all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segments(cu_seqlens: Tensor, total: int) -> Tensor:
    """The sequence that each token is in, (total,) int64, from where each sequence begins, (B + 1,)."""
    tokens = torch.arange(total, device=cu_seqlens.device, dtype=cu_seqlens.dtype)  # (total,)
    return torch.bucketize(tokens, cu_seqlens[1:], right=True)


def positions(cu_seqlens: Tensor, segment: Tensor) -> Tensor:
    """Each token's place in its own sequence, (total,), from 0."""
    return torch.arange(segment.shape[0], device=segment.device) - cu_seqlens[segment]


def without(
    tokens: Tensor, cu_seqlens: Tensor, left_out: int, through: int | None = None
) -> tuple[Tensor, Tensor, int, Tensor]:
    """Packed sequences without one of the tokens, or several; a sequence that has no other keeps its first.

    Args:
        tokens: (total,).
        cu_seqlens: (B + 1,).
        left_out: the token.
        through: the last of several tokens, of which `left_out` is the first.

    Returns:
        tokens (kept,), cu_seqlens (B + 1,) int32, the tokens of the longest sequence, and the place (kept,) that each
        token had in its sequence.
    """
    segment = segments(cu_seqlens, tokens.shape[0])  # (total,)
    places = positions(cu_seqlens, segment)  # (total,)
    kept = (tokens < left_out) | (tokens > (left_out if through is None else through))  # (total,)
    counts = torch.bincount(segment[kept], minlength=cu_seqlens.shape[0] - 1)  # (B,)
    kept = kept | ((places == 0) & (counts == 0)[segment])
    counts = counts.clamp(min=1)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()  # (B + 1,)
    return tokens[kept], starts, int(counts.max()), places[kept]
