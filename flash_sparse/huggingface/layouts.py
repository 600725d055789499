"""The layouts of a pattern, each made for a length and kept while lengths like it come."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence

import torch
from torch._subclasses import FakeTensor

from flash_sparse import patterns
from flash_sparse.layout import BLOCK_SIZES, BlockLayout, count_blocks

NAMES = (
    "local", "global_tokens", "strided", "random", "butterfly", "longformer", "bigbird", "axial", "neighborhood_2d",
)  # fmt: skip
LENGTHWISE = ("strided", "random", "bigbird")  # a shorter text's layout is not the upper left part of a longer one's
KEPT = 32  # layouts of a pattern, those of the latest lengths
Pattern = str | Callable[[int, int], BlockLayout] | BlockLayout


class Layouts:
    """A pattern, and its layouts for the lengths and devices that it was asked for last."""

    def __init__(self, pattern: Pattern, block_size: int, global_tokens: Sequence[int] | None):
        if isinstance(pattern, str) and pattern not in NAMES:
            raise ValueError(f"pattern is {pattern!r}; expected None, a callable, a BlockLayout or one of {NAMES}")
        if isinstance(pattern, BlockLayout):
            if pattern.leading[0] != 1:
                raise ValueError(f"pattern has {pattern.leading[0]} batch entries; expected 1, which all share")
        elif not isinstance(pattern, str) and not callable(pattern):
            raise TypeError(f"pattern is {type(pattern).__name__}; expected None, a name, a callable or a BlockLayout")
        if block_size not in BLOCK_SIZES:
            raise ValueError(f"block_size is {block_size}; expected one of {BLOCK_SIZES}")
        if global_tokens is None:
            global_tokens = (0,) if isinstance(pattern, str) else ()
        self.pattern = pattern
        self.block_size = block_size
        self.global_tokens = tuple(global_tokens)
        self.made: dict[tuple[int, torch.device], BlockLayout] = {}
        self.warned = False

    def __getstate__(self) -> dict:
        return {**self.__dict__, "made": {}}  # copies and files need the pattern alone

    def make(self, length: int) -> BlockLayout:
        """The layout for sequences of up to `length` tokens."""
        if isinstance(self.pattern, BlockLayout):
            layout = self.pattern
        elif isinstance(self.pattern, str):
            layout = _named(self.pattern, length, self.block_size)
        else:
            layout = self.pattern(length, self.block_size)
        if not isinstance(layout, BlockLayout):
            raise TypeError(f"pattern returned {type(layout).__name__}; expected a BlockLayout")
        if layout.query_length < length or layout.key_length < length:
            raise ValueError(
                f"pattern made a layout of {layout.query_length} x {layout.key_length} tokens; expected {length}"
            )
        positions = [position for position in self.global_tokens if position < layout.query_length]
        if not positions:
            return layout
        added = patterns.global_tokens(layout.query_length, layout.block_size, positions)
        return layout | added.to(layout.device)


def find_layout(layouts: Layouts, length: int, device: torch.device) -> BlockLayout:
    """The layout for sequences of up to `length` tokens, on the device; a compiled model makes it while compiling."""
    if isinstance(layouts.pattern, BlockLayout):
        length = layouts.pattern.query_length  # one for all lengths
    length = operator.index(length)  # where lengths vary in a compiled model: a number, for which it is compiled anew
    _keep_layout(layouts, length, device)
    return layouts.made[length, device]


@torch.compiler.assume_constant_result
def _keep_layout(layouts: Layouts, length: int, device: torch.device) -> None:
    made = layouts.made
    if (length, device) in made:
        made[length, device] = made.pop((length, device))  # now the latest
        return
    if isinstance(torch.empty(0), FakeTensor) and not isinstance(layouts.pattern, BlockLayout):
        raise ValueError(
            f"pattern {layouts.pattern!r} is to be laid out for {length} tokens while the model is exported; expected "
            "a BlockLayout for the longest text in its place, or a call of the model at this length before"
        )
    if layouts.pattern in LENGTHWISE and not layouts.warned and any(other != length for other, _ in made):
        layouts.warned = True
        warnings.warn(
            f"pattern {layouts.pattern!r} is laid out for the length of the padded batch: a text gets another result "
            "in a longer one. One layout for all lengths, as pattern=flash_sparse.patterns."
            f"{layouts.pattern}(longest, {layouts.block_size}), does not depend on it.",
            stacklevel=2,
        )
    if len(made) == KEPT:
        del made[next(iter(made))]
    made[length, device] = layouts.make(length).to(device)


def _named(name: str, length: int, block_size: int) -> BlockLayout:
    if name == "bigbird":  # its two global blocks are all that a short text has, or more
        return patterns.bigbird(length, block_size, global_blocks=min(2, count_blocks(length, block_size)))
    return getattr(patterns, name)(length, block_size)
