"""The cells of a sweep: what each is, and running those that are not finished, each in a process of its own."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from flash_sparse_apps.settings import MAY_CHANGE, Settings
from flash_sparse_apps.sweeping.planned_run import PlannedRun
from flash_sparse_datasets.shared.naming import naming
from flash_sparse_datasets.shared.progress import Progress

# Settings that decide nothing about a cell's training and test: cells may differ in them from what was asked.
NO_MATTER = MAY_CHANGE | {
    "output",
    "logger",
    "linear_baseline",
    "compare",
    "compare_peers",
    "compare_documents",
    "examples",
}
PATIENCE = 60.0  # seconds that a cell gets to end when the sweep ends
OWN_PACE = 10.0  # of those, after Ctrl-C: the terminal has told the cells too, and a second signal would cut them short


@dataclass(frozen=True)
class Cell(PlannedRun):
    """One run of a sweep.

    Attributes:
        kind: "dense", "sparse" or "chunked".
        fold: of --folds, which is its test; None without.
    """

    name: str
    length: int
    kind: str
    seed: int
    settings: Settings
    fold: int | None = None

    @property
    def log(self) -> Path:
        """What it prints, where that is not for the terminal."""
        return self.run.path.with_name(f"{self.name}.log")


def check_folder(folder: Path, cells: Sequence[Cell]):
    """Raise ValueError where the folder holds something else, or cells that were run with other settings."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output is {folder}, a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise ValueError(f"--output is {folder}, which is no sweep; expected a new folder, or a sweep to go on with")
    for cell in cells:
        if (found := cell.difference(NO_MATTER)) is not None:
            flag, value, before = found
            raise ValueError(
                f"--{flag} is {value}, but {before} in {cell.run.config}; expected the same, or another --output"
            )


def run_cells(cells: Sequence[Cell], parallel: int | None, after_each: Callable[[], None]) -> list[str]:
    """Run what is not finished, and return the names of the cells that failed, each with where to see why.

    Args:
        parallel: cells at a time, each with as many GPUs as it asks for; None is as many as there are GPUs for, or 1.

    Raises:
        FileExistsError: another sweep is at these cells.
    """
    gpus = _visible_gpus(cells[0].settings)
    parallel = parallel or max(1, len(gpus))
    with alone(cells[0].run.path.parent) as lock:
        return _run_waiting(cells, parallel, gpus, lock, after_each)


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Keep other sweeps from the folder; the lock that is given is passed on to the cells, so that one which outlives
    a killed sweep is not run a second time beside itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"{folder.parent}: another sweep, or the run of one that was killed, is at it; expected one at a time"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield file.fileno()


def _run_waiting(
    cells: Sequence[Cell], parallel: int, gpus: Sequence[str], lock: int, after_each: Callable[[], None]
) -> list[str]:
    places: queue.Queue[int] = queue.Queue()
    for place in range(parallel):
        places.put(place)
    processes: set[subprocess.Popen] = set()

    def run(cell: Cell) -> int:
        place = places.get()
        try:
            environment = dict(os.environ)
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
            return _run(cell, environment, lock, processes, to_terminal=parallel == 1)
        finally:
            places.put(place)

    failed = []
    waiting = [cell for cell in cells if not cell.finished]
    after_each()
    executor = ThreadPoolExecutor(parallel)
    try:
        futures = {executor.submit(run, cell): cell for cell in waiting}
        done = len(cells) - len(waiting)
        with Progress(None, "sweep", len(cells), " cells", initial=done, shown=parallel > 1) as bar:
            for future in as_completed(futures):
                cell, code = futures[future], future.result()
                if code != 0:
                    failed.append(failure(cell, code, logged=parallel > 1))
                after_each()
                bar.update()
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + OWN_PACE
        while processes and time.monotonic() < deadline:
            time.sleep(0.05)
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        _end(processes)
    return failed


def failure(cell: Cell, code: int, logged: bool) -> str:
    """The name of a cell that ended with an exit code, and where to see why."""
    how = f" ({signal.Signals(-code).name})" if code < 0 else f" ({cell.log})" if logged else ""
    return f"{cell.name}{how}"


def _run(
    cell: Cell, environment: dict[str, str], lock: int, processes: set[subprocess.Popen], to_terminal: bool
) -> int:
    """Begin or resume one cell and wait for it: its exit code. What it prints goes to the terminal or to its log."""
    command = cell.command()
    if to_terminal:
        fold = "" if cell.fold is None else f", fold {cell.fold} of {cell.settings.folds}"
        print(f"== {cell.settings.dataset}, {cell.length:,} tokens, {cell.kind}, seed {cell.seed}{fold}", flush=True)
        with naming(cell.run.path):
            process = subprocess.Popen(command, env=environment, pass_fds=[lock])
    else:
        with naming(cell.run.path), open(cell.log, "ab") as log:
            process = subprocess.Popen(command, env=environment, pass_fds=[lock], stdout=log, stderr=subprocess.STDOUT)
    processes.add(process)
    try:
        return process.wait()
    finally:
        processes.discard(process)


def _visible_gpus(settings: Settings) -> list[str]:
    """For each cell that can run at the same time its GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    if settings.accelerator == "cpu":
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count, each = torch.cuda.device_count(), settings.devices
    names = given.split(",")[:count] if given else [str(index) for index in range(count)]
    return [",".join(names[first : first + each]) for first in range(0, count - each + 1, each)]


def _end(processes: set[subprocess.Popen]):
    """End what still runs, first kindly."""
    running = list(processes)
    for process in running:
        process.terminate()
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
