"""Queries and keys packed by bounds of their own: each pair of sequences is what `attention` gives for it alone."""

import itertools
import random

import pytest
import torch
from attention_cases import check_errors, generator, run, run_exactly
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import flash_sparse
from flash_sparse import BlockLayout, arguments

QUERY_LENGTHS = (0, 1, 1, 16, 33, 130, 200)
KEY_LENGTHS = (0, 0, 1, 17, 64, 150, 210)


def draw_crossed(seed, dtypes):
    """Random packs on both sides, empty sequences among them, with every option."""
    draw = random.Random(seed)
    dtype = draw.choice(dtypes)
    key_heads, group, head_dim = draw.choice((1, 2)), draw.choice((1, 2, 3)), draw.choice((8, 16, 40, 59))
    heads = key_heads * group
    lengths = [(draw.choice(QUERY_LENGTHS), draw.choice(KEY_LENGTHS)) for _ in range(draw.choice((1, 2, 5)))]
    longest = [max(1, *side) + draw.choice((0, 0, 50)) for side in zip(*lengths, (1, 1), strict=True)]
    layout = None
    block_size = draw.choice((0, 0, 16, 64, 128))
    if block_size:
        sizes = [-(-length // block_size) for length in longest]
        leading = draw.choice(((), (heads,), (len(lengths), heads), (len(lengths), 1)))
        kept = torch.rand(*leading, *sizes, generator=generator(seed)) < draw.choice((0.0, 0.5, 1.0))
        layout = BlockLayout.from_blocks(kept, block_size, *longest)
    options = {
        "layout": layout,
        "is_causal": draw.random() < 0.4,
        "window": draw.choice((None, None, (0, 0), (17, None), (64, 5))),
        "scale": draw.choice((None, 0.3)),
        "softcap": draw.choice((None, None, None, 3.0)),
        "sinks": torch.randn(heads, generator=generator(seed)) if draw.random() < 0.3 else None,
    }
    make = generator(seed)
    totals = [sum(side) for side in zip(*lengths, strict=True)]
    shapes = (totals[0], heads), (totals[1], key_heads), (totals[1], key_heads), (totals[0], heads)
    *rows, grad_output = (torch.randn(*shape, head_dim, generator=make).to(dtype) for shape in shapes)
    bounds = [torch.tensor([0, *side]).cumsum(0).int() for side in zip(*lengths, strict=True)]
    packed = {
        "cu_seqlens": bounds[0], "max_seqlen": longest[0], "cu_seqlens_k": bounds[1], "max_seqlen_k": longest[1],
    }  # fmt: skip
    return rows, grad_output, {**options, **packed}, f"seed {seed}, lengths {lengths}, {dtype}, {options}"


def on(device, options):
    return {name: part.to(device) if hasattr(part, "to") else part for name, part in options.items()}


@pytest.mark.parametrize("seed", range(60))
def test_at_most_twice_the_error_of_the_formula(kernel, device, seed):
    dtypes = [torch.float32, torch.float16, torch.bfloat16] + [torch.float64] * (device == "cpu")
    rows, grad_output, options, about = draw_crossed(seed, dtypes)
    function = flash_sparse.attention_varlen
    exact = run_exactly(rows, grad_output, options, function=function)
    baseline = run(rows, grad_output, "reference", options, function=function)
    rows, grad_output = [part.to(device) for part in rows], grad_output.to(device)
    found = run(rows, grad_output, kernel, on(device, options), function=function)
    # The formula keeps float32 inside, where kernels may round what they multiply for the gradients.
    names = ("output", "lse") if rows[0].dtype.itemsize == 2 else found
    check_errors(found, exact, baseline, about, names=names)


@pytest.mark.parametrize("seed", range(100, 130))
def test_equals_attention_of_each_pair(backend, device, seed):
    """Also its gradients."""
    rows, grad_output, options, about = draw_crossed(seed, [torch.float32])
    rows, grad_output = [part.to(device) for part in rows], grad_output.to(device)
    found = run(rows, grad_output, backend, on(device, options), function=flash_sparse.attention_varlen)
    spans = [list(itertools.pairwise(options.pop(name).tolist())) for name in ("cu_seqlens", "cu_seqlens_k")]
    for name in ("max_seqlen", "max_seqlen_k"):
        options.pop(name)
    layout = options.pop("layout")
    options = on(device, options)
    for entry, (queries, keys) in enumerate(zip(*spans, strict=True)):
        part = [
            tensor[slice(*span)].transpose(0, 1)[None]
            for tensor, span in zip((*rows, grad_output), (queries, keys, keys, queries), strict=True)
        ]
        own = None
        if layout is not None:
            own = BlockLayout.from_blocks(
                layout.to_blocks()[entry if layout.leading[0] > 1 else 0], layout.block_size, layout.query_length,
                layout.key_length,
            ).to(device)  # fmt: skip
        alone = run(part[:3], part[3], backend, {**options, "layout": own})
        for name, span in (("output", queries), ("grad_query", queries), ("grad_key", keys), ("grad_value", keys)):
            expected = alone[name][0].transpose(0, 1)
            torch.testing.assert_close(found[name][slice(*span)], expected, rtol=1e-4, atol=1e-5, msg=f"{name} {about}")
        torch.testing.assert_close(found["lse"][:, slice(*queries)], alone["lse"][0])


def test_the_diagonal_ends_at_the_bottom_right(backend, device):
    """As in `attention`: the last query of a pair sees all its keys, the one before all but one."""
    query = torch.zeros(6, 1, 16, device=device)
    key = torch.zeros(12, 1, 16, device=device)
    value = torch.eye(16, device=device)[:12, None]
    bounds, key_bounds = (torch.tensor(part, dtype=torch.int32, device=device) for part in ([0, 2, 6], [0, 5, 12]))
    output = flash_sparse.attention_varlen(
        query, key, value, bounds, 4, cu_seqlens_k=key_bounds, max_seqlen_k=7, is_causal=True, backend=backend
    )
    seen = (output[:, 0] > 0).int().cpu()  # (6, 16)
    assert seen.sum(-1).tolist() == [4, 5, 4, 5, 6, 7]
    assert not seen[:2, 5:].any()
    assert not seen[2:, :5].any()


def test_the_same_bounds_twice_are_the_same_bits(kernel, device):
    rows = [torch.randn(70, 2, 8, generator=generator(i)).to(device) for i in range(4)]
    bounds = torch.tensor([0, 30, 30, 70], dtype=torch.int32, device=device)
    once = {"cu_seqlens": bounds, "max_seqlen": 40, "is_causal": True}
    twice = {**once, "cu_seqlens_k": bounds.clone(), "max_seqlen_k": 40}
    found, expected = (
        run(rows[:3], rows[3], kernel, options, function=flash_sparse.attention_varlen) for options in (twice, once)
    )
    for name, result in found.items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_without_a_token(backend, device, side):
    """No queries give no rows; queries without keys give zeros, minus infinity and no gradient."""
    tokens = [7, 7]
    tokens[side] = 0
    query = torch.randn(tokens[0], 2, 8, device=device, requires_grad=True)
    key = torch.randn(tokens[1], 2, 8, device=device, requires_grad=True)
    bounds = [torch.tensor([0, total, total], dtype=torch.int32, device=device) for total in tokens]
    output, logsumexp = flash_sparse.attention_varlen(
        query, key, key, bounds[0], tokens[0], cu_seqlens_k=bounds[1], max_seqlen_k=tokens[1], return_lse=True,
        backend=backend,
    )  # fmt: skip
    assert output.shape == query.shape
    assert not output.any()
    assert bool((logsumexp == -torch.inf).all())
    output.sum().backward()
    assert not query.grad.any()
    assert not key.grad.any()


def test_gradcheck():
    query = torch.randn(9, 2, 2, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(14, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bounds, key_bounds = (torch.tensor(part, dtype=torch.int32) for part in ([0, 4, 4, 9], [0, 6, 8, 14]))

    def call(*rows):
        return flash_sparse.attention_varlen(
            *rows, bounds, 5, cu_seqlens_k=key_bounds, max_seqlen_k=6, is_causal=True, return_lse=True, backend="cpu"
        )

    assert torch.autograd.gradcheck(call, (query, key, value), fast_mode=True)


def test_dropout_counts_from_each_sequences_own_beginning(kernel, device):
    """A seed drops the same elements of a pair of sequences, whatever the packs before it."""
    query, key = torch.zeros(50, 2, 64, device=device), torch.zeros(90, 2, 64, device=device)
    value = torch.eye(64, device=device)[torch.arange(90, device=device) % 45][:, None].expand(-1, 2, -1)
    bounds, key_bounds = (torch.tensor(part, dtype=torch.int32, device=device) for part in ([0, 25, 50], [0, 45, 90]))
    torch.manual_seed(3)
    output = flash_sparse.attention_varlen(
        query, key, value, bounds, 25, cu_seqlens_k=key_bounds, max_seqlen_k=45, dropout_p=0.4, backend=kernel
    )
    kept = output.transpose(0, 1)[None, ..., :45] != 0  # (1, 2, 50, 45)
    torch.manual_seed(3)
    batch = [part.unflatten(0, (2, -1)).transpose(1, 2) for part in (query, key, value)]
    alone = flash_sparse.attention(*batch, dropout_p=0.4, backend=kernel)[..., :45] != 0  # (2, 2, 25, 45)
    assert 0.5 < float(alone.float().mean()) < 0.7
    assert torch.equal(kept[0].unflatten(1, (2, -1)).transpose(0, 1), alone)


def test_compiled_once_for_all_lengths(kernel, device):
    from torch._dynamo.testing import CompileCounterWithBackend

    def call(rows, bounds, key_bounds, longest, longest_key):
        return flash_sparse.attention_varlen(
            *rows, bounds, longest, cu_seqlens_k=key_bounds, max_seqlen_k=longest_key, is_causal=True, backend=kernel
        )

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for lengths, keys in (((9, 3), (5, 6)), ((20, 13), (31, 9)), ((17, 2), (40, 0))):
        rows = [torch.randn(sum(part), 2, 8).to(device).requires_grad_() for part in (lengths, keys, keys)]
        bounds = [torch.tensor([0, *part]).cumsum(0).int().to(device) for part in (lengths, keys)]
        arguments = rows, *bounds, max(lengths), max(keys)
        found, expected = compiled(*arguments), call(*arguments)
        torch.testing.assert_close(found, expected)
        gradients = (torch.autograd.grad(output.square().sum(), rows) for output in (found, expected))
        torch.testing.assert_close(*gradients)
    torch.compiler.reset()
    assert counter.frame_count <= 2


def test_operations_are_counted_pair_by_pair():
    rows = [torch.randn(total, 2, 8) for total in (10, 20, 20)]
    bounds, key_bounds = (torch.tensor(part, dtype=torch.int32) for part in ([0, 4, 10], [0, 15, 20]))
    with FlopCounterMode(display=False) as counter:
        flash_sparse.attention_varlen(*rows, bounds, 6, cu_seqlens_k=key_bounds, max_seqlen_k=15)
    assert counter.get_total_flops() == 2 * 2 * 2 * (4 * 15 + 6 * 5) * 8


def test_a_gpu_asserts_both_sides(monkeypatch):
    """With tensors that have a GPU's device and no values, so that reading one would raise."""

    class Asserted(Exception):
        pass

    seen, check = [], arguments._assert_bounds

    def assert_and_note(cu_seqlens, total, max_seqlen, side):
        check(cu_seqlens, total, max_seqlen, side)
        seen.append((total, max_seqlen, side.owner))
        if side is arguments.KEYS:
            raise Asserted

    monkeypatch.setattr(arguments, "_assert_bounds", assert_and_note)
    with FakeTensorMode():
        rows = [torch.empty(total, 2, 8, device="cuda") for total in (10, 20, 20)]
        bounds = torch.empty(3, dtype=torch.int32, device="cuda")
        with pytest.raises(Asserted):
            flash_sparse.attention_varlen(*rows, bounds, 6, cu_seqlens_k=bounds, max_seqlen_k=15)
    assert seen == [(10, 6, "query"), (20, 15, "key")]
