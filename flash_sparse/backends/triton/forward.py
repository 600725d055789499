"""The forward kernel: output and log-sum-exp of one tile of queries (Dao et al. 2022, algorithms 1 and 5).

Letters: M queries in a tile, N keys in a tile, D head dimension in two parts (`shared.py`).
"""

import triton
import triton.language as tl

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
    softmax_step,
    steps,
    store_rows,
    tanh,
    tile_positions,
    tile_source,
    tile_step,
)

LOG2_E = tl.constexpr(1.4426950408889634)

# Numbers that change from call to call, for which nothing is compiled again. The group of heads is none of them: where
# it is 1, the kernels get rid of a loop.
LENGTHS = ("heads", "query_length", "key_length", "tiles", "left", "right", "threshold")


@triton.jit
def _walk(
    sums, query, key, value, row_strides, mask, blocks, walk, scale, cap, dropout,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Take the key tiles of the walk into the output's part (M, D), and the softmax's sums (M,).

    What belongs together comes as a tuple: both parts of the head dimension, row strides of key and value, what the
    mask needs, the walk's four bounds, what dropout draws from.
    """
    part, part_tail, maximum, total = sums
    query, query_tail = query
    key, key_tail = key
    value, value_tail = value
    key_row_stride, value_row_stride = row_strides
    queries, diagonal, left, right, key_length = mask
    begin, full_begin, full_end, end = walk
    query_word, query_word_2, seed_value, stream, threshold = dropout
    STEP: tl.constexpr = TILE_N // BLOCK_SIZE if BLOCK_SIZE and TILE_N > BLOCK_SIZE else 1
    for index in tl.range(0, count_tiles(begin, full_begin, full_end, end, STEP, MASKED)):
        step, stop = tile_step(index, begin, full_begin, full_end, end, STEP, MASKED)
        first, keys = tile_positions(blocks, step, stop, BLOCK_SIZE, TILE_N)  # (), (N,)
        tile_key = load_tile(key, first, keys, key_row_stride, key_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        tile_key_tail = tile_key
        if TAIL:
            tile_key_tail = load_tile(
                key_tail, first, keys, key_row_stride, key_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
        scores = product(query, query_tail, tile_key, tile_key_tail, TAIL, PRECISION)  # (M, N)
        if cap is not None:
            scores = tanh(scores * cap)
        if MASKED:
            scores = hide(scores, queries, keys, diagonal, left, right, key_length, LEFT, RIGHT)
        probabilities, rescale, maximum, total = softmax_step(scores, maximum, total, scale, MASKED)
        if DROPOUT:
            key_word, key_word_2 = dropout_words(seed_value, stream, keys, 1)  # (N,)
            keep = dropout_keep(
                query_word[:, None], query_word_2[:, None], key_word[None, :], key_word_2[None, :], threshold
            )
            probabilities = tl.where(keep, probabilities, 0.0)
        tile_value = load_tile(value, first, keys, value_row_stride, key_length, 0, MAIN, HEAD_DIM, MASKED, WIDE)
        probabilities = probabilities.to(tile_value.dtype)
        part = tl.dot(probabilities, tile_value, part * rescale[:, None], input_precision=PRECISION)
        if TAIL:
            tile_value = load_tile(
                value_tail, first, keys, value_row_stride, key_length, MAIN, TAIL, HEAD_DIM, MASKED, WIDE
            )
            part_tail = tl.dot(probabilities, tile_value, part_tail * rescale[:, None], input_precision=PRECISION)
    return part, part_tail, maximum, total


@triton.jit(do_not_specialize=LENGTHS)
def forward_kernel(
    query, key, value, output, logsumexp, row_offsets, row_blocks, row_order,
    cu_seqlens, cu_seqlens_k, key_lengths, seed,
    query_strides, key_strides, value_strides, output_strides, layout_strides,
    heads, group, query_length, key_length, tiles, left, right, scale, cap, sinks, threshold, keep_scale,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, DROPOUT: tl.constexpr, NEGATIVE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
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
    key_head = head // group
    query = row_of(query, batch, head, row, query_strides)
    key = row_of(key, batch, key_head, key_row, key_strides)
    value = row_of(value, batch, key_head, key_row, value_strides)
    output = row_of(output, batch, head, row, output_strides)
    logsumexp += (batch * heads + head) * all_queries + row

    if BLOCK_SIZE:
        row_offsets += entry.to(tl.int64) * layout_strides[0] + head * layout_strides[1] + first // BLOCK_SIZE
    last = tl.minimum(first + TILE_M, query_length) - 1
    walk = steps(
        first, last, diagonal, left, right, key_length, row_offsets, row_blocks, LEFT, RIGHT, BLOCK_SIZE, TILE_N
    )

    queries = first + tl.arange(0, TILE_M)  # (M,)
    tile_query = load_rows(query, queries, query_strides[2], query_length, 0, MAIN, HEAD_DIM, True, WIDE)  # (M, D)
    tile_query_tail = tile_query
    if TAIL:
        tile_query_tail = load_rows(query, queries, query_strides[2], query_length, MAIN, TAIL, HEAD_DIM, True, WIDE)
    if NEGATIVE:  # the softmax's steps are made for a scale above 0
        tile_query = -tile_query
        tile_query_tail = -tile_query_tail
    key_tail = tile_source(key, key_length, key_strides[2], TAIL, HEAD_DIM, TILE_N, DESCRIPTORS)
    key = tile_source(key, key_length, key_strides[2], MAIN, HEAD_DIM, TILE_N, DESCRIPTORS)
    value_tail = tile_source(value, key_length, value_strides[2], TAIL, HEAD_DIM, TILE_N, DESCRIPTORS)
    value = tile_source(value, key_length, value_strides[2], MAIN, HEAD_DIM, TILE_N, DESCRIPTORS)
    seed_value, stream = 0, 0
    query_word, query_word_2 = queries, queries
    if DROPOUT:
        seed_value = tl.load(seed)
        stream = entry * heads + head
        query_word, query_word_2 = dropout_words(seed_value, stream, queries, 0)  # (M,)

    part = tl.zeros((TILE_M, MAIN), tl.float32)
    part_tail = tl.zeros((TILE_M, TAIL if TAIL else 1), tl.float32)
    maximum = tl.full((TILE_M,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_M,), tl.float32)
    if sinks is not None:  # as if a first key had been seen, whose value is zero
        maximum = tl.zeros((TILE_M,), tl.float32) + tl.load(sinks + head) * LOG2_E
        total += 1.0
    sums = part, part_tail, maximum, total
    for masked in tl.static_range(2):  # first what all queries see wholly, then what needs the mask
        sums = _walk(
            sums, (tile_query, tile_query_tail), (key, key_tail), (value, value_tail),
            (key_strides[2], value_strides[2]), (queries, diagonal, left, right, key_length), row_blocks, walk,
            scale, cap, (query_word, query_word_2, seed_value, stream, threshold),
            LEFT, RIGHT, DROPOUT, BLOCK_SIZE, TILE_N, HEAD_DIM, MAIN, TAIL, WIDE, PRECISION, masked == 1,
        )  # fmt: skip
    part, part_tail, maximum, total = sums

    # A row that has seen nothing keeps output 0 and gets minus infinity.
    tl.store(logsumexp + queries, (maximum + tl.log2(total)) * 0.6931471805599453, mask=queries < query_length)
    share = 1.0 / tl.where(total == 0.0, 1.0, total)  # (M,)
    if DROPOUT:
        share *= keep_scale
    store_rows(output, queries, output_strides[2], query_length, part * share[:, None], 0, MAIN, HEAD_DIM, WIDE)
    if TAIL:
        part_tail = part_tail * share[:, None]
        store_rows(output, queries, output_strides[2], query_length, part_tail, MAIN, TAIL, HEAD_DIM, WIDE)
