"""How time is taken: device events on a GPU, the wall clock on a CPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

FLUSHED_BYTES = 256 << 20  # more than any cache


class Clock:
    """Marks points in the work of a device, and says the milliseconds between two of them once the work is done.

    On a GPU a mark is an event in the stream. `start` first overwrites the cache, so that no run finds the last one's
    data there, and for as long as the host needs to launch what comes: then the marked work is never waiting for the
    host, as it is not in a model that runs ahead of its device.
    """

    def __init__(self, device: torch.device):
        self.is_gpu = device.type == "cuda"
        if self.is_gpu:
            self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
            self._flush()
            self.wait()
            began = self.mark()
            for _ in range(8):
                self._flush()
            ended = self.mark()
            self.wait()
            self._flush_ms = self.milliseconds(began, ended) / 8

    def start(self, host_ms: float) -> torch.cuda.Event | float:
        """The mark at the beginning of work that the host needs so many milliseconds to launch."""
        if self.is_gpu:
            for _ in range(1 + min(100, math.ceil(host_ms / self._flush_ms))):
                self._flush()
        return self.mark()

    def mark(self) -> torch.cuda.Event | float:
        if not self.is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self):
        if self.is_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, start: torch.cuda.Event | float, stop: torch.cuda.Event | float) -> float:
        return start.elapsed_time(stop) if self.is_gpu else 1e3 * (stop - start)

    def _flush(self):
        self._flushed.zero_()


def in_turn(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Wall-clock seconds of each call, `repeats` times, all calls in turn after one round to warm up."""
    seconds = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, measured in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                measured.append(time.perf_counter() - start)
    return seconds


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    return {"ms": statistics.median(milliseconds), "least": min(milliseconds), "most": max(milliseconds)}
