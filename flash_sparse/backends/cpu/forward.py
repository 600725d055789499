"""The forward kernel: output and log-sum-exp, a tile of queries at a time (Dao et al. 2022, algorithms 1 and 5).

The queries of a line are cut into strips, one lane for each. The keys go by in tiles; each tile meets all strips while
it is in cache, and a strip's scores never leave the cache: product with the keys, mask, online softmax, product with
the values.

Letters: M queries of a tile, K keys of a tile, L lanes of a strip, W a row's width inside the kernels.
"""

import math
from typing import NamedTuple

import numpy as np

from flash_sparse.backends.cpu.passes import (
    cap_scores,
    divide_rows,
    drop,
    hide,
    masked_softmax_step,
    scale_rows,
    softmax_step,
)  # fmt: skip
from flash_sparse.backends.cpu.product import multiply, multiply_in_parts
from flash_sparse.backends.cpu.rows import ROWS_FIELDS, narrow_row, row_address, rows_at, transpose, widen_rows, zero
from flash_sparse.backends.cpu.vectors import (
    STRIP_BYTES,
    compiled,
    integer_at,
    itemsize_of,
    lanes_of,
    number_at,
    rounded,
    set_number,
    take,
    tuple_at,
    word_at,
)  # fmt: skip
from flash_sparse.backends.cpu.walk import (
    KEY_TILE,
    PROBLEM_FIELDS,
    QUERIES,
    QUERY_TILE,
    TILE_FIELDS,
    KeyTile,
    Problem,
    Tile,
    begin_walk,
    clip,
    constants_of,
    fact,
    find_line,
    key_bytes,
    load_keys,
    next_ranges,
    row_index,
    set_bounds,
)  # fmt: skip


class Sums(NamedTuple):
    """Addresses of a thread's memory for a line of queries, and for the scores of one strip."""

    rows: int  # (M, W), queries, later outputs
    queries: int  # (M / L, W, L)
    outputs: int  # (M / L, W, L), sums of probability x value
    maximum: int  # (M,), of the scores so far
    total: int  # (M,), of e ** (scale x (score - maximum))
    scores: int  # (K, L)
    factors: int  # (L,)
    lows: int  # (M,) int32, the first key that a query sees
    highs: int  # (M,) int32, the one behind the last

    @classmethod
    def sizes(cls, width: int, itemsize: int) -> "Sums":
        """Bytes of each."""
        rows, vector, words = QUERY_TILE * width * itemsize, QUERY_TILE * itemsize, 4 * QUERY_TILE
        return cls(rows, rows, rows, vector, vector, KEY_TILE * STRIP_BYTES, STRIP_BYTES, words, words)


@compiled
def forward_kernel(call, memory, number, capped):
    """Compute tiles of queries until none is left.

    Args:
        call: `kernels.Call`. Its arguments are a `Problem`; `Rows` of query, key, value and output; the address of the
            log-sum-exp, (B, H, Nq) of the kernel's numbers. Its tasks are `Tile`s.
        memory: address of the addresses of the thread's memory, `KeyTile` and `Sums`.
        number: any number of the type that is computed in.
        capped: None, or anything else where scores are capped: code of its own, which is compiled when it is needed.
    """
    problem = tuple_at(Problem, call.arguments, 0)
    query, key, value, output = (
        rows_at(call.arguments, PROBLEM_FIELDS, 0), rows_at(call.arguments, PROBLEM_FIELDS, 1),
        rows_at(call.arguments, PROBLEM_FIELDS, 2), rows_at(call.arguments, PROBLEM_FIELDS, 3),
    )  # fmt: skip
    logsumexp = integer_at(call.arguments, PROBLEM_FIELDS + 4 * ROWS_FIELDS)
    constants = constants_of(call.numbers, number)
    tile, sums = tuple_at(KeyTile, memory, 0), tuple_at(Sums, memory, TILE_FIELDS)
    size = problem.block_size if problem.block_size else QUERY_TILE

    while True:
        task = take(call.counter)
        if task >= call.task_count:
            return
        sequence, head, start = tuple_at(Tile, call.tasks, 3 * task)
        stop = min(start + QUERY_TILE, fact(problem, sequence, QUERIES))
        for first in range(start, stop, size):
            line = find_line(problem, sequence, head, first, min(size, stop - first), constants.one)
            low, high = _begin(problem, line, query, sums, constants)
            cursor, end = begin_walk(problem, line, low, high)
            while cursor < end:
                cursor, ranges = next_ranges(problem, cursor, end, low, high, tile)
                load_keys(problem, line, key, value, tile, ranges, constants.one)
                for strip in range(line.strips):
                    _take_keys(problem, line, strip, tile, ranges, sums, constants, capped)
            _end(problem, line, sums, output, logsumexp, constants)


