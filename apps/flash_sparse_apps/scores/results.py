"""Everything metrics.json holds: the test of a trained encoder, the models beside it, the speed, where it ran."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from flash_sparse import BlockLayout
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.models.lightning_module import predict
from flash_sparse_apps.reports.example_images import ExampleImage, find_images
from flash_sparse_apps.reports.examples import Example, can_be_read, find_examples
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.scores.evaluation import (
    bootstrap_interval,
    count_none,
    evaluate,
    paired_bootstrap,
    predict_labels,
)
from flash_sparse_apps.scores.linear_baseline import linear_baseline
from flash_sparse_apps.scores.speed import compare, time_peers
from flash_sparse_apps.scores.thresholds import tune_thresholds
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.tokens.data_module import EvaluationLoader, TextDataModule
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_apps.training.callbacks import History

if TYPE_CHECKING:
    from flash_sparse_apps.training.training_run import Prepared

ALL_TRAINED = "All epochs were trained."
COMPARE_SHARE, COMPARE_SECONDS = 0.1, 10.0  # dense predictions may take this share of training, or these seconds


def best_device(settings: Settings) -> torch.device:
    """Where testing happens."""
    return torch.device("cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def collect(
    settings: Settings,
    prepared: Prepared,
    encoder: nn.Module,
    layout: BlockLayout | None,
    history: History,
    command: str,
    say: Callable[[str], None],
) -> tuple[dict, np.ndarray | None, bytes, list[Example], list[ExampleImage]]:
    """Test `encoder`, whose weights are those to be kept. Thresholds come from the validation documents alone.

    Testing is in float32 whatever the training's precision, as in `predict.py`.

    Returns:
        The figures, the thresholds (None for single-label), the lines of predictions.jsonl, and documents and images
        to show.
    """
    dataset, data, task = prepared.dataset, prepared.data, prepared.dataset.task
    device = next(encoder.parameters()).device
    layout = layout.to(device) if layout is not None else None
    stores = prepared.stores

    say("testing")
    truth = {split: _targets(stores[split], task) for split in ("validation", "test")}
    validation_probabilities, test_probabilities = (
        _in_order(predict(encoder, _bar(data.all_batches(stores[split]), split), layout, task, device))
        for split in ("validation", "test")
    )  # (N, L)
    thresholds = tune_thresholds(validation_probabilities, truth["validation"]) if task == "multi-label" else None
    predictions = predict_labels(test_probabilities, thresholds, task)
    none_counts = dataset.none_label is not None

    def scored(decisions: np.ndarray) -> np.ndarray:
        return count_none(decisions) if none_counts else decisions

    def scores(probabilities: np.ndarray, cuts: np.ndarray | None, predicted: np.ndarray) -> dict:
        found = evaluate(probabilities, truth["test"], cuts, task, none_counts)
        draws = settings.bootstrap_samples, settings.seed
        for metric in ("micro_f1", "macro_f1"):
            found[f"{metric}_interval"] = list(
                bootstrap_interval(scored(predicted), scored(truth["test"]), metric, *draws)
            )
        columns = found["per_label"] | {"label": [*dataset.labels, *([dataset.none_label] if none_counts else [])]}
        if cuts is not None:
            columns["threshold"] = cuts.tolist() + [None] * none_counts
        found["per_label"] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return found

    baseline = None
    if settings.linear_baseline:
        say("fitting the linear baseline")
        linear = linear_baseline(
            *stores.values(), settings.seq_len, len(dataset.labels), task, settings.seed, progress=sys.stderr.isatty()
        )
        baseline = scores(linear.test_probabilities, linear.thresholds, linear.test_predictions)

    test = scores(test_probabilities, thresholds, predictions)
    if baseline is not None:
        bounds = paired_bootstrap(
            *(scored(decisions) for decisions in (predictions, linear.test_predictions, truth["test"])),
            samples=settings.bootstrap_samples,
            seed=settings.seed,
        )
        baseline["difference"] = {
            "micro_f1": test["micro_f1"] - baseline["micro_f1"],
            "micro_f1_interval": list(bounds),
        }
        baseline["seconds"] = linear.seconds

    rules = {}
    if dataset.baselines is not None:
        say("counting what simple rules reach")
        rules = dataset.baselines()

    longest = data.batch(stores["test"], [int(np.argmax(stores["test"].lengths))])
    peers = None
    if settings.compare_peers:
        say("timing PyTorch's and textbook attention on the same weights")
        peers = time_peers(encoder, layout, task, longest)
    compared = None
    if layout is not None and settings.compare:
        say("comparing with dense attention on the same weights")
        compared = compare(
            encoder,
            layout,
            task,
            longest=longest,
            batches=_one_by_one(data, stores["test"], settings.seed),
            sparse_predictions=predictions,
            thresholds=thresholds,
            max_documents=settings.compare_documents,
            max_seconds=max(COMPARE_SECONDS, COMPARE_SHARE * history.seconds),
        )

    validation = evaluate(validation_probabilities, truth["validation"], thresholds, task, none_counts)
    best = max(history.epochs, key=lambda entry: entry["validation_micro_f1"])
    metrics = {
        "test": test
        | {
            "documents": len(stores["test"]),
            "answers": len(np.unique(predictions, axis=0)),  # 1: all documents are given the same labels
            "truths": len(np.unique(truth["test"], axis=0)),  # 1: all documents have the same labels
            "bootstrap_samples": settings.bootstrap_samples,
        },
        "validation": {key: validation.get(key) for key in ("micro_f1", "macro_f1", "accuracy")},
        "linear_baseline": baseline,
        "rule_baselines": rules,
        "compare": compared,
        "peers": peers,
        "speed": _speed(history, prepared.pixels_read),
        "training": {
            "steps": history.epochs[-1]["step"],
            "epochs": history.epochs[-1]["epoch"],
            "seconds": history.seconds,
            "stopped": why_stopped(settings, history),
            "best_epoch": best["epoch"],
            "best_validation_micro_f1": best["validation_micro_f1"],
            "history": history.epochs,
            "curve": history.steps,
        },
        "model": {
            "pixels_read": prepared.pixels_read,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "encoder": prepared.encoder_arguments,
            "pretrained": settings.pretrained,
            "embeddings": prepared.embeddings,
            "attention": prepared.attention,
            "chunk_tokens": prepared.chunk_tokens,
            "density": layout.density if layout is not None else 1.0,
            "computed": prepared.computed,
        },
        "data": {
            "name": dataset.name,
            "task": task,
            "num_labels": len(dataset.labels),
            "none_label": dataset.none_label,
            "fingerprint": dataset.fingerprint,
            "description": dataset.description,
            "notes": list(dataset.notes),
            "truncation": prepared.truncation,
            "pairs": stores["train"].pairs,
            "grid": dataset.grid,
        },
        "settings": yaml.safe_load(settings.to_yaml()),
        "command": command,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": describe_machine(device),
        "versions": describe_versions(),
    }
    lines = _prediction_lines(dataset.labels, stores["test"], test_probabilities, predictions, task)
    images = []
    if dataset.grid is not None:
        images = find_images(
            dataset,
            stores["test"],
            settings.seq_len,
            test_probabilities,
            predictions,
            settings.examples,
            settings.seed,
        )
    examples = []
    if settings.examples and can_be_read(prepared):
        say("looking for passages that carry labels")
        examples = find_examples(settings, prepared, encoder, layout, test_probabilities, predictions)
    return metrics, thresholds, lines, examples, images


def _bar(batches: EvaluationLoader, split: str) -> tqdm:
    """The batches with a progress bar, where stderr is a terminal."""
    return tqdm(batches, f"{split} documents", unit=" batches", leave=False, disable=not sys.stderr.isatty())


def _in_order(scored: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities (N, L) in the split's order, from those in the batches' order and their places."""
    probabilities, indices = scored
    ordered = np.empty_like(probabilities)
    ordered[indices] = probabilities
    return ordered


