"""Numba's compiler, which keeps its results on disk where it can."""

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Compile at the first call, on a machine only once; in each process anew where neither the folder of the source
    nor the user's cache can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:
        return njit(function)
