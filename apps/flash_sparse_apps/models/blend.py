"""An encoder and the linear model of the same tokens, which vote together.

Where documents are few, a linear model is hard to beat, and an encoder errs on others than it does. So the logits of
both are added, each with a weight that the validation documents choose.

Letters: B documents, total tokens of all, L labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.models.lightning_module import document_losses
from flash_sparse_apps.scores.linear_model import LinearModel


class Weights(NamedTuple):
    """The logits of both are `encoder` times the encoder's, `linear` times the linear model's margins, plus `bias`."""

    encoder: float
    linear: float
    bias: float

    def add(self, logits: Tensor, margins: Tensor) -> Tensor:
        """(B, L) of both, from each one's (B, L)."""
        return self.encoder * logits.float() + self.linear * margins + self.bias


class Blend(nn.Module):
    """Called like the encoder that it holds.

    Args:
        encoder: a `flash_sparse.nn.Encoder`, or what is called like it, of single texts.
        linear: reads the same tokens.
    """

    def __init__(self, encoder: nn.Module, linear: LinearModel, weights: Weights):
        super().__init__()
        self.encoder: Any = encoder
        self.linear = linear
        self.weights = weights

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None) -> Tensor:
        """Logits (B, L); arguments as in `flash_sparse.nn.Encoder.forward`."""
        return self.weights.add(self.encoder(tokens, cu_seqlens, max_seqlen, layout), self.linear(tokens, cu_seqlens))

    @property
    def body(self) -> nn.Module:
        return self.encoder.body


def fit_weights(logits: np.ndarray, margins: np.ndarray, targets: np.ndarray, task: str) -> Weights:
    """The weights with the least loss on validation documents, so that the probabilities are calibrated there too.

    Three numbers for all labels, the first two not negative: too few to overfit.

    Args:
        logits, margins: (N, L), of the encoder and of the linear model.
        targets: (N, L) of 0 and 1, or (N,) class indices.
    """
    both = torch.from_numpy(logits), torch.from_numpy(margins)  # (N, L)
    wanted = torch.from_numpy(np.asarray(targets))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(values, requires_grad=True)  # (3,) float64
        mean = document_losses(Weights(*weights).add(*both), wanted, task).mean()
        (gradient,) = torch.autograd.grad(mean, weights)  # (3,)
        return float(mean.detach()), gradient.numpy()

    bounds = [(0, None), (0, None), (None, None)]
    found = minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B")
    return Weights(*map(float, found.x))
