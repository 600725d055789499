"""Long documents and generated tasks: one file for each dataset, and in `shared` what they have in common.

dataset = flash_sparse_datasets.load("python-stdlib")        # by name
dataset = flash_sparse_datasets.load("my.jsonl", label_field="topic")       # one's own file or folder
for document in dataset.train:
    document.text, document.labels
"""

import importlib
import inspect
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents, Fresh

__all__ = ["NAMED", "DataError", "Dataset", "Document", "Documents", "Fresh", "check_options", "load"]

# Name on the command line -> the file that has its `load`, and the options that the name stands for.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "python-stdlib": ("python_stdlib", {}),
    "listops": ("listops", {}),
    "imdb": ("imdb", {}),
    "aan": ("aan", {}),
    "cifar10": ("cifar10", {}),
    "pathfinder32": ("pathfinder", {"size": 32}),
    "pathfinder64": ("pathfinder", {"size": 64}),
    "pathfinder128": ("pathfinder", {"size": 128}),
    "pathx": ("pathfinder", {"size": 128}),
    "pathfinder256": ("pathfinder", {"size": 256}),
    "ecthr-a": ("ecthr", {"task": "a"}),
    "ecthr-b": ("ecthr", {"task": "b"}),
    "mimic3-50": ("mimic3", {"codes": "50"}),
    "mimic3-full": ("mimic3", {"codes": "full"}),
    "scotus": ("scotus", {}),
    "20newsgroups": ("newsgroups20", {}),
    "hyperpartisan": ("hyperpartisan", {}),
    "eurlex57k": ("eurlex57k", {}),
    "arxiv11": ("arxiv11", {}),
}


def load(
    name_or_path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options,
) -> Dataset:
    """Prepare a dataset: its splits, labels and fingerprint. The texts stay on disk until iterated.

    Args:
        name_or_path: A dataset's name, such as "python-stdlib", or the path of a CSV, TSV, JSONL or Parquet file or of
            a folder. A name wins over a file of the same name in the working directory (write "./python-stdlib" for
            that).
        root: Where the named dataset's files are, if not in their usual place. A path takes no root.
        cache_dir: Where generated data is kept; None is flash-sparse in $XDG_CACHE_HOME or ~/.cache.
        **options: The options of that dataset's own `load`; for a path see `flash_sparse_datasets.own_files.load`.

    Raises:
        DataError: for data that is missing or cannot be used. One line that names the file and the row.
        ValueError: for an option that this dataset does not have, or whose value it cannot take.
    """
    name = os.fspath(name_or_path)
    if name in NAMED:
        file, fixed = NAMED[name]
        load_it = importlib.import_module(f"{__name__}.{file}").load
        arguments = {"root": root, **options, **fixed}
    else:
        path = Path(name).expanduser()
        if not name or not os.path.lexists(path):
            raise DataError(f"{name!r}: no such file or folder, nor a dataset's name (those are: {', '.join(NAMED)})")
        if root is not None:
            raise ValueError(f"root is for named datasets ({', '.join(NAMED)}), not for the path {name}; got {root}")
        load_it = importlib.import_module(f"{__name__}.own_files").load
        fixed = {"path": path}
        arguments = {**options, **fixed}

    _check_known(name, load_it, options, fixed)
    if "cache_dir" in inspect.signature(load_it).parameters:
        arguments["cache_dir"] = cache_dir
    return load_it(**arguments)


def check_options(name: str, options: Iterable[str]):
    """Raise ValueError for an option that a named dataset does not have; nothing is read."""
    if name in NAMED:
        file, fixed = NAMED[name]
        _check_known(name, importlib.import_module(f"{__name__}.{file}").load, options, fixed)


def _check_known(name: str, load_it: Callable[..., Dataset], options: Iterable[str], fixed: Container[str]):
    known = inspect.signature(load_it).parameters
    for option in options:
        if option not in known or option in fixed:
            free = ", ".join(o for o in known if o not in fixed)
            raise ValueError(f"{name} has no option {option!r}; it has: {free}")
