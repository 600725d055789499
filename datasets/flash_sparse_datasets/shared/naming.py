"""Errors of the system that say which file they are of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


@contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
    """Let errors of the system that name no file, such as a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
