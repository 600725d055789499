"""Dropout: its rate, its seed, and the same mask in the forward and the backward pass.

The mask is read from the operator itself: with columns of the identity as values, the output is the probabilities with
the dropped ones at 0. Under that mask, output and gradients are compared with the formula in float64.
"""

import functools

import pytest
import torch
from attention_cases import Case, check_errors, generator, run

import flash_sparse
from flash_sparse import BlockLayout
from flash_sparse.backends import reference

CASES = {
    "dense": Case(1, batch=2, heads=2, key_heads=2, query_length=113, key_length=113, head_dim=64),
    "grouped": Case(2, batch=1, heads=6, key_heads=2, query_length=64, key_length=203, head_dim=40),
    "causal": Case(3, query_length=203, key_length=203, head_dim=111, is_causal=True),
    "window": Case(4, heads=2, key_heads=2, query_length=256, key_length=256, head_dim=128, window=(20, 3)),
    "lengths": Case(5, batch=3, query_length=31, key_length=113, head_dim=59, key_lengths=(0, 113, 50)),
    "layout": Case(6, heads=2, key_heads=1, query_length=256, key_length=256, head_dim=64, block_size=32, density=0.4),
    "per head": Case(7, batch=2, heads=2, key_heads=2, query_length=113, key_length=203, head_dim=96, block_size=16,
                     density=0.5, leading=(2,), is_causal=True),
    "per batch": Case(8, batch=2, heads=1, query_length=64, key_length=64, head_dim=8, block_size=16, density=0.5,
                      leading=(2, 1)),
    "float64": Case(9, "float64", heads=2, key_heads=2, query_length=100, key_length=70, head_dim=16),
    "float16": Case(10, "float16", heads=2, key_heads=2, query_length=128, key_length=128, head_dim=64),
    "bfloat16": Case(11, "bfloat16", heads=2, key_heads=2, query_length=128, key_length=128, head_dim=64),
}  # fmt: skip


def probe(call, value):
    """Which probabilities `call(value)` keeps, bool (B, H, Nq, Nk), by columns of the identity as values."""
    length, dim = value.shape[-2:]
    columns = []
    for start in range(0, length, dim):
        eye = torch.zeros_like(value)
        for column in range(min(dim, length - start)):
            eye[..., start + column, column] = 1
        columns.append(call(eye)[..., : length - start])
    return torch.cat(columns, -1) != 0


def formula(rows, grad_output, mask, keep, p, scale, dtype):
    """Output and gradients under an explicit dropout mask, in `dtype`."""
    leaves = [part.detach().cpu().to(dtype).requires_grad_() for part in rows]
    group = leaves[0].shape[1] // leaves[1].shape[1]
    key, value = (part.repeat_interleave(group, 1) for part in leaves[1:])
    scores = (leaves[0] @ key.mT * scale).masked_fill(~mask, -torch.inf)
    weights = scores.masked_fill(~mask.any(-1, keepdim=True), 0).softmax(-1).masked_fill(~mask, 0)
    output = weights * keep.to(dtype) / (1 - p) @ value
    gradients = torch.autograd.grad(output, leaves, grad_output.cpu().to(dtype))
    names = ("output", "grad_query", "grad_key", "grad_value")
    return dict(zip(names, (output.detach(), *gradients), strict=True))


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_and_backward_use_the_same_mask(kernel, device, case, p):
    if case.dtype == "float64" and device != "cpu":
        pytest.skip("float64 is for CPUs")
    *rows, grad_output = case.tensors(device)
    options = {**case.options(device), "dropout_p": p}

    def call(value):
        torch.manual_seed(case.seed)
        query, key = rows[0].detach(), rows[1].detach()
        return flash_sparse.attention(query, key, value, **options, backend=kernel)

    keep = probe(call, rows[2].detach()).cpu()  # (B, H, Nq, Nk)
    torch.manual_seed(case.seed)
    found = run(rows, grad_output, kernel, options)
    exact = formula(rows, grad_output, case.mask(), keep, p, case.head_dim**-0.5, torch.float64)
    baseline = formula(rows, grad_output, case.mask(), keep, p, case.head_dim**-0.5, rows[0].dtype)
    check_errors(found, exact, baseline, case)
    # The log-sum-exp is that of all scores, dropped or not.
    without = run(rows, grad_output, kernel, case.options(device))
    torch.testing.assert_close(found["lse"], without["lse"])


