"""The one process of a run that speaks and writes."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_only


def is_main_process() -> bool:
    """False in the processes for further devices, which say nothing and write nothing."""
    return cast(Any, rank_zero_only).rank in (None, 0)


def say(text: str):
    """Print a line at once."""
    print(text, flush=True)
