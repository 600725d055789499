"""Test images with the model's answers, right and wrong, for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Dataset


@dataclass(frozen=True)
class ExampleImage:
    """An image's pixels (height, width) uint8, its label, the one it was given and how probable that is."""

    pixels: np.ndarray
    label: str
    given: str
    probability: float

    @property
    def right(self) -> bool:
        return self.label == self.given


def find_images(
    dataset: Dataset, store: TokenStore, probabilities: np.ndarray, predictions: np.ndarray, count: int, seed: int
) -> list[ExampleImage]:
    """Up to `count` test images that were answered right, then as many that were answered wrong, drawn by the seed.

    Args:
        store: of the test images.
        probabilities: (N, L).
        predictions: (N,) class indices.
    """
    truth = np.array([store.label_indices(row)[0] for row in range(len(store))])  # (N,)
    drawn = np.random.default_rng(seed).permutation(len(store))  # (N,)
    rows = [row for right in (True, False) for row in drawn[(predictions == truth)[drawn] == right][:count]]
    return [
        ExampleImage(
            pixels=store.tokens(row, math.prod(dataset.grid)).astype(np.uint8).reshape(dataset.grid),
            label=dataset.labels[truth[row]],
            given=dataset.labels[predictions[row]],
            probability=float(probabilities[row, predictions[row]]),
        )
        for row in rows
    ]
