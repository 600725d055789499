"""What metrics.json holds: the schema that a run writes and that reports, sweeps and other programs read.

`docs/metrics.md` says the same for people. A key that changes its meaning or goes away changes VERSION; new keys do
not. Shares and scores are from 0 to 1, times in seconds, memory in bytes; None is not measured or does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

VERSION = 1

Interval = list[float]  # its lower and upper bound

_NEWER = {"version", "blend", "confusions", "mistakes", "calibration"}  # what the first files do not have


class LabelCounts(TypedDict):
    label: str
    precision: float
    recall: float
    f1: float
    support: int


class LabelScores(LabelCounts, total=False):
    """Of one label; `support` is how many documents have it. `threshold` is there for multi-label tasks, and None for
    `none_label`."""

    threshold: float | None


class Scores(TypedDict):
    """On the test documents, with 95% bootstrap intervals."""

    micro_f1: float
    micro_f1_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    accuracy: float
    accuracy_interval: Interval
    per_label: list[LabelScores]


class ModelCounts(Scores):
    documents: int
    answers: int
    truths: int
    bootstrap_samples: int


class ModelScores(ModelCounts, total=False):
    """Of the model; `answers` and `truths` are how many different sets of labels are given, and are right. `precision`
    and `recall` are over all labels of a multi-label task."""

    precision: float | None
    recall: float | None


class ValidationScores(TypedDict):
    """With the thresholds that were tuned on the same documents."""

    micro_f1: float
    macro_f1: float
    accuracy: float


class Difference(TypedDict):
    """The model's score minus the other's, its interval resampled in pairs."""

    micro_f1: float
    micro_f1_interval: Interval


class LinearScores(Scores):
    """Of the TF-IDF linear model; `seconds` it took."""

    difference: Difference
    seconds: float


class Blended(TypedDict):
    """Where the linear model votes: the weights of both (`models/blend.py`), and what the encoder reaches alone."""

    encoder: float
    linear: float
    bias: float
    encoder_micro_f1: float
    encoder_macro_f1: float
    encoder_accuracy: float


class Confusion(TypedDict):
    """How many test `documents` have the `label` and were `given` the other in its place; the most frequent pairs."""

    label: str
    given: str
    documents: int


class Mistake(TypedDict):
    """A test document whose labels are wrong, the surest first; none with --examples 0. `row` is its place in the test,
    from 0; `label` was `given` to it wrongly, or withheld, with this `confidence`."""

    id: str
    row: int
    label: str
    given: bool
    confidence: float
    labels: list[str]
    predicted: list[str]


class CalibrationBin(TypedDict):
    """The labels given with a probability from `low` to `high`: how many, the mean probability, the share that is
    right."""

    low: float
    high: float
    decisions: int
    probability: float
    right: float


class ReviewLevel(TypedDict):
    """The test `documents` that are decided where people review what is below a `confidence`: their share, those of
    them with exactly the right labels, and the share of the labels given to them that is right."""

    confidence: float
    documents: int
    decided: float
    accuracy: float | None
    precision: float | None


class Calibration(TypedDict):
    """The temperature, and the expected calibration error of the labels given to test documents, with and before it."""

    temperature: float
    error: float | None
    error_before: float | None
    bins: list[CalibrationBin]
    review: list[ReviewLevel]


class Compared(TypedDict):
    """A sparse and a dense step on the same weights and tokens, and how often the predictions agree."""

    step_tokens: int
    sparse_step_seconds: float
    dense_step_seconds: float
    speedup: float
    documents: int
    test_documents: int
    label_agreement: float
    document_agreement: float


class Peers(TypedDict):
    """One step on the longest test document: as trained, and dense with PyTorch's and with textbook attention."""

    step_tokens: int
    own_seconds: float
    pytorch_seconds: float
    textbook_seconds: float | None


class Speed(TypedDict):
    """Of training; `tokens` are those that the model read."""

    step_seconds: float | None
    tokens_per_second: float | None
    tokens: int
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None


class Training(TypedDict):
    """`stopped` is a sentence; `metric` is what weights are kept by, `best_validation_score` the best of it; `history`
    has an entry for each epoch, `curve` one for every few steps."""

    steps: int
    epochs: int
    seconds: float
    stopped: str
    best_epoch: int
    best_validation_micro_f1: float
    metric: str
    best_validation_score: float
    history: list[dict[str, Any]]
    curve: list[dict[str, Any]]


class Pretraining(TypedDict):
    """Of --pretrain; `frequency_loss` is what knowing how frequent tokens are would reach."""

    epochs: int
    steps: int
    seconds: float
    mask_share: float
    frequency_loss: float
    history: list[dict[str, Any]]
    curve: list[dict[str, Any]]


class Model(TypedDict):
    """`density` is of the longest document's layout, `computed` the share of blocks over the training documents."""

    pixels_read: float
    parameters: int
    encoder: dict[str, Any]
    pretrained: str | None
    embeddings: str | None
    attention: dict[str, Any]
    chunk_tokens: int | None
    density: float
    computed: float


class Data(TypedDict):
    """`truncation` has for each split what --seq-len cuts; `grid` is the rows and columns of images, `tokens_per_page`
    of a printed page, about, None where tokens are no parts of words."""

    name: str
    task: str
    num_labels: int
    none_label: str | None
    fingerprint: str
    description: str
    notes: list[str]
    truncation: dict[str, dict[str, Any]]
    pairs: bool
    grid: list[int] | tuple[int, int] | None
    tokens_per_page: int | None


class Metrics(TypedDict):
    """The whole file. The headline is `test.micro_f1`."""

    version: int
    test: ModelScores
    validation: ValidationScores
    linear_baseline: LinearScores | None
    blend: Blended | None
    rule_baselines: dict[str, float]
    confusions: list[Confusion]
    mistakes: list[Mistake]
    calibration: Calibration
    compare: Compared | None
    peers: Peers | None
    speed: Speed
    training: Training
    pretraining: Pretraining | None
    model: Model
    data: Data
    settings: dict[str, Any]
    command: str
    predict_command: str
    finished: str
    machine: dict[str, Any]
    versions: dict[str, str]


def history_key(metric: str) -> str:
    """The key in a training's history of what --metric names."""
    return f"validation_{metric.replace('-', '_')}"


def best_epoch(history: Sequence[dict], metric: str) -> dict:
    """The entry of a training's history with the best validation score; of several, that with the lowest validation
    loss, which still tells epochs apart where a few documents give the same score.

    An epoch that ended while snakes were still growing had not seen what validation asks for, and its score is chance:
    it does not count, and where all epochs are so, the last one has learnt most.
    """
    grown = [entry for entry in history if not entry.get("growing")] or history[-1:]
    if metric == "loss":
        return min(grown, key=lambda entry: entry["validation_loss"])
    return max(grown, key=lambda entry: (entry[history_key(metric)], -entry["validation_loss"]))


def read_metrics(path: Path) -> Metrics:
    """Read the metrics.json of a finished run.

    Raises:
        ValueError: it is missing, damaged, or of another version: the path and which of these.
    """
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{path}: damaged") from None
    version = found.get("version", VERSION)  # the first files did not say it
    if version != VERSION:
        raise ValueError(f"{path}: of version {version}, not {VERSION}")
    if not Metrics.__required_keys__ - _NEWER <= found.keys():
        raise ValueError(f"{path}: damaged")
    return cast(Metrics, found)
