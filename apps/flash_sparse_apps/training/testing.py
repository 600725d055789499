"""The test of a trained encoder: its answers, their scores, the models beside it, and what its attention costs.

Testing is in float32 whatever the training's precision, as in `predict.py`.

Letters: N documents of a split, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from flash_sparse_apps.machine import choose_device, peak_gpu_memory, peak_memory
from flash_sparse_apps.metrics import (
    Blended,
    Calibration,
    CalibrationBin,
    Compared,
    Confusion,
    LinearScores,
    Mistake,
    ModelScores,
    Peers,
    ReviewLevel,
    ValidationScores,
)
from flash_sparse_apps.models.blend import Blend, Weights, fit_weights
from flash_sparse_apps.models.calibrated import Calibrated
from flash_sparse_apps.models.lightning_module import Classifier, predict, to_probabilities
from flash_sparse_apps.scores.calibration import (
    confidence,
    expected_calibration_error,
    fit_temperature,
    reliability,
    review_levels,
)
from flash_sparse_apps.scores.evaluation import (
    METRICS,
    bootstrap_interval,
    count_none,
    evaluate,
    given_labels,
    paired_bootstrap,
    predict_labels,
)
from flash_sparse_apps.scores.linear_baseline import LinearResult, linear_baseline
from flash_sparse_apps.scores.linear_model import LinearModel
from flash_sparse_apps.scores.mistakes import micro_precision_recall, most_confused, surest_mistakes
from flash_sparse_apps.scores.thresholds import tune_thresholds
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.tokens.data_module import TextDataModule
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_apps.training.main_process import say
from flash_sparse_apps.training.preparing import Prepared
from flash_sparse_apps.training.speed import compare, time_peers
from flash_sparse_datasets.shared.progress import Progress

COMPARE_SHARE, COMPARE_SECONDS = 0.1, 10.0  # dense predictions may take this share of training, or these seconds


def best_device(settings: Settings) -> torch.device:
    """Where testing happens."""
    return torch.device(choose_device(settings.accelerator))


@dataclass(frozen=True)
class Answers:
    """What the model says of both held-out splits, and what is true of them.

    Attributes:
        validation_probabilities, test_probabilities: (N, L).
        encoder_probabilities: the same two from the encoder alone, where the linear model votes too, else None.
        temperature: that the probabilities have, from the validation documents alone.
        uncalibrated_probabilities: of the test documents, at a temperature of 1.
        thresholds: (L,), from the validation documents alone; None for single-label.
        validation_predictions, predictions: of the validation and the test documents, as `predict_labels` gives them.
        validation_truth, test_truth: (N, L) of 0 and 1 for multi-label, (N,) class indices for single-label.
        weights: of the encoder and the linear model, where it votes too, else None.
    """

    validation_probabilities: np.ndarray
    test_probabilities: np.ndarray
    temperature: float
    uncalibrated_probabilities: np.ndarray
    thresholds: np.ndarray | None
    validation_predictions: np.ndarray
    predictions: np.ndarray
    validation_truth: np.ndarray
    test_truth: np.ndarray
    weights: Weights | None = None
    encoder_probabilities: tuple[np.ndarray, np.ndarray] | None = None


def fit_linear(settings: Settings, prepared: Prepared) -> LinearResult:
    """The linear model of the same tokens, and what it says of both held-out splits."""
    stores = prepared.stores
    return linear_baseline(
        stores["train"],
        stores["validation"],
        stores["test"],
        settings.seq_len,
        len(prepared.dataset.labels),
        prepared.dataset.task,
        settings.seed,
        balanced=settings.class_weights == "balanced",
        progress=True,
    )


def answer(prepared: Prepared, module: Classifier, voter: LinearModel | None) -> Answers:
    """Read the validation and test documents with the weights that are to be kept.

    `module.encoder` becomes what is saved: a `Blend` where the linear model votes, `Calibrated` where the temperature
    is not 1.

    Args:
        voter: votes with the encoder; None for the encoder alone.
    """
    task, stores = prepared.dataset.task, prepared.stores
    device = next(module.encoder.parameters()).device

    validation_truth, test_truth = (_truth(stores[split], task) for split in ("validation", "test"))
    logits = [
        _in_order(predict(module.encoder, _batches(prepared, split, "testing"), module.layout, device))
        for split in ("validation", "test")
    ]  # (N, L) each

    weights = alone = None
    if voter is not None:
        alone = _to_probabilities(logits[0], task), _to_probabilities(logits[1], task)
        margins = [
            _in_order(_margins(voter, _batches(prepared, split, "the linear model's vote")))
            for split in ("validation", "test")
        ]
        with Progress(None, "weighing the vote", unit=""):
            weights = fit_weights(logits[0], margins[0], validation_truth, task)
        module.encoder = Blend(module.encoder, voter, weights).to(device).eval()
        logits = [
            weights.add(torch.from_numpy(own), torch.from_numpy(linear)).numpy()
            for own, linear in zip(logits, margins, strict=True)
        ]

    with Progress(None, "fitting temperature and thresholds", unit=""):
        temperature = fit_temperature(logits[0], validation_truth, task)
        validation, test = (_to_probabilities(each, task, temperature) for each in logits)
        thresholds = tune_thresholds(validation, validation_truth) if task == "multi-label" else None
    if temperature != 1:
        module.encoder = Calibrated(module.encoder, temperature).eval()

    return Answers(
        validation_probabilities=validation,
        test_probabilities=test,
        temperature=temperature,
        uncalibrated_probabilities=_to_probabilities(logits[1], task),
        thresholds=thresholds,
        validation_predictions=predict_labels(validation, thresholds, task),
        predictions=predict_labels(test, thresholds, task),
        validation_truth=validation_truth,
        test_truth=test_truth,
        weights=weights,
        encoder_probabilities=alone,
    )


@dataclass(frozen=True)
class Scores:
    """Figures for metrics.json: of the test, of validation, of simple rules; of the linear model, and of its vote, None
    without; what is confused and wrong, and how far probabilities can be trusted."""

    test: ModelScores
    validation: ValidationScores
    calibration: Calibration
    confusions: list[Confusion]
    mistakes: list[Mistake]
    linear_baseline: LinearScores | None
    blend: Blended | None
    rule_baselines: dict[str, float]


def score(settings: Settings, prepared: Prepared, answers: Answers, linear: LinearResult | None) -> Scores:
    """Score the answers, and what stands beside them."""
    dataset, none_counts = prepared.dataset, prepared.dataset.none_label is not None
    test = _scored(settings, prepared, answers.test_truth, answers.test_probabilities, answers.thresholds)
    multi = dataset.task == "multi-label"
    test |= {
        "documents": len(prepared.stores["test"]),
        **(micro_precision_recall(answers.test_truth, answers.predictions) if multi else {}),
        "answers": len(np.unique(answers.predictions, axis=0)),  # 1: all documents are given the same labels
        "truths": len(np.unique(answers.test_truth, axis=0)),  # 1: all documents have the same labels
        "bootstrap_samples": settings.bootstrap_samples,
    }
    validation = evaluate(
        answers.validation_probabilities, answers.validation_truth, answers.thresholds, dataset.task, none_counts
    )

    beside = None if linear is None else _beside_linear(settings, prepared, answers, linear, test["micro_f1"])
    blend = None if answers.weights is None else _vote(prepared, answers, answers.weights)

    rules = {}
    if dataset.baselines is not None:
        say("counting what simple rules reach")
        rules = dataset.baselines()

    return Scores(
        test=cast(ModelScores, test),
        validation=cast(ValidationScores, {key: validation[key] for key in ("micro_f1", "macro_f1", "accuracy")}),
        calibration=_calibration(answers),
        confusions=[
            {"label": dataset.labels[has], "given": dataset.labels[given], "documents": count}
            for has, given, count in most_confused(answers.test_truth, answers.predictions)
        ],
        mistakes=_mistakes(prepared, answers) if settings.examples else [],
        linear_baseline=beside,
        blend=blend,
        rule_baselines=rules,
    )


def _scored(
    settings: Settings,
    prepared: Prepared,
    truth: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray | None,
) -> dict:
    """Scores of probabilities (N, L) of the test documents, with intervals, and a row for each label."""
    dataset, none_counts = prepared.dataset, prepared.dataset.none_label is not None
    found = evaluate(probabilities, truth, thresholds, dataset.task, none_counts)

    predicted, wanted = predict_labels(probabilities, thresholds, dataset.task), truth
    if none_counts:
        predicted, wanted = count_none(predicted), count_none(wanted)
    for metric in METRICS:
        bounds = bootstrap_interval(predicted, wanted, metric, settings.bootstrap_samples, settings.seed)
        found[f"{metric}_interval"] = list(bounds)

    columns = found["per_label"] | {"label": [*dataset.labels, *([dataset.none_label] if none_counts else [])]}
    if thresholds is not None:
        columns["threshold"] = thresholds.tolist() + [None] * none_counts
    found["per_label"] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found


def _calibration(answers: Answers) -> Calibration:
    """How far the probabilities of the test documents can be trusted, and at which confidence."""
    before, after = (
        reliability(probabilities, answers.test_truth, answers.predictions)
        for probabilities in (answers.uncalibrated_probabilities, answers.test_probabilities)
    )
    levels = review_levels(
        confidence(answers.validation_probabilities, answers.validation_predictions),
        confidence(answers.test_probabilities, answers.predictions),
        answers.test_truth,
        answers.predictions,
    )
    return {
        "temperature": answers.temperature,
        "error": expected_calibration_error(after),
        "error_before": expected_calibration_error(before),
        "bins": cast(list[CalibrationBin], after),
        "review": cast(list[ReviewLevel], levels),
    }


def _mistakes(prepared: Prepared, answers: Answers) -> list[Mistake]:
    """The test documents that are wrong, those first of which the model was surest."""
    labels, store = prepared.dataset.labels, prepared.stores["test"]
    found = surest_mistakes(answers.test_probabilities, answers.test_truth, answers.predictions, answers.thresholds)
    return [
        {
            "id": store.ids(mistake.row),
            "row": mistake.row,
            "label": labels[mistake.label],
            "given": mistake.given,
            "confidence": mistake.confidence,
            "labels": [labels[index] for index in store.label_indices(mistake.row)],
            "predicted": [labels[index] for index in given_labels(answers.predictions[mistake.row])],
        }
        for mistake in found
    ]


def _vote(prepared: Prepared, answers: Answers, weights: Weights) -> Blended:
    """The weights of the encoder and of the linear model, and what the encoder reaches alone, as it would be used."""
    dataset = prepared.dataset
    validation, test = cast(tuple[np.ndarray, np.ndarray], answers.encoder_probabilities)
    thresholds = tune_thresholds(validation, answers.validation_truth) if dataset.task == "multi-label" else None
    alone = evaluate(test, answers.test_truth, thresholds, dataset.task, dataset.none_label is not None)
    return cast(
        Blended, weights._asdict() | {f"encoder_{name}": alone[name] for name in ("micro_f1", "macro_f1", "accuracy")}
    )


def _beside_linear(
    settings: Settings, prepared: Prepared, answers: Answers, linear: LinearResult, micro_f1: float
) -> LinearScores:
    """The linear model's scores, and the difference to it in pairs of the same resampled documents."""
    dataset = prepared.dataset
    found = _scored(settings, prepared, answers.test_truth, linear.test_probabilities, linear.thresholds)

    decisions = [answers.predictions, linear.test_predictions, answers.test_truth]
    if dataset.none_label is not None:
        decisions = [count_none(each) for each in decisions]
    ours, theirs, truth = decisions
    bounds = paired_bootstrap(ours, theirs, truth, samples=settings.bootstrap_samples, seed=settings.seed)
    difference = {"micro_f1": micro_f1 - found["micro_f1"], "micro_f1_interval": list(bounds)}
    fitted = {"train_documents": linear.train_documents, "seconds": linear.seconds}
    return cast(LinearScores, found | {"difference": difference} | fitted)


