"""One matrix product for everything: result[i, lanes] (+)= sum over k of left[i, k] * right[k, lanes].

The left matrix gives one number after the other, from any two strides, so that keys, values and their transposes are
read where they lie. The right one and the result are a strip wide. All products of attention, two forward and five
backward, have this form: their sums stay in registers while k runs.
"""

from llvmlite import ir

from flash_sparse.backends.cpu.vectors import INT64, VECTOR_BYTES, VECTORS, compiled, vector_function

# Rows of a tile of sums, at most. With 16 registers, 6 rows of 2 vectors leave room for two vectors of the right
# matrix and a number of the left one; 12 rows do the same with 32 registers.
MOST_ROWS = 12 if VECTOR_BYTES == 64 else 6
MOST_INNER = 64


def _tile(rows: int):
    """`multiply` for that many rows."""

    def tile(vectors, left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number):
        builder = vectors.builder
        row_offsets = [builder.mul(left_row, ir.Constant(INT64, i)) for i in range(rows)]
        result_rows = [builder.add(result, builder.mul(result_row, ir.Constant(INT64, i))) for i in range(rows)]

        def step(_, carried):
            """Add the products of one k."""
            left_at, right_at, *sums = carried
            strip = vectors.strip(right_at)
            added = []
            for i in range(rows):
                factor = vectors.spread(vectors.load(left_at, row_offsets[i], vectors.element))
                added += [vectors.multiply_add(factor, strip[j], sums[i * VECTORS + j]) for j in range(VECTORS)]
            return [builder.add(left_at, left_inner), builder.add(right_at, right_row), *added]

        zeros = [vectors.constant(0.0)] * (rows * VECTORS)
        _, _, *sums = vectors.loop(inner, [left, right, *zeros], step)

        # What is there is added last: the error of one long sum would grow with its length.
        adding = builder.icmp_signed("!=", accumulate, ir.Constant(INT64, 0))
        with builder.if_else(adding) as (then, otherwise):
            with then:
                for i, row in enumerate(result_rows):
                    pairs = zip(sums[i * VECTORS : (i + 1) * VECTORS], vectors.strip(row), strict=True)
                    vectors.store_strip([builder.fadd(*pair) for pair in pairs], row)
            with otherwise:
                for i, row in enumerate(result_rows):
                    vectors.store_strip(sums[i * VECTORS : (i + 1) * VECTORS], row)

    return vector_function(tile)


_tile_most, _tile_6, _tile_4, _tile_2, _tile_1 = (_tile(rows) for rows in (MOST_ROWS, 6, 4, 2, 1))


@compiled
def multiply(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, accumulate, number):
    """result (rows, strip) = left (rows, inner) @ right (inner, strip), or added to it if `accumulate`.

    Args:
        left, right, result: addresses.
        left_row, left_inner, right_row, result_row: bytes from one row, or one k, to the next.
        number: of the elements' type.
    """
    while rows > 0:
        # Two tiles of four are faster than one of six and one of two.
        if rows >= MOST_ROWS and rows != 8:
            _tile_most(left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number)
            done = MOST_ROWS
        elif rows >= 6 and rows != 8:
            _tile_6(left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number)
            done = 6
        elif rows >= 4:
            _tile_4(left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number)
            done = 4
        elif rows >= 2:
            _tile_2(left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number)
            done = 2
        else:
            _tile_1(left, left_row, left_inner, right, right_row, result, result_row, inner, accumulate, number)
            done = 1
        rows -= done
        left += done * left_row
        result += done * result_row


@compiled
def multiply_in_parts(left, left_row, left_inner, right, right_row, result, result_row, rows, inner, number):
    """`multiply`, with sums of at most MOST_INNER numbers, which are added to each other: for a smaller error."""
    accumulate = 0
    while inner > 0:
        count = min(inner, MOST_INNER)
        multiply(left, left_row, left_inner, right, right_row, result, result_row, rows, count, accumulate, number)
        left += count * left_inner
        right += count * right_row
        inner -= count
        accumulate = 1
