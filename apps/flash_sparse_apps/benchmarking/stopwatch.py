"""How time and memory are taken: device events on a GPU, the wall clock on a CPU. All else is the same for both."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

MEBIBYTE = 1 << 20
FLUSHED_BYTES = 256 * MEBIBYTE  # more than any cache


class WallClock:
    """Marks points in the work of a CPU, which is done when a call returns."""

    device = torch.device("cpu")

    def start(self, host_ms: float) -> Any:
        """The mark at the beginning of work that the host needs so many milliseconds to launch."""
        return self.mark()

    def mark(self) -> Any:
        return time.perf_counter()

    def milliseconds(self, start: Any, stop: Any) -> float:
        return 1e3 * (stop - start)

    def wait(self):
        """Until the device has done all it was given."""

    def allocated(self) -> int:
        """Bytes that tensors take on the device; what they took at most is counted from here on."""
        return 0

    def peak(self) -> int | None:
        """The most bytes that tensors took since `allocated`; None where nobody counts."""
        return None

    def free(self):
        """Give memory that no tensor takes back to the device, for the next call to find it in one piece."""


class GpuClock(WallClock):
    """Marks are events in the stream.

    `start` first overwrites the cache, so that no run finds the data of the last one there, and goes on for as long as
    the host needs to launch what comes: then marked work never waits for the host, as in a model that runs ahead.
    """

    def __init__(self):
        self.device = torch.device("cuda")
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=self.device)
        self._flushed.zero_()
        began = self.mark()
        for _ in range(8):
            self._flushed.zero_()
        ended = self.mark()
        self.wait()
        self._flush_ms = self.milliseconds(began, ended) / 8

    def start(self, host_ms: float) -> torch.cuda.Event:
        for _ in range(1 + min(100, math.ceil(host_ms / self._flush_ms))):
            self._flushed.zero_()
        return self.mark()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, stop: Any) -> float:
        return start.elapsed_time(stop)

    def wait(self):
        torch.cuda.synchronize()

    def allocated(self) -> int:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    def free(self):
        torch.cuda.empty_cache()


def in_turn(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Wall-clock seconds of each call, `repeats` times, all calls in turn after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, measured in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                measured.append(time.perf_counter() - start)
    return seconds


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    return {"ms": statistics.median(milliseconds), "least": min(milliseconds), "most": max(milliseconds)}
