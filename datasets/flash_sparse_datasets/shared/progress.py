"""How far a long phase is: a bar where stderr is a terminal, now and then a line where it is not."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sized
from typing import Any

from tqdm import tqdm

INTERVAL = 30.0  # seconds between two lines
LONGEST_LINE = 1000  # characters, without a terminal
BEAT = 1.0  # seconds after which it is looked whether a line is due


class Progress(tqdm):
    """tqdm's bar, which goes away at the end; without a terminal, a line with what is left every half minute at most.

    Phases shorter than that say nothing there. The lines come also while a step takes long, and in phases of which no
    more is known than what happens: those have no iterable, no total and no unit.

    Args:
        iterable: what is gone through; None where `update` is called.
        desc: what happens, such as "tokenizing".
        total: how much there is; None is the length of `iterable`, where it has one.
        unit: with a space before it, such as " documents"; "" where there is nothing to count.
        shown: False for the processes that say nothing.
        more: tqdm's own options.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str = " documents",
        *,
        shown: bool = True,
        **more: Any,
    ):
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()
        options: dict[str, Any] = {"file": sys.stderr, "leave": False, "smoothing": 0.05}
        if self._terminal:
            # in no columns and no rows tqdm shows nothing
            options |= {"dynamic_ncols": True} if _has_width() else {"ncols": 80, "nrows": 24}
        else:
            known = total is not None or isinstance(iterable, Sized)
            how_far = "{n_fmt} of {total_fmt}{unit}, {remaining} left" if known else "{n_fmt}{unit} in {elapsed}"
            options |= {"bar_format": f"{{desc}}: {how_far}{{postfix}}", "miniters": 1, "mininterval": 0}
            options |= {"ncols": LONGEST_LINE, "nrows": 24}
        if not unit:
            options["bar_format"] = "{desc} ..." if self._terminal else "{desc}: {elapsed} so far"
        self._ended = threading.Event()
        super().__init__(iterable, desc, total, unit=unit, disable=not shown, **options | more)
        if shown and not self._terminal:
            threading.Thread(target=_beat, args=(weakref.ref(self), self._ended), daemon=True).start()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show how far it is, by tqdm or as a line."""
        if self._terminal:
            super().display(msg, pos)
            return
        now = time.monotonic()
        if msg is None and now - self._said >= INTERVAL:
            self._said = now
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, *given: Any, **named: Any):
        """Make way for a line: lines need not."""
        if self._terminal:
            super().clear(*given, **named)

    def close(self):
        """End it; a bar goes away."""
        self._ended.set()
        if not self._terminal:
            self.delay = math.inf  # as of a bar that was never shown, of which nothing is to be wiped off
        super().close()


def _beat(bar: weakref.ref[Progress], ended: threading.Event):
    """Show a bar now and then until it ends, or nobody has it any longer."""
    while not ended.wait(BEAT):
        shown = bar()
        if shown is None:
            return
        shown.refresh()
        del shown


def _has_width() -> bool:
    """Whether the terminal says how wide it is; some, in containers, do not."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
