"""What --logger writes, and what is said where it cannot."""

from __future__ import annotations

import csv
import json

import pytest

from flash_sparse_apps import classify
from flash_sparse_apps.training import loggers

from .conftest import TINY


@pytest.fixture
def run(planted_files, cache_folder, tmp_path):
    def run(*flags: str) -> int:
        data = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder))
        quick = ("--epochs", "2", "--examples", "0", "--no-linear-baseline", "--output", str(tmp_path / "run"))
        return classify.main([*data, *TINY, *quick, *flags])

    return run


def metrics(folder) -> dict:
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_csv_has_losses_and_scores(run, tmp_path):
    assert run("--logger", "csv") == 0
    with open(tmp_path / "run" / "logs" / "csv" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))

    def column(name):
        return [float(row[name]) for row in rows if row[name]]

    written = metrics(tmp_path)
    assert column("training/loss") == pytest.approx([point["loss"] for point in written["training"]["curve"]])
    scores = [entry["validation_macro_f1"] for entry in written["training"]["history"]]
    assert column("validation/macro_f1") == pytest.approx(scores)
    assert column("test/micro_f1") == pytest.approx([written["test"]["micro_f1"]])
    assert "batch-size: 8" in (tmp_path / "run" / "logs" / "csv" / "version_0" / "hparams.yaml").read_text()


def test_tensorboard(run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("--logger", "tensorboard") == 0
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "tensorboard")).Reload()
    written = metrics(tmp_path)
    losses = [point.value for point in events.Scalars("training/loss")]
    assert losses == pytest.approx([point["loss"] for point in written["training"]["curve"]])
    assert [point.value for point in events.Scalars("test/micro_f1")] == pytest.approx([written["test"]["micro_f1"]])


def test_wandb(run, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run("--logger", "wandb") == 0
    summary = dict(wandb.run.summary)
    wandb.finish()
    assert summary["test/micro_f1"] == pytest.approx(metrics(tmp_path)["test"]["micro_f1"])
    assert list((tmp_path / "run" / "logs" / "wandb").glob("offline-run-*"))


def test_mlflow(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert run("--logger", "mlflow") == 0
    client = mlflow.MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == loggers.PROJECT]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["test/micro_f1"] == pytest.approx(metrics(tmp_path)["test"]["micro_f1"])
    assert found.data.params["batch-size"] == "8"


def test_a_package_that_is_missing_is_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert run("--logger", "mlflow") == 2
    assert capsys.readouterr().err == "error: --logger is mlflow, which is not installed; expected pip install mlflow\n"
    assert not (tmp_path / "run").exists()


def test_a_logger_that_cannot_begin_is_one_line(run, tmp_path, monkeypatch, capsys):
    def refuse(*unused, **named):
        raise RuntimeError("nobody is\nlogged in")

    monkeypatch.setattr(loggers.loggers, "CSVLogger", refuse)
    assert run("--logger", "csv") == 2
    err = capsys.readouterr().err
    assert err == "error: --logger is csv, which cannot begin: nobody is logged in\n"
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_undone_by_its_logger(run, tmp_path, monkeypatch, capsys):
    log = loggers.loggers.CSVLogger.log_metrics

    def refuse(logger, metrics, step=None):
        if any(name.startswith("test/") for name in metrics):
            raise RuntimeError("no connection")
        log(logger, metrics, step)

    monkeypatch.setattr(loggers.loggers.CSVLogger, "log_metrics", refuse)
    assert run("--logger", "csv") == 0
    assert capsys.readouterr().err == "note: --logger csv has no test scores: no connection\n"
    assert (tmp_path / "run" / "metrics.json").is_file()