def _targets(store: TokenStore, task: str) -> np.ndarray:
    """(N, L) of 0 and 1 for multi-label, (N,) class indices for single-label."""
    matrix = store.label_matrix()
    return np.asarray(matrix.argmax(1)).ravel() if task == "single-label" else matrix.toarray()


def _one_by_one(data: TextDataModule, store: TokenStore, seed: int) -> Iterator[PackedBatch]:
    """The documents of a store in random order."""
    for index in np.random.default_rng(seed).permutation(len(store)):
        yield data.batch(store, [int(index)])


def _speed(history: History, read: float) -> dict:
    """Of the tokens, those that the model reads: their share is `read`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "step_seconds": history.step_seconds / history.num_steps if history.num_steps else None,
        "tokens_per_second": read * history.tokens / history.step_seconds if history.num_steps else None,
        "tokens": round(read * history.tokens),
        "peak_memory_bytes": peak,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def all_trained(run: RunFolder) -> bool:
    """Whether a finished run has nothing left to train, however long it may."""
    try:
        return json.loads(run.metrics.read_text(encoding="utf-8"))["training"]["stopped"] == ALL_TRAINED
    except (OSError, ValueError, KeyError, TypeError):  # damaged: then it is tested again
        return False


def why_stopped(settings: Settings, history: History) -> str:
    """A sentence."""
    if history.epochs[-1]["step"] >= history.planned_steps:
        return ALL_TRAINED
    if settings.max_time is not None and history.seconds >= 60 * settings.max_time:
        steps = f"{history.epochs[-1]['step']:,} of {history.planned_steps:,}"
        return f"--max-time {settings.max_time:g} ended it after {steps} steps."
    return f"It stopped early: {settings.patience} validations in a row brought nothing better."


def _prediction_lines(
    labels: Sequence[str], store: TokenStore, probabilities: np.ndarray, predictions: np.ndarray, task: str
) -> bytes:
    """One JSON object for each test document, without its text."""
    lines = []
    for row, (shares, predicted) in enumerate(zip(probabilities, predictions, strict=True)):
        given = [int(predicted)] if task == "single-label" else np.flatnonzero(predicted)
        entry = {
            "id": store.ids(row),
            "labels": [labels[index] for index in store.label_indices(row)],
            "predicted": [labels[index] for index in given],
            "probabilities": {label: float(share) for label, share in zip(labels, shares, strict=True)},
            "tokens": int(store.lengths[row]),
        }
        lines.append(json.dumps(entry, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode(errors="backslashreplace")
