"""The kernels as Python calls them: compiled when first called, once for a machine, and kept on disk.

Numba keeps what it compiled beside the code or in the user's cache (NUMBA_CACHE_DIR names another place), and looks for
changes in the file of the called function alone. The functions here therefore hold a fingerprint of the whole backend,
which is part of what Numba finds its files by: changed code is compiled anew.
"""

import contextlib
import hashlib
import logging
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numba import njit
from numba.core import event

from flash_sparse.backends.cpu import backward, forward
from flash_sparse.backends.cpu.vectors import VECTOR_BYTES
from flash_sparse.backends.cpu.walk import KeyTile

_lock = threading.Lock()
_said = False


def _fingerprint() -> str:
    """Of the backend's code, and of the vectors that it is compiled for."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    return f"{content.hexdigest()} {VECTOR_BYTES}"


def _delta(fingerprint: str, jit: Callable):
    @jit
    def delta_kernel(problem, output, grad_output, grad_logsumexp, delta, constants, tasks, counter, strips):
        _ = fingerprint
        backward.delta_kernel(problem, output, grad_output, grad_logsumexp, delta, constants, tasks, counter, strips)

    return delta_kernel


def _forward(fingerprint: str, jit: Callable):
    @jit
    def forward_kernel(problem, query, key, value, output, logsumexp, constants, tasks, counter, tile, sums):
        _ = fingerprint
        forward.forward_kernel(problem, query, key, value, output, logsumexp, constants, tasks, counter, tile, sums)

    return forward_kernel


def _backward(fingerprint: str, jit: Callable):
    @jit
    def backward_kernel(
        problem, query, key, value, grad_output, gradients, logsumexp, delta, constants, tasks, counter, tile, sums
    ):
        _ = fingerprint
        backward.backward_kernel(
            problem, query, key, value, grad_output, gradients, logsumexp, delta, constants, tasks, counter, tile, sums
        )

    return backward_kernel


class Kernel:
    """A kernel that is compiled, or read from the disk, before several threads call it.

    Args:
        make: takes the fingerprint and Numba's decorator, and returns the function.
        memory: the tuples of addresses that it wants last, for each thread its own.
    """

    def __init__(self, make: Callable, memory: tuple[type, ...]):
        self._make = make
        self.memory = memory
        self._function = None
        self._ready = set()  # the types of numbers that it is compiled for

    def ready(self, *arguments) -> Callable[..., None]:
        """The compiled function for such arguments, the last of which are constants and tasks."""
        kind = type(arguments[-2].one)
        if kind not in self._ready:
            with _lock:
                self._compile(*arguments)
                self._ready.add(kind)
        return self._function

    def _compile(self, *arguments) -> None:
        """Call it for no tasks."""
        *before, tasks = arguments
        counter = np.zeros(1, np.int64)
        nowhere = (kind.sizes(0, 0) for kind in self.memory)
        nothing = (*before, tasks[:0], counter.ctypes.data, *nowhere)
        with event.install_listener("numba:compile", _Say()):
            # No folder that can be written, a full disk: without files.
            with contextlib.suppress(RuntimeError, OSError):
                self._function = self._function or self._jit(cache=True)
                try:
                    self._function(*nothing)
                except (EOFError, pickle.UnpicklingError):  # a file that was left half written: forget all of them
                    self._function._cache.flush()
                    self._function(*nothing)
                return
            self._function = self._jit(cache=False)
            self._function(*nothing)

    def _jit(self, cache: bool):
        return self._make(_fingerprint(), partial(njit, nogil=True, error_model="numpy", cache=cache)())


class _Say(event.Listener):
    """Says, once in a process, that compiling takes a while."""

    def on_start(self, event):
        global _said
        if not _said:
            logging.getLogger("flash_sparse").warning(
                "flash_sparse compiles its CPU kernels, once on this machine: up to 15 seconds"
            )
            _said = True

    def on_end(self, event):
        pass


forward_kernel = Kernel(_forward, (KeyTile, forward.Sums))
delta_kernel = Kernel(_delta, (backward.Strips,))
backward_kernel = Kernel(_backward, (KeyTile, backward.Sums))
