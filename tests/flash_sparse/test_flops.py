"""What PyTorch's counter of floating-point operations says of attention: the pairs in kept blocks, no others."""

import pytest
import torch
from attention_cases import Case, generator, plain_options
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import flash_sparse
from flash_sparse import BlockLayout, patterns

PRODUCT = 2  # a multiplication and an addition


def count(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def leaves(shape, device, key_shape=None):
    shapes = (shape, key_shape or shape, key_shape or shape)
    return [torch.randn(shape, generator=generator(i)).to(device).requires_grad_() for i, shape in enumerate(shapes)]


def test_dense_forward_and_backward(kernel, device):
    rows = leaves((2, 4, 30, 8), device, (2, 2, 50, 8))
    pairs = 2 * 4 * 30 * 50 * 8 * PRODUCT
    assert count(lambda: flash_sparse.attention(*rows, is_causal=True)) == 2 * pairs
    assert count(lambda: flash_sparse.attention(*rows).sum().backward()) == 7 * pairs


@pytest.mark.parametrize(("wanted", "products"), [((0,), 3), ((1,), 3), ((2,), 2), ((0, 2), 4), ((0, 1), 4)])
def test_only_wanted_gradients(kernel, device, wanted, products):
    rows = [part.requires_grad_(number in wanted) for number, part in enumerate(leaves((1, 2, 30, 8), device))]
    output = flash_sparse.attention(*rows)
    found = count(output.sum().backward)
    assert found == products * 2 * 30 * 30 * 8 * PRODUCT


@pytest.mark.parametrize("leading", [(), (4,), (2, 1), (2, 4)])
def test_kept_blocks_alone(kernel, device, leading):
    """Of a layout that is longer than query and key, whose last blocks are incomplete."""
    case = Case(3, batch=2, heads=4, key_heads=2, query_length=150, key_length=90, block_size=32, density=0.5,
                leading=leading, head_dim=8)  # fmt: skip
    layout = case.layout(device)
    *rows, _ = case.tensors(device)
    query, key, value = rows[0][:, :, :100], rows[1][:, :, :70], rows[2][:, :, :70]
    pairs = int(layout.to_mask()[:, :, :100, :70].expand(2, 4, -1, -1).sum())
    assert 0 < pairs < 2 * 4 * 100 * 70
    assert count(lambda: flash_sparse.attention(query, key, value, layout)) == 2 * pairs * 8 * PRODUCT
    assert count(lambda: flash_sparse.attention(query, key, value, layout).sum().backward()) == 7 * pairs * 8 * PRODUCT


@pytest.mark.parametrize("sparse", [False, True])
def test_packs_count_their_sequences(kernel, device, sparse):
    rows = leaves((60, 2, 8), device)
    bounds = torch.tensor([0, 0, 17, 60], dtype=torch.int32, device=device)
    layout = patterns.local(64, 16, window=1).to(device) if sparse else None
    mask = torch.ones(64, 64, dtype=torch.bool) if layout is None else layout.to_mask()[0, 0]
    pairs = 2 * sum(int(mask[:length, :length].sum()) for length in (0, 17, 43))
    assert count(lambda: flash_sparse.attention_varlen(*rows, bounds, 43, layout)) == 2 * pairs * 8 * PRODUCT


def test_without_numbers():
    """On fake tensors no values are read, so that an incomplete block counts as a whole one."""
    with FakeTensorMode():
        rows = [torch.empty(2, 4, 64, 8) for _ in range(3)]
        assert count(lambda: flash_sparse.attention(*rows)) == 2 * 2 * 4 * 64 * 64 * 8 * PRODUCT
        bounds = torch.zeros(3, dtype=torch.int32)
        packed = [torch.empty(64, 4, 8) for _ in range(3)]
        found = count(lambda: flash_sparse.attention_varlen(*packed, bounds, 32))
        assert found == 2 * 2 * 4 * 32 * 32 * 8 * PRODUCT


def test_a_layout_without_numbers():
    layout = BlockLayout.from_blocks(torch.ones(4, 4, dtype=torch.bool).tril(), 16, 64)
    options = plain_options(layout)
    options = [part.to("meta") if isinstance(part, torch.Tensor) else part for part in options]
    rows = [torch.empty(2, 4, 64, 8, device="meta") for _ in range(3)]
    found = count(lambda: torch.ops.flash_sparse.forward(*rows, *options))
    assert found == 2 * 2 * 4 * 10 * 16 * 16 * 8 * PRODUCT
