"""Vector instructions for the compiled kernels: LLVM code for loads, stores, arithmetic and loops over whole vectors.

Numba compiles loops over scalars, and would leave it to chance which of them become vectors. The few loops that decide
the speed are therefore written here vector by vector, with llvmlite's builder.

A strip is what a loop works on at a time: two vectors. Its lanes are queries, or columns of the head dimension.
Everything is addressed in bytes, so that one function serves all strides.
"""

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)
INT16 = ir.IntType(16)
BYTE = ir.IntType(8)

VECTORS = 2  # in a strip

# 2 ** x for x in -1/2 to 1/2, by powers of x: (2 ** x - 1) / x through its Chebyshev nodes, so that 2 ** 0 is just 1.
# Off by at most 5.1e-9 and 8.5e-18 of the result. One term less, 2.0e-7 off, would do for the output; but both passes
# compute a probability, from different powers, and small gradients are differences of the two.
EXP2 = {
    4: (1.0, 0.69314718802622878, 0.24022650760568127, 0.055503571142190778, 0.0096180825572778515,
        0.0013390863364671234, 0.0001545316294512069),
    8: (1.0, 0.69314718055994531, 0.24022650695910098, 0.055504108664821594, 0.0096181291076068885,
        0.0013333558146416935, 0.0001540353044173605, 1.5252733829836118e-5, 1.321544258792169e-6,
        1.0178062445845774e-7, 7.0725859492692237e-9, 4.4549605981865184e-10),
}  # fmt: skip
MANTISSA = {4: 23, 8: 52}  # bits
BIAS = {4: 127, 8: 1023}  # of the exponent


def vector_bytes() -> int:
    """The width of this CPU's vectors, 64 with AVX-512, else 32: where a CPU has narrower ones, LLVM takes several.

    FLASH_SPARSE_CPU in the environment may ask for the vectors of "avx512" or "avx2". Where NUMBA_CPU_NAME has Numba
    compile for another processor than this one, they are those of AVX2 too.
    """
    widths = {"avx512": 64, "avx2": 32}
    asked = os.environ.get("FLASH_SPARSE_CPU", "")
    if asked and asked not in widths:
        raise ValueError(f"FLASH_SPARSE_CPU is {asked!r}; expected one of {', '.join(widths)}")
    other = config.CPU_NAME is not None  # type: ignore[attr-defined]  # set when Numba is imported
    has_avx512 = not other and llvm.get_host_cpu_features().get("avx512f")
    return widths[asked or ("avx512" if has_avx512 else "avx2")]


VECTOR_BYTES = vector_bytes()
STRIP_BYTES = VECTORS * VECTOR_BYTES


