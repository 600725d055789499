"""Token sequences of any length through a model, packed.

On a CPU what the model says of a document has the same bits whatever it is packed with.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.models.even_products import EvenProducts
from flash_sparse_apps.tokens.batching import EvaluationSampler


@torch.no_grad()
def compute_logits(
    encoder: nn.Module, documents: Sequence[Sequence[Tensor]], layout: BlockLayout | None, tokens_per_batch: int
) -> Tensor:
    """What the model says of each document, (documents, C) float32 on the CPU, in their order.

    Args:
        encoder: in evaluation mode.
        documents: at least one; the one text of each or, for a model of pairs, its two, (n,) int64, n at least 1.
        tokens_per_batch: tokens that go through the model at once, at most, unless a single document has more.
    """
    device = next(itertools.chain(encoder.parameters(), encoder.buffers())).device  # a linear model has buffers alone
    logits: dict[int, Tensor] = {}
    totals = np.array([sum(text.shape[0] for text in texts) for texts in documents])
    for rows in EvaluationSampler(totals, tokens_per_batch):
        texts = [text for row in rows for text in documents[row]]
        lengths = torch.tensor([0] + [text.shape[0] for text in texts])
        starts = lengths.cumsum(0).int().to(device)  # (texts + 1,)
        with EvenProducts() if device.type == "cpu" else nullcontext():
            found = encoder(torch.cat(texts).to(device), starts, int(lengths.max()), layout)
        for row, values in zip(rows, found.float().cpu(), strict=True):
            logits[row] = values  # (C,)
    return torch.stack([logits[row] for row in range(len(documents))])
