"""Vector instructions and the matrix product, on numbers that come in by small compiled functions."""

import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from flash_sparse.backends.cpu.product import MOST_INNER, multiply, multiply_in_parts
from flash_sparse.backends.cpu.vectors import INT64, STRIP_BYTES, vector_function

DTYPES = [np.float32, np.float64]


def power(flush):
    @vector_function
    def exp2(vectors, source, target, strips, number):
        builder = vectors.builder

        def step(_, carried):
            source_at, target_at = carried
            vectors.store_strip([vectors.exp2(part, flush=flush) for part in vectors.strip(source_at)], target_at)
            return [builder.add(at, ir.Constant(INT64, STRIP_BYTES)) for at in (source_at, target_at)]

        vectors.loop(strips, [source, target], step)

    @njit
    def call(source, target, strips, number):
        exp2(source, target, strips, number)

    def run(numbers):
        lanes = STRIP_BYTES // numbers.itemsize
        padded = np.zeros(-(-len(numbers) // lanes) * lanes, numbers.dtype)
        padded[: len(numbers)] = numbers
        target = np.empty_like(padded)
        call(padded.ctypes.data, target.ctypes.data, len(padded) // lanes, numbers.dtype.type(1))
        return target[: len(numbers)]

    return run


@pytest.fixture(scope="module", params=[False, True], ids=["to the least normal number", "to zero"])
def exp2(request):
    run = power(request.param)
    run.flush = request.param
    return run


def exactly(numbers):
    """2 ** x, twice as precise as float64 where the platform has it."""
    return np.exp2(numbers.astype(np.longdouble))


@pytest.mark.parametrize(("dtype", "least", "largest", "allowed"), [
    (np.float32, -126, 127.4, 2.0e-7 + 2**-24), (np.float64, -1022, 1023.4, 2.3e-16),
])  # fmt: skip
def test_exp2_over_the_normal_range(exp2, dtype, least, largest, allowed):
    """The error of the polynomial and that of rounding."""
    draw = np.random.default_rng(0)
    fractions = np.linspace(-3, 3, 60_001)
    numbers = np.concatenate([draw.uniform(least, largest, 200_000), fractions, np.arange(least, 127) + 0.5])
    numbers = numbers.astype(dtype)
    found, exact = exp2(numbers).astype(np.longdouble), exactly(numbers)
    assert float(np.abs(found / exact - 1).max()) <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_of_whole_numbers_is_exact(exp2, dtype):
    numbers = np.arange(-126 if dtype == np.float32 else -1022, 128, dtype=dtype)
    assert np.array_equal(exp2(numbers), np.ldexp(dtype(1), numbers.astype(int)))
    assert exp2(np.array([0.0, -0.0], dtype)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_below_the_least_normal_number(exp2, dtype):
    least = np.finfo(dtype).tiny
    bound = dtype(np.log2(least))
    below = np.array([np.nextafter(bound, dtype(-np.inf)), bound - 1, bound - 30, -1e30, np.finfo(dtype).min, -np.inf])
    expected = 0 if exp2.flush else least
    assert exp2(below.astype(dtype)).tolist() == [expected] * len(below)
    assert exp2(np.array([bound], dtype)).tolist() == [least]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_of_nan_is_nan_in_its_lane_alone(exp2, dtype):
    numbers = np.ones(40, dtype)
    numbers[[3, 17, 39]] = np.nan
    found = exp2(numbers)
    assert np.array_equal(np.isnan(found), np.isnan(numbers))
    assert (found[~np.isnan(found)] == 2).all()


@njit
def product(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, accumulate, number):
    multiply(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, accumulate, number)


@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply(dtype, turned, accumulate):
    """Whole numbers, so that any order of the sums gives the same; nothing is written beside the strip."""
    draw = np.random.default_rng(0)
    lanes = STRIP_BYTES // np.dtype(dtype).itemsize
    for rows in range(41):
        for inner in range(21):
            shape = (inner + 2, rows + 3) if turned else (rows + 3, inner + 2)
            whole = draw.integers(-9, 10, shape).astype(dtype)
            left = whole.T[:rows, :inner] if turned else whole[:rows, :inner]
            right = draw.integers(-9, 10, (inner + 1, lanes + 5)).astype(dtype)
            result = draw.integers(-9, 10, (rows + 1, lanes + 3)).astype(dtype)
            expected = result.copy()
            expected[:rows, :lanes] = left @ right[:inner, :lanes] + accumulate * result[:rows, :lanes]
            product(
                whole.ctypes.data, *left.strides, right.ctypes.data, right.strides[0], result.ctypes.data,
                result.strides[0], rows, inner, accumulate, dtype(1),
            )  # fmt: skip
            assert np.array_equal(result, expected), (rows, inner)


@njit
def product_in_parts(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, number):
    multiply_in_parts(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, number)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_in_parts(dtype, turned):
    """Each element is the sum of the parts' sums, and what stood there before is forgotten."""
    draw = np.random.default_rng(0)
    lanes = STRIP_BYTES // np.dtype(dtype).itemsize
    for inner in (1, MOST_INNER - 1, MOST_INNER, MOST_INNER + 1, 2 * MOST_INNER, 5 * MOST_INNER + 3):
        left = draw.integers(-9, 10, (inner, 7) if turned else (7, inner)).astype(dtype)
        left = left.T if turned else left  # (7, inner)
        right = draw.integers(-9, 10, (inner, lanes)).astype(dtype)
        result = np.full((8, lanes), np.nan, dtype)
        product_in_parts(
            left.ctypes.data, *left.strides, right.ctypes.data, right.strides[0], result.ctypes.data,
            result.strides[0], 7, inner, dtype(1),
        )  # fmt: skip
        assert np.array_equal(result[:7], left @ right), inner
        assert np.isnan(result[7]).all()


def test_parts_have_a_smaller_error():
    """Ones behind a number at which float32 no longer counts them one by one: a part's ones are added together."""
    lanes = STRIP_BYTES // 4
    left, right = np.ones((1, 1 + 10 * MOST_INNER), np.float32), np.ones((1 + 10 * MOST_INNER, lanes), np.float32)
    left[0, 0] = 2.0**24
    found = {}
    for function in (product, product_in_parts):
        result = np.empty((1, lanes), np.float32)
        flags = (0,) if function is product else ()
        function(
            left.ctypes.data, *left.strides, right.ctypes.data, right.strides[0], result.ctypes.data,
            result.strides[0], 1, left.shape[1], *flags, np.float32(1),
        )  # fmt: skip
        found[function] = result[0, 0] - 2.0**24
    assert found[product] == 0
    assert found[product_in_parts] == 9 * MOST_INNER


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_with_a_left_matrix_of_one_number(dtype):
    """Both of its strides may be 0."""
    lanes = STRIP_BYTES // np.dtype(dtype).itemsize
    left, right, result = np.full(1, 3, dtype), np.ones((5, lanes), dtype), np.full((7, lanes), np.nan, dtype)
    product(
        left.ctypes.data, 0, 0, right.ctypes.data, right.strides[0], result.ctypes.data, result.strides[0], 7, 5, 0,
        dtype(1),
    )  # fmt: skip
    assert (result == 15).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_does_not_spread_nan_to_other_rows_and_lanes(dtype):
    lanes = STRIP_BYTES // np.dtype(dtype).itemsize
    left, right, result = np.ones((9, 4), dtype), np.ones((4, lanes), dtype), np.zeros((9, lanes), dtype)
    left[5, 2], right[1, 3] = np.nan, np.inf
    product(
        left.ctypes.data, *left.strides, right.ctypes.data, right.strides[0], result.ctypes.data, result.strides[0],
        9, 4, 0, dtype(1),
    )  # fmt: skip
    assert np.isnan(result[5]).all()
    assert np.isinf(np.delete(result, 5, 0)[:, 3]).all()
    assert (np.delete(np.delete(result, 5, 0), 3, 1) == 4).all()
