"""One parallel region: a compiled kernel that several threads run at once, each taking the tasks that are left.

The threads are those of PyTorch's OpenMP, where it can be found: they wait for work by spinning for some milliseconds,
so that threads of our own would have to share the cores with them. Elsewhere, and in a process that was forked, where
OpenMP's threads do not exist, they are Python's. Nothing is computed under Python's lock.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from flash_sparse.backends.cpu.kernels import Kernel
from flash_sparse.backends.cpu.walk import Constants, Problem

ALIGNMENT = 64  # bytes: a line of the cache

# Memory of calls that are over, for the next ones: fresh pages cost more than what is written to them.
_free: list[np.ndarray] = []
_pool: ThreadPoolExecutor | None = None


def _find_openmp() -> Callable | None:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP that PyTorch computes with, GNU's, LLVM's or
    Intel's; None where there is none."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    function.restype = None
    return function


_openmp = _find_openmp() if torch.backends.openmp.is_available() else None


def _forked() -> None:
    """In a process that was forked neither OpenMP's threads nor the pool's exist."""
    global _openmp, _pool
    _openmp = _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def run(
    kernel: Kernel, problem: Problem, arguments: Sequence[tuple | int], constants: Constants, tasks: np.ndarray
) -> None:
    """Call a kernel in as many threads as PyTorch uses.

    Args:
        arguments: the kernel's, behind its `Problem`.
        constants: all of one type, float32 or float64.
        tasks: (tasks, fields) int64.
    """
    if not len(tasks):
        return
    numbers = np.array(constants)
    fields = (argument if isinstance(argument, tuple) else (argument,) for argument in (problem, *arguments))
    integers = np.array(list(itertools.chain.from_iterable(fields)), np.int64)
    tasks = np.ascontiguousarray(tasks, np.int64)
    function = kernel.ready(numbers.dtype)
    threads = min(torch.get_num_threads(), len(tasks))

    offsets = _offsets(kernel, problem.width, numbers.itemsize)
    memories = [_take_memory(offsets[-1]) for _ in range(threads)]
    starts = [_round(memory.ctypes.data) for memory in memories]
    places = np.array([[start + offset for offset in offsets] for start in starts])  # (threads, fields + 1)

    counters = np.zeros(2, np.int64)  # of tasks and of threads that have been taken
    call = np.array(
        [integers.ctypes.data, numbers.ctypes.data, tasks.ctypes.data, len(tasks), counters.ctypes.data,
         counters.ctypes.data + counters.itemsize, places.ctypes.data, places.shape[1], threads], np.int64,
    )  # fmt: skip
    if threads == 1:
        function.ctypes(call.ctypes.data)
    elif _openmp is not None:
        _openmp(function.address, call.ctypes.data, threads, 0)
    else:
        _run_in_pool(function.ctypes, call.ctypes.data, threads)
    _free.extend(memories[: max(0, torch.get_num_threads() - len(_free))])


def _run_in_pool(function: Callable[[int], None], call: int, threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="flash_sparse")
    helpers = []
    try:
        for _ in range(threads - 1):
            try:
                helpers.append(_pool.submit(function, call))
            except RuntimeError:  # the interpreter is ending, and starts no thread
                break
        function(call)
    finally:  # also when interrupted: the helpers write to what the caller then gives back
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()


@functools.cache
def _offsets(kernel: Kernel, width: int, itemsize: int) -> list[int]:
    """Where each field of a thread's memory begins, and the size of all."""
    sizes = (_round(size) for kind in kernel.memory for size in kind.sizes(width, itemsize))
    return list(itertools.accumulate(sizes, initial=0))


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _take_memory(size: int) -> np.ndarray:
    """Uninitialised memory of at least `size` bytes from an aligned address on."""
    try:
        memory = _free.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    return memory if len(memory) >= size + ALIGNMENT else np.empty(size + ALIGNMENT, np.uint8)
