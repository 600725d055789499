"""Whether a contender computes what it should: sampled rows against the textbook formula in float64.

The gradient of the output is zero save for the sampled rows, so that the gradients of all keys and values are known
from these rows alone, whatever the length. Letters: B batch, H heads, N tokens, D head dimension, R sampled rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flash_sparse_apps.benchmarking.contenders import Call
from flash_sparse_apps.benchmarking.problem import Case

CHECKED_ROWS = 64
# Low precision rounds the operands of every product once; float32 errors are sums of many roundings, so that they are
# more of a smaller unit.
TOLERANCE = {torch.float32: 32, torch.float64: 64, torch.bfloat16: 4, torch.float16: 4}  # in units of rounding


class WrongResultError(ValueError):
    """A contender that computes something else is not timed."""


def check(call: Call, case: Case) -> float:
    """The largest error among the output and the three gradients, in units of rounding of the dtype.

    Raises:
        WrongResultError: one differs by more than rounding.
    """
    if case.problem.dropout_p:
        return _check_dropout(call, case)
    entries, rows = _sample(case)
    output, gradients = _run(call, case, entries, rows)
    worst = 0.0
    for entry in entries:
        query, key, value, weights = _textbook(case, entry, rows)
        exact = weights @ value  # (H, R, D)
        noise = _noise(weights, value)
        found = {"output": (output[entry, :, rows], exact, noise)}
        if gradients is not None:
            grad = case.grad_output[entry, :, rows].double()  # (H, R, D)
            found |= _gradients(query, key, value, weights, exact, grad, [own[entry] for own in gradients], rows)
        for what, (actual, expected, noise) in found.items():
            worst = max(worst, _compare(what, actual, expected, noise))
    return worst


def _gradients(
    query: Tensor,  # (H, R, D)
    key: Tensor,  # (H, N, D)
    value: Tensor,  # (H, N, D)
    weights: Tensor,  # (H, R, N)
    output: Tensor,  # (H, R, D)
    grad: Tensor,  # (H, R, D)
    gradients: list[Tensor],  # (H, N, D) each
    rows: Tensor,  # (R,)
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each gradient: the contender's, the exact one, and what one unit of rounding in each product makes of it."""
    scale = query.shape[-1] ** -0.5
    grad_weights = grad @ value.mT  # (H, R, N)
    delta = (grad * output).sum(-1, keepdim=True)  # (H, R, 1)
    grad_scores = weights * (grad_weights - delta) * scale  # (H, R, N)
    # Who takes delta from an output that is rounded already has an error in it as large as its terms; where the
    # difference cancels, that error is all there is.
    delta_noise = (grad * output).norm(dim=-1, keepdim=True)  # (H, R, 1)
    score_noise = weights * (grad_weights.square() + delta_noise.square()).sqrt() * scale  # (H, R, N)
    common = (delta_noise * scale * (weights @ key)).norm(dim=-1)  # (H, R), delta's error is the same for all keys
    return {
        "query's gradient": (gradients[0][:, rows], grad_scores @ key, _noise(score_noise, key) + common),
        "key's gradient": (gradients[1], grad_scores.mT @ query, _noise(score_noise.mT, query)),
        "value's gradient": (gradients[2], weights.mT @ grad, _noise(weights.mT, grad)),
    }


def _noise(left: Tensor, right: Tensor) -> Tensor:
    """The length of each row of left @ right if its terms had random signs: (H, rows, n), (H, n, D) to (H, rows)."""
    return (left.square() @ right.square().sum(-1, keepdim=True)).squeeze(-1).sqrt()


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
    edges = [row for row in edges if 0 <= row < problem.length]
    drawn = torch.randperm(problem.length, generator=torch.Generator().manual_seed(1))[:CHECKED_ROWS]
    rows = torch.cat([torch.tensor(edges), drawn]).unique()  # (R,)
    return sorted(entries), rows.to(case.device)


