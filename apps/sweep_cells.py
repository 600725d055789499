"""The cells of a sweep: what each is, and running those that are not finished, each in a process of its own."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from flash_sparse_apps import classify
from flash_sparse_apps.run_folder import RunFolder, write_atomically
from flash_sparse_apps.settings import MAY_CHANGE, Settings, load_settings

# Settings that decide nothing about a cell's training and test: cells may differ in them from what was asked.
NO_MATTER = MAY_CHANGE | {"output", "linear_baseline", "compare", "compare_peers", "compare_documents", "examples"}
PATIENCE = 60.0  # seconds that a cell gets to end when the sweep ends


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        kind: "dense", "sparse" or "chunked".
    """

    name: str
    length: int
    kind: str
    seed: int
    settings: Settings

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.settings.output)

    @property
    def finished(self) -> bool:
        return self.run.metrics.is_file()


def check_folder(folder: Path, cells: Sequence[Cell]):
    """Raise ValueError where the folder holds something else, or cells that were run with other settings."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output is {folder}, a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise ValueError(f"--output is {folder}, which is no sweep; expected a new folder, or a sweep to go on with")
    for cell in cells:
        if not _begun(cell):
            continue
        before = load_settings(cell.run.config)
        for name, value in vars(cell.settings).items():
            if name not in NO_MATTER and getattr(before, name) != value:
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--{flag} is {value}, but {getattr(before, name)} in {cell.run.config}; expected the same, or "
                    "another --output"
                )


def run_cells(cells: Sequence[Cell], parallel: int | None, after_each: Callable[[], None]) -> list[str]:
    """Run what is not finished, and return the names of the cells that failed.

    Args:
        parallel: cells at a time, each with one of the GPUs in turn; None is the number of GPUs, or 1.
    """
    gpus = _visible_gpus()
    parallel = parallel or max(1, len(gpus))
    places = queue.Queue()
    for place in range(parallel):
        places.put(place)
    processes: set[subprocess.Popen] = set()

    def run(cell: Cell) -> int:
        place = places.get()
        try:
            environment = dict(os.environ)
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
            return _run(cell, environment, processes, to_terminal=parallel == 1)
        finally:
            places.put(place)

    failed = []
    waiting = [cell for cell in cells if not cell.finished]
    after_each()
    executor = ThreadPoolExecutor(parallel)
    try:
        futures = {executor.submit(run, cell): cell for cell in waiting}
        with tqdm(total=len(cells), initial=len(cells) - len(waiting), desc="sweep", unit=" cells",
                  disable=parallel == 1 or not sys.stderr.isatty()) as bar:  # fmt: skip
            for future in as_completed(futures):
                if future.result() != 0:
                    failed.append(futures[future].name)
                after_each()
                bar.update()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        _end(processes)
    return failed


def _run(cell: Cell, environment: dict[str, str], processes: set[subprocess.Popen], to_terminal: bool) -> int:
    """Begin or resume one cell and wait for it: its exit code. What it prints goes to the terminal or to its log."""
    folder = cell.run.path
    config = folder.with_name(f"{cell.name}.yaml")
    if _begun(cell):
        flags = ["--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        write_atomically(config, cell.settings.to_yaml().encode())
        flags = ["--config", str(config)]
    command = [sys.executable, classify.__file__, *flags]
    if to_terminal:
        print(f"== {cell.length:,} tokens, {cell.kind}, seed {cell.seed}", flush=True)
        process = subprocess.Popen(command, env=environment)
    else:
        with open(folder.with_name(f"{cell.name}.log"), "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    processes.add(process)
    try:
        return process.wait()
    finally:
        processes.discard(process)


def _begun(cell: Cell) -> bool:
    """Whether there is a run to go on with: one killed while its folder was made has no settings yet."""
    return cell.run.config.is_file() and bool(yaml.safe_load(cell.run.config.read_text(encoding="utf-8")))


def _visible_gpus() -> list[str]:
    """The GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


def _end(processes: set[subprocess.Popen]):
    """End what still runs, first kindly."""
    running = list(processes)
    for process in running:
        process.terminate()
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
