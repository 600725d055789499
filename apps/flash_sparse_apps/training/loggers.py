"""Lightning's loggers, for those who watch training in a tool of their own."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import yaml
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from flash_sparse_apps.metrics import Metrics
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.training.main_process import is_main_process
from flash_sparse_datasets.shared.exit_codes import UserError, one_line

PROJECT = "flash-sparse"  # what runs are filed under, where a tool has several


def check_logger(name: str):
    """Raise UserError for a logger whose package is missing."""
    if name not in ("none", "csv") and find_spec(name) is None:
        raise UserError(f"--logger is {name}, which is not installed; expected pip install {name}")


def make_logger(settings: Settings, run: RunFolder) -> Logger | None:
    """The logger of --logger, begun and told the settings; None without.

    Raises:
        UserError: it cannot begin: nobody is logged in, or a server is not there.
    """
    if settings.logger == "none":
        return None
    try:
        logger = _make(settings.logger, run)
        if is_main_process():
            _ = logger.experiment  # what begins it
            logger.log_hyperparams(yaml.safe_load(settings.to_yaml()))
    except Exception as error:  # each tool has its own kinds
        raise UserError(f"--logger is {settings.logger}, which cannot begin: {one_line(error)}") from error
    return logger


def _make(name: str, run: RunFolder) -> Any:
    folder, title = run.path / "logs", run.path.resolve().name
    if name == "csv":
        return loggers.CSVLogger(folder, name="csv")
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    if name == "wandb":
        return loggers.WandbLogger(name=title, save_dir=folder, project=PROJECT)
    import mlflow

    return loggers.MLFlowLogger(experiment_name=PROJECT, run_name=title, tracking_uri=mlflow.get_tracking_uri())


def log_test(each: list[Logger], metrics: Metrics):
    """Add the test scores to what training logged; a tool that cannot take them does not undo a finished run."""
    scores = {f"test/{name}": metrics["test"][name] for name in ("micro_f1", "macro_f1", "accuracy")}
    for logger in each:
        try:
            logger.log_metrics(scores, metrics["training"]["steps"])
            logger.finalize("success")
        except Exception as error:  # each tool has its own kinds
            name = metrics["settings"]["logger"]
            print(f"note: --logger {name} has no test scores: {one_line(error)}", file=sys.stderr)
