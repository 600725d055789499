"""Test images with the model's answers, right and wrong, for the report."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from flash_sparse_apps.reports.examples import ExampleImage
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Dataset

MOST = 8  # that fit side by side


def find_images(
    dataset: Dataset,
    store: TokenStore,
    seq_len: int,
    probabilities: np.ndarray,
    predictions: np.ndarray,
    count: int,
    seed: int,
) -> list[ExampleImage]:
    """Up to `count` test images that were answered right, then as many that were answered wrong, drawn by the seed.

    Args:
        count: 8 are shown at most.
        store: of the test images.
        probabilities: (N, L).
        predictions: (N,) class indices.
    """
    grid = cast(tuple[int, int], dataset.grid)
    truth = np.array([store.label_indices(row)[0] for row in range(len(store))])  # (N,)
    drawn = np.random.default_rng(seed).permutation(len(store))  # (N,)
    answered = (predictions == truth)[drawn]  # (N,)
    rows = [row for right in (True, False) for row in drawn[answered == right][: min(count, MOST)]]
    return [
        ExampleImage(
            pixels=_pixels(store.tokens(row, seq_len), grid),
            label=dataset.labels[truth[row]],
            given=dataset.labels[predictions[row]],
            probability=float(probabilities[row, predictions[row]]),
        )
        for row in rows
    ]


def _pixels(tokens: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    pixels = np.full(math.prod(grid), np.nan)  # (height * width,)
    pixels[: len(tokens)] = tokens
    return pixels.reshape(grid)
