"""From padded batches to packed ones and back.

Letters: B sequences, N tokens of each when padded, total tokens of all when packed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unpad(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, int, Tensor]:
    """Lay the tokens of a padded batch end to end, as `attention_varlen` takes them; gradients flow back.

    Args:
        x: (B, N, ...), with whatever features a token has.
        mask: (B, N), True or not 0 at tokens, False or 0 at padding, wherever it is: what tokenizers call
            `attention_mask`.

    Returns:
        packed (total, ...); cu_seqlens (B + 1,) int32, where each sequence begins; the tokens of the longest; and
        indices (total,) int64, where each token was in the flattened batch, for `pad`.

    Raises:
        ValueError: a mask of another shape than the first two dimensions of x.
    """
    if mask.dim() != 2 or mask.shape != x.shape[:2]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected (B, N), {tuple(x.shape[:2])}, as x begins")
    kept = mask != 0  # (B, N)
    lengths = kept.sum(dim=1)  # (B,)
    indices = kept.flatten().nonzero()[:, 0]  # (total,)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()  # (B + 1,)
    longest = int(lengths.max()) if len(lengths) else 0
    return x.flatten(0, 1)[indices], cu_seqlens, longest, indices


def pad(packed: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """Put packed tokens back where `unpad` took them from, with zeros at padding; gradients flow back.

    Args:
        packed: (total, ...).
        indices: (total,) int64, as `unpad` returns them.
        batch, length: B and N of the padded batch.

    Returns:
        (B, N, ...).

    Raises:
        ValueError: indices of another number than the packed tokens.
    """
    if indices.shape != packed.shape[:1]:
        raise ValueError(f"indices has shape {tuple(indices.shape)}; expected ({packed.shape[0]},), one for each token")
    padded = packed.new_zeros(batch * length, *packed.shape[1:])  # (B N, ...)
    return padded.index_copy(0, indices, packed).unflatten(0, (batch, length))