@dataclass(frozen=True)
class Costs:
    """For metrics.json: timings, None where they were not asked for, beside dense and beside other attentions; and the
    most memory that the run took before these, in bytes, of the process and of the GPU."""

    compare: Compared | None
    peers: Peers | None
    peak_memory: int
    peak_gpu_memory: int | None


def time_attention(
    settings: Settings, prepared: Prepared, module: Classifier, answers: Answers, seconds: float
) -> Costs:
    """Time steps on the longest test document: sparse and dense, PyTorch's and textbook attention.

    Args:
        seconds: that training took; comparing predictions may take a share of it.
    """
    peaks = peak_memory(), peak_gpu_memory()  # dense and textbook attention would take more
    data, store, task = prepared.data, prepared.stores["test"], prepared.dataset.task
    longest = data.batch(store, [int(np.argmax(store.lengths))])

    peers = None
    if settings.compare_peers:
        say("timing PyTorch's and textbook attention on the same weights")
        with Progress(None, "timing steps", unit=""):
            peers = time_peers(module.encoder, module.layout, task, longest)

    compared = None
    if module.layout is not None and settings.compare:
        say("comparing with dense attention on the same weights")
        compared = compare(
            module.encoder,
            module.layout,
            task,
            longest=longest,
            batches=_one_by_one(data, store, settings.seed),
            sparse_predictions=answers.predictions,
            thresholds=answers.thresholds,
            max_documents=settings.compare_documents,
            max_seconds=max(COMPARE_SECONDS, COMPARE_SHARE * seconds),
        )
    return Costs(compared, peers, *peaks)


