"""Long Range Arena as a sweep: its tasks, which of them have their data, and the runs that the recipes make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_sparse_apps.command_line import load_settings
from flash_sparse_apps.lra.tasks import SCALES, TASKS, Task
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping.cells import Cell
from flash_sparse_datasets import DataError


@dataclass(frozen=True)
class Suite:
    """What is run and what is not.

    Attributes:
        cells: of all tasks, those of the first seed first.
        recipes: task -> its file, for the tasks that have cells.
        missing: task -> why it is not run, a line.
    """

    cells: list[Cell]
    recipes: dict[str, Path]
    missing: dict[str, str]


def plan(
    folder: Path,
    *,
    tasks: Sequence[str],
    scale: str,
    recipes: Path,
    kinds: Sequence[str],
    seeds: Sequence[int],
    root: str | None,
    overrides: dict[str, Any],
) -> Suite:
    """The runs of a suite: for each task whose data is there, dense and (where its recipe has it) block-sparse.

    Args:
        folder: of the sweep.
        scale: one of SCALES.
        recipes: folder of the recipes.
        root: folder above the official files of all tasks; where there is none, the tasks that are generated are run.
        overrides: settings that take the place of the recipes'.

    Raises:
        ValueError: a recipe that cannot be read, or that contradicts `overrides`.
    """
    found: dict[str, tuple[Path, Settings]] = {}
    missing: dict[str, str] = {}
    for task in TASKS:
        if task.name in tasks:
            try:
                path, recipe, own_root = _recipe(task, scale, recipes, root)
            except DataError as error:
                missing[task.name] = str(error)
                continue
            if recipe.sparse or "dense" in kinds:
                found[task.name] = path, dataclasses.replace(recipe, **overrides, root=own_root)
            else:
                missing[task.name] = f"{path.name} has no block-sparse layout"

    cells = [
        _cell(name, settings, kind, seed, folder, first_seed=seed == seeds[0], first_kind=kind == kinds[0])
        for seed in seeds
        for name, (_, settings) in found.items()
        for kind in kinds
        if kind != "sparse" or settings.sparse  # else the recipe has no layout
    ]
    return Suite(cells, {name: path for name, (path, _) in found.items()}, missing)


def _recipe(task: Task, scale: str, recipes: Path, root: str | None) -> tuple[Path, Settings, str | None]:
    """A task's recipe, what it says, and where its data is read from; DataError says why it cannot be run."""
    path = next((p for end in SCALES[scale] if (p := recipes / f"{task.name}{end}.yaml").is_file()), None)
    if path is None:
        raise DataError(f"{recipes} has no recipe for --scale {scale}")
    recipe = load_settings(path)
    if recipe.dataset != task.name:
        raise ValueError(f"{path}: dataset is {recipe.dataset}; expected {task.name}, as the recipe is named")
    # a recipe with options of its own, such as short expressions, is of generated data
    return path, recipe, None if recipe.dataset_options else _root(task, root)


def _cell(
    task: str, settings: Settings, kind: str, seed: int, folder: Path, *, first_seed: bool, first_kind: bool
) -> Cell:
    """One run of a task; the first seed's runs have the linear model and the timings, which do not depend on it."""
    name = f"{task}-{kind}-{seed}"
    own: dict[str, Any] = {
        "sparse": kind == "sparse",
        "seed": seed,
        "linear_baseline": settings.linear_baseline and first_seed and first_kind,
        "blend": False,  # encoders are compared
        "compare": first_seed,
        "compare_peers": first_seed,
        "output": str(folder / "cells" / name),
    }
    return Cell(name, settings.seq_len, kind, seed, dataclasses.replace(settings, **own))


def _root(task: Task, root: str | None) -> str | None:
    """Where to read the task from; None generates it."""
    try:
        if root is not None or not task.generated:
            task.locate(root)
        return root
    except DataError:
        if task.generated:
            return None
        raise