class Vectors:
    """Writes vector instructions into the function that is being compiled.

    Args:
        number: Numba's type of an element, float32 or float64.
        lanes: elements of a vector; as many as the CPU's vectors hold if None.
    """

    def __init__(self, builder: ir.IRBuilder, number: types.Float, lanes: int | None = None):
        self.builder = builder
        self.number = number
        self.itemsize = number.bitwidth // 8
        self.lanes = lanes or VECTOR_BYTES // self.itemsize
        self.element = ir.FloatType() if self.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.element, self.lanes)
        self.bits = ir.VectorType(ir.IntType(number.bitwidth), self.lanes)
        self.words = ir.VectorType(INT32, self.lanes)  # of 32 bits, whatever the element

    def constant(self, value: float, kind: ir.VectorType | None = None) -> ir.Value:
        """A vector of `value` in every lane."""
        return ir.Constant(kind or self.vector, [value] * self.lanes)

    def spread(self, value: ir.Value, kind: ir.VectorType | None = None) -> ir.Value:
        """A vector of one number in every lane."""
        undefined = ir.Constant(kind or self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def pointer(self, address: ir.Value, offset: ir.Value | int, kind: ir.Type) -> ir.Value:
        """A pointer to `offset` bytes behind an address."""
        base = self.builder.inttoptr(address, BYTE.as_pointer())
        if isinstance(offset, int):
            offset = ir.Constant(INT64, offset)
        return self.builder.bitcast(self.builder.gep(base, [offset]), kind.as_pointer())

    def load(self, address: ir.Value, offset: ir.Value | int = 0, kind: ir.Type | None = None) -> ir.Value:
        """What is stored at an address; a vector by default."""
        loaded = self.builder.load(self.pointer(address, offset, kind or self.vector))
        loaded.align = 2
        return loaded

    def store(self, value: ir.Value, address: ir.Value, offset: ir.Value | int = 0) -> None:
        self.builder.store(value, self.pointer(address, offset, value.type)).align = 2

    def strip(self, address: ir.Value, offset: ir.Value | int = 0) -> list[ir.Value]:
        """The vectors of a strip."""
        return [self.load(self.builder.add(address, self._int(offset)), i * VECTOR_BYTES) for i in range(VECTORS)]

    def word_strip(self, address: ir.Value) -> list[ir.Value]:
        """As `strip`, of 32-bit integers."""
        return [self.load(address, i * self.lanes * 4, self.words) for i in range(VECTORS)]

    def store_strip(self, values: Sequence[ir.Value], address: ir.Value, offset: ir.Value | int = 0) -> None:
        for i, value in enumerate(values):
            self.store(value, self.builder.add(address, self._int(offset)), i * VECTOR_BYTES)

    def multiply_add(self, left: ir.Value, right: ir.Value, addend: ir.Value) -> ir.Value:
        """left * right + addend, fused where the CPU can."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [left, right, addend])

    def at_least(self, value: ir.Value, bound: ir.Value) -> ir.Value:
        """The greater of the two; NaN where the value is NaN."""
        builder = self.builder
        return builder.select(builder.fcmp_ordered("<", value, bound), bound, value)

    def maximum(self, value: ir.Value, running: ir.Value) -> ir.Value:
        """The greater of the two; the running one where the value is NaN."""
        builder = self.builder
        return builder.select(builder.fcmp_ordered(">", value, running), value, running)

    def exp2(self, value: ir.Value, flush: bool = False) -> ir.Value:
        """2 ** value; no less than the least normal number, or, if asked to `flush`, 0 where it would be less."""
        builder = self.builder
        least = self.constant(1.0 - BIAS[self.itemsize])
        fraction, power = self._split_exponent(self.at_least(value, least))
        result = builder.fmul(self._series(EXP2[self.itemsize], fraction), power)
        if flush:
            result = builder.select(builder.fcmp_ordered("<", value, least), self.constant(0.0), result)
        return result

    def tanh(self, value: ir.Value) -> ir.Value:
        """The hyperbolic tangent, to a few units in its last place also near 0."""
        builder = self.builder
        zero, one = self.constant(0.0), self.constant(1.0)
        negative = builder.fcmp_ordered("<", value, zero)
        size = builder.select(negative, builder.fsub(zero, value), value)
        # From e ** (-2 |x|) - 1, whose digits near 0 are those of x: the constant term of 2 ** x is left out.
        exponent = builder.fmul(size, self.constant(-2 / math.log(2)))
        fraction, power = self._split_exponent(self.at_least(exponent, self.constant(1.0 - BIAS[self.itemsize])))
        series = builder.fmul(builder.fmul(self._series(EXP2[self.itemsize][1:], fraction), fraction), power)
        less = builder.fadd(series, builder.fsub(power, one))
        result = builder.fdiv(less, builder.fadd(less, self.constant(2.0)))  # -tanh |x|
        return builder.select(negative, result, builder.fsub(zero, result))

    def _split_exponent(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """A fraction from -1/2 to 1/2 and a power of 2: 2 ** value is 2 ** fraction times that power."""
        builder = self.builder
        mantissa, bias = MANTISSA[self.itemsize], BIAS[self.itemsize]
        # Added to this, a number's nearest integer is in the lowest bits of the sum, here with the exponent's bias.
        shift = self.constant(1.5 * 2.0**mantissa + bias)
        shifted = builder.fadd(value, shift)
        fraction = builder.fsub(value, builder.fsub(shifted, shift))
        power = builder.shl(builder.bitcast(shifted, self.bits), self.constant(mantissa, self.bits))
        return fraction, builder.bitcast(power, self.vector)

    def _series(self, coefficients: Sequence[float], value: ir.Value) -> ir.Value:
        """The sum of coefficients times rising powers of the value."""
        *rest, leading = (self.constant(coefficient) for coefficient in coefficients)
        result = leading
        for coefficient in reversed(rest):
            result = self.multiply_add(result, value, coefficient)
        return result

    def loop(
        self,
        count: ir.Value,
        carried: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
    ) -> list[ir.Value]:
        """Run `body(index, carried)` for each index below `count`; it returns what the next one gets."""
        builder = self.builder
        zero, one = ir.Constant(INT64, 0), ir.Constant(INT64, 1)
        before = builder.block
        inside, behind = builder.append_basic_block("loop"), builder.append_basic_block("behind")
        builder.cbranch(builder.icmp_signed(">", count, zero), inside, behind)

        builder.position_at_end(inside)
        index = builder.phi(INT64)
        index.add_incoming(zero, before)
        current = [builder.phi(value.type) for value in carried]
        for phi, value in zip(current, carried, strict=True):
            phi.add_incoming(value, before)
        results = body(index, current)
        following = builder.add(index, one)
        index.add_incoming(following, builder.block)
        for phi, value in zip(current, results, strict=True):
            phi.add_incoming(value, builder.block)
        last = builder.block
        builder.cbranch(builder.icmp_signed("<", following, count), inside, behind)

        builder.position_at_end(behind)
        final = [builder.phi(value.type) for value in carried]
        for phi, value, result in zip(final, carried, results, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(result, last)
        return final

    @staticmethod
    def _int(value: ir.Value | int) -> ir.Value:
        return ir.Constant(INT64, value) if isinstance(value, int) else value


def instruction(write: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's `intrinsic`. Compiled code calls it without the typing context and gets a value, not what writes it: no
    type says so."""
    return intrinsic(write)


def vector_function(emit: Callable[..., None]) -> Callable[..., None]:
    """Make `emit(vectors, *arguments)` a function of those arguments that compiled code can call.

    The last one is a float32 or float64: elements have its type.
    """

    def typed(typing_context, *arguments):
        def generate(context, builder, signature, values):
            emit(Vectors(builder, arguments[-1]), *values)
            return context.get_dummy_value()

        return types.void(*arguments), generate

    typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
    typed.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]  # what `inspect` looks for
    return instruction(typed)