def prediction_lines(prepared: Prepared, answers: Answers) -> bytes:
    """One JSON object for each test document, without its text."""
    labels, store = prepared.dataset.labels, prepared.stores["test"]
    lines = []
    sure = confidence(answers.test_probabilities, answers.predictions)  # (N,)
    for row, (shares, predicted) in enumerate(zip(answers.test_probabilities, answers.predictions, strict=True)):
        entry = {
            "id": store.ids(row),
            "labels": [labels[index] for index in store.label_indices(row)],
            "predicted": [labels[index] for index in given_labels(predicted)],
            "confidence": float(sure[row]),
            "probabilities": {label: float(share) for label, share in zip(labels, shares, strict=True)},
            "tokens": int(store.lengths[row]),
        }
        lines.append(json.dumps(entry, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode(errors="backslashreplace")


def _batches(prepared: Prepared, split: str, reader: str) -> Progress:
    """The documents of a split, saying how far `reader` is with them."""
    return Progress(prepared.data.all_batches(prepared.stores[split]), f"{reader}, {split}", unit=" batches")


def _margins(linear: LinearModel, batches: Iterable[PackedBatch]) -> tuple[np.ndarray, np.ndarray]:
    """The linear model's margins (N, L) of all documents, and their rows, (N,)."""
    found = [(linear(batch.tokens, batch.cu_seqlens), batch.indices) for batch in batches]
    margins, rows = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return margins, rows


def _in_order(scored: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Values (N, L) in the split's order, from those in the batches' order and their places."""
    values, indices = scored
    ordered = np.empty_like(values)
    ordered[indices] = values
    return ordered


def _to_probabilities(logits: np.ndarray, task: str, temperature: float = 1.0) -> np.ndarray:
    return to_probabilities(torch.from_numpy(logits) / temperature, task).numpy()


def _truth(store: TokenStore, task: str) -> np.ndarray:
    """(N, L) of 0 and 1 for multi-label, (N,) class indices for single-label."""
    matrix = store.label_matrix()
    return np.asarray(matrix.argmax(1)).ravel() if task == "single-label" else matrix.toarray()


def _one_by_one(data: TextDataModule, store: TokenStore, seed: int) -> Iterator[PackedBatch]:
    """The documents of a store in random order."""
    for index in np.random.default_rng(seed).permutation(len(store)):
        yield data.batch(store, [int(index)])
