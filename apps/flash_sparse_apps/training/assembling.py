"""Everything metrics.json holds, put together: scores, costs, training, the model, the data, where it ran."""

from __future__ import annotations

from datetime import datetime

import yaml

from flash_sparse_apps import metrics
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.training.callbacks import History
from flash_sparse_apps.training.preparing import Prepared
from flash_sparse_apps.training.stopping import why_stopped
from flash_sparse_apps.training.testing import Costs, Scores

TOKENS_PER_PAGE = 500  # of English prose, some 400 words, by a tokenizer of parts of words


def assemble(
    settings: Settings,
    prepared: Prepared,
    module: Classifier,
    history: History,
    scores: Scores,
    costs: Costs,
    pretraining: metrics.Pretraining | None,
    command: str,
    predict_command: str,
) -> metrics.Metrics:
    """The figures of a finished run; `command` is what began it, `predict_command` what labels with it."""
    return {
        "version": metrics.VERSION,
        "test": scores.test,
        "validation": scores.validation,
        "linear_baseline": scores.linear_baseline,
        "blend": scores.blend,
        "rule_baselines": scores.rule_baselines,
        "confusions": scores.confusions,
        "mistakes": scores.mistakes,
        "calibration": scores.calibration,
        "compare": costs.compare,
        "peers": costs.peers,
        "speed": _speed(settings, module, history, costs, prepared.pixels_read),
        "training": _training(settings, history),
        "pretraining": pretraining,
        "model": _model(settings, prepared, module),
        "data": _data(prepared),
        "settings": yaml.safe_load(settings.to_yaml()),
        "command": command,
        "predict_command": predict_command,
        "finished": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "machine": describe_machine(next(module.encoder.parameters()).device),
        "versions": describe_versions(),
    }


def _speed(settings: Settings, module: Classifier, history: History, costs: Costs, read: float) -> metrics.Speed:
    """Of the tokens, those that the model reads: their share is `read`."""
    return {
        "step_seconds": history.step_seconds / history.num_steps if history.num_steps else None,
        "tokens_per_second": read * history.tokens / history.step_seconds if history.num_steps else None,
        "tokens": round(read * history.tokens),
        "tokens_per_batch": settings.tokens_per_batch // 2**module.halving.times,
        "peak_memory_bytes": costs.peak_memory,
        "peak_gpu_memory_bytes": costs.peak_gpu_memory,
    }


def _training(settings: Settings, history: History) -> metrics.Training:
    best = metrics.best_epoch(history.epochs, settings.metric)
    return {
        "steps": history.epochs[-1]["step"],
        "epochs": history.epochs[-1]["epoch"],
        "seconds": history.seconds,
        "stopped": why_stopped(settings, history),
        "best_epoch": best["epoch"],
        "best_validation_micro_f1": best["validation_micro_f1"],
        "metric": settings.metric,
        "best_validation_score": best[metrics.history_key(settings.metric)],
        "lowered": history.lowered,
        "history": history.epochs,
        "curve": history.steps,
    }


def _model(settings: Settings, prepared: Prepared, module: Classifier) -> metrics.Model:
    return {
        "pixels_read": prepared.pixels_read,
        "parameters": sum(parameter.numel() for parameter in module.encoder.parameters()),
        "encoder": prepared.encoder_arguments,
        "pretrained": settings.pretrained,
        "embeddings": prepared.embeddings,
        "attention": prepared.attention,
        "chunk_tokens": prepared.chunk_tokens,
        "density": module.layout.density if module.layout is not None else 1.0,
        "computed": prepared.computed,
    }


def _data(prepared: Prepared) -> metrics.Data:
    dataset = prepared.dataset
    symbols = dataset.vocabulary is not None or isinstance(prepared.tokenizer, ByteTokenizer)
    return {
        "name": dataset.name,
        "task": dataset.task,
        "num_labels": len(dataset.labels),
        "none_label": dataset.none_label,
        "fingerprint": dataset.fingerprint,
        "description": dataset.description,
        "notes": list(dataset.notes),
        "truncation": prepared.truncation,
        "pairs": prepared.stores["train"].pairs,
        "grid": dataset.grid,
        "tokens_per_page": None if symbols else TOKENS_PER_PAGE,
    }
