"""One parallel region: a compiled kernel that several threads run at once, each taking the tasks that are left.

The kernels hold no lock of Python's while they compute. The threads are Python's, started when first needed; a process
that was forked starts its own.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from flash_sparse.backends.cpu.kernels import Kernel

ALIGNMENT = 64  # bytes: a line of the cache

_pool: ThreadPoolExecutor | None = None
# Memory of calls that are over, for the next ones: fresh pages cost more than what is written to them.
_free: list[np.ndarray] = []


def _forget() -> None:
    """In a process that was forked the pool's threads do not exist."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)


def run(kernel: Kernel, problem: NamedTuple, *arguments) -> None:
    """Call a kernel in as many threads as PyTorch uses.

    Args:
        arguments: the kernel's, up to its tasks.
    """
    global _pool
    constants, tasks = arguments[-2:]
    if not len(tasks):
        return
    counter = np.zeros(1, np.int64)
    function = kernel.ready(problem, *arguments)
    sizes = [kind.sizes(problem.width, constants.one.itemsize) for kind in kernel.memory]
    memories, helpers = [], []

    def call():
        memory = _take_memory(sum(sum(map(_round, part)) for part in sizes))
        memories.append(memory)
        return problem, *arguments, counter.ctypes.data, *_place(sizes, memory)

    try:
        for _ in range(min(torch.get_num_threads(), len(tasks)) - 1):
            if _pool is None:
                workers = max(1, (os.cpu_count() or 1) - 1)
                _pool = ThreadPoolExecutor(workers, thread_name_prefix="flash_sparse")
            try:
                helpers.append(_pool.submit(function, *call()))
            except RuntimeError:  # the interpreter is ending, and starts no thread
                break
        function(*call())
    finally:  # also when interrupted: the helpers write to what the caller then gives back
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()
    _free.extend(memories[: max(0, torch.get_num_threads() - len(_free))])


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _take_memory(size: int) -> np.ndarray:
    """Uninitialised memory of at least `size` bytes from an aligned address on."""
    try:
        memory = _free.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    return memory if len(memory) >= size + ALIGNMENT else np.empty(size + ALIGNMENT, np.uint8)


def _place(sizes: list[NamedTuple], memory: np.ndarray) -> list[NamedTuple]:
    """Addresses in the memory for everything whose sizes are given."""
    at = _round(memory.ctypes.data)
    placed = []
    for part in sizes:
        addresses = []
        for size in part:
            addresses.append(at)
            at += _round(size)
        placed.append(type(part)(*addresses))
    return placed