def _run(call: Call, case: Case, entries: list[int], rows: Tensor) -> tuple[Tensor, list[Tensor] | None]:
    """Output and gradients, (B, H, N, D) each, from a gradient of the output that is zero save for the rows."""
    if not call.has_backward:
        with torch.no_grad():
            return call.to_rows(call.function(*(tensor.detach() for tensor in call.inputs))), None
    sampled = torch.zeros_like(case.grad_output)
    for entry in entries:
        sampled[entry, :, rows] = case.grad_output[entry, :, rows]
    output = call.forward()
    gradients = call.backward(output, call.from_rows(sampled).contiguous())
    return call.to_rows(output.detach()), [call.to_rows(gradient) for gradient in gradients]


def _textbook(case: Case, entry: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sampled queries (H, R, D), keys and values (H, N, D), and the weights (H, R, N), in float64."""
    query = case.query[entry, :, rows].double()  # (H, R, D)
    key, value = case.key[entry].double(), case.value[entry].double()  # (H, N, D)
    scores = query @ key.mT * case.problem.head_dim**-0.5  # (H, R, N)
    weights = scores.masked_fill_(~case.visible(entry, rows), -torch.inf).softmax(-1)  # (H, R, N)
    return query, key, value, weights


def _compare(what: str, actual: Tensor, exact: Tensor, noise: Tensor) -> float:
    """The largest error of a row in units of rounding: of the row's length (rows, D) and its terms' noise (rows,)."""
    errors = (actual.double() - exact).norm(dim=-1)  # (H, rows)
    allowed = exact.norm(dim=-1) + noise  # (H, rows)
    units = float((errors / allowed).where(errors > 0, 0).max()) / torch.finfo(actual.dtype).eps
    limit = TOLERANCE[actual.dtype]
    if not units < limit:
        raise WrongResultError(
            f"wrong: a row of the {what} differs from the textbook formula by {units:.3g} units of rounding, more than "
            f"{limit}"
        )
    return units


def _check_dropout(call: Call, case: Case) -> float:
    """That dropout drops the right share, and the same probabilities forward and backward.

    Each sampled output is the textbook's plus noise of mean zero and known variance: an element's is
    p / (1 - p) * sum_j (w_j v_j)^2. The output is linear in the values, so its product with the gradient of the output
    is that of the values with theirs, for one and the same mask. Returns the share of the expected variance.
    """
    dropout_p, dtype = case.problem.dropout_p, case.query.dtype
    output = call.forward()
    grad_value = call.to_rows(call.backward(output)[2]).double()  # (B, H, N, D)
    output = call.to_rows(output.detach())
    one = (case.grad_output.double() * output.double()).sum((-2, -1))  # (B, H)
    other = (case.value.double() * grad_value).sum((-2, -1))  # (B, H)
    size = (case.grad_output.double() * output.double()).norm(dim=(-2, -1))  # (B, H)
    gap = float(((one - other).abs() / size).max())
    if not gap < max(0.05, 8 * torch.finfo(dtype).eps):
        raise WrongResultError(
            f"wrong: forward and backward dropped different probabilities; their products differ by {gap:.3g}"
        )
    entries, rows = _sample(case)
    shares = []
    for entry in entries:
        _, _, value, weights = _textbook(case, entry, rows)
        noise = output[entry, :, rows].double() - weights @ value  # (H, R, D)
        variance = dropout_p / (1 - dropout_p) * weights.square() @ value.square()  # (H, R, D)
        shares.append((noise.square() / variance).mean(-1).flatten())  # (H R,)
    shares = torch.cat(shares)
    # As if each row were one draw of a squared normal: its features share their dropped probabilities.
    spread = math.sqrt(2 / shares.numel())
    share = float(shares.mean())
    if not abs(share - 1) < 6 * spread:
        raise WrongResultError(
            f"wrong: dropout's noise has {share:.3g} times its expected variance, more than {6 * spread:.2g} away"
        )
    return share
