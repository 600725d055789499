"""The usual way to read long documents with an encoder for short ones: window by window.

Letters: B documents, total tokens of all, W width, w tokens of a window, K windows of all documents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flash_sparse.nn import pooling as pool
from flash_sparse.nn.packing import positions, segments


class Chunked(nn.Module):
    """An encoder that sees a window of a document at a time, and pools over the tokens of all windows.

    Each window begins with the document's first token, which tokenizers here make [CLS] or the like. With the pooling
    "cls", what is pooled is the mean of the windows' first tokens.

    Args:
        encoder: a `flash_sparse.nn.Encoder` or `PretrainedEncoder`.
        window: w, tokens of a window, its first one counted; 2 or more.
    """

    def __init__(self, encoder: nn.Module, window: int):
        super().__init__()
        self.encoder: Any = encoder  # one of two, which have more methods in common than `nn.Module` has
        self.window = window

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: None = None) -> Tensor:
        """Logits (B, num_outputs); arguments as in `flash_sparse.nn.Encoder.forward`, without a layout."""
        if layout is not None:
            raise ValueError(f"layout is {layout}; expected None: attention within windows is dense")
        tokens, windows, documents = cut(tokens, cu_seqlens, self.window)
        hidden = self.encoder.encode(tokens, windows, min(max_seqlen, self.window))  # (total, W)
        if self.encoder.pooling != "cls":
            return self.encoder.classify(hidden, documents)
        first = windows[:-1]  # (K,)
        pooled = pool.mean(hidden[first], torch.bucketize(first, documents[1:], right=True), documents.shape[0] - 1)
        return self.encoder.head(self.encoder.dropout(pooled))

    @property
    def body(self) -> nn.Module:
        return self.encoder.body

    def layer_rates(self, decay: float) -> list[tuple[nn.Parameter, float]]:
        return self.encoder.layer_rates(decay)


def cut(tokens: Tensor, cu_seqlens: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Documents in windows that follow each other without overlap, each beginning with the document's first token.

    Args:
        tokens: (total,), documents end to end.
        cu_seqlens: (B + 1,), where each begins.

    Returns:
        The tokens of all windows, more than `total` by one for each window but a document's first; (K + 1,) int32,
        where each window begins; (B + 1,) int32, where each document begins now.
    """
    new = window - 1  # tokens of the document in each window beside its first one
    segment = segments(cu_seqlens, tokens.shape[0])  # (total,)
    added = (cu_seqlens.diff() - 2).clamp(min=0) // new  # (B,)
    documents = cu_seqlens + torch.cat([added.new_zeros(1), added.cumsum(0).int()])  # (B + 1,)
    position = positions(cu_seqlens, segment)  # (total,)
    place = documents[segment] + position + (position - 1).clamp(min=0) // new  # (total,)
    owner = segments(documents, int(documents[-1]))
    spread = tokens[cu_seqlens[:-1]][owner].scatter(0, place.long(), tokens)
    begins = (positions(documents, owner) % window == 0).nonzero()[:, 0].int()  # (K,)
    return spread, torch.cat([begins, documents[-1:]]), documents
