"""The backward kernels: gradients of query, key and value without atomics, so that they repeat bit by bit.

Probabilities are computed again from the log-sum-exp (Dao et al. 2022, algorithm 4), once by rows for the gradient of
the query and once by columns for those of key and value. With p the probabilities, kept those that dropout left,
divided by the chance to stay, and d the gradient of the output:

    gradient of value  = kept^T d
    gradient of scores = p (kept / p (d value^T) - delta),  delta = row sum of output d - gradient of log-sum-exp

Letters: M queries in a tile, N keys in a tile, D head dimension in two parts (`shared.py`).
"""

import triton
import triton.language as tl

from flash_sparse.backends.triton.forward import LENGTHS, LOG2_E
from flash_sparse.backends.triton.shared import (
    count_tiles,
    dropout_keep,
    dropout_words,
    hide,
    load_rows,
    load_tile,
    place,
    product,
    row_of,
    sequence,
    steps,
    store_rows,
    tanh,
    tile_positions,
    tile_source,
    tile_step,
)


@triton.jit(do_not_specialize=["heads", "length", "tiles"])
def delta_kernel(
    output, grad_output, logsumexp, grad_logsumexp, delta,
    output_strides, grad_strides, sum_strides, heads, length, tiles,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """delta (B, H, Nq): row sums of output times its gradient, less the gradient of the log-sum-exp."""
    program = tl.program_id(0)
    head = (program // tiles % heads).to(tl.int64)
    batch = (program // tiles // heads).to(tl.int64)
    rows = program % tiles * TILE + tl.arange(0, TILE)  # (M,)
    output += batch * output_strides[0] + head * output_strides[1]
    grad_output += batch * grad_strides[0] + head * grad_strides[1]
    line = (batch * heads + head) * length
    tile_output = load_rows(output, rows, output_strides[2], length, 0, WIDTH, HEAD_DIM, True, True)  # (M, D)
    tile_grad = load_rows(grad_output, rows, grad_strides[2], length, 0, WIDTH, HEAD_DIM, True, True)  # (M, D)
    sums = tl.sum(tile_output.to(tl.float32) * tile_grad.to(tl.float32), 1)  # (M,)
    inside = rows < length
    if grad_logsumexp is not None:
        grad_logsumexp += batch * sum_strides[0] + head * sum_strides[1]
        sums -= tl.load(grad_logsumexp + rows.to(tl.int64) * sum_strides[2], mask=inside, other=0.0)
        # A row that sees nothing has no gradient, whatever reaches its log-sum-exp.
        sums = tl.where(tl.load(logsumexp + line + rows, mask=inside, other=0.0) == float("-inf"), 0.0, sums)
    tl.store(delta + line + rows, sums, mask=inside)


@triton.jit
def _load_sums(logsumexp, delta, queries, limit, MASKED: tl.constexpr):
    """The log-sum-exp in base 2 and delta, (M,) each.

    For rows that see nothing, which no unmasked tile has, plus infinity: all their probabilities are 0 then.
    """
    if MASKED:
        queries = tl.minimum(queries, limit - 1)
    shift = tl.load(logsumexp + queries) * LOG2_E
    if MASKED:
        shift = tl.where(shift == float("-inf"), float("inf"), shift)
    return shift, tl.load(delta + queries)


@triton.jit
def _walk_keys(
    sums, query, grad, shift, delta, key, value, row_strides, mask, blocks, walk, scale, cap, dropout,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Add what the walk's key tiles give to the query's gradient (M, D), up to the scale; tuples as in forward."""
    part, part_tail = sums
    query, query_tail = query
    grad, grad_tail = grad
    key, key_tail = key
    value, value_tail = value
    key_row_stride, value_row_stride = row_strides
    queries, diagonal, left, right, key_length = mask
    begin, full_begin, full_end, end = walk
    query_word, query_word_2, seed_value, stream, threshold, keep_scale = dropout
    STEP: tl.constexpr = TILE_N // BLOCK_SIZE if BLOCK_SIZE and TILE_N > BLOCK_SIZE else 1
    for index in tl.range(0, count_tiles(begin, full_begin, full_end, end, STEP, MASKED)):
        step, stop = tile_step(index, begin, full_begin, full_end, end, STEP, MASKED)
        first, keys = tile_positions(blocks, step, stop, BLOCK_SIZE, TILE_N)  # (), (N,)
        tile_key = load_tile(key, first, keys, key_row_stride, key_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        tile_value = load_tile(value, first, keys, value_row_stride, key_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        tile_key_tail, tile_value_tail = tile_key, tile_value
        if TAIL:
            tile_key_tail = load_tile(
                key_tail, first, keys, key_row_stride, key_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
            tile_value_tail = load_tile(
                value_tail, first, keys, value_row_stride, key_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
        scores = product(query, query_tail, tile_key, tile_key_tail, TAIL, PRECISION)  # (M, N)
        if cap is not None:
            scores = tanh(scores * cap)
            slope = 1.0 - scores * scores
        if MASKED:
            scores = hide(scores, queries, keys, diagonal, left, right, key_length, LEFT, RIGHT)
        probabilities = tl.exp2(scores * scale - shift[:, None])  # (M, N)
        grad_kept = product(grad, grad_tail, tile_value, tile_value_tail, TAIL, PRECISION)  # (M, N)
        if DROPOUT:
            key_word, key_word_2 = dropout_words(seed_value, stream, keys, 1)  # (N,)
            keep = dropout_keep(
                query_word[:, None], query_word_2[:, None], key_word[None, :], key_word_2[None, :], threshold
            )
            grad_kept = tl.where(keep, grad_kept * keep_scale, 0.0)
        grad_scores = probabilities * (grad_kept - delta[:, None])  # (M, N)
        if cap is not None:
            grad_scores *= slope
        grad_scores = grad_scores.to(tile_key.dtype)
        part = tl.dot(grad_scores, tile_key, part, input_precision=PRECISION)
        if TAIL:
            part_tail = tl.dot(grad_scores, tile_key_tail, part_tail, input_precision=PRECISION)
    return part, part_tail


@triton.jit(do_not_specialize=LENGTHS)
def query_kernel(
    query, key, value, grad_output, grad_query, logsumexp, delta,
    row_offsets, row_blocks, row_order, cu_seqlens, cu_seqlens_k, key_lengths, seed,
    query_strides, key_strides, value_strides, grad_strides, result_strides, layout_strides,
    heads, group, query_length, key_length, tiles, left, right, scale, cap, result_scale, threshold, keep_scale,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, NEGATIVE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries."""
    tile, head, entry = place(tiles, heads, row_order, layout_strides, RIGHT, BLOCK_SIZE, TILE_M)
    all_queries = query_length
    start, key_start, query_length, key_length, diagonal = sequence(
        cu_seqlens, cu_seqlens_k, key_lengths, entry, query_length, key_length
    )
    first = tile * TILE_M
    if first >= query_length:
        return

    batch = (entry if cu_seqlens is None else 0) + tl.zeros((), tl.int64)
    row, key_row = start + tl.zeros((), tl.int64), key_start + tl.zeros((), tl.int64)
    wide_head, key_head = head.to(tl.int64), (head // group).to(tl.int64)
    query = row_of(query, batch, wide_head, row, query_strides)
    key = row_of(key, batch, key_head, key_row, key_strides)
    value = row_of(value, batch, key_head, key_row, value_strides)
    grad_output = row_of(grad_output, batch, wide_head, row, grad_strides)
    grad_query = row_of(grad_query, batch, wide_head, row, result_strides)
    logsumexp += (batch * heads + head) * all_queries + row
    delta += (batch * heads + head) * all_queries + row

    if BLOCK_SIZE:
        row_offsets += entry.to(tl.int64) * layout_strides[0] + head * layout_strides[1] + first // BLOCK_SIZE
    last = tl.minimum(first + TILE_M, query_length) - 1
    walk = steps(
        first, last, diagonal, left, right, key_length, row_offsets, row_blocks, LEFT, RIGHT, BLOCK_SIZE, TILE_N
    )

    queries = first + tl.arange(0, TILE_M)  # (M,)
    tile_query = load_rows(query, queries, query_strides[2], query_length, 0, MAIN, HEAD_DIM, True, WIDE)  # (M, D)
    tile_grad = load_rows(grad_output, queries, grad_strides[2], query_length, 0, MAIN, HEAD_DIM, True, WIDE)  # (M, D)
    tile_query_tail, tile_grad_tail = tile_query, tile_grad
    if TAIL:
        tile_query_tail = load_rows(query, queries, query_strides[2], query_length, MAIN, TAIL, HEAD_DIM, True, WIDE)
        tile_grad_tail = load_rows(
            grad_output, queries, grad_strides[2], query_length, MAIN, TAIL, HEAD_DIM, True, WIDE
        )
    if NEGATIVE:
        tile_query = -tile_query
        tile_query_tail = -tile_query_tail
    key_tail = tile_source(key, key_length, key_strides[2], TAIL, HEAD_DIM, TILE_N, DESCRIPTORS)
    key = tile_source(key, key_length, key_strides[2], MAIN, HEAD_DIM, TILE_N, DESCRIPTORS)
    value_tail = tile_source(value, key_length, value_strides[2], TAIL, HEAD_DIM, TILE_N, DESCRIPTORS)
    value = tile_source(value, key_length, value_strides[2], MAIN, HEAD_DIM, TILE_N, DESCRIPTORS)
    shift, tile_delta = _load_sums(logsumexp, delta, queries, query_length, True)  # (M,)
    seed_value, stream = 0, 0
    query_word, query_word_2 = queries, queries
    if DROPOUT:
        seed_value = tl.load(seed)
        stream = entry * heads + head
        query_word, query_word_2 = dropout_words(seed_value, stream, queries, 0)  # (M,)

    part = tl.zeros((TILE_M, MAIN), tl.float32)
    part_tail = tl.zeros((TILE_M, TAIL if TAIL else 1), tl.float32)
    sums = part, part_tail
    for masked in tl.static_range(2):
        sums = _walk_keys(
            sums, (tile_query, tile_query_tail), (tile_grad, tile_grad_tail), shift, tile_delta,
            (key, key_tail), (value, value_tail), (key_strides[2], value_strides[2]),
            (queries, diagonal, left, right, key_length), row_blocks, walk, scale, cap,
            (query_word, query_word_2, seed_value, stream, threshold, keep_scale),
            LEFT, RIGHT, DROPOUT, BLOCK_SIZE, TILE_N, HEAD_DIM, MAIN, TAIL, WIDE, PRECISION, masked == 1,
        )  # fmt: skip
    part, part_tail = sums
    part = part * result_scale
    store_rows(grad_query, queries, result_strides[2], query_length, part, 0, MAIN, HEAD_DIM, WIDE)
    if TAIL:
        part_tail = part_tail * result_scale
        store_rows(grad_query, queries, result_strides[2], query_length, part_tail, MAIN, TAIL, HEAD_DIM, WIDE)


@triton.jit
def _walk_queries(
    sums, key, value, query, grad_output, logsumexp, delta, row_strides, mask, blocks, walk, scale, cap, dropout,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, NEGATIVE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILE_M: tl.constexpr, HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what the walk's query tiles give to the gradients of key and value (N, D), up to factors.

    Scores are computed transposed, keys by queries, so that the products with them need no transposition.
    """
    key_part, key_part_tail, value_part, value_part_tail = sums
    key, key_tail = key
    value, value_tail = value
    query_row_stride, grad_row_stride = row_strides
    keys, diagonal, left, right, query_length = mask
    begin, full_begin, full_end, end = walk
    key_word, key_word_2, seed_value, stream, threshold, keep_scale = dropout
    STEP: tl.constexpr = TILE_M // BLOCK_SIZE if BLOCK_SIZE and TILE_M > BLOCK_SIZE else 1
    for index in tl.range(0, count_tiles(begin, full_begin, full_end, end, STEP, MASKED)):
        step, stop = tile_step(index, begin, full_begin, full_end, end, STEP, MASKED)
        _, queries = tile_positions(blocks, step, stop, BLOCK_SIZE, TILE_M)  # (M,)
        tile_query = load_rows(query, queries, query_row_stride, query_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        shift, tile_delta = _load_sums(logsumexp, delta, queries, query_length, MASKED)  # (M,)
        tile_grad = load_rows(grad_output, queries, grad_row_stride, query_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        tile_query_tail, tile_grad_tail = tile_query, tile_grad
        if TAIL:
            tile_query_tail = load_rows(
                query, queries, query_row_stride, query_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
            tile_grad_tail = load_rows(
                grad_output, queries, grad_row_stride, query_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
        scores = product(key, key_tail, tile_query, tile_query_tail, TAIL, PRECISION)  # (N, M)
        if NEGATIVE:
            scores = -scores
        if cap is not None:
            scores = tanh(scores * cap)
            slope = 1.0 - scores * scores
        if MASKED:
            scores = hide(scores, keys, queries, -diagonal, right, left, query_length, RIGHT, LEFT)
        probabilities = tl.exp2(scores * scale - shift[None, :])  # (N, M)
        kept = probabilities
        grad_kept = product(value, value_tail, tile_grad, tile_grad_tail, TAIL, PRECISION)  # (N, M)
        if DROPOUT:
            query_word, query_word_2 = dropout_words(seed_value, stream, queries, 0)  # (M,)
            keep = dropout_keep(
                query_word[None, :], query_word_2[None, :], key_word[:, None], key_word_2[:, None], threshold
            )
            kept = tl.where(keep, probabilities, 0.0)
            grad_kept = tl.where(keep, grad_kept * keep_scale, 0.0)
        kept = kept.to(tile_grad.dtype)  # (N, M)
        value_part = tl.dot(kept, tile_grad, value_part, input_precision=PRECISION)
        grad_scores = probabilities * (grad_kept - tile_delta[None, :])  # (N, M)
        if cap is not None:
            grad_scores *= slope
        grad_scores = grad_scores.to(tile_query.dtype)
        key_part = tl.dot(grad_scores, tile_query, key_part, input_precision=PRECISION)
        if TAIL:
            value_part_tail = tl.dot(kept, tile_grad_tail, value_part_tail, input_precision=PRECISION)
            key_part_tail = tl.dot(grad_scores, tile_query_tail, key_part_tail, input_precision=PRECISION)
    return key_part, key_part_tail, value_part, value_part_tail


@triton.jit(do_not_specialize=LENGTHS)
def keys_kernel(
    query, key, value, grad_output, grad_key, grad_value, logsumexp, delta,
    column_offsets, column_blocks, column_order, cu_seqlens, cu_seqlens_k, key_lengths, seed,
    query_strides, key_strides, value_strides, grad_strides, key_result_strides, value_result_strides, layout_strides,
    heads, group, query_length, key_length, tiles, left, right, scale, cap, result_scale, threshold, keep_scale,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, NEGATIVE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values, summed over the query heads that share them."""
    # The columns of a group of heads are walked one head after the other, in the order of the first.
    order_strides = layout_strides[0], group * layout_strides[1]
    tile, key_head, entry = place(tiles, heads // group, column_order, order_strides, False, BLOCK_SIZE, TILE_N)
    all_queries, all_keys = query_length, key_length
    start, key_start, query_length, key_length, diagonal = sequence(
        cu_seqlens, cu_seqlens_k, key_lengths, entry, query_length, key_length
    )
    if cu_seqlens is not None:
        all_keys = key_length
    first = tile * TILE_N
    if first >= all_keys:
        return

    batch = (entry if cu_seqlens is None else 0) + tl.zeros((), tl.int64)
    row, key_row = start + tl.zeros((), tl.int64), key_start + tl.zeros((), tl.int64)
    wide_head = key_head.to(tl.int64)
    key = row_of(key, batch, wide_head, key_row, key_strides)
    value = row_of(value, batch, wide_head, key_row, value_strides)
    grad_key = row_of(grad_key, batch, wide_head, key_row, key_result_strides)
    grad_value = row_of(grad_value, batch, wide_head, key_row, value_result_strides)
    query += batch * query_strides[0] + row * query_strides[2]
    grad_output += batch * grad_strides[0] + row * grad_strides[2]
    logsumexp += batch * heads * all_queries + row
    delta += batch * heads * all_queries + row
    if BLOCK_SIZE:
        column_offsets += entry.to(tl.int64) * layout_strides[0] + first // BLOCK_SIZE

    keys = first + tl.arange(0, TILE_N)  # (N,)
    tile_key = load_rows(key, keys, key_strides[2], all_keys, 0, MAIN, HEAD_DIM, True, WIDE)  # (N, D)
    tile_value = load_rows(value, keys, value_strides[2], all_keys, 0, MAIN, HEAD_DIM, True, WIDE)  # (N, D)
    tile_key_tail, tile_value_tail = tile_key, tile_value
    if TAIL:
        tile_key_tail = load_rows(key, keys, key_strides[2], all_keys, MAIN, TAIL, HEAD_DIM, True, WIDE)
        tile_value_tail = load_rows(value, keys, value_strides[2], all_keys, MAIN, TAIL, HEAD_DIM, True, WIDE)
    key_part = tl.zeros((TILE_N, MAIN), tl.float32)
    value_part = tl.zeros((TILE_N, MAIN), tl.float32)
    key_part_tail = tl.zeros((TILE_N, TAIL if TAIL else 1), tl.float32)
    value_part_tail = tl.zeros((TILE_N, TAIL if TAIL else 1), tl.float32)

    last = tl.minimum(first + TILE_N, key_length) - 1
    query_length = tl.where(first < key_length, query_length, 0)  # a tile of padding is seen by none
    for member in range(0, group):
        head = key_head * group + member
        wide_head = head.to(tl.int64)
        member_query = query + wide_head * query_strides[1]
        member_grad = grad_output + wide_head * grad_strides[1]
        member_logsumexp = logsumexp + wide_head * all_queries
        member_delta = delta + wide_head * all_queries
        offsets = column_offsets
        if BLOCK_SIZE:
            offsets = column_offsets + head * layout_strides[1]
        walk = steps(
            first, last, -diagonal, right, left, query_length, offsets, column_blocks, RIGHT, LEFT, BLOCK_SIZE, TILE_M
        )
        seed_value, stream = 0, 0
        key_word, key_word_2 = keys, keys
        if DROPOUT:
            seed_value = tl.load(seed)
            stream = entry * heads + head
            key_word, key_word_2 = dropout_words(seed_value, stream, keys, 1)  # (N,)
        sums = key_part, key_part_tail, value_part, value_part_tail
        for masked in tl.static_range(2):
            sums = _walk_queries(
                sums, (tile_key, tile_key_tail), (tile_value, tile_value_tail),
                member_query, member_grad, member_logsumexp, member_delta, (query_strides[2], grad_strides[2]),
                (keys, diagonal, left, right, query_length), column_blocks, walk, scale, cap,
                (key_word, key_word_2, seed_value, stream, threshold, keep_scale),
                LEFT, RIGHT, DROPOUT, NEGATIVE, BLOCK_SIZE, TILE_M, HEAD_DIM, MAIN, TAIL, WIDE, PRECISION, masked == 1,
            )  # fmt: skip
        key_part, key_part_tail, value_part, value_part_tail = sums

    # Padding inside the tile has gone along with the rest; its own rows alone were touched.
    inside = (keys < key_length)[:, None]
    key_part = tl.where(inside, key_part * result_scale, 0.0)
    store_rows(grad_key, keys, key_result_strides[2], all_keys, key_part, 0, MAIN, HEAD_DIM, WIDE)
    value_part = tl.where(inside, value_part * keep_scale, 0.0)
    store_rows(grad_value, keys, value_result_strides[2], all_keys, value_part, 0, MAIN, HEAD_DIM, WIDE)
    if TAIL:
        key_part_tail = tl.where(inside, key_part_tail * result_scale, 0.0)
        store_rows(grad_key, keys, key_result_strides[2], all_keys, key_part_tail, MAIN, TAIL, HEAD_DIM, WIDE)
        value_part_tail = tl.where(inside, value_part_tail * keep_scale, 0.0)
        store_rows(grad_value, keys, value_result_strides[2], all_keys, value_part_tail, MAIN, TAIL, HEAD_DIM, WIDE)
