"""Which keys a tile of queries meets: the sequences of a batch or pack, the layout's blocks, the mask's bounds.

Query i of a sequence stands at key position i + diagonal, and sees the keys from `left` before to `right` after it,
below a limit: a range of keys that moves to the right with i. A tile of queries walks over the keys that any of them
sees, in tiles of its own: ranges of keys that follow each other, one range without a layout, with one those of its
blocks.
"""

from typing import NamedTuple

import numpy as np

from flash_sparse.backends.cpu.rows import row_address, widen_rows
from flash_sparse.backends.cpu.vectors import compiled, integer_at, itemsize_of, lanes_of, number_at, set_word, word_at

QUERY_TILE = 128  # queries of a task, at most
KEY_TILE = 128
SMALLEST_BLOCK = 16
RANGES = KEY_TILE // SMALLEST_BLOCK  # of a tile of keys, at most
# Numbers behind each row of a tile of keys. Rows that are powers of two apart would share a few lines of the cache, and
# the products with the values and with the keys' transpose read down the columns.
PADDING = 16

# Columns of the table of sequences.
COLUMNS = 7
ENTRY, FIRST_QUERY, QUERIES, FIRST_KEY, KEYS, DIAGONAL, LAYOUT = range(COLUMNS)


class Problem(NamedTuple):
    """What the passes of one call share, beside the tensors. Tables are given by their addresses: compiled code counts
    the references to arrays, and threads that count the same ones wait for each other."""

    sequences: int  # (sequences, 7) int64: see the columns above
    batch: int
    heads: int
    group: int  # query heads for each key head
    query_rows: int  # Nq of the tensors
    key_rows: int
    head_dim: int
    width: int  # of a row inside the kernels: head_dim, rounded up to whole strips
    left: int  # negative: unbounded
    right: int
    block_size: int  # 0: no layout
    row_offsets: int  # (Bl, Hl, Qb + 1) int32
    row_blocks: int  # (nnz,) int32
    layout_entries: int  # Bl
    layout_heads: int  # Hl
    offsets: int  # Qb + 1
    query_words: int  # (2, B, H, Nq) int32, for dropout
    key_words: int  # (2, B, H, Nk) int32
    threshold: int  # chance to stay, in steps of 2 ** -24; 0: no dropout
    sinks: int  # (H,) of the kernels' numbers; 0: none


class Tile(NamedTuple):
    """A task of the forward kernel: QUERY_TILE queries, or as many as there are."""

    sequence: int
    head: int
    first: int  # query


class Part(NamedTuple):
    """A task of the backward kernel: some queries and some keys of a sequence. It begins when it is its turn to add to
    the gradients of both."""

    sequence: int
    key_head: int
    first_query: int
    last_query: int  # the one behind the last
    first_key: int
    last_key: int
    query_part: int  # among the parts of all sequences and key heads
    key_part: int
    query_turn: int  # how many tasks add to the queries' gradients before
    key_turn: int


PROBLEM_FIELDS = len(Problem._fields)
PART_FIELDS = len(Part._fields)


class Constants(NamedTuple):
    """The kernels' numbers, float32 or float64: their type is the one that everything is computed in."""

    one: np.floating
    nothing: np.floating  # minus infinity
    log2_e: np.floating
    sign: np.floating  # of the scale, which the queries take on
    magnitude: np.floating  # of the scale, or the cap; above 0: it multiplies scores when they are in registers
    scale: np.floating
    keep: np.floating  # of what dropout keeps
    cap: np.floating  # what scores are multiplied by before tanh, where they are capped


@compiled
def constants_of(address, number):
    """The `Constants` that lie at an address, of the type of `number`."""
    return Constants(
        number_at(address, 0, number),
        number_at(address, 1, number),
        number_at(address, 2, number),
        number_at(address, 3, number),
        number_at(address, 4, number),
        number_at(address, 5, number),
        number_at(address, 6, number),
        number_at(address, 7, number),
    )


class Line(NamedTuple):
    """The queries that walk together: all those of a tile, or with a layout those of a row of blocks."""

    sequence: int
    entry: int  # of the batch
    head: int
    key_head: int
    first: int  # query, in its sequence
    queries: int
    strips: int
    first_row: int  # of the queries, in the batch entry
    first_key: int  # row of the sequence's first key


class KeyTile(NamedTuple):
    """Addresses of a tile of keys: of its ranges of keys, and of their rows as the kernels' numbers."""

    starts: int  # (RANGES,) int32
    stops: int
    rows: int  # of the tile, where each range begins
    keys: int  # (K, W + PADDING)
    values: int

    @classmethod
    def sizes(cls, width: int, itemsize: int) -> "KeyTile":
        """Bytes of each."""
        rows = KEY_TILE * (width + PADDING) * itemsize
        return cls(4 * RANGES, 4 * RANGES, 4 * RANGES, rows, rows)


TILE_FIELDS = len(KeyTile._fields)


