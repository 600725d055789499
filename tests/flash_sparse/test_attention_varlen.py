"""Packed sequences: each gets what it would get alone, in a batch, or by the formula in float64."""

import itertools
import random

import pytest
import torch
from attention_cases import check_errors, error, generator, run, run_exactly, run_torch
from torch._subclasses import FakeTensorMode

import flash_sparse
from flash_sparse import BlockLayout, arguments
from flash_sparse.backends import reference

LENGTHS = (0, 0, 1, 2, 16, 31, 64, 113, 203, 300)


def draw_packed(seed, dtypes):
    """Tensors, cu_seqlens, max_seqlen and options of a random packed call, and a text that repeats them."""
    draw = random.Random(seed)
    dtype = draw.choice(dtypes)
    key_heads, group, head_dim = (
        draw.choice((1, 2, 3)),
        draw.choice((1, 2, 4)),
        draw.choice((1, 8, 16, 40, 59, 64, 128)),
    )
    if dtype in (torch.float16, torch.bfloat16):
        head_dim = max(head_dim, 8)
    lengths = [draw.choice(LENGTHS) for _ in range(draw.choice((1, 2, 5)))]
    block_size = draw.choice((0, 16, 32, 64, 128))
    longest = max(1, *lengths, 1) + draw.choice((0, 0, 1, 77))  # max_seqlen may be more than the longest
    layout = None
    if block_size:
        made_for = longest + draw.choice((0, 100))  # and the layout larger still
        blocks = -(-made_for // block_size)
        heads = key_heads * group
        leading = draw.choice(((), (heads,), (len(lengths), heads), (len(lengths), 1)))
        kept = torch.rand(*leading, blocks, blocks, generator=generator(seed)) < draw.choice((0.0, 0.3, 0.7, 1.0))
        layout = BlockLayout.from_blocks(kept, block_size, made_for)
    options = {
        "layout": layout,
        "is_causal": draw.random() < 0.4,
        "window": draw.choice((None, None, (0, 0), (17, None), (64, 5))),
        "scale": draw.choice((None, 0.3)),
    }
    make, total = generator(seed), sum(lengths)
    shapes = [(total, key_heads * group, head_dim)] + 2 * [(total, key_heads, head_dim)]
    rows = [torch.randn(shape, generator=make).to(dtype) for shape in shapes]
    if draw.random() < 0.5:  # slices of a fused projection
        rows = [torch.stack([part, part + 1], 1)[:, 0] for part in rows]
    grad_output = torch.randn(shapes[0], generator=make).to(dtype)
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return rows, grad_output, cu_seqlens, longest, options, f"seed {seed}, lengths {lengths}, {dtype}, {options}"


def on(device, cu_seqlens, options):
    layout = options["layout"]
    return cu_seqlens.to(device), {**options, "layout": None if layout is None else layout.to(device)}


@pytest.mark.parametrize("seed", range(80))
def test_at_most_twice_the_error_of_torch(kernel, device, seed):
    """The baseline is PyTorch's own attention on each sequence by itself."""
    dtypes = [torch.float32, torch.float16, torch.bfloat16] + [torch.float64] * (device == "cpu")
    rows, grad_output, cu_seqlens, max_seqlen, options, about = draw_packed(seed, dtypes)
    packed = {"max_seqlen": max_seqlen, "function": flash_sparse.attention_varlen}
    exact = run_exactly(rows, grad_output, options, cu_seqlens=cu_seqlens, **packed)
    baseline = torch_packed(rows, grad_output, cu_seqlens, options)
    there, options_there = on(device, cu_seqlens, options)
    rows, grad_output = [part.to(device) for part in rows], grad_output.to(device)
    found = run(rows, grad_output, kernel, options_there, cu_seqlens=there, **packed)
    check_errors(found, exact, baseline, about)
    limit = 1e-10 if rows[0].dtype == torch.float64 else 1e-5
    assert error(found["lse"], exact["lse"]) <= limit, about


def torch_packed(rows, grad_output, cu_seqlens, options):
    """PyTorch's own attention, sequence by sequence."""
    left, right = options["window"] or (None, None)
    window = (left, 0 if options["is_causal"] else right)
    parts = []
    bounds = cu_seqlens.tolist()
    for entry, (start, stop) in enumerate(itertools.pairwise(bounds)):
        layout = options["layout"]
        own = None if layout is None else reference.upper_left(layout, entry, stop - start, stop - start)
        mask = reference.visible(stop - start, stop - start, own, window, None, torch.device("cpu"))
        part = [tensor[start:stop].transpose(0, 1)[None] for tensor in (*rows, grad_output)]  # (1, H, N, D)
        results = run_torch(part[:3], part[3], mask, options["scale"])
        parts.append({name: result[0].transpose(0, 1) for name, result in results.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("seed", range(100, 112))
def test_equals_the_sequences_one_by_one(backend, device, seed):
    rows, _, cu_seqlens, max_seqlen, options, about = draw_packed(seed, [torch.float32])
    there, options = on(device, cu_seqlens, options)
    rows = [part.to(device) for part in rows]
    packed, logsumexp = flash_sparse.attention_varlen(
        *rows, there, max_seqlen, **options, return_lse=True, backend=backend
    )
    layout = options.pop("layout")
    bounds = cu_seqlens.tolist()
    for entry, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if start == stop:
            continue
        own = None
        if layout is not None:  # the upper left part, for this length
            size = -(-(stop - start) // layout.block_size)
            blocks = layout.to_blocks()[entry if layout.leading[0] > 1 else 0][:, :size, :size]
            own = BlockLayout.from_blocks(blocks, layout.block_size, stop - start)
        part = [tensor[start:stop].transpose(0, 1)[None] for tensor in rows]
        alone, own_logsumexp = flash_sparse.attention(*part, own, **options, return_lse=True, backend=backend)
        torch.testing.assert_close(packed[start:stop], alone[0].transpose(0, 1), msg=about)
        torch.testing.assert_close(logsumexp[:, start:stop], own_logsumexp[0], msg=about)


def test_equals_a_padded_batch(backend, device):
    lengths, longest, heads, dim = [70, 1, 130], 130, 2, 16
    make = generator(0)
    rows = [torch.randn(sum(lengths), heads, dim, generator=make).to(device) for _ in range(3)]
    cu_seqlens = torch.tensor([0, 70, 71, 201], dtype=torch.int32, device=device)
    packed = flash_sparse.attention_varlen(*rows, cu_seqlens, longest, backend=backend)
    padded = [torch.nn.utils.rnn.pad_sequence(part.split(lengths), batch_first=True).transpose(1, 2) for part in rows]
    batch = flash_sparse.attention(*padded, key_lengths=torch.tensor(lengths, device=device), backend=backend)
    unpadded = torch.cat([batch[entry, :, :length].transpose(0, 1) for entry, length in enumerate(lengths)])
    torch.testing.assert_close(packed, unpadded)


@pytest.mark.parametrize("bounds", [[0], [0, 0], [0, 0, 0, 0]])
def test_nothing_at_all(backend, device, bounds):
    rows = [torch.zeros(0, 2, 8, device=device, requires_grad=True) for _ in range(3)]
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
    output, logsumexp = flash_sparse.attention_varlen(*rows, cu_seqlens, 16, return_lse=True, backend=backend)
    assert output.shape == (0, 2, 8)
    assert logsumexp.shape == (2, 0)
    for gradient in torch.autograd.grad(output.sum(), rows, allow_unused=True):
        assert gradient is None or gradient.numel() == 0


BOUNDS = {  # of 10 tokens, in sequences of 6 at most
    "right": ([0, 6, 10], True),
    "empty sequences": ([0, 0, 4, 4, 10], True),
    "end before the last token": ([0, 6, 9], False),
    "end after it": ([0, 6, 11], False),
    "begin after the first": ([1, 6, 10], False),
    "fall": ([0, 6, 5, 10], False),
    "longer than max_seqlen": ([0, 3, 10], False),
}


@pytest.mark.parametrize(("bounds", "right"), BOUNDS.values(), ids=BOUNDS)
def test_the_assertion_of_a_device(bounds, right):
    """On a CPU, where it raises at once; it must refuse what the check by values refuses."""
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    for check in (arguments._assert_bounds, arguments._check_bounds):
        if right:
            check(cu_seqlens, 10, 6)
        else:
            with pytest.raises((RuntimeError, ValueError), match=r"cu_seqlens|max_seqlen"):
                check(cu_seqlens, 10, 6)


def test_packs_on_a_gpu_are_asserted_before_anything_runs_and_not_read(monkeypatch):
    """With tensors that have a GPU's device and no values, so that reading one would raise."""

    class Asserted(Exception):
        pass

    assert_bounds = arguments._assert_bounds

    def assert_and_stop(*arguments):
        assert_bounds(*arguments)
        raise Asserted

    monkeypatch.setattr(arguments, "_assert_bounds", assert_and_stop)
    with FakeTensorMode():
        rows = [torch.empty(10, 2, 8, device="cuda") for _ in range(3)]
        cu_seqlens = torch.empty(3, dtype=torch.int32, device="cuda")
        with pytest.raises(Asserted):
            flash_sparse.attention_varlen(*rows, cu_seqlens, 6)
