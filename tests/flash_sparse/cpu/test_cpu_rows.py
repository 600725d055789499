"""Rows in and out of the kernels: the bits of PyTorch's own conversions, at every length."""

import numpy as np
import pytest
import torch
from numba import njit

from flash_sparse.backends.cpu import rows

HALVES = [torch.float16, torch.bfloat16]
LENGTHS = (0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100)
AROUND = 64  # bytes behind a row, which nobody may write to


@njit
def widen(source, source_row, kind, count, columns, target, width, padded, factor):
    rows.widen_rows(source, source_row, kind, count, columns, target, width, padded, factor)


@njit
def narrow(source, target, kind, count, number):
    rows.narrow_row(source, target, kind, count, number)


@njit
def turn(source, source_row, target, target_row, count, columns, number):
    rows.transpose(source, source_row, target, target_row, count, columns, number)


@njit
def add(source, target, count, factor):
    rows.add_row(source, target, count, factor)


def widened(tensor, dtype=torch.float32):
    """A row (N,) in the kernels' numbers."""
    target = torch.full((tensor.numel() + AROUND,), 7, dtype=dtype)
    kind = rows.KINDS[tensor.dtype]
    number = np.float64(1) if dtype == torch.float64 else np.float32(1)
    widen(tensor.data_ptr(), 0, kind, 1, tensor.numel(), target.data_ptr(), tensor.numel(), 1, number)
    assert bool((target[tensor.numel() :] == 7).all())
    return target[: tensor.numel()]


def narrowed(tensor, dtype):
    target = torch.full((tensor.numel() + AROUND,), 7, dtype=dtype)
    number = np.float64(1) if tensor.dtype == torch.float64 else np.float32(1)
    narrow(tensor.data_ptr(), target.data_ptr(), rows.KINDS[dtype], tensor.numel(), number)
    assert bool((target[tensor.numel() :] == 7).all())
    return target[: tensor.numel()]


def check_same(found, expected):
    """The same bits; NaN for NaN, of any payload."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.itemsize]
    assert found.dtype == expected.dtype
    assert torch.equal(found.isnan(), expected.isnan())
    number = ~expected.isnan()
    wrong = found.view(integers) != expected.view(integers)
    assert not bool((wrong & number).any()), (found[wrong & number][:5], expected[wrong & number][:5])


def every(dtype):
    """All 65,536 numbers of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_number_is_widened_as_by_torch(dtype):
    check_same(widened(every(dtype)), every(dtype).float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_widened_to_float64(dtype):
    check_same(widened(every(dtype), torch.float64), every(dtype).double())


def test_float16_below_the_least_normal_number_is_kept_where_denormals_are_flushed():
    """They are numbers like any other in float32; PyTorch keeps them too."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        found = widened(every(torch.float16))
    finally:
        torch.set_flush_denormal(False)
    check_same(found, every(torch.float16).float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_number_survives(dtype):
    check_same(narrowed(every(dtype).float(), dtype), every(dtype))


def neighbours(dtype):
    """The midpoints between all neighbours, what lies next to them in float32, and beyond the largest number."""
    numbers = every(dtype).float()
    numbers = numbers[numbers.isfinite()].unique()  # ascending
    largest = numbers[-1:].double()
    step = largest - numbers[-2:-1].double()
    middles = torch.cat([(numbers[1:].double() + numbers[:-1].double()) / 2, largest + step / 2, -largest - step / 2])
    middles = middles.float()
    infinity = torch.tensor(torch.inf)
    return torch.cat([middles, middles.nextafter(infinity), middles.nextafter(-infinity)])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_midpoints_go_to_the_even_neighbour(dtype):
    numbers = neighbours(dtype)
    assert numbers.numel() > 180_000
    check_same(narrowed(numbers, dtype), numbers.to(dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_numbers_of_all_sizes_are_rounded_as_by_torch(dtype):
    bits = torch.randint(-(2**31), 2**31, (300_000,)).to(torch.int32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 1e-45, -1e-45, 3.4e38])
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaN
    numbers = torch.cat([bits.view(torch.float32), torch.randn(100_000), torch.randn(50_000) * 1e-6, special, payloads])
    check_same(narrowed(numbers, dtype), numbers.to(dtype))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_every_length(dtype, length):
    numbers = torch.randn(length).to(dtype)
    check_same(widened(numbers), numbers.float())
    check_same(narrowed(numbers.float(), dtype), numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("count", "columns"), [(0, 5), (1, 1), (3, 13), (5, 32), (4, 17)])
def test_what_is_behind_the_columns_and_the_rows_is_zero(dtype, count, columns):
    source = torch.randn(count, columns + 3).to(dtype)[:, 1:-2]
    target = torch.full((8, 32), torch.nan)
    row = source.stride(0) * source.itemsize
    widen(source.data_ptr(), row, rows.KINDS[dtype], count, columns, target.data_ptr(), 32, 7, np.float32(0.5))
    expected = torch.zeros(7, 32)
    expected[:count, :columns] = source.float() * 0.5
    assert torch.equal(target[:7], expected)
    assert bool(target[7].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("count", "columns"), [(16, 16), (16, 48), (64, 16), (32, 32)])
def test_transpose(dtype, count, columns):
    source = torch.randn(count, columns + 5, dtype=dtype)
    target = torch.full((columns, count + 3), 7.0, dtype=dtype)
    number = np.float64(1) if dtype == torch.float64 else np.float32(1)
    strides = [tensor.stride(0) * tensor.itemsize for tensor in (source, target)]
    turn(source.data_ptr(), strides[0], target.data_ptr(), strides[1], count, columns, number)
    assert torch.equal(target[:, :count], source[:, :columns].T)
    assert bool((target[:, count:] == 7).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_add_row(dtype):
    source, target = torch.randn(64, dtype=dtype), torch.randn(64, dtype=dtype)
    number = np.float64(0.3) if dtype == torch.float64 else np.float32(0.3)
    expected = target + source * number.item()
    add(source.data_ptr(), target.data_ptr(), 64 * source.itemsize // rows.VECTOR_BYTES, number)
    torch.testing.assert_close(target, expected)
