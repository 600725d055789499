"""Why a training ended."""

from __future__ import annotations

from flash_sparse_apps.metrics import read_metrics
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.training.callbacks import History

ALL_TRAINED = "All epochs were trained."


def all_trained(run: RunFolder) -> bool:
    """Whether a finished run has nothing left to train, however long it may."""
    try:
        return read_metrics(run.metrics)["training"]["stopped"] == ALL_TRAINED
    except ValueError:  # damaged: then it is tested again
        return False


def why_stopped(settings: Settings, history: History) -> str:
    """A sentence."""
    if history.epochs[-1]["step"] >= history.planned_steps:
        return ALL_TRAINED
    if settings.max_time is not None and history.seconds >= 60 * settings.max_time:
        steps = f"{history.epochs[-1]['step']:,} of {history.planned_steps:,}"
        return f"--max-time {settings.max_time:g} ended it after {steps} steps."
    return f"It stopped early: {settings.patience} validations in a row brought nothing better."
