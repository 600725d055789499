"""An encoder and the linear model that vote together."""

import numpy as np
import pytest
import torch
from torch import nn

from flash_sparse_apps.models.blend import Blend, Weights, fit_weights
from flash_sparse_apps.models.lightning_module import document_losses
from flash_sparse_apps.scores.linear_model import LinearModel


class Constant(nn.Module):
    """Logits that depend on the first token alone."""

    def forward(self, tokens, cu_seqlens, max_seqlen, layout=None):
        return tokens[cu_seqlens[:-1].long(), None] * torch.tensor([[1.0, -1.0]])


def draw(task, seed=0):
    """Targets, and two noisy views of them."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=400)
    truth = np.eye(3)[classes] if task == "single-label" else (rng.random((400, 3)) < 0.3).astype(float)
    views = [(2 * truth - 1 + rng.normal(0, 1.5, truth.shape)).astype(np.float32) for _ in range(2)]
    return (classes if task == "single-label" else truth), *views


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_two_views_are_better_than_either(task):
    targets, logits, margins = draw(task)
    weights = fit_weights(logits, margins, targets, task)
    assert weights.encoder > 0
    assert weights.linear > 0

    def loss(weights):
        both = weights.add(torch.from_numpy(logits), torch.from_numpy(margins))
        return float(document_losses(both, torch.from_numpy(targets), task).mean())

    best = loss(weights)
    assert best < min(loss(fit_weights(logits, 0 * margins, targets, task)), loss(Weights(0, weights.linear, 0)))
    for change in (0.8, 1.25):  # nothing near is better
        assert best <= loss(weights._replace(encoder=change * weights.encoder)) + 1e-6
        assert best <= loss(weights._replace(linear=change * weights.linear)) + 1e-6


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_who_says_nothing_has_no_vote(task):
    targets, logits, margins = draw(task)
    against = fit_weights(logits, -margins, targets, task)
    assert against.linear == 0
    assert fit_weights(-logits, margins, targets, task).encoder == 0


def test_a_blend_adds_both():
    linear = LinearModel(1, 2)
    linear.intercepts.copy_(torch.tensor([0.5, 1.5]))
    blend = Blend(Constant(), linear, Weights(2.0, 4.0, -1.0))
    logits = blend(torch.tensor([3, 1, 7]), torch.tensor([0, 2, 3]), 2)
    assert logits.tolist() == [[2 * 3 + 2 - 1, -6 + 6 - 1], [14 + 2 - 1, -14 + 6 - 1]]
