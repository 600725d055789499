"""Different ways to ask for the same thing."""

import pytest
import torch
from attention_cases import Case, generator, run

import flash_sparse
from flash_sparse import BlockLayout

LENGTHS = ((113, 113), (128, 128), (1, 203), (203, 64))


def results(device, backend, query_length, key_length, options, **shape):
    case = Case(0, heads=4, key_heads=2, query_length=query_length, key_length=key_length, **shape)
    *rows, grad_output = case.tensors(device)
    return run(rows, grad_output, backend, options)


def check_same(one, other):
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-5)


def ones(query_length, key_length, block_size, leading=()):
    sizes = [-(-length // block_size) for length in (query_length, key_length)]
    blocks = torch.ones(*leading, *sizes, dtype=torch.bool)
    return BlockLayout.from_blocks(blocks, block_size, query_length, key_length)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (20, 5)}, {"key_lengths": [50]}])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_layout_of_all_blocks_is_dense(backend, device, lengths, block_size, options):
    options = {name: torch.tensor(value, device=device) if name == "key_lengths" else value
               for name, value in options.items()}  # fmt: skip
    layout = ones(*lengths, block_size).to(device)
    check_same(
        results(device, backend, *lengths, options), results(device, backend, *lengths, {**options, "layout": layout})
    )


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"key_lengths": [50]}])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("leading", [(1, 1), (1, 4)])
def test_a_longer_layout_serves_by_its_upper_left_part(backend, device, lengths, options, leading):
    options = {name: torch.tensor(value, device=device) if name == "key_lengths" else value
               for name, value in options.items()}  # fmt: skip
    kept = torch.rand(*leading, 15, 16, generator=generator(0)) < 0.5
    longer = BlockLayout.from_blocks(kept, 16, 230, 250)
    sizes = [-(-length // 16) for length in lengths]
    own = BlockLayout.from_blocks(kept[:, :, : sizes[0], : sizes[1]], 16, *lengths)
    one, other = (
        results(device, backend, *lengths, {**options, "layout": layout.to(device)}) for layout in (longer, own)
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("leading", [(1,), (4,), (1, 1), (1, 4)])
def test_a_layout_repeated_over_heads_is_the_shared_one(backend, device, leading):
    kept = torch.rand(8, 8, generator=generator(0)) < 0.5
    shared = BlockLayout.from_blocks(kept, 16, 113)
    repeated = BlockLayout.from_blocks(kept.expand(*leading, 8, 8), 16, 113)
    one, other = (results(device, backend, 113, 113, {"layout": layout.to(device)}) for layout in (shared, repeated))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_small_blocks_that_tile_large_ones(backend, device):
    kept = torch.rand(4, 4, generator=generator(0)) < 0.5
    large = BlockLayout.from_blocks(kept, 64, 203)
    small = BlockLayout.from_blocks(kept.repeat_interleave(4, 0).repeat_interleave(4, 1)[:13, :13], 16, 203)
    check_same(*(results(device, backend, 203, 203, {"layout": layout.to(device)}) for layout in (large, small)))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_causal_is_a_window_of_nothing_to_the_right(backend, device, lengths):
    check_same(
        results(device, backend, *lengths, {"is_causal": True}),
        results(device, backend, *lengths, {"window": (None, 0)}),
    )
    check_same(
        results(device, backend, *lengths, {"is_causal": True, "window": (5, 9)}),
        results(device, backend, *lengths, {"window": (5, 0)}),
    )


@pytest.mark.parametrize("lengths", LENGTHS)
def test_wide_windows_and_full_key_lengths_hide_nothing(backend, device, lengths):
    plain = results(device, backend, *lengths, {})
    for options in (
        {"window": (None, None)},
        {"window": (1000, 1000)},
        {"window": (2**40, None)},
        {"key_lengths": torch.tensor([lengths[1]], device=device)},
        {"key_lengths": torch.tensor([lengths[1]], device=device, dtype=torch.int32)},
    ):
        check_same(plain, results(device, backend, *lengths, options))


@pytest.mark.parametrize("block_size", [16, 64])
def test_key_lengths_are_shorter_keys(backend, device, block_size):
    """Without a causal mask or a window, which stand at the end of the keys as they are given."""
    *rows, grad_output = Case(0, heads=2, key_heads=1, query_length=60, key_length=113).tensors(device)
    kept = torch.rand(-(-60 // block_size), -(-113 // block_size), generator=generator(0)) < 0.7
    layout = BlockLayout.from_blocks(kept, block_size, 60, 113).to(device)
    padded = run(rows, grad_output, backend, {"layout": layout, "key_lengths": torch.tensor([70], device=device)})
    blocks = kept[:, : -(-70 // block_size)]
    cut = [rows[0], rows[1][:, :, :70], rows[2][:, :, :70]]
    own = BlockLayout.from_blocks(blocks, block_size, 60, 70).to(device)
    short = run(cut, grad_output, backend, {"layout": own})
    for name in ("output", "lse", "grad_query"):
        torch.testing.assert_close(padded[name], short[name])
    for name in ("grad_key", "grad_value"):
        torch.testing.assert_close(padded[name][:, :, :70], short[name])


def test_grouped_heads_are_repeated_key_heads(backend, device):
    *rows, grad_output = Case(0, batch=2, heads=6, key_heads=2).tensors(device)
    grouped = run(rows, grad_output, backend, {})
    repeated = run([rows[0], *(part.repeat_interleave(3, 1) for part in rows[1:])], grad_output, backend, {})
    for name in ("output", "lse", "grad_query"):
        torch.testing.assert_close(grouped[name], repeated[name])
    for name in ("grad_key", "grad_value"):
        torch.testing.assert_close(grouped[name], repeated[name].unflatten(1, (2, 3)).sum(2))


def test_head_dimensions_padded_with_zeros(backend, device):
    *rows, grad_output = Case(0, head_dim=59).tensors(device)
    plain = run(rows, grad_output, backend, {})
    wide = [torch.nn.functional.pad(part, (0, 5)) for part in (*rows, grad_output)]
    padded = run(wide[:3], wide[3], backend, {"scale": 59**-0.5})
    for name, value in plain.items():
        found = padded[name] if name == "lse" else padded[name][..., :59]
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("leading", [(), (2,), (3, 1)])
def test_a_layout_for_longer_sequences_serves_packed_ones_by_its_upper_left_part(backend, device, leading):
    lengths, block_size = [70, 1, 130], 32
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    cu_seqlens = bounds.int().to(device)
    rows = [torch.randn(201, 2, 16, generator=generator(i)).to(device) for i in range(4)]
    kept = torch.rand(*leading, 10, 10, generator=generator(9)) < 0.5
    results = []
    for made_for in (130, 131, 300):
        size = -(-made_for // block_size)
        layout = BlockLayout.from_blocks(kept[..., :size, :size], block_size, made_for).to(device)
        options = {"cu_seqlens": cu_seqlens, "max_seqlen": 130, "layout": layout, "is_causal": True}
        results.append(run(rows[:3], rows[3], backend, options, function=flash_sparse.attention_varlen))
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize("kind", ["transposed", "fused", "sliced", "last"])
def test_strides_change_no_value(kernel, device, kind):
    for block_size in (0, 16):
        case = {"batch": 2, "heads": 4, "key_heads": 4, "query_length": 70, "key_length": 70, "block_size": block_size}
        results = []
        for strides in ("contiguous", kind):
            *rows, grad_output = Case(0, **case, density=0.6, strides=strides).tensors(device)
            results.append(run(rows, grad_output, kernel, Case(0, **case, density=0.6).options(device)))
        check_same(*results)


@pytest.mark.parametrize("name", ["query", "key", "value", "upstream"])
def test_each_tensor_may_have_strides_of_its_own(kernel, device, name):
    *rows, grad_output = Case(0, batch=2, heads=2, key_heads=2).tensors(device)
    expected = run(rows, grad_output, kernel, {})
    tensors = dict(zip(("query", "key", "value", "upstream"), (*rows, grad_output), strict=True))
    for permutation in ((0, 2, 1, 3), (2, 0, 1, 3), (3, 2, 1, 0)):
        back = [permutation.index(dim) for dim in range(4)]
        mixed = {**tensors, name: tensors[name].detach().permute(permutation).contiguous().permute(back)}
        *own, upstream = mixed.values()
        check_same(expected, run(own, upstream, kernel, {}))
