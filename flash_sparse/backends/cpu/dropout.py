"""Which probabilities dropout keeps: by counters, as Triton's kernels draw it, so that a seed drops the same elements.

Each query and each key of a sequence has two random words, from seven rounds of Philox (Salmon et al. 2011) that count
its position and its head; a hash of both decides (`passes.drop`). The words cost 8 bytes a row and head.
"""

import numpy as np

from flash_sparse.backends.cpu.vectors import compiled

SLACK = 64  # words behind the last one, which a strip may read


@compiled
def philox_words(seed, position, stream, axis):
    """The first two words of Philox-4x32-7 for the counter (position, stream, axis, 0)."""
    first, second, third, fourth = position, stream, axis, np.uint64(0)
    low, high = seed & np.uint64(0xFFFFFFFF), seed >> np.uint64(32)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(7):
        product_a = np.uint64(0xD2511F53) * first
        product_b = np.uint64(0xCD9E8D57) * third
        first, third = (product_b >> half) ^ second ^ low, (product_a >> half) ^ fourth ^ high
        second, fourth = product_b & mask, product_a & mask
        low, high = (low + np.uint64(0x9E3779B9)) & mask, (high + np.uint64(0xBB67AE85)) & mask
    return first, second


@compiled
def fill_words(seed, rows, lengths, entries, words, axis):
    """Write the words of every row of every sequence and head.

    Args:
        rows, lengths, entries: of each sequence, its first row, how many, and its batch entry.
        words: (2, B, H, N) uint32.
    """
    heads = words.shape[2]
    for sequence in range(rows.shape[0]):
        for head in range(heads):
            stream = np.uint64(sequence * heads + head)
            for position in range(lengths[sequence]):
                first, second = philox_words(seed, np.uint64(position), stream, np.uint64(axis))
                words[0, entries[sequence], head, rows[sequence] + position] = first
                words[1, entries[sequence], head, rows[sequence] + position] = second


def words(seed: int, rows, lengths, entries, shape: tuple[int, int, int], axis: int):
    """(2, B, H, N) int32; `shape` is (B, H, N)."""
    count = 2 * shape[0] * shape[1] * shape[2]
    filled = np.zeros(count + SLACK, np.uint32)[:count].reshape(2, *shape)
    fill_words(np.uint64(seed), rows, lengths, entries, filled, axis)
    return filled.view(np.int32)
