"""Rows in and out: widening 16-bit numbers, padding to whole vectors, and strips turned so that lanes are queries.

Inside the kernels everything is float32, or float64. The rows of a tile are widened when they are read and rounded when
they are written, one tile at a time.
"""

from typing import NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from flash_sparse.backends.cpu.vectors import (
    INT16,
    INT32,
    INT64,
    VECTOR_BYTES,
    Vectors,
    compiled,
    itemsize_of,
    lanes_of,
    tuple_at,
    vector_function,
)  # fmt: skip

NATIVE, BFLOAT16, FLOAT16 = range(3)
KINDS = {torch.float32: NATIVE, torch.float64: NATIVE, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


class Rows(NamedTuple):
    """Where the rows of a tensor (B, H, N, D) lie, for compiled code. Strides are in bytes."""

    address: int
    batch: int
    head: int
    row: int
    kind: int  # of number: NATIVE is the kernel's own

    @classmethod
    def of(cls, tensor: Tensor) -> "Rows":
        batch, head, row, _ = (stride * tensor.itemsize for stride in tensor.stride())
        return cls(tensor.data_ptr(), batch, head, row, KINDS[tensor.dtype])


ROWS_FIELDS = len(Rows._fields)


@compiled
def rows_at(address, first, index):
    """The `Rows` at place `index` of those that lie at an address from integer `first` on."""
    return tuple_at(Rows, address, first + index * ROWS_FIELDS)


@compiled
def row_address(rows, batch, head, row):
    return rows.address + batch * rows.batch + head * rows.head + row * rows.row


@compiled
def number_bytes(kind, number):
    """Bytes of a stored number of this kind."""
    return itemsize_of(number) if kind == NATIVE else 2


def _from_half(vectors: Vectors, half: ir.Value) -> ir.Value:
    """Widen float16, given as 32-bit words, to float32, without instructions that not every CPU has."""
    builder, words = vectors.builder, vectors.words
    sign = builder.shl(builder.and_(half, vectors.constant(0x8000, words)), vectors.constant(16, words))
    magnitude = builder.shl(builder.and_(half, vectors.constant(0x7FFF, words)), vectors.constant(13, words))
    floats = ir.VectorType(ir.FloatType(), vectors.lanes)
    # The exponent's bias is 15 there and 127 here. Below the least normal number a leading 1 is added and taken away,
    # so that no float32 is subnormal: a process may have these flushed to 0.
    normal = builder.add(magnitude, vectors.constant(112 << 23, words))
    leading = vectors.constant(113 << 23, words)
    moved = builder.bitcast(builder.add(magnitude, leading), floats)
    subnormal = builder.bitcast(builder.fsub(moved, builder.bitcast(leading, floats)), words)
    is_small = builder.icmp_unsigned("<", magnitude, vectors.constant(0x400 << 13, words))
    finite = builder.select(is_small, subnormal, normal)
    special = builder.icmp_unsigned(">=", magnitude, vectors.constant(0x7C00 << 13, words))
    infinite = builder.or_(magnitude, vectors.constant(0x7F800000, words))
    bits = builder.select(special, infinite, finite)
    return builder.bitcast(builder.or_(bits, sign), floats)


def _to_half(vectors: Vectors, value: ir.Value) -> ir.Value:
    """Round float32 to float16, as 32-bit words: to the nearest, to the even one of two."""
    builder, words = vectors.builder, vectors.words
    floats = value.type
    bits = builder.bitcast(value, words)
    magnitude = builder.and_(bits, vectors.constant(0x7FFFFFFF, words))
    sign = builder.and_(builder.lshr(bits, vectors.constant(16, words)), vectors.constant(0x8000, words))

    odd = builder.and_(builder.lshr(magnitude, vectors.constant(13, words)), vectors.constant(1, words))
    rebias = vectors.constant(((15 - 127) << 23) + 0xFFF, words)
    normal = builder.lshr(builder.add(builder.add(magnitude, rebias), odd), vectors.constant(13, words))

    # Below the least normal number: added to a half, it is rounded where float16's last bit is.
    half = vectors.constant(0.5, floats)
    moved = builder.bitcast(builder.fadd(builder.bitcast(magnitude, floats), half), words)
    subnormal = builder.sub(moved, builder.bitcast(half, words))

    nan = builder.icmp_unsigned(">", magnitude, vectors.constant(0x7F800000, words))
    special = builder.select(nan, vectors.constant(0x7E00, words), vectors.constant(0x7C00, words))
    is_large = builder.icmp_unsigned(">=", magnitude, vectors.constant(143 << 23, words))
    is_small = builder.icmp_unsigned("<", magnitude, vectors.constant(113 << 23, words))
    return builder.or_(builder.select(is_large, special, builder.select(is_small, subnormal, normal)), sign)


def _to_bfloat16(vectors: Vectors, value: ir.Value) -> ir.Value:
    """Round float32 to bfloat16, as 32-bit words: to the nearest, to the even one of two."""
    builder, words = vectors.builder, vectors.words
    bits = builder.bitcast(value, words)
    upper = builder.lshr(bits, vectors.constant(16, words))
    odd = builder.and_(upper, vectors.constant(1, words))
    rounded = builder.lshr(
        builder.add(builder.add(bits, vectors.constant(0x7FFF, words)), odd), vectors.constant(16, words)
    )
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.select(nan, builder.or_(upper, vectors.constant(0x40, words)), rounded)


def _widen(kind: int, lanes: int | None):
    def widen(vectors, source, target, count, factor):
        """Write `count` whole vectors of factor x source to target."""
        builder = vectors.builder
        vectors = Vectors(builder, vectors.number, lanes)
        factor = vectors.spread(factor)
        size = vectors.itemsize if kind == NATIVE else 2

        def step(_, carried):
            source_at, target_at = carried
            if kind == NATIVE:
                numbers = vectors.load(source_at)
            else:
                half = builder.zext(vectors.load(source_at, 0, ir.VectorType(INT16, vectors.lanes)), vectors.words)
                if kind == BFLOAT16:
                    bits = builder.shl(half, vectors.constant(16, vectors.words))
                    numbers = builder.bitcast(bits, ir.VectorType(ir.FloatType(), vectors.lanes))
                else:
                    numbers = _from_half(vectors, half)
                if vectors.itemsize == 8:
                    numbers = builder.fpext(numbers, vectors.vector)
            vectors.store(builder.fmul(numbers, factor), target_at)
            return [
                builder.add(source_at, ir.Constant(INT64, size * vectors.lanes)),
                builder.add(target_at, ir.Constant(INT64, vectors.itemsize * vectors.lanes)),
            ]

        vectors.loop(count, [source, target], step)

    return vector_function(widen)


def _narrow(kind: int, lanes: int | None):
    def narrow(vectors, source, target, count, number):
        """Round `count` whole vectors to their kind."""
        builder = vectors.builder
        vectors = Vectors(builder, vectors.number, lanes)
        size = vectors.itemsize if kind == NATIVE else 2

        def step(_, carried):
            source_at, target_at = carried
            numbers = vectors.load(source_at)
            if kind != NATIVE:
                if vectors.itemsize == 8:
                    numbers = builder.fptrunc(numbers, ir.VectorType(ir.FloatType(), vectors.lanes))
                words = _to_bfloat16(vectors, numbers) if kind == BFLOAT16 else _to_half(vectors, numbers)
                numbers = builder.trunc(words, ir.VectorType(INT16, vectors.lanes))
            vectors.store(numbers, target_at)
            return [
                builder.add(source_at, ir.Constant(INT64, vectors.itemsize * vectors.lanes)),
                builder.add(target_at, ir.Constant(INT64, size * vectors.lanes)),
            ]

        vectors.loop(count, [source, target], step)

    return vector_function(narrow)


_widen_native, _widen_bfloat16, _widen_float16 = (_widen(kind, None) for kind in range(3))
_widen_native_1, _widen_bfloat16_1, _widen_float16_1 = (_widen(kind, 1) for kind in range(3))
_narrow_native, _narrow_bfloat16, _narrow_float16 = (_narrow(kind, None) for kind in range(3))
_narrow_native_1, _narrow_bfloat16_1, _narrow_float16_1 = (_narrow(kind, 1) for kind in range(3))


@compiled
def _widen_row(source, kind, target, count, factor):
    """Write factor x source, `count` numbers, to target."""
    number = factor
    lanes = lanes_of(number) // 2
    vectors, rest = count // lanes, count % lanes
    done = vectors * lanes
    target_rest, source_rest = target + done * itemsize_of(number), source + done * number_bytes(kind, number)
    if kind == NATIVE:
        _widen_native(source, target, vectors, factor)
        _widen_native_1(source_rest, target_rest, rest, factor)
    elif kind == BFLOAT16:
        _widen_bfloat16(source, target, vectors, factor)
        _widen_bfloat16_1(source_rest, target_rest, rest, factor)
    else:
        _widen_float16(source, target, vectors, factor)
        _widen_float16_1(source_rest, target_rest, rest, factor)


@compiled
def narrow_row(source, target, kind, count, number):
    """Write `count` numbers from source to target, rounded to its kind."""
    lanes = lanes_of(number) // 2
    vectors, rest = count // lanes, count % lanes
    done = vectors * lanes
    source_rest, target_rest = source + done * itemsize_of(number), target + done * number_bytes(kind, number)
    if kind == NATIVE:
        _narrow_native(source, target, vectors, number)
        _narrow_native_1(source_rest, target_rest, rest, number)
    elif kind == BFLOAT16:
        _narrow_bfloat16(source, target, vectors, number)
        _narrow_bfloat16_1(source_rest, target_rest, rest, number)
    else:
        _narrow_float16(source, target, vectors, number)
        _narrow_float16_1(source_rest, target_rest, rest, number)


@vector_function
def zero(vectors, target, count, number):
    """Set `count` numbers to 0."""
    vectors = Vectors(vectors.builder, vectors.number, 1)

    def step(_, carried):
        (at,) = carried
        vectors.store(vectors.constant(0.0), at)
        return [vectors.builder.add(at, ir.Constant(INT64, vectors.itemsize))]

    vectors.loop(count, [target], step)


@compiled
def widen_rows(source, source_row, kind, rows, columns, target, width, padded_rows, factor):
    """Write (rows, columns) to (padded_rows, width), in the kernel's numbers, times `factor`.

    What is behind a row's columns and behind the rows is 0.
    """
    number = factor
    row_bytes = width * itemsize_of(number)
    for i in range(rows):
        at = target + i * row_bytes
        _widen_row(source + i * source_row, kind, at, columns, factor)
        zero(at + columns * itemsize_of(number), width - columns, number)
    zero(target + rows * row_bytes, (padded_rows - rows) * width, number)


@vector_function
def _transpose(vectors, source, source_row, target, target_row, number):
    """Turn a square of as many rows as a vector has lanes."""
    builder, lanes = vectors.builder, vectors.lanes
    rows = [vectors.load(builder.add(source, builder.mul(source_row, ir.Constant(INT64, i)))) for i in range(lanes)]
    # Exchange, in every pair of rows `step` apart, the squares of `step` lanes off the diagonal.
    step = 1
    while step < lanes:
        upper = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
        lower = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
        masks = [ir.Constant(ir.VectorType(INT32, lanes), mask) for mask in (upper, lower)]
        for i in range(lanes):
            if not i & step:
                pair = rows[i], rows[i + step]
                rows[i], rows[i + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        step *= 2
    for i, row in enumerate(rows):
        vectors.store(row, builder.add(target, builder.mul(target_row, ir.Constant(INT64, i))))


@compiled
def transpose(source, source_row, target, target_row, rows, columns, number):
    """Write (rows, columns) as (columns, rows); both are multiples of a vector's lanes."""
    lanes = lanes_of(number) // 2
    size = itemsize_of(number)
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            _transpose(
                source + i * source_row + j * size, source_row, target + j * target_row + i * size, target_row, number
            )


@vector_function
def add_row(vectors, source, target, count, factor):
    """Add factor x source, `count` whole vectors, to target."""
    builder = vectors.builder
    factor = vectors.spread(factor)
    step_bytes = ir.Constant(INT64, VECTOR_BYTES)

    def step(_, carried):
        source_at, target_at = carried
        vectors.store(vectors.multiply_add(vectors.load(source_at), factor, vectors.load(target_at)), target_at)
        return builder.add(source_at, step_bytes), builder.add(target_at, step_bytes)

    vectors.loop(count, [source, target], step)
