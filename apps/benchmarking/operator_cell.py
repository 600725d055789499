"""One cell of the operator's benchmark: a few contenders on one problem, each checked, then all timed in turn."""

from __future__ import annotations

import dataclasses
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from flash_sparse_apps.benchmarking.check import check
from flash_sparse_apps.benchmarking.clock import Clock, spread
from flash_sparse_apps.benchmarking.contenders import CONTENDERS, Call
from flash_sparse_apps.benchmarking.problem import Case, Problem

MEBIBYTE = 1 << 20
LEAST_REPEATS, MOST_REPEATS = 3, 30
PASSES = ("forward", "backward", "both")
Announce = Callable[[str], None]  # told the name of each contender before it runs


class BrokenDeviceError(RuntimeError):
    """The GPU refuses all further work of this process."""


@dataclass(frozen=True)
class OperatorCell:
    """Contenders on one problem.

    Attributes:
        names: the contenders; one that ends in `DENSE` computes the same sizes without any mask, to compare with.
    """

    section: str
    problem: Problem
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for the same work, also in another run."""
        problem = self.problem
        parts = [f"{problem.mask} {problem.batch}x{problem.heads}x{problem.length}x{problem.head_dim} {problem.dtype}"]
        if problem.density < 1:
            parts.append(f"density {problem.density:.5f} in blocks of {problem.block_size}")
        if problem.document_length is not None:
            parts.append(f"documents of {problem.document_length}")
        if problem.dropout_p:
            parts.append(f"dropout {problem.dropout_p}")
        return f"{self.section}: {', '.join(parts)}"

    def measure(
        self, names: Sequence[str], device: torch.device, budget_ms: float, announce: Announce
    ) -> Iterator[dict]:
        """A row for each of the names, the failed ones first.

        Raises:
            BrokenDeviceError: after the row of the contender that broke it.
        """
        clock = Clock(device)
        cases = {}
        running: dict[str, Runner] = {}
        for name in names:
            announce(name)
            own = dataclasses.replace(self.problem, mask="dense", density=1.0) if name.endswith(DENSE) else self.problem
            try:
                if own not in cases:
                    cases[own] = Case(own, device)
                running[name] = Runner(CONTENDERS[name.removesuffix(DENSE)], cases[own], clock)
            except Exception as error:  # whatever it is, it is this contender's result
                failed = error
            else:
                continue
            yield self._failed(name, own, failed)
            raise_if_broken(device, failed)
            failed = None  # with its traceback goes what the contender had allocated
            free(device)
        yield from self._timed(running, device, budget_ms, announce)
        del running, cases
        free(device)

    def _timed(
        self, running: dict[str, Runner], device: torch.device, budget_ms: float, announce: Announce
    ) -> Iterator[dict]:
        repeats = {name: runner.repeats(budget_ms) for name, runner in running.items()}
        # One round more than is kept: in the first, memory is taken from the device.
        for repeat in range(1 + max(repeats.values(), default=0)):
            for name in [name for name in running if repeat <= repeats[name]]:
                announce(name)
                failed = None
                try:
                    running[name].time()
                except Exception as error:
                    failed = error
                if failed is not None:
                    yield self._failed(name, running.pop(name).case.problem, failed)
                    raise_if_broken(device, failed)
                    failed = None
                    free(device)
        for name, runner in running.items():
            del runner.marks[0]
            yield {**self._row(name, runner.case.problem), **runner.results()}

    def _row(self, name: str, problem: Problem) -> dict:
        return {"section": self.section, "cell": self.key, "contender": name, **dataclasses.asdict(problem)}

    def _failed(self, name: str, problem: Problem, error: Exception) -> dict:
        return {**self._row(name, problem), "failed": reason(error)}


DENSE = " without mask"


class Runner:
    """A contender on a case, once it has been checked and has warmed up."""

    def __init__(self, prepare: Callable[[Case], Call], case: Case, clock: Clock):
        self.case, self.clock = case, clock
        with warnings.catch_warnings(record=True) as why_not:
            warnings.simplefilter("always")  # PyTorch says in warnings why a backend does not run
            try:
                self.call = prepare(case)
                if not self.call.has_backward:
                    raise NotImplementedError(f"has no backward pass on {case.device.type}")
                self.error = check(self.call, case)
            except RuntimeError as error:
                if "available kernel" in str(error) or "viable backend" in str(error):
                    raise RuntimeError(" ".join(_reasons(why_not)) or "does not run here") from None
                raise
        self.marks: list[tuple] = []
        clock.wait()
        self._warm_up()

    def _warm_up(self):
        """One run for its memory and how long the host is busy with it, one for how long the device is."""
        is_gpu = self.clock.is_gpu
        if is_gpu:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        output = self.call.forward()
        if is_gpu:
            forward_peak = torch.cuda.max_memory_allocated()
        gradients = self.call.backward(output)
        self.host_ms = 1e3 * (time.perf_counter() - began)
        self.clock.wait()
        self.memory = {}
        if is_gpu:
            held = self.call.held_bytes
            self.memory = {
                "forward": (forward_peak - before + held) / MEBIBYTE,
                "both": (torch.cuda.max_memory_allocated() - before + held) / MEBIBYTE,
            }
        del output, gradients
        self.time()
        self.clock.wait()
        start, _, stop, _ = self.marks.pop()
        self.once_ms = self.clock.milliseconds(start, stop)

    def repeats(self, budget_ms: float) -> int:
        return max(LEAST_REPEATS, min(MOST_REPEATS, round(budget_ms / max(self.once_ms, 1e-3))))

    def time(self):
        """Forward, then backward; on a GPU the results come with `results`."""
        start = self.clock.start(self.host_ms)
        began = time.perf_counter()
        output = self.call.forward()
        between = self.clock.mark()
        self.call.backward(output)
        stop = self.clock.mark()
        host_ms = 1e3 * (time.perf_counter() - began)
        self.host_ms = min(self.host_ms, host_ms)  # the first call had to find memory, too
        self.marks.append((start, between, stop, host_ms))

    def results(self) -> dict:
        self.clock.wait()
        between = self.clock.milliseconds
        times = {
            "forward": [between(start, middle) for start, middle, _, _ in self.marks],
            "backward": [between(middle, stop) for _, middle, stop, _ in self.marks],
            "both": [between(start, stop) for start, _, stop, _ in self.marks],
        }
        found = {"computed_density": self.case.density, "error": self.error, "repeats": len(self.marks)}
        for what in PASSES:
            found[what] = spread(times[what])
            found[what]["TFLOP/s"] = self.case.flops(what) / found[what]["ms"] / 1e9
        found["host_ms"] = spread([host for *_, host in self.marks])["ms"]
        if self.memory:
            found["MiB"] = self.memory
        return found


def reason(error: Exception) -> str:
    """Why a contender failed, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        wanted = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
        return f"out of memory{': ' + wanted + ' more were wanted' if wanted else ''}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else "no reason given"
    name = "" if type(error) in (RuntimeError, ValueError) or first.startswith("wrong:") else f"{type(error).__name__}: "
    return f"{name}{first}"[:300]


def _reasons(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What PyTorch warned of, without where in its source, and without headings that say nothing."""
    texts = [str(warning.message).partition(" (Triggered internally")[0].strip() for warning in caught]
    return [text for text in dict.fromkeys(texts) if "because" not in text and "runtime disabled" not in text]


def raise_if_broken(device: torch.device, error: Exception):
    """A kernel's wrong memory access, among others, leaves a GPU that refuses everything after it."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=device).sum().item()
        except RuntimeError:
            raise BrokenDeviceError(reason(error)) from None


def free(device: torch.device):
    """Give back what a contender that failed, or is done, has left: others find the memory as it was."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
