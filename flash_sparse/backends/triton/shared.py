"""What the kernels share: which tiles a tile meets, loading rows, hiding scores, the online softmax, dropout.

A kernel's program owns one tile of positions, of queries (forward, gradient of the query) or of keys (gradients of key
and value), and walks over tiles of the other axis. Query i stands at key position i + diagonal and sees the keys from
`left` before to `right` after it; seen from key j, these are the queries from `right` before to `left` after
j - diagonal. So all kernels share one rule: position i of the own axis sees the positions from i + offset - before to
i + offset + after of the other one, below a limit.

The head dimension D comes in two parts, of MAIN and TAIL elements: both powers of two as Triton wants them, so that 80
costs 64 + 16 and not 128. TAIL is 0 where one part is enough.

Letters: R positions of the own tile, C of the other one, D head dimension.
"""

import triton
import triton.language as tl


@triton.jit
def sequence(cu_seqlens, cu_seqlens_k, key_lengths, entry, query_length, key_length):
    """First rows of queries and keys, how many of both, and the diagonal of sequence `entry`: packed, or a batch entry
    that may end in padding."""
    start, key_start = 0, 0
    diagonal = key_length - query_length
    if cu_seqlens is not None:
        start = tl.load(cu_seqlens + entry)
        query_length = tl.load(cu_seqlens + entry + 1) - start
        key_start, key_length = start, query_length
        diagonal = 0
        if cu_seqlens_k is not None:
            key_start = tl.load(cu_seqlens_k + entry)
            key_length = tl.load(cu_seqlens_k + entry + 1) - key_start
            diagonal = key_length - query_length
    if key_lengths is not None:
        key_length = tl.load(key_lengths + entry).to(tl.int32)
    return start, key_start, query_length, key_length, diagonal


