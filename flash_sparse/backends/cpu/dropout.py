"""Which probabilities dropout keeps: by counters, as Triton's kernels draw it, so that a seed drops the same elements.

Each query and each key of a sequence has two random words, from seven rounds of Philox (Salmon et al. 2011) that count
its position and its head; a hash of both decides (`passes.drop`). The words cost 8 bytes a row and head.
"""

from typing import NamedTuple

import numpy as np

from flash_sparse.backends.cpu.vectors import compiled, integer_at, set_word, take, tuple_at
from flash_sparse.backends.cpu.walk import (
    ENTRY,
    FIRST_KEY,
    FIRST_QUERY,
    KEYS,
    PROBLEM_FIELDS,
    QUERIES,
    Problem,
    fact,
)  # fmt: skip

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


class Words(NamedTuple):
    """A task: the words of a sequence's queries (axis 0) or keys (axis 1), for one head."""

    sequence: int
    head: int
    axis: int


@compiled
def words_kernel(call, memory, number):
    """Write words until no task is left.

    Args:
        call: `kernels.Call`. Its arguments are a `Problem` and the seed. Its tasks are `Words`.
        memory, number: nothing.
    """
    problem = tuple_at(Problem, call.arguments, 0)
    seed = np.uint64(integer_at(call.arguments, PROBLEM_FIELDS))

    while True:
        task = take(call.counter)
        if task >= call.task_count:
            return
        sequence, head, axis = tuple_at(Words, call.tasks, 3 * task)
        if axis == 0:
            words, rows = problem.query_words, problem.query_rows
            first, count = fact(problem, sequence, FIRST_QUERY), fact(problem, sequence, QUERIES)
        else:
            words, rows = problem.key_words, problem.key_rows
            first, count = fact(problem, sequence, FIRST_KEY), fact(problem, sequence, KEYS)
        heads = problem.batch * problem.heads
        at = (fact(problem, sequence, ENTRY) * problem.heads + head) * rows + first
        stream = np.uint64(sequence * problem.heads + head)
        for position in range(count):
            one, two = philox_words(seed, np.uint64(position), stream, np.uint64(axis))
            set_word(words, at + position, np.int64(one))
            set_word(words, heads * rows + at + position, np.int64(two))


def empty_words(batch: int, heads: int, rows: int) -> np.ndarray:
    """Memory for (2, B, H, N) words, and for those that a strip may read behind the last one."""
    return np.zeros(2 * batch * heads * rows + SLACK, np.int32)
