"""What block-sparse attention takes beside time: memory, and a layout, which must be made first."""

from __future__ import annotations

import functools
import multiprocessing
import resource
import statistics
import sys
import time

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flash_sparse import BlockLayout, attention, patterns
from flash_sparse_apps.benchmarking.problem import Case, Problem
from flash_sparse_apps.benchmarking.stopwatch import MEBIBYTE, in_turn


def footprint(problem: Problem, repeats: int, longest_dense: int) -> dict:
    """Peak memory and the time to make layouts, as a row.

    FlexAttention's `create_block_mask` asks about every pair, so it is timed up to `longest_dense` tokens.
    """
    length, block_size = problem.length, problem.block_size
    random, longformer = in_turn(
        [problem.make_layout, functools.partial(patterns.longformer, length, block_size)], repeats
    )
    row = {
        "length": length,
        "head_dim": problem.head_dim,
        "density": problem.make_layout().density,
        "MiB": peak_memory(problem, dropout_p=0.0),
        "with dropout MiB": peak_memory(problem, dropout_p=0.1),
        "random layout ms": 1e3 * statistics.median(random),
        "longformer layout ms": 1e3 * statistics.median(longformer),
    }
    if length <= longest_dense:
        start = time.perf_counter()
        create_block_mask(_near, 1, 1, length, length, device="cpu", BLOCK_SIZE=block_size)
        row["create_block_mask ms"] = 1e3 * (time.perf_counter() - start)
    return row


def peak_memory(problem: Problem, dropout_p: float) -> float:
    """Memory of one forward with backward beyond its inputs, in MiB, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (problem, dropout_p, torch.get_num_threads()))


def _peak_memory(problem: Problem, dropout_p: float, threads: int) -> float:
    """In a fresh process: the growth of its largest resident size."""
    torch.set_num_threads(threads)
    case = Case(problem, torch.device("cpu"))
    # A short sequence first, so that code and thread pools are in memory already.
    first = [tensor.detach()[:, :, : problem.block_size].requires_grad_() for tensor in case.inputs]
    _run(first, case.grad_output[:, :, : problem.block_size], None, dropout_p)
    before = _largest_resident_size()
    _run(case.inputs, case.grad_output, case.layout, dropout_p)
    return (_largest_resident_size() - before) / MEBIBYTE


def _run(inputs: list[Tensor], grad_output: Tensor, layout: BlockLayout | None, dropout_p: float):
    query, key, value = inputs
    torch.autograd.grad(attention(query, key, value, layout, dropout_p=dropout_p), inputs, grad_output)


def _largest_resident_size() -> int:
    """In bytes. What `getrusage` says on Linux is at least what the parent process took, so it is asked elsewhere."""
    try:
        with open("/proc/self/status") as lines:
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The longformer pattern's window, as `create_block_mask` wants it."""
    return (query - key).abs() <= 256
