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
from typing import NamedTuple, Protocol

import numpy as np
from numba import cfunc, types
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from flash_sparse.backends.cpu import backward, dropout, forward
from flash_sparse.backends.cpu.vectors import VECTOR_BYTES, take, tuple_at
from flash_sparse.backends.cpu.walk import KeyTile

_lock = threading.Lock()
_said = False


def _fingerprint() -> str:
    """Of the backend's code, and of the vectors that it is compiled for."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    return f"{content.hexdigest()} {VECTOR_BYTES}"


class Call(NamedTuple):
    """What a kernel is called with, as 64-bit integers at one address, the same for all threads."""

    arguments: int  # addresses, see the kernels
    numbers: int
    tasks: int
    task_count: int
    counter: int
    ticket: int  # address of how many threads have begun
    memories: int  # address of the threads' memories, `fields` integers each
    fields: int
    threads: int


def _entries(fingerprint: str, zero: np.floating, capped: np.floating | None) -> dict[str, Callable[[int], None]]:
    """The kernels for numbers of a type, each as a function of the address of a `Call`; `capped` is None if scores are
    not."""

    def forward_entry(address):
        _ = fingerprint
        call = tuple_at(Call, address, 0)
        memory = take(call.ticket)
        if memory < call.threads:
            forward.forward_kernel(call, call.memories + 8 * memory * call.fields, zero, capped)

    def delta_entry(address):
        _ = fingerprint
        call = tuple_at(Call, address, 0)
        memory = take(call.ticket)
        if memory < call.threads:
            backward.delta_kernel(call, call.memories + 8 * memory * call.fields, zero)

    def backward_entry(address):
        _ = fingerprint
        call = tuple_at(Call, address, 0)
        memory = take(call.ticket)
        if memory < call.threads:
            backward.backward_kernel(call, call.memories + 8 * memory * call.fields, zero, capped)

    def words_entry(address):
        _ = fingerprint
        dropout.words_kernel(tuple_at(Call, address, 0), 0, zero)

    return {"forward": forward_entry, "delta": delta_entry, "backward": backward_entry, "words": words_entry}


class Memory(Protocol):
    """Addresses of a thread's memory, a tuple of them."""

    @classmethod
    def sizes(cls, width: int, itemsize: int) -> tuple[int, ...]:
        """Bytes of each, for rows of `width` numbers of `itemsize` bytes."""


class Kernel:
    """A kernel that is compiled, or read from the disk, before it is first called.

    Args:
        name: of `_entries`.
        memory: the tuples of addresses that it wants for each thread.
        capped: whether its scores are capped: compiled apart, so that nobody waits for, or tests for, what is not used.
    """

    def __init__(self, name: str, memory: tuple[type[Memory], ...], capped: bool = False):
        self.name = name
        self.memory = memory
        self.capped = capped
        self._functions: dict[np.dtype, CFunc] = {}  # by the dtype of numbers

    def ready(self, dtype: np.dtype) -> CFunc:
        """The function for numbers of a dtype, as C calls it."""
        if dtype not in self._functions:
            with _lock:
                if dtype not in self._functions:
                    zero = dtype.type(0)
                    entries = _entries(_fingerprint(), zero, zero if self.capped else None)
                    self._functions[dtype] = self._compile(entries[self.name])
        return self._functions[dtype]

    def _compile(self, entry: Callable[[int], None]) -> CFunc:
        make = partial(cfunc, types.void(types.int64), error_model="numpy")
        with event.install_listener("numba:run_pass", _Say()):
            # No folder that can be written, a full disk: without files.
            with contextlib.suppress(RuntimeError, OSError):
                try:
                    return make(cache=True)(entry)
                except (EOFError, pickle.UnpicklingError):  # a file that was left half written: forget all of them
                    FunctionCache(entry).flush()
                    return make(cache=True)(entry)
            return make(cache=False)(entry)


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


forward_kernel = Kernel("forward", (KeyTile, forward.Sums))
capped_forward_kernel = Kernel("forward", (KeyTile, forward.Sums), capped=True)
delta_kernel = Kernel("delta", (backward.Strips,))
backward_kernel = Kernel("backward", (KeyTile, backward.Sums))
capped_backward_kernel = Kernel("backward", (KeyTile, backward.Sums), capped=True)
words_kernel = Kernel("words", ())
