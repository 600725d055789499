"""The backward kernel: gradients of query, key and value (Dao et al. 2022, algorithm 4, over a layout's blocks).

A task takes the queries of one part of a sequence past the keys of another part, for one key head. It adds to the
gradients of those queries and of those keys, and waits until the tasks that add to them before it are done: all of them
were taken before it, so none waits for ever. The probabilities come from the log-sum-exp again. Scores stand as in the
forward kernel, those of GROUP strips side by side, so that the products over queries have more to sum.

Letters: M queries of a tile, K keys of a tile, L lanes of a strip, W a row's width inside the kernels.
"""

from typing import NamedTuple

from flash_sparse.backends.cpu.forward import drop_scores
from flash_sparse.backends.cpu.passes import (
    cap_scores,
    capped_gradient_step,
    dot_rows,
    gradient_step,
    hide,
    masked_gradient_step,
)
from flash_sparse.backends.cpu.product import multiply, multiply_in_parts
from flash_sparse.backends.cpu.rows import ROWS_FIELDS, Rows, add_row, row_address, rows_at, transpose, widen_rows, zero
from flash_sparse.backends.cpu.vectors import (
    STRIP_BYTES,
    VECTOR_BYTES,
    compiled,
    integer_at,
    itemsize_of,
    lanes_of,
    number_at,
    reached,
    set_number,
    take,
    tuple_at,
    word_at,
)  # fmt: skip
from flash_sparse.backends.cpu.walk import (
    KEY_TILE,
    PART_FIELDS,
    PROBLEM_FIELDS,
    QUERY_TILE,
    TILE_FIELDS,
    KeyTile,
    Part,
    Problem,
    Tile,
    begin_walk,
    clip,
    constants_of,
    find_line,
    key_bytes,
    load_keys,
    next_ranges,
    row_index,
    set_bounds,
)  # fmt: skip

GROUP = 2  # strips whose scores stand side by side
GROUP_BYTES = GROUP * STRIP_BYTES


class Sums(NamedTuple):
    """Addresses of a thread's memory for a line of queries, and for the scores of one group of strips."""

    rows: int  # (M, W), queries
    grad_rows: int  # (M, W), of the output
    queries: int  # (M / L, W, L)
    grad_outputs: int  # (M / L, W, L)
    grad_queries: int  # (M / L, W, L), sums of gradient of a score x key
    shifts: int  # (M,), minus the log-sum-exp
    deltas: int  # (M,)
    scores: int  # (K, GROUP L), later probabilities
    grad_scores: int  # (K, GROUP L), at first gradients of probabilities
    lows: int  # (M,) int32, the first key that a query sees
    highs: int  # (M,) int32, the one behind the last

    @classmethod
    def sizes(cls, width: int, itemsize: int) -> "Sums":
        """Bytes of each."""
        rows, vector, words = QUERY_TILE * width * itemsize, QUERY_TILE * itemsize, 4 * QUERY_TILE
        scores = KEY_TILE * GROUP_BYTES
        return cls(rows, rows, rows, rows, rows, vector, vector, scores, scores, words, words)


class Gradients(NamedTuple):
    """What is added to, `Rows` of the kernel's numbers and width; and whether each is asked for."""

    query: Rows
    key: Rows
    value: Rows
    want_query: int
    want_key: int
    want_value: int


class Strips(NamedTuple):
    """Addresses of a thread's memory for the sums of output x gradient."""

    rows: int  # (L, W), of the output
    grad_rows: int  # (L, W)
    outputs: int  # (W, L)
    grad_outputs: int  # (W, L)
    sums: int  # (L,)

    @classmethod
    def sizes(cls, width: int, itemsize: int) -> "Strips":
        """Bytes of each."""
        return cls(*(width * STRIP_BYTES,) * 4, STRIP_BYTES)


