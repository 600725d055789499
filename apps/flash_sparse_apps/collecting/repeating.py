"""The commands that measure a kept result again, from the folder of a clone."""

from __future__ import annotations

import re
import shlex
from typing import Any

import yaml

from flash_sparse_apps.metrics import Metrics
from flash_sparse_apps.settings import Settings

DOOR = re.compile(r"^(?:flash-sparse|python)\s+(?:\S*/)?(\w+?)(?:\.py)?(?=\s|$)")  # however it was started
PLACES = ("cache-dir", "max-time")  # what a run depends on least: where it keeps tokens, how long it may take


def repeating(command: str, run: Metrics) -> list[str]:
    """A command as a clone starts it and, before one that went on with a run, what begins such a run."""
    here = DOOR.sub(r"python apps/\1.py", command)
    resumed = any(word.partition("=")[0] == "--resume" for word in shlex.split(command))
    return [_beginning(run["settings"]), here] if resumed else [here]


def _beginning(settings: dict[str, Any]) -> str:
    """`classify.py` with all flags that were no defaults."""
    usual = yaml.safe_load(Settings().to_yaml())
    changed = {name: value for name, value in settings.items() if name in usual and value != usual[name]}
    flags = [_flag(name, value) for name, value in changed.items() if name not in PLACES]
    return " ".join(["python apps/classify.py", *flags])


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, list) else [value]
    return shlex.join([f"--{name}", *("null" if each is None else str(each) for each in values)])
