"""The whole state of a training on disk: written so that there is always one to go on from, checked before it is."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from flash_sparse_apps.files import partial_path
from flash_sparse_apps.training.main_process import is_main_process, say
from flash_sparse_datasets.shared.exit_codes import UserError, one_line
from flash_sparse_datasets.shared.naming import naming


def before(path: Path) -> Path:
    """Where the state before the last one is: what a run goes on from when the disk has damaged the last."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


class WritesInPlace(TorchCheckpointIO):
    """Lightning's own goes by way of the system's temporary files, which may have little room, or another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def save_state(trainer: L.Trainer, path: Path):
    """Write Lightning's checkpoint, which is either complete or not there, and keep the one before it."""
    temporary = path.with_name(f"{partial_path(path)}0")  # by one name in all processes of a run
    with naming(path):
        trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        if path.is_file():
            os.replace(path, before(path))
        os.replace(temporary, path)


def newest_whole(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The state that `save_state` wrote last, or else the one before it: its file, and what is in it, in the CPU's
    memory; None where there is neither.

    A file counts as whole if all in it has the checksums that its zip archive keeps.

    Raises:
        UserError: there are some, and all are damaged.
    """
    damaged: list[str] = []
    for candidate in (path, before(path)):
        if not candidate.is_file():
            continue
        try:
            with zipfile.ZipFile(candidate) as archive:
                wrong = archive.testzip()
            if wrong is None:
                return candidate, torch.load(candidate, map_location="cpu", weights_only=True)
            reason = f"{wrong} in it does not have its checksum"
        except Exception as error:  # both raise many kinds
            reason = one_line(error)
        damaged.append(f"{candidate}: damaged: {reason}")
        if candidate == path and before(path).is_file() and is_main_process():
            say(f"note: {damaged[0]}; trying {before(path).name}, the state before it")
    if damaged:
        raise UserError(f"{damaged[0]}; expected a whole one: begin anew, with another --output")
    return None


def remove(path: Path):
    """Remove the last state and the one before it."""
    path.unlink(missing_ok=True)
    before(path).unlink(missing_ok=True)