def compiled(function: Callable) -> Callable:
    """Compile a function that compiled code calls: without Python's lock, and dividing by zero as floats do."""
    return njit(function, nogil=True, error_model="numpy")


def _reader(kind: ir.Type | None):
    """Writes the instructions that read an element at an address; of the type that is returned if `kind` is None."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], (kind or context.get_value_type(signature.return_type)).as_pointer())
        value = builder.load(builder.gep(pointer, [values[1]]))
        return builder.sext(value, INT64) if kind == INT32 else value

    return generate


@instruction
def number_at(typing_context, address, index, number):
    """Number `index` of those at an address, of the type of `number`."""
    return number(address, index, number), _reader(None)


@instruction
def integer_at(typing_context, address, index):
    """64-bit integer `index` of those at an address."""
    return types.int64(address, index), _reader(INT64)


@instruction
def word_at(typing_context, address, index):
    """32-bit integer `index` of those at an address."""
    return types.int64(address, index), _reader(INT32)


@instruction
def tuple_at(typing_context, kind, address, index):
    """A NamedTuple of this class, whose fields are 64-bit integers that lie at an address from `index` on."""
    filled = types.NamedUniTuple(types.int64, len(kind.instance_class._fields), kind.instance_class)

    def generate(context, builder, signature, values):
        pointer = builder.gep(builder.inttoptr(values[1], INT64.as_pointer()), [values[2]])
        places = (builder.gep(pointer, [ir.Constant(INT64, i)]) for i in range(filled.count))
        return context.make_tuple(builder, filled, [builder.load(place) for place in places])

    return filled(kind, address, index), generate


@instruction
def rounded(typing_context, value, number):
    """A float64 as the type of `number`."""

    def generate(context, builder, signature, values):
        kind = context.get_value_type(number)
        return values[0] if values[0].type == kind else builder.fptrunc(values[0], kind)

    return number(value, number), generate


@instruction
def set_number(typing_context, address, index, number):
    """Write a number at place `index` of those at an address."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], values[2].type.as_pointer())
        builder.store(values[2], builder.gep(pointer, [values[1]]))
        return context.get_dummy_value()

    return types.void(address, index, number), generate


@instruction
def set_word(typing_context, address, index, value):
    """Write a 32-bit integer at place `index` of those at an address."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], INT32.as_pointer())
        builder.store(builder.trunc(values[2], INT32), builder.gep(pointer, [values[1]]))
        return context.get_dummy_value()

    return types.void(address, index, value), generate


@instruction
def take(typing_context, counter):
    """The number at the address `counter`, int64, which is raised by one: each caller gets another."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], INT64.as_pointer())
        # what a thread wrote before is seen by those that find its number here
        return builder.atomic_rmw("add", pointer, ir.Constant(INT64, 1), "release")

    return types.int64(types.int64), generate


@instruction
def reached(typing_context, counter):
    """The number at the address `counter`, int64, which other threads raise by `take`, with what they wrote before."""

    def generate(context, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@instruction
def lanes_of(typing_context, number):
    """Lanes of a strip of elements of this number's type."""
    count = VECTORS * VECTOR_BYTES // (number.bitwidth // 8)

    def generate(context, builder, signature, values):
        return ir.Constant(INT64, count)

    return types.int64(number), generate


@instruction
def itemsize_of(typing_context, number):
    """Bytes of this number's type."""
    size = number.bitwidth // 8

    def generate(context, builder, signature, values):
        return ir.Constant(INT64, size)

    return types.int64(number), generate
