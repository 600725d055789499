"""The run folder: made, or opened again and checked against what the run began with."""

from __future__ import annotations

import io
import os
import socket
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml

from flash_sparse_apps.files import remove_partial, to_json, write_atomically
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import MAY_CHANGE, Settings
from flash_sparse_apps.training.preparing import Prepared
from flash_sparse_apps.training.processes import all_or_none, appears, check_same, gather, main_alone
from flash_sparse_apps.training.stopping import all_trained
from flash_sparse_datasets import Dataset
from flash_sparse_datasets.shared.exit_codes import UserError


def open_run(settings: Settings, resumed: Path | None, prepared: Prepared, command: str) -> RunFolder:
    """Make the run folder, or check that the resumed one is of the same data. The main process does, for all.

    Args:
        command: what was typed; the folder keeps the one that the run began with.

    Raises:
        UserError, FileExistsError: it cannot be used.
        Stopped: the main process cannot use it, or another does not see it.
    """
    check_same((prepared.dataset.fingerprint, prepared.tokenizer.fingerprint), "documents or tokens")
    mine = main_alone(lambda: _open(settings, resumed, prepared, command))
    path = gather("" if mine is None else str(mine.path))[0]
    run = mine or RunFolder(path)
    try:
        all_or_none(lambda: _check_shared(run))
    except BaseException:
        if mine is not None and resumed is None:
            mine.remove()
        raise
    return run


def _check_shared(run: RunFolder):
    if not appears(run.config.is_file):
        raise UserError(
            f"--output is {run.path}, which {socket.gethostname()} does not see; expected a folder that all machines "
            "share"
        )


def _open(settings: Settings, resumed: Path | None, prepared: Prepared, command: str) -> RunFolder:
    fingerprint = {"name": prepared.dataset.name, "fingerprint": prepared.dataset.fingerprint}
    described = fingerprint | {
        "tokenizer": prepared.tokenizer.fingerprint,
        "settings": yaml.safe_load(settings.to_yaml()),
        "folder": os.getcwd(),  # to which the paths among them are relative
        "command": command,
    }
    if resumed is not None:
        run = RunFolder(resumed)
        run.lock()
        remove_partial(run.path)
        if run.metrics.is_file() and (settings.max_time is None or all_trained(run)):
            raise UserError(f"--resume is {resumed}, which is finished: its report is {run.report}")
        if run.metrics.is_file() and not run.last_checkpoint.is_file():
            raise UserError(f"--resume is {resumed}, which is finished and has no {run.last_checkpoint} to go on from")
        try:
            before = run.described() or described
        except ValueError as error:
            raise UserError(str(error)) from error
        if any(before.get(key) != value for key, value in fingerprint.items()):
            raise UserError(
                f"--resume is {resumed}, but the data of {settings.dataset} has changed since that run began"
            )
        if before.get("tokenizer", described["tokenizer"]) != described["tokenizer"]:
            name = settings.pretrained or settings.tokenizer
            raise UserError(f"--resume is {resumed}, but the tokenizer of {name} has changed since that run began")
        for key, value in before.get("settings", {}).items():
            now = described["settings"].get(key)
            lowered = key == "learning-rate" and now <= value
            if key.replace("-", "_") not in MAY_CHANGE | {"output"} and now != value and not lowered:
                raise UserError(f"{run.config}: {key} is {now}; expected {value}, with which that run began")
        described["command"] = before.get("command", command)
        write_atomically(run.config, settings.to_yaml().encode())
    else:
        path = settings.output or _default_output(settings, prepared.dataset)
        run = RunFolder.create(path, settings.to_yaml())
    try:
        write_atomically(run.data, to_json(described))
        if prepared.dataset.text_hashes is not None:
            write_atomically(run.split, _packed(prepared.dataset.text_hashes))
        if settings.init_from is not None and resumed is None:
            run.start.mkdir()
            prepared.tokenizer.save(run.start)
    except BaseException:
        if resumed is None:
            run.remove()
        raise
    return run


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    """As `np.load` reads them."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _default_output(settings: Settings, dataset: Dataset) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(dataset.name).stem) or "run"
    kind = "sparse" if settings.sparse else "chunked" if settings.chunked else "dense"
    return Path("runs") / f"{name}-{settings.seq_len}-{kind}-{datetime.now():%Y%m%d-%H%M%S}"
