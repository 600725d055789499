"""The gradient of the sinks, which both compiled backends take from what their backward passes compute anyway."""

import torch
from torch import Tensor


def sink_gradients(sinks: Tensor, logsumexp: Tensor, delta: Tensor) -> Tensor:
    """What each row gives to the gradient of its head's sink, (B, H, Nq); its sum over batch and rows is all of it.

    A sink is a key whose value is zero. The gradient of a score is its probability times what reaches that, less delta;
    nothing reaches the probability of a sink.

    Args:
        sinks: (H,).
        logsumexp: (B, H, Nq), with the sinks in it.
        delta: (B, H, Nq), row sums of output times its gradient, less the gradient of the log-sum-exp.
    """
    shares = (sinks[:, None] - logsumexp).exp()  # (B, H, Nq)
    # A sink of minus infinity is none: a row may then have seen nothing at all.
    return torch.where(logsumexp == -torch.inf, 0.0, -shares * delta)
