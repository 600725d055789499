"""Test documents and images to show in a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Excerpt:
    """A passage in its surroundings, how far the label's probability falls without it, and whether it `carries` the
    label by that."""

    label: str
    drop: float
    before: str
    passage: str
    after: str
    carries: bool = True


@dataclass(frozen=True)
class Example:
    id: str
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    tokens: int
    excerpts: tuple[Excerpt, ...]


@dataclass(frozen=True)
class ExampleImage:
    """An image's pixels (height, width), NaN where the model does not read them, its label, the one it was given and
    how probable that is."""

    pixels: np.ndarray
    label: str
    given: str
    probability: float

    @property
    def right(self) -> bool:
        return self.label == self.given