@compiled
def _begin(problem, line, query, sums, constants):
    """Read the line's queries, turned into strips; returns the range of keys that they see."""
    number, lanes = constants.one, lanes_of(constants.one)
    row = problem.width * itemsize_of(number)
    widen_rows(
        row_address(query, line.entry, line.head, line.first_row), query.row, query.kind, line.queries,
        problem.head_dim, sums.rows, problem.width, line.strips * lanes, constants.sign,
    )  # fmt: skip
    for strip in range(line.strips):
        at = strip * lanes * row
        transpose(sums.rows + at, row, sums.queries + at, STRIP_BYTES, lanes, problem.width, number)

    count, before = line.strips * lanes, constants.nothing
    if problem.sinks:  # as if a first key had been seen, whose value is zero
        before = number_at(problem.sinks, line.head, number) / constants.magnitude
    for i in range(count):
        set_number(sums.maximum, i, before)
        set_number(sums.total, i, constants.one if problem.sinks else number - number)
    zero(sums.outputs, count * problem.width, number)
    return set_bounds(problem, line, count, sums.lows, sums.highs)


@compiled
def _take_keys(problem, line, strip, tile, ranges, sums, constants, capped):
    """Take the tile's keys and values into the sums of a strip."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    key_row, lane = key_bytes(problem, number), strip * lanes
    low, high = word_at(sums.lows, lane), word_at(sums.highs, lane + lanes - 1)
    queries_at = sums.queries + lane * problem.width * size
    outputs_at = sums.outputs + lane * problem.width * size
    lows, highs = sums.lows + 4 * lane, sums.highs + 4 * lane

    # Scores, (keys, L).
    masked, keys = False, 0
    for i in range(ranges):
        first, count, row = clip(tile, i, low, high)
        at = sums.scores + keys * STRIP_BYTES
        multiply_in_parts(
            tile.keys + row * key_row, key_row, size, queries_at, STRIP_BYTES, at, STRIP_BYTES,
            count, problem.head_dim, number,
        )  # fmt: skip
        if capped is not None:
            cap_scores(at, STRIP_BYTES, count, constants.cap)
        if first < word_at(sums.lows, lane + lanes - 1) or first + count > word_at(sums.highs, lane):
            masked = True
            hide(at, STRIP_BYTES, count, first, lows, highs, number)
        keys += count
    if keys == 0:
        return

    # Probabilities, in their place.
    scores_at, factors_at = sums.scores, sums.factors
    maximum_at, total_at = sums.maximum + lane * size, sums.total + lane * size
    scale = constants.magnitude * constants.log2_e  # of powers of 2
    if masked:
        masked_softmax_step(scores_at, keys, maximum_at, total_at, factors_at, scale)
    else:
        softmax_step(scores_at, keys, maximum_at, total_at, factors_at, scale)
    for i in range(lanes):
        if number_at(factors_at, i, number) != 1:  # a maximum has risen
            scale_rows(outputs_at, problem.width, factors_at, number)
            break

    # Their products with the values, (W, L).
    keys = 0
    for i in range(ranges):
        first, count, row = clip(tile, i, low, high)
        at = sums.scores + keys * STRIP_BYTES
        if problem.threshold:
            drop_scores(problem, line, lane, first, at, STRIP_BYTES, count, constants.one)
        multiply(
            tile.values + row * key_row, size, key_row, at, STRIP_BYTES, outputs_at, STRIP_BYTES,
            problem.head_dim, count, 1, number,
        )  # fmt: skip
        keys += count


@compiled
def _end(problem, line, sums, output, logsumexp, constants):
    """Divide by the sums, turn strips back into rows, and write them."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    row = problem.width * size
    for strip in range(line.strips):
        at = strip * lanes * row
        for i in range(lanes):
            set_number(sums.factors, i, number_at(sums.total, strip * lanes + i, number) / constants.keep)
        divide_rows(sums.outputs + at, problem.width, sums.factors, number)
        transpose(sums.outputs + at, STRIP_BYTES, sums.rows + at, row, problem.width, lanes, number)
    for i in range(line.queries):
        at = sums.rows + i * row
        total = number_at(sums.total, i, number)
        if total == 0:  # it sees nothing
            zero(at, problem.width, number)
        target = row_address(output, line.entry, line.head, line.first_row + i)
        narrow_row(at, target, output.kind, problem.head_dim, number)
        known = np.float64(number_at(sums.maximum, i, number)) * constants.magnitude + math.log(np.float64(total))
        set_number(logsumexp, row_index(problem, line) + i, rounded(known, number))


@compiled
def drop_scores(problem, line, lane, key, at, row_bytes, keys, factor):
    """`drop` for the strip from `lane` on, and `keys` keys from `key` on."""
    head = line.entry * problem.heads + line.head
    heads = problem.batch * problem.heads
    query_at = problem.query_words + 4 * (head * problem.query_rows + line.first_row + lane)
    key_at = problem.key_words + 4 * (head * problem.key_rows + line.first_key + key)
    drop(
        at, row_bytes, keys, query_at, query_at + 4 * heads * problem.query_rows,
        key_at, key_at + 4 * heads * problem.key_rows, problem.threshold, factor,
    )  # fmt: skip