@compiled
def fact(problem, sequence, column):
    """What the table of sequences says."""
    return integer_at(problem.sequences, sequence * COLUMNS + column)


@compiled
def seen_from(problem, sequence, query):
    """The first key that a query sees, if it sees any."""
    if problem.left < 0:
        return 0
    low = query + fact(problem, sequence, DIAGONAL) - problem.left
    return min(max(low, 0), fact(problem, sequence, KEYS))


@compiled
def seen_to(problem, sequence, query):
    """The key behind the last one that a query sees."""
    limit = fact(problem, sequence, KEYS)
    if problem.right < 0:
        return limit
    high = query + fact(problem, sequence, DIAGONAL) + problem.right + 1
    return min(max(high, 0), limit)


@compiled
def find_line(problem, sequence, head, first, queries, number):
    """The `Line` of `queries` queries from `first` on."""
    strips = (queries + lanes_of(number) - 1) // lanes_of(number)
    return Line(
        sequence, fact(problem, sequence, ENTRY), head, head // problem.group, first, queries, strips,
        fact(problem, sequence, FIRST_QUERY) + first, fact(problem, sequence, FIRST_KEY),
    )  # fmt: skip


@compiled
def row_index(problem, line):
    """The line's first query among all of (B, H, Nq)."""
    return (line.entry * problem.heads + line.head) * problem.query_rows + line.first_row


@compiled
def set_bounds(problem, line, lanes, lows, highs):
    """Write, for each lane, the first key that its query sees and the one behind the last; the last query's behind it.

    Returns the range of keys that any of them sees.
    """
    for i in range(lanes):
        query = line.first + min(i, line.queries - 1)
        set_word(lows, i, seen_from(problem, line.sequence, query))
        set_word(highs, i, seen_to(problem, line.sequence, query))
    return word_at(lows, 0), word_at(highs, lanes - 1)


@compiled
def find_block(blocks, start, stop, bound):
    """The first position in start..stop of ascending `blocks` with a block of at least `bound`; `stop` if none has."""
    while start < stop:
        middle = (start + stop) // 2
        if word_at(blocks, middle) < bound:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def begin_walk(problem, line, low, high):
    """Where the walk over the keys low..high begins and ends: keys, or with a layout positions in `row_blocks`."""
    block = problem.block_size
    if block == 0 or low >= high:
        return low, max(low, high)
    entry = fact(problem, line.sequence, LAYOUT) if problem.layout_entries > 1 else 0
    head = line.head if problem.layout_heads > 1 else 0
    row = (entry * problem.layout_heads + head) * problem.offsets + line.first // block
    start, stop = word_at(problem.row_offsets, row), word_at(problem.row_offsets, row + 1)
    end = find_block(problem.row_blocks, start, stop, (high + block - 1) // block)
    return find_block(problem.row_blocks, start, end, low // block), end


@compiled
def next_ranges(problem, cursor, end, low, high, tile):
    """Write the next ranges of keys of a walk, KEY_TILE keys at most, to the tile; those that follow each other as one.

    Returns where the walk goes on, and how many ranges there are.
    """
    block = problem.block_size
    if block == 0:
        stop = min(cursor + KEY_TILE, end)
        set_range(tile, 0, cursor, stop, 0)
        return stop, 1
    count, keys = 0, 0
    while cursor < end and keys + block <= KEY_TILE:
        first = word_at(problem.row_blocks, cursor) * block
        start, stop = max(first, low), min(first + block, high)
        if count and word_at(tile.stops, count - 1) == start:
            set_word(tile.stops, count - 1, stop)
        else:
            set_range(tile, count, start, stop, keys)
            count += 1
        keys += block
        cursor += 1
    return cursor, count


@compiled
def set_range(tile, i, start, stop, row):
    set_word(tile.starts, i, start)
    set_word(tile.stops, i, stop)
    set_word(tile.rows, i, row)


@compiled
def key_bytes(problem, number):
    """From a row of a tile of keys to the next."""
    return (problem.width + PADDING) * itemsize_of(number)


@compiled
def load_keys(problem, line, key, value, tile, ranges, one):
    """Read the keys and values of the tile's ranges; `one` is a 1 of the kernels' numbers."""
    row = key_bytes(problem, one)
    for i in range(ranges):
        first, at = word_at(tile.starts, i), word_at(tile.rows, i) * row
        count = word_at(tile.stops, i) - first
        for rows, target in ((key, tile.keys), (value, tile.values)):
            source = row_address(rows, line.entry, line.key_head, line.first_key + first)
            widen_rows(
                source, rows.row, rows.kind, count, problem.head_dim, target + at, problem.width + PADDING, count, one
            )


@compiled
def clip(tile, i, low, high):
    """The part of the tile's range i within low..high: its first key, how many, and the tile's row of the first."""
    begin = word_at(tile.starts, i)
    start, stop = max(begin, low), min(word_at(tile.stops, i), high)
    return start, max(stop - start, 0), word_at(tile.rows, i) + start - begin
