"""What metrics.json holds: the schema that a run writes and that reports, sweeps and other programs read.

`docs/metrics.md` says the same for people. A key that changes its meaning or goes away changes VERSION; new keys do
not. Times are in seconds, memory in bytes; None is not measured or does not apply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast, get_args, get_origin, get_type_hints, is_typeddict

VERSION = 1
ROUNDING = 1e-6  # by which the mean of ones may be past 1

Share = Annotated[float, 0, 1]  # the least and the most that it may be
Change = Annotated[float, -1, 1]  # from one share to another
Interval = list[Share]  # its lower and upper bound

# what the first files do not have, and `curve`, which is not kept in results/
_MAY_LACK = {
    *("version", "blend", "confusions", "mistakes", "calibration", "accuracy_interval", "tokens_per_page"),
    *("metric", "best_validation_score", "lowered", "curve", "tokens_per_batch", "train_documents"),
}


class LabelCounts(TypedDict):
    label: str
    precision: Share
    recall: Share
    f1: Share
    support: int


class LabelScores(LabelCounts, total=False):
    """Of one label; `support` is how many documents have it. `threshold` is there for multi-label tasks, and None for
    `none_label`."""

    threshold: Share | None


class Scores(TypedDict):
    """On the test documents, with 95% bootstrap intervals."""

    micro_f1: Share
    micro_f1_interval: Interval
    macro_f1: Share
    macro_f1_interval: Interval
    accuracy: Share
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

    precision: Share | None
    recall: Share | None


class ValidationScores(TypedDict):
    """With the thresholds that were tuned on the same documents."""

    micro_f1: Share
    macro_f1: Share
    accuracy: Share


class Difference(TypedDict):
    """The model's score minus the other's, its interval resampled in pairs."""

    micro_f1: Change
    micro_f1_interval: list[Change]


class LinearScores(Scores):
    """Of the TF-IDF linear model; `seconds` it took, fitted on `train_documents`, which are a sample of a corpus of
    more than 50 million tokens."""

    difference: Difference
    train_documents: int
    seconds: float


class Blended(TypedDict):
    """Where the linear model votes: the weights of both (`models/blend.py`), and what the encoder reaches alone."""

    encoder: float
    linear: float
    bias: float
    encoder_micro_f1: Share
    encoder_macro_f1: Share
    encoder_accuracy: Share


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
    confidence: Share
    labels: list[str]
    predicted: list[str]


class CalibrationBin(TypedDict):
    """The labels given with a probability from `low` to `high`: how many, the mean probability, the share that is
    right."""

    low: Share
    high: Share
    decisions: int
    probability: Share
    right: Share


class ReviewLevel(TypedDict):
    """The test `documents` that are decided where people review what is below a `confidence`: their share, those of
    them with exactly the right labels, and the share of the labels given to them that is right."""

    confidence: Share
    documents: int
    decided: Share
    accuracy: Share | None
    precision: Share | None


class Calibration(TypedDict):
    """The temperature, and the expected calibration error of the labels given to test documents, with and before it."""

    temperature: float
    error: Share | None
    error_before: Share | None
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
    label_agreement: Share
    document_agreement: Share


class Peers(TypedDict):
    """One step on the longest test document: as trained, and dense with PyTorch's and with textbook attention."""

    step_tokens: int
    own_seconds: float
    pytorch_seconds: float
    textbook_seconds: float | None


class Speed(TypedDict):
    """Of training; `tokens` are those that the model read, `tokens_per_batch` what memory was enough for at its end.
    The peaks are of the whole run but for the timings of other attentions."""

    step_seconds: float | None
    tokens_per_second: float | None
    tokens: int
    tokens_per_batch: int
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None


class Lowered(TypedDict):
    """A step after which training went on with this lower `learning_rate`."""

    step: int
    learning_rate: float


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
    lowered: list[Lowered]
    history: list[dict[str, Any]]
    curve: list[dict[str, Any]]


class Pretraining(TypedDict):
    """Of --pretrain; `frequency_loss` is what knowing how frequent tokens are would reach."""

    epochs: int
    steps: int
    seconds: float
    mask_share: float
    frequency_loss: float
    lowered: list[Lowered]
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
    """The whole file. The headline is `test.micro_f1`; `command` is the one that the run began with."""

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
    if (wrong := mismatch(found, Metrics, "")) is not None:
        raise ValueError(f"{path}: damaged: {wrong}")
    return cast(Metrics, found)


def mismatch(value: Any, kind: Any, name: str) -> str | None:
    """Where a value read from JSON is not of a type of this schema, and how; None where it is.

    Args:
        name: of the value, as in `test.micro_f1`.
    """
    if kind is Any or get_origin(kind) is tuple:  # JSON has lists alone
        return None
    if is_typeddict(kind):
        return _wrong_entry(value, kind, name)
    if get_origin(kind) in (list, dict):
        if not isinstance(value, get_origin(kind)):
            return f"{name} is {_short(value)}, no {get_origin(kind).__name__}"
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        found = (mismatch(entry, get_args(kind)[-1], f"{name}.{key}") for key, entry in entries)
        return next((wrong for wrong in found if wrong is not None), None)
    if get_origin(kind) is Annotated:
        _, least, most = get_args(kind)
        number = type(value) in (int, float) and least - ROUNDING <= value <= most + ROUNDING
        return None if number else f"{name} is {_short(value)}, no number from {least} to {most}"
    if get_args(kind):  # one of several
        wrongs = [mismatch(value, one, name) for one in get_args(kind)]
        return None if None in wrongs else wrongs[0]
    if kind is float:
        return None if type(value) in (int, float) and math.isfinite(value) else f"{name} is {_short(value)}, no number"
    return None if type(value) is kind else f"{name} is {_short(value)}, no {kind.__name__}"


def _wrong_entry(value: Any, kind: Any, name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name} is {_short(value)}, no {kind.__name__}"
    for key in sorted(kind.__required_keys__ - _MAY_LACK - value.keys()):
        return f"{name}.{key} is missing".lstrip(".")
    hints = get_type_hints(kind, include_extras=True)
    found = (mismatch(value[key], own, f"{name}.{key}".lstrip(".")) for key, own in hints.items() if key in value)
    return next((wrong for wrong in found if wrong is not None), None)


def _short(value: Any) -> str:
    return repr(value)[:40]
