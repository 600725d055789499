"""Hundreds of random calls of `attention`: outputs, log-sum-exps and gradients against the float64 formula.

The rule is relative: at most twice the error of PyTorch's own attention in the same dtype, plus 1e-5.
"""

import pytest
import torch
from attention_cases import Case, check_errors, draw_case, error, generator, run, run_eager, run_exactly, run_torch

LOW = ("float32", "float32", "float16", "bfloat16")


@pytest.mark.parametrize("seed", range(240))
def test_at_most_twice_the_error_of_torch(kernel, device, seed):
    check(draw_case(seed, LOW), kernel, device)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 12_000, 100))
def test_two_thousand_more(kernel, device, first):
    """All but gradients of one or two tokens in 16 bits, whose largest error is a matter of luck for both sides."""
    for case in (draw_case(seed, LOW) for seed in range(first, first + 100)):
        if case.dtype == "float32" or min(case.query_length, case.key_length) > 2:
            check(case, kernel, device)


def check(case, kernel, device):
    *rows, grad_output = case.tensors(device)
    found = run(rows, grad_output, kernel, case.options(device))
    exact = run_exactly(rows, grad_output, case.options())
    check_errors(found, exact, run_torch(rows, grad_output, case.mask(), case.scale), case)

    assert found["output"].dtype == getattr(torch, case.dtype)
    assert found["lse"].dtype == torch.float32
    own = run([part.detach().cpu() for part in rows], grad_output.cpu(), "reference", case.options())
    check_errors(found, exact, own, case, names=("lse",))
    empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)  # (B, H, Nq)
    assert bool((found["lse"].cpu()[empty] == -torch.inf).all()), case
    assert bool((found["lse"].cpu()[~empty] > -torch.inf).all()), case


@pytest.mark.parametrize("head_dim", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tiny_head_dimensions(backend, device, dtype, head_dim):
    """Over many heads, for the largest error not to be a matter of luck."""
    case = Case(
        0, dtype, batch=2, heads=16, key_heads=4, query_length=113, key_length=203, head_dim=head_dim, is_causal=True
    )
    *rows, grad_output = case.tensors(device)
    found = run(rows, grad_output, backend, case.options(device))
    exact = run_exactly(rows, grad_output, case.options())
    check_errors(found, exact, run_torch(rows, grad_output, case.mask(), case.scale), case)


@pytest.mark.parametrize("seed", range(1000, 1120))
def test_float64_to_rounding(seed):
    case = draw_case(seed, ["float64"])
    *rows, grad_output = case.tensors()
    grad_logsumexp = torch.randn(grad_output.shape[:3], generator=generator(seed)).double() if seed % 2 else None
    if grad_logsumexp is not None:  # the formula's gradient at a row that sees nothing is none
        empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)
        grad_logsumexp = grad_logsumexp.masked_fill(empty, 0)
    found = run(rows, grad_output, "cpu", case.options(), grad_logsumexp)
    exact = run_exactly(rows, grad_output, case.options(), grad_logsumexp)
    for name, result in found.items():
        assert result.dtype == torch.float64
        assert error(result, exact[name]) <= 1e-10, f"{name}: {case}"


@pytest.mark.parametrize("seed", range(2000, 2060))
def test_gradients_through_the_logsumexp(kernel, device, seed):
    """PyTorch's own attention returns none, so the baseline is its single operations in the same dtype."""
    case = draw_case(seed, LOW)
    *rows, grad_output = case.tensors(device)
    empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)
    grad_logsumexp = torch.randn(empty.shape, generator=generator(seed)).masked_fill(empty, 0).to(device)
    found = run(rows, grad_output, kernel, case.options(device), grad_logsumexp)
    exact = run_exactly(rows, grad_output, case.options(), grad_logsumexp)
    baseline = run_eager(rows, grad_output, case.mask(), case.scale, grad_logsumexp)
    # Of a row that sees one key, the baseline's gradients cancel to the last bit; ours are left with a rounding error,
    # which grows with the scale. The allowance is meant for the usual scale.
    usual = case.head_dim**-0.5
    allowance = 1e-5 * max(1, abs(usual if case.scale is None else case.scale) / usual)
    check_errors(found, exact, baseline, case, names=found, allowance=allowance)


@pytest.mark.parametrize("seed", range(3000, 3040))
def test_the_formula_itself_in_every_dtype(seed):
    case = draw_case(seed, LOW)
    *rows, grad_output = case.tensors()
    found = run(rows, grad_output, "reference", case.options())
    exact = run_exactly(rows, grad_output, case.options())
    check_errors(found, exact, run_torch(rows, grad_output, case.mask(), case.scale), case)