@pytest.mark.parametrize("block_size", [0, 16])
def test_forward_and_backward_use_the_same_mask_in_packed_sequences(kernel, device, block_size):
    lengths, heads, dim, p = [40, 0, 1, 97], 2, 64, 0.3
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    make = generator(0)
    rows = [torch.randn(sum(lengths), heads, dim, generator=make).to(device) for _ in range(4)]
    layout = None
    if block_size:
        layout = BlockLayout.from_blocks(torch.rand(7, 7, generator=make) < 0.6, block_size, 100)
    options = {
        "cu_seqlens": bounds.int().to(device), "max_seqlen": 97, "dropout_p": p,
        "layout": None if layout is None else layout.to(device),
    }  # fmt: skip
    attention = functools.partial(flash_sparse.attention_varlen, backend=kernel, **options)
    torch.manual_seed(3)
    found = run(rows[:3], rows[3], kernel, options, function=flash_sparse.attention_varlen)

    for entry, (start, length) in enumerate(zip(bounds.tolist(), lengths, strict=False)):
        if not length:
            continue
        keep = torch.zeros(1, heads, length, length, dtype=torch.bool)
        for first in range(0, length, dim):  # columns of the identity, for this sequence alone
            eye = torch.zeros_like(rows[2])
            width = min(dim, length - first)
            eye[start + first : start + first + width, :, :width] = torch.eye(width, device=device)[:, None]
            torch.manual_seed(3)
            seen = attention(rows[0], rows[1], eye)[start : start + length, :, :width]
            keep[0, :, :, first : first + width] = seen.transpose(0, 1).cpu() != 0
        own = None if layout is None else reference.upper_left(layout, entry, length, length)
        mask = reference.visible(length, length, own, (None, None), None, torch.device("cpu"))
        part = [row[start : start + length].transpose(0, 1)[None] for row in rows]
        exact = formula(part[:3], part[3], mask, keep, p, dim**-0.5, torch.float64)
        baseline = formula(part[:3], part[3], mask, keep, p, dim**-0.5, torch.float32)
        mine = {name: found[name][start : start + length].transpose(0, 1)[None] for name in exact}
        check_errors(mine, exact, baseline, f"sequence {entry}")


def dropped(backend, device, p, seed, heads=8, length=256, **options):
    torch.manual_seed(seed)
    query = torch.zeros(1, heads, length, length, device=device)  # all probabilities are 1 / length
    value = torch.eye(length, device=device).expand(1, heads, length, length)
    return flash_sparse.attention(query, query, value, dropout_p=p, backend=backend, **options)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_rate_and_value(backend, device, p):
    """The share dropped is p within five standard deviations, overall, in every head, and along rows and columns."""
    weights = dropped(backend, device, p, seed=0).cpu() * 256  # (1, H, N, N)
    zero = weights == 0
    kept = weights[~zero]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    for dims in ((0, 1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 3)):
        rates = zero.double().mean(dims)
        count = zero.numel() / rates.numel()
        assert float((rates - p).abs().max()) <= 5 * (p * (1 - p) / count) ** 0.5, dims


def test_no_two_rows_or_columns_or_heads_are_dropped_alike(kernel, device):
    zero = dropped(kernel, device, 0.5, seed=0).cpu() == 0  # (1, H, N, N)
    for lines in (zero.flatten(0, 2), zero.mT.flatten(0, 2)):
        assert lines.unique(dim=0).shape[0] == lines.shape[0]


def test_the_mean_over_seeds_is_the_output_without_dropout(backend, device):
    rows = [torch.randn(1, 2, 31, 16, generator=generator(i)).to(device) for i in range(3)]
    torch.manual_seed(0)
    draws = [flash_sparse.attention(*rows, dropout_p=0.3, backend=backend) for _ in range(400)]
    plain = flash_sparse.attention(*rows, backend=backend)
    spread = torch.stack(draws).std(0) / 400**0.5
    assert float(((torch.stack(draws).mean(0) - plain) / spread).abs().max()) < 5


def test_the_seed_comes_from_torch(backend, device):
    one, again, other = (dropped(backend, device, 0.5, seed, heads=2) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    following = [dropped(backend, device, 0.5, 1, heads=1)]
    query = torch.zeros(1, 1, 256, 256, device=device)
    value = torch.eye(256, device=device)[None, None]
    following.append(flash_sparse.attention(query, query, value, dropout_p=0.5, backend=backend))
    assert not torch.equal(*following)  # the next call draws anew


def test_no_dropout_leaves_the_generator_alone(backend, device):
    rows = torch.randn(1, 1, 4, 8, device=device)
    before = torch.get_rng_state()
    flash_sparse.attention(rows, rows, rows, dropout_p=0.0, backend=backend)
    assert torch.equal(before, torch.get_rng_state())


def test_other_calls_between_forward_and_backward_change_nothing(kernel, device):
    case = CASES["layout"]
    *rows, grad_output = case.tensors(device)
    gradients = []
    for between in (False, True):
        torch.manual_seed(0)
        output = flash_sparse.attention(*rows, **case.options(device), dropout_p=0.4, backend=kernel)
        if between:
            torch.manual_seed(5)
            dropped(kernel, device, 0.5, 3, heads=1)
        gradients.append(torch.autograd.grad(output, rows, grad_output))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