@triton.jit
def place(
    tiles, heads, order, order_strides,
    LAST_FIRST: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Which tile of which head of which entry this program owns.

    Programs begin in the order of their numbers: those of a head after each other, so that what they load stays in
    cache, and with LAST_FIRST the last tiles, which see the most behind a causal mask, before the others. With a
    layout, the heavy lines of all heads come before all else.
    """
    program = tl.program_id(0)
    tile = program % tiles
    line = program // tiles
    if LAST_FIRST:
        tile = tiles - 1 - tile
    if BLOCK_SIZE:
        PARTS: tl.constexpr = BLOCK_SIZE // TILE  # tiles in a line of blocks
        lines = tl.num_programs(0) // tiles
        heavy = tl.load(order + tiles // PARTS) * PARTS
        light = tl.maximum(tiles - heavy, 1)
        later = program - heavy * lines
        position = later % light
        if LAST_FIRST:
            position = light - 1 - position
        line = tl.where(later < 0, program % lines, later // light)
        position = tl.where(later < 0, program // lines, heavy + position)
        order += (line // heads).to(tl.int64) * order_strides[0] + line % heads * order_strides[1]
        tile = tl.load(order + position // PARTS) * PARTS + position % PARTS
    return tile, line % heads, line // heads


@triton.jit
def find(blocks, start, stop, bound):
    """The first position in start..stop of ascending `blocks` with a block of at least `bound`; `stop` if none has."""
    # Most rows end before the bound or begin at it: one look at the end saves them the search.
    last = tl.load(blocks + stop - 1, mask=start < stop, other=0)
    start = tl.where(last < bound, stop, start)
    while start < stop:
        middle = (start + stop) // 2
        below = tl.load(blocks + middle) < bound
        start = tl.where(below, middle + 1, start)
        stop = tl.where(below, stop, middle)
    return start


@triton.jit
def steps(
    first, last, offset, before, after, limit, offsets, blocks,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Where the walk of the positions first..last begins, where it gets to tiles that all of them see wholly (these
    need no mask), where it leaves them, and where it ends.

    In units of tiles of the other axis; with a layout, of its blocks, or of TILE positions where a block is longer.
    """
    low, full_low = 0, 0
    high, full_high = limit, limit
    if BEFORE:
        low = tl.maximum(first + offset - before, 0)
        full_low = tl.maximum(last + offset - before, 0)
    if AFTER:
        high = tl.maximum(tl.minimum(last + offset + after + 1, limit), 0)
        full_high = tl.maximum(tl.minimum(first + offset + after + 1, limit), 0)
    if BLOCK_SIZE == 0:
        begin = low // TILE
        full_begin = tl.cdiv(full_low, TILE)
        full_end = full_high // TILE
        end = tl.cdiv(high, TILE)
    else:
        line_begin = tl.load(offsets)
        line_end = tl.load(offsets + 1)
        end = find(blocks, line_begin, line_end, tl.cdiv(high, BLOCK_SIZE))
        full_end = find(blocks, line_begin, end, full_high // BLOCK_SIZE)
        if BEFORE:
            begin = find(blocks, line_begin, end, low // BLOCK_SIZE)
            full_begin = find(blocks, begin, end, tl.cdiv(full_low, BLOCK_SIZE))
        else:
            begin = line_begin
            full_begin = line_begin
        if TILE < BLOCK_SIZE:
            begin, full_begin = begin * (BLOCK_SIZE // TILE), full_begin * (BLOCK_SIZE // TILE)
            full_end, end = full_end * (BLOCK_SIZE // TILE), end * (BLOCK_SIZE // TILE)
    end = tl.maximum(end, begin)
    full_begin = tl.minimum(tl.maximum(full_begin, begin), end)
    full_end = tl.minimum(tl.maximum(full_end, full_begin), end)
    if BLOCK_SIZE != 0 and TILE > BLOCK_SIZE:  # tiles of several blocks; one that is not filled needs the mask
        full_end -= (full_end - full_begin) % (TILE // BLOCK_SIZE)
    return begin, full_begin, full_end, end


@triton.jit
def count_tiles(begin, full_begin, full_end, end, STEP: tl.constexpr, MASKED: tl.constexpr):
    """Tiles of the walk that need the mask, on either side of those that do not, or else of the latter."""
    if MASKED:
        count = tl.cdiv(full_begin - begin, STEP) + tl.cdiv(end - full_end, STEP)
    else:
        count = (full_end - full_begin) // STEP
    return count


@triton.jit
def tile_step(index, begin, full_begin, full_end, end, STEP: tl.constexpr, MASKED: tl.constexpr):
    """The step of tile `index` of those that `count_tiles` counts, and where its part of the walk ends."""
    if MASKED:
        before = tl.cdiv(full_begin - begin, STEP)
        step = tl.where(index < before, begin + index * STEP, full_end + (index - before) * STEP)
        stop = tl.where(index < before, full_begin, end)
    else:
        step = full_begin + index * STEP
        stop = full_end
    return step, stop


@triton.jit
def tile_positions(blocks, step, stop, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr):
    """The first position of the tile at `step`, and all of them, (TILE,); past any limit where it reaches over `stop`.

    A tile of several blocks does not go on from its first position: 0 stands there.
    """
    lanes = tl.arange(0, TILE)
    if BLOCK_SIZE == 0:
        first = step * TILE
        positions = first + lanes
    elif TILE <= BLOCK_SIZE:
        block = tl.load(blocks + step // (BLOCK_SIZE // TILE))
        first = block * BLOCK_SIZE + step % (BLOCK_SIZE // TILE) * TILE
        positions = first + lanes
    else:
        first = 0
        slots = step + lanes // BLOCK_SIZE
        block = tl.load(blocks + slots, mask=slots < stop, other=(1 << 30) // BLOCK_SIZE)
        positions = block * BLOCK_SIZE + lanes % BLOCK_SIZE
    return first, positions


@triton.jit
def row_of(base, batch, head, row, strides):
    """Where row `row` of a head of a batch entry begins, in 64 bits."""
    return base + (batch * strides[0] + head.to(tl.int64) * strides[1] + row * strides[2])


@triton.jit
def row_pointers(base, rows, stride, FIRST: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    """Pointers to elements FIRST.. of `rows`, (R, WIDTH); WIDE where a product may pass 2 ** 31."""
    if WIDE:
        rows = rows.to(tl.int64)
    return base + rows[:, None] * stride + (FIRST + tl.arange(0, WIDTH))[None, :]


@triton.jit
def load_rows(
    base, rows, stride, limit,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Elements FIRST.. of `rows`, (R, WIDTH), zeros past HEAD_DIM; if MASKED, the last row for those past `limit`.

    A row of the same sequence, so that nothing of another one can get in, costs fewer registers than one of zeros.
    """
    if MASKED:
        rows = tl.minimum(rows, limit - 1)
    pointers = row_pointers(base, rows, stride, FIRST, WIDTH, WIDE)
    if FIRST + WIDTH > HEAD_DIM:
        tile = tl.load(pointers, mask=(FIRST + tl.arange(0, WIDTH) < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def tile_source(
    base, limit, stride, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, DESCRIPTORS: tl.constexpr
):
    """Where `load_tile` takes tiles (TILE, WIDTH) from: the pointer `base`, or a tensor descriptor of `limit` rows."""
    source = base
    if DESCRIPTORS and WIDTH:
        # None may be empty, though a tile of none is never loaded.
        source = tl.make_tensor_descriptor(base, [tl.maximum(limit, 1), HEAD_DIM], [stride, 1], [TILE, WIDTH])
    return source


@triton.jit
def load_tile(
    source, first, rows, stride, limit,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Elements FIRST.. of `rows`, as `load_rows` gives them; by a descriptor those from `first` on, zeros past `limit`.

    The descriptor ends with the sequence: of what lies behind it, as of what lies past HEAD_DIM, nothing is read.
    """
    if isinstance(source, tl.tensor_descriptor):
        tile = source.load([first, FIRST])
    else:
        tile = load_rows(source, rows, stride, limit, FIRST, WIDTH, HEAD_DIM, MASKED, WIDE)
    return tile


@triton.jit
def store_rows(
    base, rows, stride, limit, tile,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write (R, WIDTH) to elements FIRST.. of those `rows` that are below `limit`."""
    inside = (rows < limit)[:, None]
    if FIRST + WIDTH > HEAD_DIM:
        inside = inside & (FIRST + tl.arange(0, WIDTH) < HEAD_DIM)[None, :]
    pointers = row_pointers(base, rows, stride, FIRST, WIDTH, WIDE)
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def product(left, left_tail, right, right_tail, TAIL: tl.constexpr, PRECISION: tl.constexpr):
    """left @ right^T over both parts of the head dimension, (R, C) in float32."""
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    if TAIL:
        scores = tl.dot(left_tail, tl.trans(right_tail), scores, input_precision=PRECISION)
    return scores


@triton.jit
def tanh(x):
    """To about an ulp: by a polynomial near 0, where the exponential's difference from 1 would lose its digits."""
    square = x * x
    series = -0.005919910501688719
    series = series * square + 0.02081829123198986
    series = series * square - 0.05379083380103111
    series = series * square + 0.13332012295722961
    series = series * square - 0.33333301544189453
    far = 1.0 - 2.0 / (tl.exp2(tl.abs(x) * 2.8853900817779268) + 1.0)
    return tl.where(square < 0.36, x + x * (square * series), tl.where(x < 0.0, -far, far))


@triton.jit
def hide(scores, own, other, offset, before, after, limit, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """Minus infinity in (R, C) where position `own` (R,) does not see `other` (C,)."""
    seen = (other < limit)[None, :]
    if BEFORE:
        seen = seen & (other[None, :] >= own[:, None] + (offset - before))
    if AFTER:
        seen = seen & (other[None, :] <= own[:, None] + (offset + after))
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def softmax_step(scores, maximum, total, scale, MASKED: tl.constexpr):
    """Take scores (R, C) into the running `maximum` and `total` (R,), in base 2, for `scale` > 0.

    Returns the probabilities up to the row's factor, (R, C), what to multiply earlier results by, (R,), and both sums.
    """
    highest = tl.maximum(maximum, tl.max(scores, 1) * scale)  # (R,)
    shift = highest
    if MASKED:  # where nothing has been seen yet, minus infinity would be subtracted from itself
        shift = tl.where(highest == float("-inf"), 0.0, highest)
    probabilities = tl.exp2(scores * scale - shift[:, None])  # (R, C)
    rescale = tl.exp2(maximum - shift)  # (R,)
    return probabilities, rescale, highest, total * rescale + tl.sum(probabilities, 1)


@triton.jit
def dropout_words(seed, stream, positions, AXIS: tl.constexpr):
    """Two random words for each position (R,) of an axis: Philox, counting the position in sequence and head `stream`.

    Each of its counters has 32 bits of its own, so that no product of sizes can overflow.
    """
    zero = positions * 0
    first, second, _, _ = tl.philox(seed, positions, zero + stream, zero + AXIS, zero, 7)
    return first.to(tl.uint32), second.to(tl.uint32)


@triton.jit
def dropout_keep(query_word, query_word_2, key_word, key_word_2, threshold):
    """Which probabilities stay, with chance threshold / 2 ** 24. The words broadcast against each other.

    Drawing each element from Philox would cost more than the attention. Instead a hash mixes the words of its query and
    its key: two multiply-xorshift rounds (the constants are lowbias32's, by C. Wellons) and a last multiplication,
    whose upper bits are used. The same elements drop whatever the tiles, so that the backward pass can draw them again.
    """
    word = (query_word ^ key_word) * 0x7FEB352D
    word = (word ^ (word >> 15)) + query_word_2
    word = (word ^ key_word_2) * 0x846CA68B
    word = (word ^ (word >> 16)) * 0x9E3779B1
    return (word >> 8).to(tl.int32) < threshold
