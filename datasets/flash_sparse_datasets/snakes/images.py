"""Drawing the images of Pathfinder, whose snakes have grown before (`growth`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flash_sparse_datasets.shared.compiled import compiled
from flash_sparse_datasets.snakes.growth import Drawing, grow
from flash_sparse_datasets.snakes.shapes import RECIPES, lines, shapes


def draw(drawing: Drawing, size: int, preset: str) -> np.ndarray:
    """The image, (size, size) uint8; its brightest pixel is 255."""
    recipe, forms = RECIPES[size], shapes(size)
    border, stride = forms.border, forms.stride
    image = np.zeros((stride, stride), np.float32)
    contrasts = np.where(drawing.snakes < 2, recipe.target_contrast, recipe.distractor_contrast)  # (dashes,)
    starts = (drawing.starts + border) @ (stride, 1)
    _draw_lines(
        image.reshape(-1), lines(size, preset), starts, drawing.orientations, (contrasts / 255).astype(np.float32)
    )
    marker = forms.marker * np.float32(1 / 255)
    for row, column in drawing.markers:
        window = image[row : row + 2 * border + 1, column : column + 2 * border + 1]
        np.maximum(window, marker, out=window)
    image = image[border : border + size, border : border + size]
    return (image * (255 / image.max()) + np.float32(0.5)).astype(np.uint8)


@compiled
def _draw_lines(image, lines, starts, orientations, contrasts):
    """Brighten the pixels of an image with its border, row by row, to those of the dashes."""
    for dash in range(len(starts)):
        offsets, values = lines.offsets[orientations[dash]], lines.values[orientations[dash]]
        for pixel in range(len(offsets)):
            position = starts[dash] + offsets[pixel]
            image[position] = max(image[position], np.float32(values[pixel]) * contrasts[dash])


class Images(NamedTuple):
    """Images in a row."""

    images: np.ndarray  # (count, size, size) uint8
    labels: np.ndarray  # (count,) uint8
    markers: np.ndarray  # (count, 2, 2) uint8, rows and columns

    @classmethod
    def empty(cls, count: int, size: int) -> Images:
        return cls(*(np.empty((count, *shape), np.uint8) for shape in ((size, size), (), (2, 2))))


def images_of(indices: Sequence[int], size: int, level: int, preset: str, distractors: int, seed: int) -> Images:
    """The images of these indices."""
    made = Images.empty(len(indices), size)
    for row, index in enumerate(indices):
        drawing = grow(index, size, level, distractors, seed)
        made.images[row], made.labels[row], made.markers[row] = (
            draw(drawing, size, preset),
            drawing.label,
            drawing.markers,
        )
    return made