@compiled
def delta_kernel(call, memory, number):
    """Compute what is subtracted from the gradients of a query's probabilities: the sum of output x gradient.

    Args:
        call: `kernels.Call`. Its arguments are a `Problem`; `Rows` of the output and of its gradient; the addresses of
            the log-sum-exp's gradient, or 0, and of the result, (B, H, Nq) each, of the kernel's numbers. Its tasks are
            `Tile`s of batch entries.
        memory: address of the addresses of the thread's memory, `Strips`.
        number: any number of the type that is computed in.
    """
    problem = tuple_at(Problem, call.arguments, 0)
    output, grad_output = rows_at(call.arguments, PROBLEM_FIELDS, 0), rows_at(call.arguments, PROBLEM_FIELDS, 1)
    grad_logsumexp = integer_at(call.arguments, PROBLEM_FIELDS + 2 * ROWS_FIELDS)
    delta = integer_at(call.arguments, PROBLEM_FIELDS + 2 * ROWS_FIELDS + 1)
    constants, strips = constants_of(call.numbers, number), tuple_at(Strips, memory, 0)
    lanes, row = lanes_of(number), problem.width * itemsize_of(number)
    pairs = (output, strips.rows, strips.outputs), (grad_output, strips.grad_rows, strips.grad_outputs)

    while True:
        task = take(call.counter)
        if task >= call.task_count:
            return
        entry, head, start = tuple_at(Tile, call.tasks, 3 * task)
        for first in range(start, min(start + QUERY_TILE, problem.query_rows), lanes):
            rows_here = min(lanes, problem.query_rows - first)
            for source, rows, turned in pairs:
                at = row_address(source, entry, head, first)
                widen_rows(
                    at, source.row, source.kind, rows_here, problem.head_dim, rows, problem.width, lanes, constants.one
                )
                transpose(rows, row, turned, STRIP_BYTES, lanes, problem.width, number)
            dot_rows(strips.outputs, strips.grad_outputs, problem.width, strips.sums, number)
            index = (entry * problem.heads + head) * problem.query_rows + first
            for i in range(rows_here):
                result = number_at(strips.sums, i, number)
                if grad_logsumexp:
                    result -= number_at(grad_logsumexp, index + i, number)
                set_number(delta, index + i, result)


@compiled
def backward_kernel(call, memory, number, capped):
    """Compute tasks until none is left.

    Args:
        call: `kernels.Call`. Its arguments are a `Problem`; `Rows` of query, key, value and the output's gradient;
            `Rows` of what is added to for the gradients of query, key and value, of the kernel's numbers and width; the
            addresses of the log-sum-exp and of delta, (B, H, Nq) of the kernel's numbers, and of how many tasks are
            done of each part of queries, and then of each part of keys, int64; how many parts there are; for each
            gradient whether it is asked for. Its tasks are `Part`s.
        memory: address of the addresses of the thread's memory, `KeyTile` and `Sums`.
        number: any number of the type that is computed in.
        capped: as in the forward kernel.
    """
    problem = tuple_at(Problem, call.arguments, 0)
    query, key, value, grad_output = (
        rows_at(call.arguments, PROBLEM_FIELDS, 0), rows_at(call.arguments, PROBLEM_FIELDS, 1),
        rows_at(call.arguments, PROBLEM_FIELDS, 2), rows_at(call.arguments, PROBLEM_FIELDS, 3),
    )  # fmt: skip
    behind = PROBLEM_FIELDS + 7 * ROWS_FIELDS
    logsumexp, delta = integer_at(call.arguments, behind), integer_at(call.arguments, behind + 1)
    queries_done, parts = integer_at(call.arguments, behind + 2), integer_at(call.arguments, behind + 3)
    keys_done = queries_done + 8 * parts
    gradients = Gradients(
        rows_at(call.arguments, PROBLEM_FIELDS, 4), rows_at(call.arguments, PROBLEM_FIELDS, 5),
        rows_at(call.arguments, PROBLEM_FIELDS, 6), integer_at(call.arguments, behind + 4),
        integer_at(call.arguments, behind + 5), integer_at(call.arguments, behind + 6),
    )  # fmt: skip
    constants = constants_of(call.numbers, number)
    tile, sums = tuple_at(KeyTile, memory, 0), tuple_at(Sums, memory, TILE_FIELDS)
    size = problem.block_size if problem.block_size else QUERY_TILE

    while True:
        task = take(call.counter)
        if task >= call.task_count:
            return
        part = tuple_at(Part, call.tasks, PART_FIELDS * task)
        query_counter, key_counter = queries_done + 8 * part.query_part, keys_done + 8 * part.key_part
        while reached(query_counter) < part.query_turn or reached(key_counter) < part.key_turn:
            pass
        for head in range(part.key_head * problem.group, (part.key_head + 1) * problem.group):
            for first in range(part.first_query, part.last_query, size):
                line = find_line(problem, part.sequence, head, first, min(size, part.last_query - first), number)
                low, high = set_bounds(problem, line, line.strips * lanes_of(number), sums.lows, sums.highs)
                low, high = max(low, part.first_key), min(high, part.last_key)
                cursor, end = begin_walk(problem, line, low, high)
                if cursor >= end:
                    continue
                _begin(problem, line, query, grad_output, logsumexp, delta, sums, constants)
                while cursor < end:
                    cursor, ranges = next_ranges(problem, cursor, end, low, high, tile)
                    load_keys(problem, line, key, value, tile, ranges, constants.one)
                    for group in range(0, line.strips, GROUP):
                        for i in range(ranges):
                            _take_keys(problem, line, group, tile, i, sums, gradients, constants, capped)
                if gradients.want_query:
                    _end(problem, line, sums, gradients.query, constants)
        take(query_counter)
        take(key_counter)


