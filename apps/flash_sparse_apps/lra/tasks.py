"""The tasks of Long Range Arena and their recipes."""

from __future__ import annotations

import importlib
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[3] / "configs" / "lra"
_INSTALLED = Path(sysconfig.get_path("data"), "share", "flash-sparse", "configs", "lra")
RECIPES = _CHECKOUT if _CHECKOUT.is_dir() else _INSTALLED
# The recipe of a task, NAME followed by one of these and .yaml: the first that is there.
SCALES = {"paper": ("",), "1gpu": ("-1gpu", ""), "cpu": ("-cpu",)}
KINDS = ("dense", "sparse")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: of the dataset and of its recipes.
        title: what Long Range Arena calls it.
        module: of `flash_sparse_datasets`; it is imported when it is asked for files.
        options: of its `locate`.
        generated: whether the data can be made where there are no official files.
    """

    name: str
    title: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    generated: bool = False

    def locate(self, root: str | None) -> Path:
        """The official files below a folder; DataError where they are not there."""
        return importlib.import_module(f"flash_sparse_datasets.{self.module}").locate(root, **self.options)


TASKS = (
    Task("listops", "ListOps", "listops", generated=True),
    Task("imdb", "Text", "imdb"),
    Task("aan", "Retrieval", "aan"),
    Task("cifar10", "Image", "cifar10"),
    Task("pathfinder32", "Pathfinder", "pathfinder", {"size": 32}, generated=True),
    Task("pathx", "Path-X", "pathfinder", {"size": 128}, generated=True),
    Task("pathfinder256", "Path-256", "pathfinder", {"size": 256}, generated=True),
)
NAMES = tuple(task.name for task in TASKS)
