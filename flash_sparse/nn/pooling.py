"""From the tokens of packed sequences to one vector, or one logit for each label, of each sequence.

Sums over sequences are products with a matrix that says which token is in which sequence: the same bits every time on
every device, where `index_add_` adds in any order on a GPU, and at most the work of one projection as long as there are
fewer sequences than features.

Letters: B sequences, total tokens of all, W width, L labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Labels that are scored at once, so that memory does not grow with the number of labels times the number of tokens
LABELS_AT_ONCE = 128


def members(segment: Tensor, num_segments: int) -> Tensor:
    """(B, total) bool: whether a token is in a sequence, from the sequence of each token (total,)."""
    return segment == torch.arange(num_segments, device=segment.device)[:, None]


def mean(hidden: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """The mean of each sequence's tokens, (total, W) to (B, W), summed in float32 at least."""
    member = members(segment, num_segments)  # (B, total)
    return (_product(member, hidden) / member.sum(dim=1, keepdim=True)).to(hidden.dtype)


def maximum(hidden: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """The largest value of each feature in each sequence, (total, W) to (B, W); ties share the gradient."""
    lowest = hidden.new_full((num_segments, hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, segment[:, None].expand_as(hidden), hidden, "amax")


class LabelAttention(nn.Module):
    """Label-wise attention: each label attends to the tokens with a query of its own, and decides on what it finds.

    The logit of label l is `weight_l . sum_t a_t h_t + bias_l` with `a = softmax_t(query_l . h_t)` over all tokens of
    the sequence. Here the tokens are scored by `weight_l` first and averaged after, which is the same, without a vector
    for each sequence and label. Memory is linear in the tokens, however many labels there are.

    Args:
        width: W.
        num_labels: L.

    Source: Mullenbach et al. 2018, "Explainable Prediction of Medical Codes from Clinical Text" (CAML), section 2.2,
    equations 2 to 4.
    """

    def __init__(self, width: int, num_labels: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(num_labels, width))
        self.weight = nn.Parameter(torch.empty(num_labels, width))
        self.bias = nn.Parameter(torch.zeros(num_labels))
        for parameter in (self.query, self.weight):
            nn.init.trunc_normal_(parameter, std=width**-0.5)

    def forward(self, hidden: Tensor, segment: Tensor, num_segments: int) -> Tensor:
        """Tokens (total, W) and the sequence of each (total,) to logits (B, L), float32 at least."""
        member = members(segment, num_segments)  # (B, total)
        queries, weights = self.query.split(LABELS_AT_ONCE), self.weight.split(LABELS_AT_ONCE)
        if len(queries) == 1:
            return self._logits(hidden, self.query, self.weight, segment, member) + self.bias
        parts = [
            checkpoint(self._logits, hidden, query, weight, segment, member, use_reentrant=False)
            for query, weight in zip(queries, weights, strict=True)
        ]
        return torch.cat(parts, dim=1) + self.bias  # (B, L)

    @staticmethod
    def _logits(hidden: Tensor, query: Tensor, weight: Tensor, segment: Tensor, member: Tensor) -> Tensor:
        scores = F.linear(hidden, query)  # (total, L)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        highest = maximum(scores.detach(), segment, member.shape[0])  # (B, L)
        exponentials = (scores - highest[segment]).exp()  # (total, L)
        weighted = exponentials * F.linear(hidden, weight)  # (total, L)
        return _product(member, weighted) / _product(member, exponentials)  # (B, L)


def _product(member: Tensor, values: Tensor) -> Tensor:
    """Sums over each sequence, (B, total) and (total, n) to (B, n), at least in float32, also under autocast."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if values.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # each sequence by itself, so that its bits do not depend on what it is packed with
        return torch.stack([part.sum(0) for part in values.split(member.sum(1).tolist())])
    with torch.autocast(member.device.type, enabled=False):
        return member.to(values.dtype) @ values
