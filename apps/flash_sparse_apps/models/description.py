"""What classifier.json in a `model/` holds, and what of it cannot be."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from flash_sparse_apps.metrics import Share, mismatch
from flash_sparse_apps.models.layouts import PATTERNS
from flash_sparse_datasets.shared.row_files import ReaderOptions

FORMAT = 1  # of the folder: raised when what an earlier version of this program reads would no longer be what is meant
MOST_TOKENS = 2**24  # that a model reads, as of --seq-len
MOST_LAYERS = 4096  # and times that they are applied: whoever has more would wait for ever


class Blend(TypedDict):
    features: int
    encoder: float
    linear: float
    bias: float


class Decisions(TypedDict):
    thresholds: list[Share] | None


class Linear(Decisions):
    features: int
    temperature: float


class Attention(TypedDict, total=False):
    sparse: bool
    pattern: str
    block_size: int
    options: dict[str, Any]
    global_tokens: int


class Reading(TypedDict, total=False):
    text_field: str | list[str]
    file_field: str | None
    encoding: str | None
    delimiter: str | None
    quotes: bool
    columns: list[str] | None


class Since(Decisions):
    """What every model has said of itself."""

    format: int
    task: str
    labels: list[str]
    seq_len: int
    encoder: dict[str, Any]
    attention: Attention
    dataset: str


class Description(Since, total=False):
    """What was added later, and means what `SavedModel` has as a default where it is missing."""

    pretrained: str | None
    chunk_tokens: int | None
    pairs: bool
    grid: list[int] | None
    blend: Blend | None
    temperature: float
    linear: Linear | None
    reading: Reading


READING = tuple(Reading.__annotations__)


def check_description(described: dict):
    """Raise ValueError or KeyError for what `SavedModel.save` did not write."""
    if described["format"] != FORMAT:
        raise ValueError(f"format is {described['format']!r}; expected {FORMAT}")
    if (wrong := mismatch(described, Description, "")) is not None:
        raise ValueError(wrong)
    labels, task = described["labels"], described["task"]
    if len(set(labels)) != len(labels) or len(labels) != described["encoder"]["num_outputs"]:
        raise ValueError(f"{len(set(labels))} different labels; expected {described['encoder']['num_outputs']}")
    if task not in ("single-label", "multi-label"):
        raise ValueError(f"task is {task!r}; expected single-label or multi-label")
    for decider in (described, described.get("linear")):
        if decider is not None:
            _check_decisions(decider, len(labels), task)
    read = described.get("reading", {})
    if not set(read) <= set(READING):
        raise ValueError(f"reading is {read!r}; expected some of {', '.join(READING)}")
    ReaderOptions(**{name: read[name] for name in ("encoding", "delimiter", "quotes", "columns") if name in read})
    _check_sizes(described)
    attention = described["attention"]
    if attention["sparse"] and attention["pattern"] not in PATTERNS:
        raise ValueError(f"pattern is {attention['pattern']!r}; expected one of {', '.join(PATTERNS)}")


def _check_sizes(described: dict):
    sizes = {"seq_len": (described["seq_len"], 1, MOST_TOKENS)}
    if described.get("chunk_tokens") is not None:
        sizes["chunk_tokens"] = (described["chunk_tokens"], 2, MOST_TOKENS)
    for number, side in enumerate(described.get("grid") or ()):
        sizes[f"grid.{number}"] = (side, 1, MOST_TOKENS)
    for name, least in (("depth", 0), ("iterations", 1)):
        if name in described["encoder"]:
            sizes[f"encoder.{name}"] = (described["encoder"][name], least, MOST_LAYERS)
    for name, (size, least, most) in sizes.items():
        if type(size) is not int or not least <= size <= most:
            raise ValueError(f"{name} is {size!r}; expected an integer from {least} to {most:,}")
    if len(described.get("grid") or (1, 1)) != 2:
        raise ValueError(f"grid is {described['grid']}; expected rows and columns")


def _check_decisions(decider: dict, num_labels: int, task: str):
    thresholds, temperature = decider["thresholds"], decider.get("temperature", 1.0)
    if (thresholds is None) != (task == "single-label") or (thresholds is not None and len(thresholds) != num_labels):
        raise ValueError(f"thresholds do not fit {num_labels} labels of a {task} task")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; expected a number above 0")
