"""The CPU's backend computes short sequences together, padded; each gets what it would get alone."""

import random

import pytest
import torch
from attention_cases import STRIDES, Case, generator, run, run_exactly, strided

from flash_sparse import attention, attention_varlen
from flash_sparse.backends.cpu import attention as cpu
from flash_sparse.backends.cpu import bundles as bundling


@pytest.fixture
def sizes(monkeypatch):
    """How many sequences each bundle has that the CPU's backend is given."""
    found = []

    def listed(*arguments):
        for bundle in bundling.bundles(*arguments):
            side = bundle.queries
            found.append(len(side.entry) if isinstance(side, bundling.SideBySide) else 1)
            yield bundle

    monkeypatch.setattr(cpu, "bundles", listed)
    return found


def cumulative(lengths):
    return torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)


@pytest.mark.parametrize("seed", range(40))
def test_packed_as_alone(sizes, seed):
    draw = random.Random(seed)
    key_heads, group, head_dim = draw.choice((1, 2)), draw.choice((1, 3)), draw.choice((1, 8, 20))
    lengths = [draw.choice((0, 1, 2, 5, 17, 40, 41, 44, 47, 48, 130)) for _ in range(draw.choice((2, 9, 30)))]
    options = {
        "is_causal": draw.random() < 0.4,
        "window": draw.choice((None, None, (0, 0), (17, None), (6, 5), (None, 2))),
    }
    make, total = generator(seed), sum(lengths)
    shapes = [(total, key_heads * group, head_dim)] + 2 * [(total, key_heads, head_dim)]
    rows = [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    grad_output = torch.randn(shapes[0], generator=make, dtype=torch.float64)

    output, logsumexp = attention_varlen(*rows, cumulative(lengths), 130, return_lse=True, **options)
    found = (output, logsumexp, *torch.autograd.grad((output, logsumexp.sum()), rows, (grad_output, torch.ones(()))))
    assert sum(sizes) == 2 * sum(length > 0 for length in lengths)
    if len(lengths) == 30:
        assert max(sizes) > 5

    begin = 0
    for length in lengths:
        part = slice(begin, begin + length)
        begin += length
        if length == 0:
            continue
        own = [tensor[part].detach().requires_grad_() for tensor in rows]
        output, logsumexp = attention(*(tensor.transpose(0, 1)[None] for tensor in own), return_lse=True, **options)
        output, logsumexp = output[0].transpose(0, 1), logsumexp[0].T
        gradients = torch.autograd.grad((output, logsumexp.sum()), own, (grad_output[part], torch.ones(())))
        whole = [tensor.T if tensor is found[1] else tensor for tensor in found]
        for together, alone in zip(whole, (output, logsumexp, *gradients), strict=True):
            torch.testing.assert_close(together[part], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_entries_of_a_batch(sizes, strides, dtype):
    case = Case(0, "float64", 6, 2, 1, 30, 37, 8, key_lengths=(37, 0, 1, 36, 30, 35), is_causal=True)
    *rows, grad_output = (strided(tensor.detach().to(dtype), strides) for tensor in case.tensors())
    found = run([part.requires_grad_() for part in rows], grad_output, "cpu", case.options())
    exact = run_exactly(rows, grad_output, case.options())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    for name, result in found.items():
        torch.testing.assert_close(result.double(), exact[name].double(), rtol=tolerance, atol=tolerance, msg=name)
    assert sorted(sizes) == [1, 1, 4, 4]


def test_similar_lengths_share_a_bundle_as_far_as_there_is_room():
    lengths = [100, 10, 74, 9, 75, 8, 7]
    sequences = tuple(bundling.Sequence(0, (0, length), (0, length)) for length in lengths)

    def found(room, width=8):
        return [[s.lengths[0] for s in some] for some in bundling._alike(sequences, 2, width, room)]

    assert found(10**6) == [[100, 75], [74], [10, 9, 8], [7]]
    assert found(2 * 2 * 100 * 100 - 1) == [[100], [75, 74], [10, 9, 8], [7]]
    assert found(1) == [[100], [75], [74], [10], [9], [8], [7]]
    assert found(10**6, width=bundling.SHORT // 2 // 75) == [[100], [75, 74], [10, 9, 8], [7]]


def test_what_is_not_finite_stays_in_its_sequence(sizes):
    lengths = [30, 28, 27, 26]
    draw = generator(0)
    rows = [torch.randn(sum(lengths), 2, 8, generator=draw) for _ in range(3)]
    clean = run_packed(rows, lengths)
    for number, bad in enumerate((torch.nan, torch.inf)):
        rows[number][30 + 27] = bad  # the last row of the second sequence, which stands in its padding too
    found = run_packed(rows, lengths)
    for name, result in found.items():
        assert not result[30:58].isfinite().all(), name
        assert torch.equal(result[:30], clean[name][:30]), name
        assert torch.equal(result[58:], clean[name][58:]), name
    assert max(sizes) == 4


def run_packed(rows, lengths):
    rows = [part.clone().requires_grad_() for part in rows]
    output = attention_varlen(*rows, cumulative(lengths), max(lengths))
    gradients = torch.autograd.grad(output.sum(), rows)
    names = ("output", "grad_query", "grad_key", "grad_value")
    return dict(zip(names, (output, *gradients), strict=True))


def test_dropout_is_the_same_forward_and_backward(sizes):
    """With the identity as values, the output is the probabilities as they were kept."""
    lengths, longest = [20, 17, 19, 16], 20
    draw = generator(0)
    query, key = (torch.randn(sum(lengths), 2, longest, generator=draw, dtype=torch.float64) for _ in range(2))
    value = torch.cat([torch.eye(longest, dtype=torch.float64)[:length] for length in lengths])
    value = value[:, None].repeat(1, 2, 1).requires_grad_()
    torch.manual_seed(0)
    output = attention_varlen(query, key, value, cumulative(lengths), longest, dropout_p=0.4)
    grad_output = torch.randn(output.shape, generator=draw, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(output, value, grad_output)
    begin = 0
    for length in lengths:
        part = slice(begin, begin + length)
        begin += length
        weights = output[part, :, :length].detach()  # (length, H, length)
        assert 0.2 < (weights == 0).double().mean() < 0.6
        torch.testing.assert_close(gradient[part], torch.einsum("qhk,qhd->khd", weights, grad_output[part]))
    assert sizes == [4, 4]


def test_after_inference_mode(sizes):
    """What is kept of a bundle from call to call serves training too."""
    lengths = [23, 22, 21]
    rows = [torch.randn(sum(lengths), 2, 8) for _ in range(3)]
    with torch.inference_mode():
        expected = attention_varlen(*rows, cumulative(lengths), 23)
    assert torch.equal(run_packed(rows, lengths)["output"], expected)
