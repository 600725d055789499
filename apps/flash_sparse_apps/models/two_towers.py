"""Pairs of documents: one encoder reads both, each by itself, and a small head compares them.

Letters: B pairs, total tokens of all texts, W width, C labels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from flash_sparse.nn import Encoder


class TwoTowers(nn.Module):
    """The dual encoder of Long Range Arena's Retrieval (Tay et al. 2020).

    Both texts go through the same encoder, to one vector each, a and b. Three layers then read a, b, a * b and a - b,
    which Long Range Arena's code has for pairs of sentences, after Bowman et al. 2015 and Mou et al. 2016.

    Args:
        encoder: its head is taken off; any pooling that gives a text one vector: "mean", "max" or "cls".
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        if encoder.pooling == "label":
            raise ValueError("pooling is 'label'; expected mean, max or cls for pairs, which makes a text one vector")
        head = cast(nn.Linear, encoder.head)
        width, num_outputs = head.in_features, head.out_features
        encoder.add_module("head", nn.Identity())
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(4 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, num_outputs),
        )

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout=None) -> Tensor:
        """Classify each pair.

        Args:
            tokens: (total,) int64, the texts end to end: the first pair's first and second, the second pair's, ...
            cu_seqlens: (2 B + 1,) int32, where each text begins.
            max_seqlen, layout: as in `flash_sparse.nn.Encoder.forward`.

        Returns:
            Logits (B, C).
        """
        pooled = self.encoder(tokens, cu_seqlens, max_seqlen, layout)  # (2 B, W)
        first, second = pooled[0::2], pooled[1::2]  # (B, W)
        return self.head(torch.cat([first, second, first * second, first - second], dim=1))
