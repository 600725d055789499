"""One cell of the GPU's benchmark: one contender on one problem, checked and then timed."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flash_sparse_apps.benchmarking.check import WrongResultError, check
from flash_sparse_apps.benchmarking.contenders import CONTENDERS, AnyMask, Attention, Contender, UnsupportedError
from flash_sparse_apps.benchmarking.problem import PRODUCTS, Case, Problem
from flash_sparse_apps.benchmarking.stopwatch import MEBIBYTE, WallClock, spread

LEAST_REPEATS, MOST_REPEATS = 5, 100
REPEATS_MS = 500.0  # of device time in which to repeat a call
MASK_REPEATS = 3


class BrokenDeviceError(RuntimeError):
    """The GPU refuses all further work of this process, as after a kernel's wrong memory access."""


@dataclass(frozen=True)
class GridCell:
    problem: Problem
    contender: str

    @property
    def key(self) -> str:
        return f"{self.contender}: {self.problem.name}"

    def row(self) -> dict:
        """What is known before measuring."""
        return {"key": self.key, "contender": self.contender, **dataclasses.asdict(self.problem)}

    def measure(self, clock: WallClock) -> dict:
        """What is kept of the cell: `row`, a status, and figures or the reason why there are none.

        The status is "timed"; "wrong" (it computes something else, and is not timed); "refused" (it says that it cannot
        do this); "out of memory"; or "failed". `ms` and TFLOP/s are of passes over the pairs that count.

        Raises:
            BrokenDeviceError: nothing more can be measured in this process; carries the row.
        """
        row, began = self.row(), time.monotonic()
        try:
            row |= {"status": "timed", **_measure(CONTENDERS[self.contender], self.problem, clock)}
        except Exception as error:  # whatever it is, it is this cell's result
            row |= failure(error)
        row["seconds"] = time.monotonic() - began
        try:  # out here, where no traceback holds on to what a failed call had allocated
            if row["status"] in ("failed", "out of memory"):
                gc.collect()
            clock.wait()
            clock.free()
        except RuntimeError:
            raise BrokenDeviceError(row) from None
        return row


def _measure(contender: Contender, problem: Problem, clock: WallClock) -> dict:
    case = Case(problem, clock.device)
    found: dict[str, float | None] = {"counted_density": case.density}
    before = clock.allocated()
    mask, mask_ms = _timed_mask(contender.make_mask, case, clock)
    if mask is not None:
        found["mask_ms"] = mask_ms
        peak = clock.peak()
        found["mask_MiB"] = None if peak is None else (peak - before) / MEBIBYTE
    attend = contender.attend(case, mask)
    found["error"] = _check(attend, case)
    return found | _memory(attend, case, clock) | _times(attend, case, clock)


def _timed_mask(make: Callable[[Case], AnyMask], case: Case, clock: WallClock) -> tuple[AnyMask, float]:
    """The mask, and the median of the wall-clock milliseconds that it takes until it lies on the device."""
    milliseconds = []
    for _ in range(1 + MASK_REPEATS):
        mask = None  # two of a size that grows with length squared may be one too many
        began = time.perf_counter()
        mask = make(case)
        if mask is None:
            return None, 0.0
        clock.wait()
        milliseconds.append(1e3 * (time.perf_counter() - began))
    return mask, statistics.median(milliseconds[1:])


def _check(attend: Attention, case: Case) -> float:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # PyTorch says in warnings why a backend does not run
        try:
            return check(attend, case)
        except RuntimeError as error:
            if "available kernel" in str(error) or "viable backend" in str(error):
                raise UnsupportedError(" ".join(_reasons(caught)) or "does not run here") from None
            raise


def _reasons(caught: list[warnings.WarningMessage]) -> list[str]:
    """What PyTorch warned of, without where in its source, and without headings that say nothing."""
    texts = [str(warning.message).partition(" (Triggered internally")[0].strip() for warning in caught]
    return [text for text in dict.fromkeys(texts) if "because" not in text and "runtime disabled" not in text]


def _memory(attend: Attention, case: Case, clock: WallClock) -> dict:
    """The most that a call takes beside its inputs and its mask, in MiB: outputs, gradients and all between."""
    before = clock.allocated()
    output = attend(*case.inputs)
    forward = clock.peak()
    torch.autograd.grad(output, case.inputs, case.grad_output)
    both = clock.peak()
    if forward is None or both is None:
        return {}
    return {"MiB": {"forward": (forward - before) / MEBIBYTE, "both": (both - before) / MEBIBYTE}}


def _times(attend: Attention, case: Case, clock: WallClock) -> dict:
    """Forward and backward in one go, time and again; the passes' times are between the marks of the same runs."""
    marks = []

    def once(host_ms: float) -> float:
        start = clock.start(host_ms)
        began = time.perf_counter()
        output = attend(*case.inputs)
        middle = clock.mark()
        torch.autograd.grad(output, case.inputs, case.grad_output)
        marks.append((start, middle, clock.mark()))
        return 1e3 * (time.perf_counter() - began)

    host_ms = min(once(0.0) for _ in range(2))  # warm by now: it has run in the check and for its memory
    clock.wait()
    once_ms = clock.milliseconds(marks[-1][0], marks[-1][-1])
    marks.clear()
    repeats = max(LEAST_REPEATS, min(MOST_REPEATS, round(REPEATS_MS / max(once_ms, 1e-3))))
    host_ms = statistics.median([once(host_ms) for _ in range(repeats)])
    clock.wait()
    first, second, third = zip(*marks, strict=True)
    found: dict = {"repeats": repeats, "host_ms": host_ms}
    for what, starts, stops in zip(PRODUCTS, (first, second, first), (second, third, third), strict=True):
        found[what] = spread(list(map(clock.milliseconds, starts, stops)))
        found[what]["TFLOP/s"] = case.flops(what) / found[what]["ms"] / 1e9
    return found


def failure(error: Exception) -> dict[str, str]:
    """What is kept of a contender that raised: status and reason."""
    return {"status": _status(error), "reason": _one_line(error)}


def _status(error: Exception) -> str:
    if isinstance(error, WrongResultError):
        return "wrong"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return "refused" if isinstance(error, UnsupportedError) else "failed"


def _one_line(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        wanted = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
        return f"{wanted} more were wanted" if wanted else "no more is free"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = "" if isinstance(error, WrongResultError | UnsupportedError) else f"{type(error).__name__}: "
    return f"{name}{lines[0] if lines else 'no reason given'}"[:120]
