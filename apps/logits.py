"""Token sequences of any length through a model, packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.batching import EvaluationSampler


@torch.no_grad()
def compute_logits(
    encoder: nn.Module, texts: Sequence[Tensor], layout: BlockLayout | None, tokens_per_batch: int
) -> Tensor:
    """What the model says of each text, (texts, C) float32 on the CPU, in the order of the texts.

    Args:
        encoder: in evaluation mode.
        texts: at least one, each (n,) int64, n at least 1.
        tokens_per_batch: tokens that go through the model at once, at most, unless a single text has more.
    """
    device = next(encoder.parameters()).device
    logits: list[Tensor | None] = [None] * len(texts)
    for rows in EvaluationSampler(np.array([text.shape[0] for text in texts]), tokens_per_batch):
        lengths = torch.tensor([0] + [texts[row].shape[0] for row in rows])
        starts = lengths.cumsum(0).int().to(device)  # (rows + 1,)
        found = encoder(torch.cat([texts[row] for row in rows]).to(device), starts, int(lengths.max()), layout)
        for row, values in zip(rows, found.float().cpu(), strict=True):
            logits[row] = values  # (C,)
    return torch.stack(logits)
