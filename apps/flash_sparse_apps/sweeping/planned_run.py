"""A run of `classify.py` that another command plans: a cell of a sweep, a stage of a curriculum."""

from __future__ import annotations

import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from flash_sparse_apps.command_line import flags_to_resume, load_settings
from flash_sparse_apps.console import start
from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings


class PlannedRun:
    """What all of them know of themselves.

    Attributes:
        name: of its folder's neighbours: its settings before it begins, its log.
        settings: with `output`, its folder.
    """

    name: str
    settings: Settings

    @property
    def run(self) -> RunFolder:
        return RunFolder(str(self.settings.output))  # a planned run has one

    @property
    def config(self) -> Path:
        """The settings with which it begins."""
        return self.run.path.with_name(f"{self.name}.yaml")

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with: one killed while its folder was made has no settings yet."""
        return self.run.config.is_file() and self.run.config.stat().st_size > 0

    @property
    def finished(self) -> bool:
        return self.run.metrics.is_file()

    def difference(self, free: Set[str]) -> tuple[str, Any, Any] | None:
        """A setting with which it began and that is another now, but for those that are `free`: name, now, then."""
        if not self.begun:
            return None
        before = load_settings(self.run.config)
        for name, value in vars(self.settings).items():
            if name not in free and getattr(before, name) != value:
                return name.replace("_", "-"), value, getattr(before, name)
        return None

    def command(self) -> list[str]:
        """What begins it, with its settings written down and its folder out of the way, or goes on with it."""
        if self.begun:
            return [*start("classify"), *flags_to_resume(self.run.config, self.settings)]
        shutil.rmtree(self.run.path, ignore_errors=True)
        write_atomically(self.config, self.settings.to_yaml().encode())
        return [*start("classify"), "--config", str(self.config)]
