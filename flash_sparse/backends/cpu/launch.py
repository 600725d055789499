"""The CPU backend's functions behind the operators: outputs, tables of sequences and tasks, and the passes' regions.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension, W its width inside the kernels.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flash_sparse.backends.cpu import dropout
from flash_sparse.backends.cpu.kernels import (
    backward_kernel,
    capped_backward_kernel,
    capped_forward_kernel,
    delta_kernel,
    forward_kernel,
    words_kernel,
)  # fmt: skip
from flash_sparse.backends.cpu.rows import Rows
from flash_sparse.backends.cpu.threads import run
from flash_sparse.backends.cpu.vectors import STRIP_BYTES
from flash_sparse.backends.cpu.walk import DIAGONAL, KEYS, QUERIES, QUERY_TILE, Constants, Problem
from flash_sparse.backends.options import Options
from flash_sparse.backends.sinks import sink_gradients

# Tasks of the backward pass that may run at the same time, and the least length of their parts, in tokens. By shape
# alone, so that results do not depend on the number of threads.
PARALLEL_TASKS = 32
LEAST_PART = 512


def forward(
    query: Tensor,  # (B, H, Nq, D)
    key: Tensor,  # (B, Hkv, Nk, D)
    value: Tensor,  # (B, Hkv, Nk, D)
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Output, shaped and strided as `query`, and log-sum-exp, (B, H, Nq) float32."""
    problem, tables = make_problem(query, key, options)
    output = torch.zeros_like(query)  # (B, H, Nq, D)
    logsumexp = query.new_full(query.shape[:3], -torch.inf, dtype=torch.promote_types(query.dtype, torch.float32))
    query, key, value, rows = dense_rows(query), dense_rows(key), dense_rows(value), dense_rows(output)
    arguments = Rows.of(query), Rows.of(key), Rows.of(value), Rows.of(rows), logsumexp.data_ptr()
    numbers = constants(logsumexp.dtype, options.scale, options.dropout_p, options.softcap)
    kernel = capped_forward_kernel if options.softcap else forward_kernel
    tasks = query_tiles(tables.sequences[:, QUERIES].tobytes(), problem.heads, problem.right >= 0)
    run(kernel, problem, arguments, numbers, tasks)
    if rows is not output:
        output.copy_(rows)
    return output, logsumexp


