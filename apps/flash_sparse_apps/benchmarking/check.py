"""Whether a contender computes what it should: sampled rows against the textbook formula in float64.

The gradient of the output is zero save for the sampled rows, so that the gradients of all keys and values are known
from these rows alone, whatever the length. Letters: B batch, H heads, N tokens, D head dimension, R sampled rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_sparse_apps.benchmarking.contenders import Attention
from flash_sparse_apps.benchmarking.problem import Case

CHECKED_ROWS = 64
# Low precision rounds the operands of every product once; float32 errors are sums of many roundings, so that they are
# more of a smaller unit.
TOLERANCE = {torch.float32: 32, torch.bfloat16: 4, torch.float16: 4}  # in units of rounding

RESULTS = ("output", "query's gradient", "key's gradient", "value's gradient")


class WrongResultError(ValueError):
    """A contender that computes something else is not timed."""


def check(attend: Attention, case: Case, has_backward: bool = True) -> float:
    """The largest error among the output and the three gradients, in units of rounding of the dtype.

    An error is the larger of two shares: of a head's root mean square, and a quarter of that of its largest element.
    With dropout, the share of the expected noise instead: 1 where all is right.

    Raises:
        WrongResultError: one differs by more than rounding.
    """
    if case.problem.dropout_p:
        return _check_dropout(attend, case)
    entries, rows = _sample(case)
    inputs = case.inputs if has_backward else [tensor.detach() for tensor in case.inputs]
    output = attend(*inputs)  # (B, H, N, D)
    if has_backward:
        sampled = torch.zeros_like(case.grad_output)
        for entry in entries:
            sampled[entry, :, rows] = case.grad_output[entry, :, rows]
        gradients = torch.autograd.grad(output, inputs, sampled)  # (B, H, N, D) each
    worst = 0.0
    for entry in entries:
        query, key, value, weights = _textbook(case, entry, rows)
        exact = weights @ value  # (H, R, D)
        pairs = [(output.detach()[entry, :, rows], exact)]
        if has_backward:
            grad = case.grad_output[entry, :, rows].double()  # (H, R, D)
            delta = (grad * exact).sum(-1, keepdim=True)  # (H, R, 1)
            grad_scores = weights * (grad @ value.mT - delta) * query.shape[-1] ** -0.5  # (H, R, N)
            pairs += [
                (gradients[0][entry, :, rows], grad_scores @ key),
                (gradients[1][entry], grad_scores.mT @ query),
                (gradients[2][entry], weights.mT @ grad),
            ]
        worst = max(worst, *(_compare(what, *pair) for what, pair in zip(RESULTS, pairs, strict=False)))
    return worst


def _sample(case: Case) -> tuple[list[int], Tensor]:
    """Batch entries, at most three, and rows (R,) of each: random ones and those at the edges of a mask."""
    problem = case.problem
    entries = {0, problem.batch - 1}
    edges = {0, 1, problem.length - 1}
    if case.key_lengths is not None:
        entries.add(min(range(problem.batch), key=case.lengths.__getitem__))
    if case.cu_seqlens is not None:
        starts = case.cu_seqlens[1:-1][:4].tolist()
        edges |= {start - 1 for start in starts} | set(starts)
    if case.layout is not None:
        edges |= {case.layout.block_size - 1, case.layout.block_size}
    inside = sorted(row for row in edges if 0 <= row < problem.length)
    drawn = torch.randperm(problem.length, generator=torch.Generator().manual_seed(1))[:CHECKED_ROWS]
    rows = torch.cat([torch.tensor(inside), drawn]).unique()  # (R,)
    return sorted(entries), rows.to(case.device)


def _textbook(case: Case, entry: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sampled queries (H, R, D), keys and values (H, N, D), and the weights (H, R, N), in float64."""
    query, key, value = (tensor.detach()[entry].double() for tensor in case.inputs)  # (H, N, D) each
    query = query[:, rows]  # (H, R, D)
    scores = query @ key.mT * case.problem.head_dim**-0.5  # (H, R, N)
    weights = scores.masked_fill_(~case.visible(entry, rows), -torch.inf).softmax(-1)  # (H, R, N)
    return query, key, value, weights


def check_agreement(results: Sequence[Tensor], others: Sequence[Tensor], name: str):
    """That two contenders, each right by `check`, have the same results in all rows.

    Args:
        results: output and gradients, (B, H, N, D) each; or the output alone.
        others: the same of the contender called `name`.

    Raises:
        WrongResultError: two differ by more than twice what each may differ from the textbook formula.
    """
    for what, own, theirs in zip(RESULTS, results, others, strict=False):  # some have no backward
        _compare(what, own, theirs.double(), beside=name, allowed=2)


def _compare(
    what: str, actual: Tensor, exact: Tensor, beside: str = "the textbook formula", allowed: float = 1
) -> float:
    """The error in units of rounding; both (..., H, rows, D)."""
    error = actual.double() - exact
    mean = error.norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))  # (..., H)
    most = error.abs().amax((-2, -1)) / exact.abs().amax((-2, -1))  # (..., H)
    units, limit = float(torch.maximum(mean, most / 4).max()) / torch.finfo(actual.dtype).eps, TOLERANCE[actual.dtype]
    if not units < allowed * limit:  # NaN is not
        raise WrongResultError(
            f"the {what} differs from {beside} by {units:.3g} units of rounding, more than {allowed * limit}"
        )
    return units


def _check_dropout(attend: Attention, case: Case) -> float:
    """That dropout drops the right share, and the same probabilities forward and backward.

    Each sampled output is the textbook's plus noise of mean zero and known variance: an element's is
    p / (1 - p) * sum_j (w_j v_j)^2. The output is linear in the values, so its product with the gradient of the output
    is that of the values with theirs, for one and the same mask. Returns the share of the expected variance.
    """
    dropout_p = case.problem.dropout_p
    output = attend(*case.inputs)
    (grad_value,) = torch.autograd.grad(output, case.inputs[2], case.grad_output)  # (B, H, N, D)
    output = output.detach()
    products = case.grad_output.double() * output.double()  # (B, H, N, D)
    other = (case.inputs[2].detach().double() * grad_value.double()).sum((-2, -1))  # (B, H)
    gap = float(((products.sum((-2, -1)) - other).abs() / products.norm(dim=(-2, -1))).max())
    if not gap < 0.05:
        raise WrongResultError(
            f"forward and backward dropped different probabilities; their products differ by {gap:.3g}"
        )
    entries, rows = _sample(case)
    shares = []
    for entry in entries:
        _, _, value, weights = _textbook(case, entry, rows)
        noise = output[entry, :, rows].double() - weights @ value  # (H, R, D)
        variance = dropout_p / (1 - dropout_p) * weights.square() @ value.square()  # (H, R, D)
        shares.append((noise.square() / variance).mean(-1).flatten())  # (H R,)
    share = float(torch.cat(shares).mean())
    # As if each row were one draw of a squared normal: its features share their dropped probabilities.
    limit = 6 * math.sqrt(2 / sum(own.numel() for own in shares))
    if not abs(share - 1) < limit:
        raise WrongResultError(
            f"dropout's noise has {share:.3g} times its expected variance, more than {limit:.2g} away from 1"
        )
    return share
