"""The cells of a sweep on a Ray cluster, each a task: Ray says on which machine and when.

Every machine must see the folder in which the sweep was started, its output and its data, at the same paths.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from flash_sparse_apps.cluster import PAIR, Machine, connected, machines
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping.cells import PATIENCE, Cell, alone, failure
from flash_sparse_datasets.shared.exit_codes import UserError
from flash_sparse_datasets.shared.progress import Progress

RETRIES = 5  # times that a cell is taken up again after its worker has died
BASE = 3 * 2**30  # bytes of memory of a process, without what a step takes
STEP = 100  # bytes of a step for each token, layer and feature


def run_on_ray(cells: Sequence[Cell], address: str, after_each: Callable[[], None]) -> list[str]:
    """Run what is not finished, the longest first, and return the names of the cells that failed and why.

    Raises:
        FileExistsError: another sweep is at these cells.
        UserError: there is no such cluster, or no machine of it has room for a cell.
    """
    import ray

    waiting = sorted(
        (cell for cell in cells if not cell.finished),
        key=lambda cell: (cell.length, cell.kind == "dense"),
        reverse=True,
    )
    after_each()
    if not waiting:
        return []
    with alone(cells[0].run.path.parent), connected(address):
        # Ray keeps the order of tasks that ask for the same: all ask for what the largest needs
        needed = _needed([cell.settings for cell in waiting], machines())
        task = ray.remote(**needed, max_calls=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_run)
        tasks = {task.remote(cell, os.getcwd()): cell for cell in waiting}
        try:
            return _follow(tasks, len(cells), after_each)
        except BaseException:  # Ctrl-C or SIGTERM: the cells write their checkpoints
            for pending in tasks:
                ray.cancel(pending)
            ray.wait(list(tasks), num_returns=len(tasks), timeout=PATIENCE)
            raise


def _follow(tasks: dict, total: int, after_each: Callable[[], None]) -> list[str]:
    """Wait for every task; the names of the cells that failed."""
    import ray

    failed = []
    pending = list(tasks)
    with Progress(None, "sweep", total, " cells", initial=total - len(pending)) as bar:
        while pending:
            (ready,), pending = ray.wait(pending)
            cell = tasks[ready]
            try:
                if (code := ray.get(ready)) != 0:
                    failed.append(failure(cell, code, logged=True))
            except ray.exceptions.RayTaskError as error:  # what `_run` raised
                failed.append(f"{cell.name} ({' '.join(str(error.cause).split())})")
            except ray.exceptions.RayError as error:
                failed.append(f"{cell.name} ({type(error).__name__}, {RETRIES + 1} times; {cell.log})")
            after_each()
            bar.update()
    return failed


def _needed(settings: Sequence[Settings], there: Sequence[Machine]) -> dict[str, Any]:
    """What each cell asks for: a pair of cores for each process, GPUs where there are any, and memory; never more than
    the largest machine has, where the cell would wait for ever.

    Raises:
        UserError: it cannot do with less.
    """
    asked = settings[0]
    gpus = 0 if asked.accelerator == "cpu" else asked.devices
    most = int(max(machine.gpus for machine in there))
    if most == 0 and asked.accelerator == "gpu":
        raise UserError("--accelerator is gpu; expected cpu or auto, since the cluster has no GPU")
    if 0 < most < gpus:
        raise UserError(f"--devices is {asked.devices}; expected at most {most}, the GPUs of a machine of the cluster")
    gpus = gpus if most else 0
    memory = max(_memory(each, on_gpu=gpus > 0) for each in settings)
    return {
        "num_cpus": min(PAIR * asked.devices, max(machine.cpus for machine in there)),
        "num_gpus": gpus,
        "memory": int(min(memory, max(machine.memory for machine in there))),
    }


def _memory(settings: Settings, on_gpu: bool) -> int:
    """Roughly the bytes that a cell takes: of the machine's own memory, where a step on a GPU takes none."""
    tokens = 0 if on_gpu else max(settings.tokens_per_batch, settings.seq_len)
    step = STEP * tokens * settings.width * settings.depth * settings.iterations
    return settings.devices * (BASE + step)


def _run(cell: Cell, folder: str) -> int:
    """Begin or resume one cell in a process of its own and wait for it: its exit code."""
    if cell.finished:  # and the worker died before it could say so
        return 0
    os.chdir(folder)
    with open(cell.log, "ab") as log:
        process = subprocess.Popen(cell.command(), stdout=log, stderr=subprocess.STDOUT, preexec_fn=_end_with_worker)
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(1.0)  # in between, Ray's cancelling is heard
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        raise


def _end_with_worker():
    """Let this process be killed when its parent dies: elsewhere, the cell is then taken up again."""
    if hasattr(ctypes.CDLL(None), "prctl"):  # Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