@compiled
def _begin(problem, line, query, grad_output, logsumexp, delta, sums, constants):
    """Read the line's queries and gradients: as strips, for the scores, and as rows, for the products over queries."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    row, count = problem.width * size, line.strips * lanes
    query_at = row_address(query, line.entry, line.head, line.first_row)
    grad_at = row_address(grad_output, line.entry, line.head, line.first_row)
    widen_rows(
        query_at, query.row, query.kind, line.queries, problem.head_dim, sums.rows, problem.width, count,
        constants.sign,
    )  # fmt: skip
    widen_rows(
        grad_at, grad_output.row, grad_output.kind, line.queries, problem.head_dim, sums.grad_rows, problem.width,
        count, constants.one,
    )  # fmt: skip
    for rows, strips in ((sums.rows, sums.queries), (sums.grad_rows, sums.grad_outputs)):
        for strip in range(line.strips):
            at = strip * lanes * row
            transpose(rows + at, row, strips + at, STRIP_BYTES, lanes, problem.width, number)
    widen_rows(
        query_at,
        query.row,
        query.kind,
        line.queries,
        problem.head_dim,
        sums.rows,
        problem.width,
        count,
        constants.scale,
    )

    # e ** (score - infinity) is 0, for lanes without a query and where one saw nothing.
    for i in range(count):
        shift, minus = constants.nothing, number - number
        if i < line.queries:
            known = number_at(logsumexp, row_index(problem, line) + i, number)
            if known != constants.nothing:
                shift = -known
            minus = number_at(delta, row_index(problem, line) + i, number)
        set_number(sums.shifts, i, shift)
        set_number(sums.deltas, i, minus)
    zero(sums.grad_queries, count * problem.width, number)


@compiled
def _take_keys(problem, line, group, tile, i, sums, gradients, constants, capped):
    """Add what the tile's range i and the strips of a group give to the gradients."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    key_row, row = key_bytes(problem, number), problem.width * size
    strips, lane = min(GROUP, line.strips - group), group * lanes
    low, high = word_at(sums.lows, lane), word_at(sums.highs, lane + strips * lanes - 1)
    first, keys, tile_row = clip(tile, i, low, high)
    if keys == 0:
        return

    keys_at, values_at = tile.keys + tile_row * key_row, tile.values + tile_row * key_row
    for strip in range(strips):
        _take_strip(problem, line, lane + strip * lanes, strip * STRIP_BYTES, keys_at, values_at, first, keys, sums,
                    gradients.want_query, constants, capped)  # fmt: skip

    # Over the queries: (keys, GROUP L) @ (GROUP L, W), for the gradients of the values and of the keys.
    queries = min(strips * lanes, line.queries - lane)
    grad_value_at = row_address(gradients.value, line.entry, line.key_head, line.first_key + first)
    grad_key_at = row_address(gradients.key, line.entry, line.key_head, line.first_key + first)
    for column in range(0, row, STRIP_BYTES):
        at = lane * row + column
        if gradients.want_value:
            multiply(
                sums.scores, GROUP_BYTES, size, sums.grad_rows + at, row, grad_value_at + column,
                gradients.value.row, keys, queries, 1, number,
            )  # fmt: skip
        if gradients.want_key:
            multiply(
                sums.grad_scores, GROUP_BYTES, size, sums.rows + at, row, grad_key_at + column,
                gradients.key.row, keys, queries, 1, number,
            )  # fmt: skip


