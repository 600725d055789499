"""Sizes and settings at their limits, against the float64 formula."""

import pytest
import torch
from attention_cases import Case, check_errors, generator, run, run_exactly, run_torch

import flash_sparse


def check(case):
    *rows, grad_output = case.tensors()
    found = run(rows, grad_output, "cpu", case.options())
    exact = run_exactly(rows, grad_output, case.options())
    check_errors(found, exact, run_torch(rows, grad_output, case.mask(), case.scale), case)
    assert float((found["lse"].double() - exact["lse"]).nan_to_num(0).abs().max()) < 1e-4
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [1, 15, 17, 31, 33, 255, 256])
def test_head_dimensions_around_whole_vectors(dtype, head_dim):
    if head_dim == 1 and dtype in ("float16", "bfloat16"):
        pytest.skip("the largest of few errors is a matter of luck")
    check(Case(head_dim, dtype, heads=4, key_heads=2, query_length=70, key_length=131, head_dim=head_dim))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 257])
@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths_around_whole_strips_and_tiles(length, is_causal):
    check(Case(length, heads=2, key_heads=1, query_length=length, key_length=length, is_causal=is_causal))
    check(Case(length, query_length=length, key_length=300, is_causal=is_causal, window=(40, None)))
    check(Case(length, query_length=300, key_length=length, window=(None, 60)))


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("lengths", [(1, 1), (17, 300), (300, 17), (129, 143), (263, 391)])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (37, 90)}], ids=str)
def test_blocks_that_the_lengths_end_in(block_size, lengths, options):
    case = Case(3, batch=2, heads=2, query_length=lengths[0], key_length=lengths[1], block_size=block_size, density=0.6,
                leading=(2, 2), key_lengths=(lengths[1], lengths[1] // 2), **options)  # fmt: skip
    check(case)


def test_the_widest_window():
    case = Case(1, heads=2, query_length=100, key_length=150, window=(2**63 - 1, 2**63 - 1))
    found, plain = (check(one) for one in (case, Case(1, heads=2, query_length=100, key_length=150)))
    for name, value in plain.items():
        assert torch.equal(found[name], value), name


def test_empty_sequences_of_a_pack_change_nothing():
    make = generator(0)
    *rows, grad_output = (torch.randn(90, heads, 24, generator=make) for heads in (2, 1, 1, 2))
    results = []
    for bounds in ([0, 40, 41, 90], [0, 0, 40, 40, 40, 41, 90, 90]):
        options = {"cu_seqlens": torch.tensor(bounds).int(), "max_seqlen": 49}
        results.append(run(rows, grad_output, "cpu", options, function=flash_sparse.attention_varlen))
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_nothing_to_attend(lengths, batch, dropout_p):
    rows = [torch.randn(batch, 2, length, 8, requires_grad=True) for length in (lengths[0], lengths[1], lengths[1])]
    output, logsumexp = flash_sparse.attention(*rows, dropout_p=dropout_p, return_lse=True)
    output.sum().backward()
    assert output.shape == rows[0].shape
    assert bool((output == 0).all())
    assert bool((logsumexp == -torch.inf).all())
    for part in rows:
        assert part.grad.shape == part.shape
        assert bool((part.grad == 0).all())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_where_denormals_are_flushed(dtype):
    case = Case(2, dtype, heads=2, query_length=130, key_length=200, head_dim=24, block_size=16, density=0.7)
    expected = check(case)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        *rows, grad_output = case.tensors()
        found = run(rows, grad_output, "cpu", case.options())
    finally:
        torch.set_flush_denormal(False)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_gradients_that_are_not_wanted_are_not_computed(wanted, packed, monkeypatch):
    """Those that are come bit for bit, and the others take no memory."""
    make = generator(0)
    rows = [torch.randn(1, heads, 1300, 20, generator=make) for heads in (4, 2, 2)]
    options, function = {"dropout_p": 0.1, "is_causal": True}, flash_sparse.attention
    if packed:
        rows = [part[0].transpose(0, 1) for part in rows]
        function = flash_sparse.attention_varlen
        options |= {"cu_seqlens": torch.tensor([0, 900, 1300]).int(), "max_seqlen": 900}

    def gradients(flags):
        leaves = [part.detach().requires_grad_(flag) for part, flag in zip(rows, flags, strict=True)]
        torch.manual_seed(0)
        function(*leaves, **options).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    made = []
    accumulator = flash_sparse.backends.cpu.launch.accumulator

    def counted(*arguments):
        made.append(accumulator(*arguments).numel() > 0)
        return accumulator(*arguments)

    everything = gradients([True] * 3)
    monkeypatch.setattr("flash_sparse.backends.cpu.launch.accumulator", counted)
    found = gradients([i in wanted for i in range(3)])
    assert made == [i in wanted for i in range(3)]
    for i in range(3):
        assert (found[i] is not None) == (i in wanted)
        assert found[i] is None or torch.equal(found[i], everything[i])