def backward(
    grad_output: Tensor,  # (B, H, Nq, D)
    grad_logsumexp: Tensor | None,  # (B, H, Nq)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    options: Options,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and sinks, shaped and strided as what they belong to; empty where not wanted."""
    problem, tables = make_problem(query, key, options)
    dtype = logsumexp.dtype
    numbers = constants(dtype, options.scale, options.dropout_p, options.softcap)
    logsumexp = logsumexp.contiguous()
    delta = torch.empty_like(logsumexp)  # (B, H, Nq)
    grad_output, output = dense_rows(grad_output), dense_rows(output)
    upstream = None if grad_logsumexp is None else grad_logsumexp.contiguous()
    addresses = 0 if upstream is None else upstream.data_ptr(), delta.data_ptr()
    arguments: list[Rows | int] = [Rows.of(output), Rows.of(grad_output), *addresses]
    run(delta_kernel, problem, arguments, numbers, row_tiles(delta.shape))

    gradients = [
        torch.zeros_like(tensor) if want else tensor.new_empty(0)
        for tensor, want in zip((query, key, value), wanted[:3], strict=True)
    ]
    sums = [accumulator(gradient, dtype, problem.width) for gradient in gradients]
    query, key, value = dense_rows(query), dense_rows(key), dense_rows(value)
    rows = [Rows.of(tensor) for tensor in (query, key, value, grad_output, *sums)]
    tasks, parts = part_pairs(problem, tables.sequences)
    done = np.zeros((2, parts), np.int64)
    arguments = [*rows, logsumexp.data_ptr(), delta.data_ptr(), done.ctypes.data, parts, *wanted[:3]]
    kernel = capped_backward_kernel if options.softcap else backward_kernel
    run(kernel, problem, arguments, numbers, tasks)
    for gradient, total in zip(gradients, sums, strict=True):
        if gradient is not total and gradient.numel():
            gradient.copy_(total[..., : gradient.shape[3]])
    grad_sinks = query.new_empty(0)
    if wanted[3] and options.sinks is not None:  # summed by one thread, so that the bits do not depend on their number
        grad_sinks = torch.from_numpy(sink_gradients(options.sinks, logsumexp, delta).numpy().sum((0, 2)))  # (H,)
    grad_query, grad_key, grad_value = gradients
    return grad_query, grad_key, grad_value, grad_sinks


def accumulator(gradient: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """What sums of the kernel's numbers are added to: the gradient itself where it has their dtype and width."""
    if not gradient.numel():  # nothing is added
        return gradient.new_empty((0, 0, 0, width), dtype=dtype)
    if gradient.dtype == dtype and gradient.shape[3] == width and gradient.stride(3) == 1:
        return gradient
    return gradient.new_zeros((*gradient.shape[:3], width), dtype=dtype)


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is contiguous, as the kernels want it, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


@functools.lru_cache(maxsize=64)
def constants(dtype: torch.dtype, scale: float, dropout_p: float, softcap: float) -> Constants:
    kind: type[np.floating] = np.float64 if dtype == torch.float64 else np.float32
    # A scale of 0 would turn the minus infinity of hidden scores into NaN.
    magnitude = max(abs(scale), 1e-30)
    # Capped scores leave the cap's tanh between -1 and 1: what is left to multiply them by is the cap.
    cap = magnitude / softcap if softcap else 0.0
    numbers = (
        1.0, -math.inf, math.log2(math.e), math.copysign(1.0, scale), softcap or magnitude, scale, 1 / (1 - dropout_p),
        cap,
    )  # fmt: skip
    with np.errstate(over="ignore"):  # what is too large for a float32 is infinite
        return Constants(*map(kind, numbers))


class Tables(NamedTuple):
    """What a problem's addresses point to, kept alive for as long as compiled code reads it."""

    sequences: np.ndarray  # (sequences, 7) int64
    row_offsets: Tensor | None
    row_blocks: Tensor | None
    query_words: np.ndarray | None
    key_words: np.ndarray | None


def make_problem(query: Tensor, key: Tensor, options: Options) -> tuple[Problem, Tables]:
    batch, heads, queries, head_dim = query.shape
    keys = key.shape[2]
    if options.cu_seqlens is not None:
        sequences = packed_sequences(options.cu_seqlens, options.cu_seqlens_k)  # (sequences, 7)
    else:
        sequences = even_sequences(batch, queries, keys)
        if options.key_lengths is not None:
            sequences = sequences.copy()
            sequences[:, KEYS] = options.key_lengths.numpy()

    threshold = max(1, round((1 - options.dropout_p) * 2**24)) if options.dropout_p else 0
    query_words = key_words = None
    if threshold:
        query_words = dropout.empty_words(batch, heads, queries)
        key_words = dropout.empty_words(batch, heads, keys)

    row_offsets = None if options.row_offsets is None else options.row_offsets.contiguous()
    row_blocks = None if options.row_blocks is None else options.row_blocks.contiguous()
    layout_shape = (1, 1, 0) if row_offsets is None else tuple(row_offsets.shape)
    lanes = STRIP_BYTES // torch.promote_types(query.dtype, torch.float32).itemsize
    problem = Problem(
        sequences=sequences.ctypes.data,
        batch=batch,
        heads=heads,
        group=heads // key.shape[1],
        query_rows=queries,
        key_rows=keys,
        head_dim=head_dim,
        width=-(-head_dim // lanes) * lanes,
        left=options.left,
        right=options.right,
        block_size=options.block_size,
        row_offsets=0 if row_offsets is None else row_offsets.data_ptr(),
        row_blocks=0 if row_blocks is None else row_blocks.data_ptr(),
        layout_entries=layout_shape[0],
        layout_heads=layout_shape[1],
        offsets=layout_shape[2],
        query_words=0 if query_words is None else query_words.ctypes.data,
        key_words=0 if key_words is None else key_words.ctypes.data,
        threshold=threshold,
        sinks=0 if options.sinks is None else options.sinks.data_ptr(),
    )
    if threshold:
        assert options.seed is not None  # as wherever there is dropout
        axes = np.arange(len(sequences)), np.arange(heads), np.arange(2)
        tasks = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)  # (tasks, 3)
        run(words_kernel, problem, (int(options.seed),), constants(torch.float32, 1.0, 0.0, 0.0), tasks)
    return problem, Tables(sequences, row_offsets, row_blocks, query_words, key_words)


@functools.lru_cache(maxsize=64)
def even_sequences(batch: int, queries: int, keys: int) -> np.ndarray:
    """What the kernels know of each sequence, (B, 7), where none has padding; not to be written to."""
    entries, zeros = np.arange(batch), np.zeros(batch, np.int64)
    columns = entries, zeros, zeros + queries, zeros, zeros + keys, zeros + (keys - queries), entries
    return np.ascontiguousarray(np.stack(columns, 1))


def packed_sequences(cu_seqlens: Tensor, cu_seqlens_k: Tensor | None) -> np.ndarray:
    """The same, (sequences, 7), of sequences that lie end to end in one batch entry."""
    bounds = cu_seqlens.numpy().astype(np.int64)  # (sequences + 1,)
    key_bounds = bounds if cu_seqlens_k is None else cu_seqlens_k.numpy().astype(np.int64)
    lengths, limits = np.diff(bounds), np.diff(key_bounds)
    zeros = np.zeros_like(lengths)
    columns = zeros, bounds[:-1], lengths, key_bounds[:-1], limits, limits - lengths, np.arange(len(lengths))
    return np.ascontiguousarray(np.stack(columns, 1))


@functools.lru_cache(maxsize=64)
def query_tiles(lengths: bytes, heads: int, last_first: bool) -> np.ndarray:
    """Every tile of queries of every head: (tasks, 3), sequence, head, first query; not to be written to.

    Args:
        lengths: of each sequence's queries, int64.
        last_first: whether the last tiles of a sequence, which see the most, come first.
    """
    tiles = -(-np.frombuffer(lengths, np.int64) // QUERY_TILE)  # (sequences,)
    counts = np.repeat(tiles, heads)  # (sequences * H,)
    line = np.repeat(np.arange(len(counts)), counts)  # (tasks,)
    tile = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)  # (tasks,)
    tile = counts[line] - 1 - tile if last_first else tile
    return np.stack([line // heads, line % heads, tile * QUERY_TILE], 1)


@functools.lru_cache(maxsize=64)
def row_tiles(shape: tuple[int, ...]) -> np.ndarray:
    """Every tile of rows (B, H, N): (tasks, 3), batch entry, head, first row; not to be written to."""
    return np.stack(
        np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), np.arange(0, shape[2], QUERY_TILE), indexing="ij"), -1
    ).reshape(-1, 3)


def part_pairs(problem: Problem, sequences: np.ndarray) -> tuple[np.ndarray, int]:
    """The backward pass's tasks, and how many parts there are.

    A sequence is cut into P parts, its keys as well as its queries. First part i of the keys meets part i of the
    queries, for all i, then part i + 1 (modulo P), and so on: tasks that are near each other add to other gradients,
    and each gradient is added to in a fixed order.

    Returns:
        The tasks, (tasks, 10): `Part`s.
    """
    key_heads = problem.heads // problem.group
    filled = np.flatnonzero((sequences[:, QUERIES] > 0) & (sequences[:, KEYS] > 0))  # empty ones have no tasks
    longest = np.maximum(sequences[filled, QUERIES], sequences[filled, KEYS])  # (filled sequences,)
    cuts = 1
    while key_heads * np.minimum(-(-longest // LEAST_PART), cuts).sum() < PARALLEL_TASKS and (
        cuts * LEAST_PART < longest.max(initial=0)
    ):
        cuts *= 2

    # the parts of these sequences and all key heads, (parts,), each beside the part of the queries that its keys meet
    # in each turn, (P, parts)
    sequence, key_head, cut = (
        index.ravel() for index in np.meshgrid(filled, np.arange(key_heads), np.arange(cuts), indexing="ij")
    )
    key_part = np.arange(len(cut))
    query_cut = (cut + np.arange(cuts)[:, None]) % cuts
    query_part = key_part - cut + query_cut

    queries, keys = (sequences[sequence, column] for column in (QUERIES, KEYS))
    query_step, key_step = (-(-length // (cuts * QUERY_TILE)) * QUERY_TILE for length in (queries, keys))
    first_query, first_key = query_cut * query_step, cut * key_step
    last_query, last_key = np.minimum(first_query + query_step, queries), np.minimum(first_key + key_step, keys)
    kept = (first_query < last_query) & (first_key < last_key)  # (P, parts)
    diagonal = sequences[sequence, DIAGONAL]
    if problem.left >= 0:
        kept &= last_key > first_query + diagonal - problem.left
    if problem.right >= 0:
        kept &= first_key < last_query + diagonal + problem.right
    for_query = np.zeros_like(kept)
    np.put_along_axis(for_query, query_part, kept, 1)
    query_turn = np.take_along_axis(np.cumsum(for_query, 0) - for_query, query_part, 1)
    key_turn = np.cumsum(kept, 0) - kept
    columns = (
        sequence, key_head, first_query, last_query, first_key, last_key, query_part, key_part, query_turn, key_turn,
    )  # fmt: skip
    tasks = np.stack(np.broadcast_arrays(*columns), 2)[kept]
    return np.ascontiguousarray(tasks, np.int64), len(cut)