@compiled
def _take_strip(problem, line, lane, column, keys_at, values_at, first, keys, sums, want_query, constants, capped):
    """Probabilities and gradients of the scores of one strip and `keys` keys, in `column` of the group; and what they
    give to the gradient of the query."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    key_row, strip_at = key_bytes(problem, number), lane * problem.width * size
    scores, grad_scores = sums.scores + column, sums.grad_scores + column

    # Scores, and gradients of the probabilities, (keys, L).
    multiply_in_parts(
        keys_at, key_row, size, sums.queries + strip_at, STRIP_BYTES, scores, GROUP_BYTES, keys, problem.head_dim,
        number,
    )  # fmt: skip
    multiply_in_parts(
        values_at, key_row, size, sums.grad_outputs + strip_at, STRIP_BYTES, grad_scores, GROUP_BYTES, keys,
        problem.head_dim, number,
    )  # fmt: skip
    if problem.threshold:
        drop_scores(problem, line, lane, first, grad_scores, GROUP_BYTES, keys, constants.keep)

    # Probabilities, and gradients of the scores.
    shifts, deltas = sums.shifts + lane * size, sums.deltas + lane * size
    if capped is not None:
        cap_scores(scores, GROUP_BYTES, keys, constants.cap)
    masked = first < word_at(sums.lows, lane + lanes - 1) or first + keys > word_at(sums.highs, lane)
    if masked:
        hide(scores, GROUP_BYTES, keys, first, sums.lows + 4 * lane, sums.highs + 4 * lane, number)
    if capped is not None:
        capped_gradient_step(
            scores, grad_scores, GROUP_BYTES, keys, shifts, deltas, constants.magnitude, constants.log2_e
        )
    elif masked:
        masked_gradient_step(
            scores, grad_scores, GROUP_BYTES, keys, shifts, deltas, constants.magnitude, constants.log2_e
        )
    else:
        gradient_step(scores, grad_scores, GROUP_BYTES, keys, shifts, deltas, constants.magnitude, constants.log2_e)
    if problem.threshold:
        drop_scores(problem, line, lane, first, scores, GROUP_BYTES, keys, constants.keep)

    if want_query:  # over the keys: (W, keys) @ (keys, L)
        multiply(keys_at, size, key_row, grad_scores, GROUP_BYTES, sums.grad_queries + strip_at, STRIP_BYTES,
                 problem.head_dim, keys, 1, number)  # fmt: skip


@compiled
def _end(problem, line, sums, grad_query, constants):
    """Add to the gradient of the line's queries."""
    number, size, lanes = constants.one, itemsize_of(constants.one), lanes_of(constants.one)
    row = problem.width * size
    for strip in range(line.strips):
        at = strip * lanes * row
        transpose(sums.grad_queries + at, STRIP_BYTES, sums.grad_rows + at, row, problem.width, lanes,
                  number)  # fmt: skip
    for i in range(line.queries):
        target = row_address(grad_query, line.entry, line.head, line.first_row + i)
        add_row(sums.grad_rows + i * row, target, row // VECTOR_BYTES, constants.scale)
