"""The recipes of Pathfinder's images, and what a dash of each orientation sets and keeps free.

Dashes exist in few orientations: 360 whole degrees for the first one of a snake, and those of the pixels of a circle
for the others. For each of them the pixels that it sets, and those that it keeps free, are known beforehand.

Everything is rounded as in the published generator (Linsley et al. 2018): that decides how crowded an image can be.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import grey_dilation

LEAST_LEVEL = 2  # dashes of a target snake; 6 is "baseline", 9 in between, 14 hard
PRESETS = ("released", "documented")
SUPERSAMPLING = 2
FINE = 8  # supersampling of dashes whose length and width are no whole numbers
TOUCHING = round(1.8 * 255)  # sum of two occupancies, each 0 to 255


@dataclass(frozen=True)
class Recipe:
    """Lengths are in pixels, contrasts before the image is scaled to its brightest pixel."""

    padding: int
    margins: tuple[int, ...]
    seed_distance: int
    paddle_length: int
    paddle_thickness: float
    marker_radius: float
    continuity: float
    distractor_dashes: int
    target_contrast: float
    distractor_contrast: float
    released_dash: tuple[float, float] | None = None  # length and width as drawn in the release, where they are others


RECIPES = {
    32: Recipe(1, (1,), 7, 2, 0.5, 1.5, 1.0, 20, 1.5, 2.0),
    64: Recipe(1, (1,), 12, 5, 1.0, 2.5, 1.8, 22, 0.8, 0.8, (4.87, 1.64)),
    128: Recipe(1, (2, 3), 20, 5, 1.5, 3.0, 1.8, 35, 0.9, 0.9, (5.0, 1.15)),
    256: Recipe(22, (3,), 27, 5, 2.0, 5.0, 1.8, 30, 1.0, 1.0),
}


def usual_distractors(size: int, level: int, preset: str) -> int:
    """How many snakes of distractors there are at most: one for which there is no room is left out.

    The released 128 x 128 images have twice as many as documented.
    """
    dashes = RECIPES[size].distractor_dashes
    return (2 * dashes if (size, preset) == (128, "released") else dashes) // distractor_level(level)


def distractor_level(level: int) -> int:
    """Dashes of a distractor: a third of those of a target snake, as published for 6, 9 and 14."""
    return max(1, level // 3)


class Shapes(NamedTuple):
    """Pixels, as offsets (rows times stride plus columns) from where a dash starts, and their values, 0 to 255.

    A snake's first dash starts at its tail, all others at their heads. There is a row for each orientation: 360 whole
    degrees for first dashes, then those of the candidates, for every margin.
    """

    stride: int
    border: int
    taken: np.ndarray  # (orientations, rows, columns) uint8: the dash with its margin, in a window
    limit: np.ndarray  # (orientations, rows, columns) uint8: what may be taken already where the dash shall go
    near: np.ndarray  # (orientations, rows, columns) uint8: and with the margin of a candidate
    to_window: int  # from the start to the window's first pixel
    begins: np.ndarray  # (orientations,) bool: whether a snake can begin with it
    free_offsets: np.ndarray  # (orientations, pixels) what must be free for a first dash
    reach: np.ndarray  # (orientations, 2, 2) their first and last row and column, from its tail
    to_head: np.ndarray  # (orientations, 2) rows and columns, of a first dash from its tail
    to_pivot: np.ndarray  # (orientations, 2) rows and columns, of a first dash from its tail
    to_next_pivot: np.ndarray  # (orientations,) from the pivot of the dash before
    next_offsets: np.ndarray  # (orientations, candidates) from that pivot
    next_orientations: np.ndarray  # (orientations, candidates)
    weights: np.ndarray  # (orientations, candidates) float32
    first: np.ndarray  # (margins,) orientation 0 degrees
    marker: np.ndarray  # (2 * border + 1, 2 * border + 1) uint8


class Lines(NamedTuple):
    """What is drawn of a dash, a row for each orientation as in `Shapes`."""

    offsets: np.ndarray  # (orientations, pixels)
    values: np.ndarray  # (orientations, pixels) uint8


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return y**2 + x**2 <= radius**2


def _translated(radians: float, distance: float) -> tuple[int, int]:
    """Rows and columns, rounded up; 0.001 less, so that what should be whole is."""
    return ceil(np.sin(radians) * distance - 1e-3), ceil(np.cos(radians) * distance - 1e-3)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def _dash(radians: float, recipe: Recipe, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """A dash from the middle of a small image, and the same with its margin, 0 to 255.

    They are drawn at twice the size and a pixel more, so that shrinking makes them a few percent larger.
    """
    reach = recipe.paddle_length + ceil(recipe.paddle_thickness) + margin
    middle = SUPERSAMPLING * reach
    rows, columns = _translated(radians, SUPERSAMPLING * recipe.paddle_length)
    canvas = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    ends = (middle, middle, middle + columns, middle + rows)
    ImageDraw.Draw(canvas).line(ends, fill=255, width=round(recipe.paddle_thickness * SUPERSAMPLING))
    line = np.asarray(canvas)
    wide = grey_dilation(line, footprint=disk(SUPERSAMPLING * margin))
    return _resized(line, 2 * reach + 1), _resized(wide, 2 * reach + 1)


def _fine_dash(radians: float, recipe: Recipe, margin: int, length: float, width: float) -> np.ndarray:
    """A dash of any length and width from the middle of a small image, 0 to 255."""
    pixels = 2 * (recipe.paddle_length + ceil(recipe.paddle_thickness) + margin) + 1
    middle = FINE * pixels / 2 - 0.5
    along = FINE * np.array((np.cos(radians), np.sin(radians)))  # a pixel in x and y
    across = width / 2 * along[::-1] * (-1, 1)
    tip = length * along
    corners = middle + np.array((across, tip + across, tip - across, -across))  # (4, 2)
    canvas = Image.new("L", (FINE * pixels, FINE * pixels))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return _resized(np.asarray(canvas), pixels)


def _offsets(images: list[np.ndarray], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of the pixels that are not zero; a row that is shorter repeats its first pixel."""
    rows = []
    for image in images:
        y, x = np.nonzero(image)
        rows.append(((y - len(image) // 2) * stride + x - len(image) // 2, image[y, x]))
    longest = max(len(values) for _, values in rows)
    columns = [np.where(np.arange(longest) < len(values), np.arange(longest), 0) for _, values in rows]
    offsets = np.array([row[0][column] for row, column in zip(rows, columns, strict=True)])
    return offsets, np.array([row[1][column] for row, column in zip(rows, columns, strict=True)], np.uint8)


def _windows(
    taken: list[np.ndarray], near: list[np.ndarray], stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Both, and the limit, in windows of one size with the start in the middle; the way to a window's corner.

    Columns are added until they fill a processor's vectors, whose pixels set and forbid nothing.
    """
    reach = max(len(image) for image in near) // 2

    def padded(image: np.ndarray) -> np.ndarray:
        missing = reach - len(image) // 2
        return np.pad(image, ((missing, missing), (missing, missing + -(2 * reach + 1) % 16)))

    set_, free = (np.array([padded(image) for image in images]) for images in (taken, near))
    limit = np.minimum(TOUCHING - 1 - set_.astype(int), 255).astype(np.uint8)
    return set_, limit, free, -reach * (stride + 1)


def _required(taken: np.ndarray, reach: int) -> np.ndarray:
    """The pixels that must be free for a first dash: those that it fills, one row and one column further on, which is
    how the published generator centres them, as far as they are within `reach`."""
    middle = len(taken) // 2
    filled = np.zeros_like(taken)
    filled[1:, 1:] = taken[:-1, :-1] == 255
    return filled[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _reach(required: np.ndarray) -> np.ndarray:
    """(2, 2): the first and the last row and column of these pixels, from the middle."""
    places = np.argwhere(required) - len(required) // 2  # (pixels, 2)
    return np.stack((places.min(0), places.max(0)))


def _begins(required: np.ndarray) -> bool:
    """Whether a snake can begin with a dash that requires these pixels.

    The published generator dilates what is taken by them, takes for a fault that in a corner of the image all of them
    may be outside, and begins anew. So these images have only few orientations of first dashes where margins are small.
    """
    middle = len(required) // 2
    before, after = slice(None, middle + 1), slice(middle, None)
    return all(required[rows, columns].any() for rows in (before, after) for columns in (before, after))


def _circle(radius: int) -> np.ndarray:
    """The pixels around a pivot, (candidates, 2) rows and columns."""
    around = np.deg2rad(np.arange(0, 360, 360 / (2 * np.pi * radius)))  # a pixel apart
    return np.unique(np.floor(radius * np.stack((np.sin(around), np.cos(around)), 1)).astype(int), axis=0)


def _radians(circle: np.ndarray) -> np.ndarray:
    """Of all orientations of a margin: those of first dashes, then those of the candidates."""
    return np.array([*np.deg2rad(np.arange(360)), *np.arctan2(*circle.T)])


def _outward(radians: np.ndarray) -> np.ndarray:
    """Where a dash lies from its start: first ones begin at their tails, the others at their heads."""
    return np.where(np.arange(len(radians)) < 360, radians, radians + np.pi)


@lru_cache
def lines(size: int, preset: str) -> Lines:
    """What is drawn of a dash in images of this size.

    The released 64 x 64 and 128 x 128 images have dashes of another length and width than today's libraries draw from
    the published numbers. `Recipe.released_dash` has what gives the same ink and as many components.
    """
    recipe = RECIPES[size]
    images = []
    for margin in recipe.margins:
        for angle in _outward(_radians(_circle(recipe.paddle_length + margin))):
            if preset == "released" and recipe.released_dash is not None:
                images.append(_fine_dash(angle, recipe, margin, *recipe.released_dash))
            else:
                images.append(_dash(angle, recipe, margin)[0])
    return Lines(*_offsets(images, _stride(size)))


def _border(recipe: Recipe) -> int:
    """Whatever is drawn from a start in the image stays in the border around it."""
    return recipe.paddle_length + 4 * max(recipe.margins) + 8


def _stride(size: int) -> int:
    return size + 2 * _border(RECIPES[size])


@lru_cache
def shapes(size: int) -> Shapes:
    """The shapes for images of this size, about a second's work."""
    recipe = RECIPES[size]
    length = recipe.paddle_length
    border, stride = _border(recipe), _stride(size)

    taken, near, required, first, per_margin = [], [], [], [], []
    angles: list[float] = []
    for margin in recipe.margins:
        circle = _circle(length + margin)
        radians = _radians(circle)
        first.append(len(angles))
        per_margin.append((margin, circle, radians))
        angles += radians.tolist()
        for angle in _outward(radians):
            wide = _dash(angle, recipe, margin)[1]
            taken.append(wide)
            near.append(grey_dilation(np.pad(wide, margin), footprint=disk(margin)))
            required.append(_required(wide, length + margin))

    candidates = max(len(circle) for _, circle, _ in per_margin)
    next_offsets = np.zeros((len(angles), candidates), int)
    next_orientations = np.zeros((len(angles), candidates), int)
    weights = np.zeros((len(angles), candidates), np.float32)
    head, pivot, next_pivot = [], [], []
    for begin, (margin, circle, radians) in zip(first, per_margin, strict=True):
        rows, columns = slice(begin, begin + len(radians)), slice(0, len(circle))
        next_offsets[rows, columns] = circle @ (stride, 1)
        next_orientations[rows, columns] = begin + 360 + np.arange(len(circle))
        turn = abs(np.angle(np.exp(1j * (radians[:, None] - radians[360:]))))
        weights[rows, columns] = np.cos(np.minimum(recipe.continuity * turn, np.pi / 2)) ** 2
        head += [_translated(angle, length) for angle in radians]
        pivot += [_translated(angle + np.pi, length + margin) for angle in radians]
        next_pivot += [_translated(angle, length + 2 * margin) for angle in radians]

    pixels = SUPERSAMPLING * (2 * border + 1)
    y, x = np.mgrid[:pixels, :pixels] - SUPERSAMPLING * border
    marker = (y**2 + x**2 <= (SUPERSAMPLING * recipe.marker_radius) ** 2) * np.uint8(255)
    taken_windows, limits, near_windows, to_window = _windows(taken, near, stride)
    return Shapes(
        stride,
        border,
        taken_windows,
        limits,
        near_windows,
        to_window,
        np.array([_begins(pixels) for pixels in required]),
        _offsets(required, stride)[0],
        np.array([_reach(pixels) for pixels in required]),
        np.array(head),
        np.array(head) + np.array(pivot),
        np.array(next_pivot) @ (stride, 1),
        next_offsets,
        next_orientations,
        weights,
        np.array(first),
        _resized(marker, 2 * border + 1),
    )
