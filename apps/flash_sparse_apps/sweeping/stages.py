"""The stages of a curriculum: read from a YAML file, checked against what was run before, each run in its process."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from flash_sparse_apps.command_line import make_parser, to_settings
from flash_sparse_apps.metrics import read_metrics
from flash_sparse_apps.settings import MAY_CHANGE, Settings
from flash_sparse_apps.sweeping.planned_run import PlannedRun
from flash_sparse_datasets import check_options
from flash_sparse_datasets.shared.naming import naming

DECIDED = ("output", "init-from", "resume")  # by the order of the stages
PATIENCE = 60.0  # seconds that a stage gets to end when the curriculum ends


@dataclass(frozen=True)
class Stage(PlannedRun):
    """One run of a curriculum."""

    name: str
    settings: Settings


def read_stages(path: Path, typed: dict, folder: Path) -> list[Stage]:
    """The stages in a file, with their folders below `folder`.

    Args:
        typed: flags by their names in `Settings`, which override what the file says of any stage.

    Raises:
        ValueError: one line with the file and the stage.
    """
    try:
        common = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a YAML file of stages") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    described = common.pop("stages", None) if isinstance(common, dict) else None
    if not isinstance(described, list) or not described or not all(isinstance(stage, dict) for stage in described):
        raise ValueError(f"{path}: no list of stages; expected `stages:` and for each its name and flags")
    overriding = {name.replace("_", "-"): value for name, value in typed.items()}
    stages: list[Stage] = []
    for number, own in enumerate(described, 1):
        name = str(own.pop("name", ""))
        if not re.fullmatch(r"\w[\w.-]*", name) or name in [stage.name for stage in stages]:
            raise ValueError(f"{path}: stage {number} has the name {name!r}; expected one of its own, for a folder")
        for key in DECIDED:
            if key in own:
                raise ValueError(f"{path}: stage {name} has {key}, which the curriculum decides; expected no such key")
        flags = common | own | overriding | {"output": str(folder / name)}
        if stages:
            flags["init-from"] = stages[-1].settings.output
        try:
            stages.append(Stage(name, _settings(flags)))
            check_options(stages[-1].settings.dataset, stages[-1].settings.dataset_options or {})
        except Exception as error:  # jsonargparse raises many kinds
            raise ValueError(f"{path}: stage {name}: {' '.join(str(error).split())}") from None
    return stages


def _settings(flags: dict) -> Settings:
    parser = make_parser()
    parser.exit_on_error = False
    namespace = parser.parse_string(yaml.safe_dump(flags))
    return to_settings(namespace)


def check_folder(folder: Path, stages: Sequence[Stage]):
    """Raise ValueError where the folder holds something else, or stages that were run with other settings."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output is {folder}, a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not stages[0].config.is_file():
        raise ValueError(f"--output is {folder}, which has no {stages[0].config.name}; expected a new folder, or one "
                         "of this curriculum to go on with")  # fmt: skip
    for stage in stages:
        if (found := stage.difference(MAY_CHANGE)) is not None:
            flag, value, before = found
            raise ValueError(
                f"stage {stage.name}: {flag} is {value}, but {before} in {stage.run.config}; expected the same, or "
                "another --output"
            )


def run_stage(stage: Stage) -> int:
    """Begin or resume a stage and wait for it: its exit code."""
    with naming(stage.run.path):
        process = subprocess.Popen(stage.command())
    try:
        return process.wait()
    except BaseException:  # Ctrl-C, which the stage hears too, or SIGTERM
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
        raise


def summary(stages: Sequence[Stage]) -> str:
    """A line for each finished stage; ValueError names a file that is damaged."""
    width = max(len(stage.name) for stage in stages)
    lines = [f"{'stage':<{width}}  {'tokens':>7}  {'steps':>9}  {'minutes':>8}  {'test micro-F1':>13}"]
    for stage in stages:
        try:
            metrics = read_metrics(stage.run.metrics)
        except ValueError as error:
            raise ValueError(f"{error}; expected what a finished run leaves") from None
        training, score = metrics["training"], metrics["test"]["micro_f1"]
        lines.append(
            f"{stage.name:<{width}}  {stage.settings.seq_len:>7,}  {training['steps']:>9,}  "
            f"{training['seconds'] / 60:>8.1f}  {score:>13.4f}"
        )
    return "\n".join(lines)
