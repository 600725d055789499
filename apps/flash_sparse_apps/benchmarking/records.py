"""What the GPU's benchmark keeps: `benchmark.json`, complete after every cell, to go on from in another call."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import flash_sparse
from flash_sparse_apps.files import to_json, write_atomically


class Records:
    """Measured cells by key, and where they were measured.

    Attributes:
        rows: a row for each cell, in the order in which they were measured.
    """

    def __init__(self, folder: Path | None, call: dict, setting: dict):
        """Take up what the folder holds, for a call (its command, date, machine) in a setting (GPU, versions).

        Raises:
            ValueError: the folder holds a benchmark of another setting, or something else.
        """
        self.path = None if folder is None else folder / "benchmark.json"
        self.calls, self.rows = [call], []
        self._running: dict | None = None
        self.setting = {**setting, "flash_sparse_source": _source_hash()}
        if self.path is None or not self.path.exists():
            return
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            before, self.rows, interrupted = found["calls"], found["cells"], found["running"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"--output: {self.path} is no benchmark of a GPU; expected another folder") from None
        for name, value in self.setting.items():
            if found.get(name) != value:
                raise ValueError(f"--output: {self.path} was measured with another {name}; expected another folder")
        self.calls = [*before, call]
        if interrupted is not None:  # the process was killed, or crashed, or hung until it was killed
            self.rows.append({**interrupted, "status": "failed", "reason": "the process ended while this cell ran"})

    @property
    def keys(self) -> set[str]:
        return {row["key"] for row in self.rows}

    def begin(self, row: dict):
        """Note which cell runs, so that one which ends the process is not begun again."""
        self._running = row
        self.write()

    def end(self, row: dict | None):
        """Keep the cell's result; None for a cell that is to be measured in another call."""
        self._running = None
        if row is not None:
            self.rows.append(row)
        self.write()

    def write(self):
        if self.path is not None:
            kept = {"calls": self.calls, **self.setting, "running": self._running, "cells": self.rows}
            write_atomically(self.path, to_json(kept))


def _source_hash() -> str:
    """Of the package's own code and tiles: figures of two versions of a kernel are not put together."""
    paths = sorted(Path(flash_sparse.__file__).parent.rglob("*.py"))
    if "FLASH_SPARSE_TILES" in os.environ:
        paths.append(Path(os.environ["FLASH_SPARSE_TILES"]))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
