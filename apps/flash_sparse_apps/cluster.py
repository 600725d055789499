"""This process as the driver of a Ray cluster, and what machines the cluster has."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from flash_sparse_datasets.shared.exit_codes import UserError, one_line

LOCAL = "local"  # in place of an address: a cluster of this machine alone, for as long as the command runs
PAIR = 2  # cores of a process that computes on a CPU


class Machine(NamedTuple):
    """What a machine offers to tasks: cores, GPUs, bytes of memory."""

    cpus: float
    gpus: float
    memory: float


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Meanwhile, this process drives the cluster at an address, as `ray.init` takes it.

    Raises:
        ModuleNotFoundError: the extra [ray] is not installed.
        UserError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    before = signal.getsignal(signal.SIGTERM)
    import ray

    _check(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray is {address}: {one_line(error)}; expected {LOCAL}, or the address of a Ray cluster"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray has set one of its own
    try:
        yield
    except ray.exceptions.RayError as error:
        raise UserError(f"--ray is {address}: {one_line(error)}; the same command goes on") from error
    finally:
        ray.shutdown()


def _check(address: str):
    """Raise UserError where nothing listens: Ray itself would try for a minute, and end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # a word, such as auto
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=10)):
            pass
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray is {address}, where nothing answers ({error}); expected {LOCAL}, or the address of a Ray cluster"
        ) from error


def machines() -> list[Machine]:
    """Those of the cluster that this process drives, alive now."""
    import ray

    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(*(found.get(name, 0.0) for name in ("CPU", "GPU", "memory"))) for found in offered]
