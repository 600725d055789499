"""Growing the snakes of Pathfinder's images (Linsley et al. 2018; Tay et al. 2020): two long ones among short ones.

A snake is a chain of dashes ("paddles"). Two target snakes grow in turn, one dash each, and two discs mark either the
two ends of one of them (label 1) or one end of each (label 0); shorter snakes then fill what is free. A dash goes to a
pixel of the circle around the end of its snake, with a weight that falls with the turn and is zero where other dashes
are near; if it would touch one it is drawn again, three times at most. Where a target snake cannot grow, both are
thrown away and drawn anew: what remains has the distribution of a free growth, given that it succeeded. Going back a
few dashes instead would be faster, but would favour crowded images.

Most of the work is attempts that fail (hundreds for an image of 128 x 128, thousands at 64 x 64), a few pixels at a
time, and none of it can be done for whole arrays at once: so Numba compiles it, at the first call on a machine. The
random numbers of an image are a function of (seed, its index) and of how many it has used.

A position is an offset into an image with its border, row by row; pixels are 0 to 255.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import grey_dilation

from flash_sparse_datasets.shared.compiled import compiled
from flash_sparse_datasets.snakes.shapes import RECIPES, disk, distractor_level, shapes

DRAWS = 3  # of one dash
MOST_ATTEMPTS = 1_000_000  # pairs of target snakes; the published recipes need thousands
DISTRACTOR_TRIES = 5
SEED_DRAWS = 500  # of a distractor's first dash: a free pixel is found, almost surely, if 1% of them are free
FREE = 76  # what may be taken where a first dash goes: 0.3 of 255
FAILED_TOTAL = np.float32(1e-4 * 255)
VECTOR = 64  # bytes behind the last pixel that a window's added columns may reach


@dataclass(frozen=True)
class Drawing:
    """An image before it is drawn.

    Attributes:
        label: 1 if both markers are on one target snake.
        starts: (dashes, 2) rows and columns: the tail of a snake's first dash, the head of each other.
        orientations: (dashes,) rows of `Shapes`.
        snakes: (dashes,) which snake a dash belongs to: 0 and 1 are the targets.
        markers: (2, 2) rows and columns: the first end of a target snake, the last end of a target snake.
        marked: The two target snakes with the markers.
        attempts: How many pairs of target snakes were begun.
    """

    label: int
    starts: np.ndarray
    orientations: np.ndarray
    snakes: np.ndarray
    markers: np.ndarray
    marked: tuple[int, int]
    attempts: int


def grow(index: int, size: int, level: int, distractors: int, seed: int) -> Drawing:
    """The image of this index, with at most so many distractors; ValueError where so long snakes find no room."""
    forms, recipe = shapes(size), RECIPES[size]
    keys = np.random.SeedSequence([seed, index]).generate_state(3, np.uint64)
    label, origin, attempts, starts, orientations, snakes = _grow(
        keys, forms, _empty(size), size, recipe.seed_distance, level, distractor_level(level), distractors
    )
    if attempts > MOST_ATTEMPTS:
        raise ValueError(
            f"level is {level}, expected fewer dashes: two such snakes find no room in {size} x {size} pixels"
        )
    terminal = origin if label else 1 - origin
    places = np.stack(np.divmod(starts, forms.stride), 1) - forms.border
    markers = places[[origin, 2 * level - 2 + terminal]]
    return Drawing(label, places, orientations, snakes, markers, (origin, terminal), attempts)


class Masks(NamedTuple):
    """What is taken in an image: the dashes with their margins, and the same dilated by the margin once more."""

    taken: np.ndarray  # (..., pixels) uint8
    near: np.ndarray  # (..., pixels) uint8


class Snakes(NamedTuple):
    """The dashes of an image that grows, in the order in which they came."""

    starts: np.ndarray  # (most,) positions
    pivots: np.ndarray  # (most,) positions around which the dashes were chosen
    orientations: np.ndarray  # (most,)
    snakes: np.ndarray  # (most,)
    distribution: np.ndarray  # (candidates,) float32, room for the next dash's
    random: np.ndarray  # (1,) uint64, the state of SplitMix64


@lru_cache
def _empty(size: int) -> Masks:
    """Images without dashes, (margins, pixels): what is outside is taken."""
    forms, recipe = shapes(size), RECIPES[size]
    inside = slice(forms.border + recipe.padding, forms.border + size - recipe.padding)
    empty = np.full((forms.stride, forms.stride), 255, np.uint8)
    empty[inside, inside] = 0
    near = [grey_dilation(empty, footprint=disk(margin)) for margin in recipe.margins]
    beyond = ((0, 0), (0, VECTOR))
    return Masks(*(np.pad(np.reshape(mask, (len(near), -1)), beyond) for mask in ([empty] * len(near), near)))


# From here on everything is compiled. First the random numbers: the n-th of an image depends on its key and n alone.

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@compiled
def _mixed(number):
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


@compiled
def _uniform(random):
    """A float64 in [0, 1)."""
    random[0] += _GAMMA
    return (_mixed(random[0]) >> np.uint64(11)) * 2.0**-53


@compiled
def _grow(keys, forms, empty, size, seed_distance, level, distractor_level, most_distractors):
    most = 2 * level + most_distractors * distractor_level
    grown = Snakes(
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.zeros(forms.weights.shape[1], np.float32),
        keys[2:3].copy(),
    )
    margin = int(_uniform(grown.random) * len(forms.first))
    label, origin = int(_uniform(grown.random) * 2), int(_uniform(grown.random) * 2)
    masks = Masks(np.empty_like(empty.taken[0]), np.empty_like(empty.near[0]))
    attempts = 0
    while True:
        attempts += 1
        if attempts > MOST_ATTEMPTS:
            return label, origin, attempts, grown.starts, grown.orientations, grown.snakes
        grown.random[0] = _mixed(keys[0] + np.uint64(attempts) * _GAMMA)
        if not _begin_targets(grown, forms, margin, size, seed_distance):
            continue
        _copy(masks, Masks(empty.taken[margin], empty.near[margin]))
        if _extend_targets(grown, masks, forms, level):
            break
    _take(grown, masks, forms, 2 * level - 1)  # of the other snake the last dash keeps nothing free, as published
    grown.random[0] = _mixed(keys[1] + _GAMMA)
    dashes = _distractors(grown, masks, forms, margin, size, 2 * level, distractor_level, most_distractors)
    return label, origin, attempts, grown.starts[:dashes], grown.orientations[:dashes], grown.snakes[:dashes]


@compiled
def _copy(masks, others):
    for mask, other in ((masks.taken, others.taken), (masks.near, others.near)):
        for pixel in range(mask.size):  # several times as fast as an assignment of the whole
            mask[pixel] = other[pixel]


@compiled
def _begin_targets(grown, forms, margin, size, seed_distance):
    """The first dashes of both target snakes; whether there is a place for them."""
    orientation = forms.first[margin] + int(_uniform(grown.random) * 360)
    row, column = _centre(grown, forms, orientation, size, 2 * seed_distance)
    if row < 0:
        return False
    _begin(grown, forms, 0, row, column, orientation)
    orientation = forms.first[margin] + int(_uniform(grown.random) * 360)
    away = np.deg2rad(float(int(_uniform(grown.random) * 360)))
    row += int(np.rint(np.sin(away) * seed_distance))
    column += int(np.rint(np.cos(away) * seed_distance))
    _begin(grown, forms, 1, row, column, orientation)
    grown.snakes[:2] = 0, 1
    return True


@compiled
def _extend_targets(grown, masks, forms, level):
    """The other dashes of both, in turn; whether there was room."""
    for dash in range(2, 2 * level):
        grown.snakes[dash] = dash % 2
        if not _extend(grown, masks, forms, dash - 2, dash):
            return False
    return True


@compiled
def _centre(grown, forms, orientation, size, border):
    """Row and column of a tail so far within the image that what its dash fills is so too; -1 where that cannot be."""
    if not forms.begins[orientation]:
        return -1, -1
    low = border - np.minimum(forms.reach[orientation, 0], 0)
    high = size - border - np.maximum(forms.reach[orientation, 1], 0)
    row, column = _uniform(grown.random), _uniform(grown.random)
    if low[0] >= high[0] or low[1] >= high[1]:
        return -1, -1
    return low[0] + int(row * (high[0] - low[0])), low[1] + int(column * (high[1] - low[1]))


@compiled
def _distractors(grown, masks, forms, margin, size, dashes, level, most):
    """Add snakes of `level` dashes to the `dashes` that are there; how many dashes there are then.

    A snake that cannot grow is thrown away, and left out after some tries.
    """
    before = Masks(masks.taken.copy(), masks.near.copy())
    for distractor in range(most):
        for _ in range(DISTRACTOR_TRIES):
            whole = _seed(grown, masks, forms, margin, size, dashes)
            for dash in range(dashes + 1, dashes + level):
                whole = whole and _extend(grown, masks, forms, dash - 1, dash)
            if whole:
                grown.snakes[dashes : dashes + level] = distractor + 2
                dashes += level
                _take(grown, masks, forms, dashes - 1)
                _copy(before, masks)
                break
            _copy(masks, before)
    return dashes


@compiled
def _seed(grown, masks, forms, margin, size, dash):
    """A distractor's first dash, at a tail from which it is free, each such pixel as likely as another."""
    orientation = forms.first[margin] + int(_uniform(grown.random) * 360)
    if not forms.begins[orientation]:
        return False
    for _ in range(SEED_DRAWS):
        row, column = int(_uniform(grown.random) * size), int(_uniform(grown.random) * size)
        position = (row + forms.border) * forms.stride + column + forms.border
        free = True
        for offset in forms.free_offsets[orientation]:
            if masks.taken[position + offset] > FREE:
                free = False
                break
        for place in (forms.to_head[orientation], forms.to_pivot[orientation]):
            free = free and 0 <= row + place[0] < size and 0 <= column + place[1] < size
        if free:
            _begin(grown, forms, dash, row, column, orientation)
            return True
    return False


@compiled
def _begin(grown, forms, dash, row, column, orientation):
    grown.starts[dash] = (row + forms.border) * forms.stride + column + forms.border
    grown.pivots[dash] = (
        grown.starts[dash] + forms.to_pivot[orientation, 0] * forms.stride + forms.to_pivot[orientation, 1]
    )
    grown.orientations[dash] = orientation


@compiled
def _extend(grown, masks, forms, previous, dash):
    """Let `dash` follow the dash `previous`, which only now keeps its surroundings free; whether there was room."""
    last = grown.orientations[previous]
    pivot = grown.pivots[previous] + forms.to_next_pivot[last]
    total = np.float32(0)
    for candidate in range(grown.distribution.size):
        free = 255 - masks.near[pivot + forms.next_offsets[last, candidate]]
        total += forms.weights[last, candidate] * np.float32(free)
        grown.distribution[candidate] = total
    draws = np.empty(DRAWS)
    for number in range(DRAWS):
        draws[number] = _uniform(grown.random) * total
    if total < FAILED_TOTAL:
        return False
    for draw in draws:
        chosen = 0
        while chosen < grown.distribution.size - 1 and grown.distribution[chosen] <= draw:
            chosen += 1
        head, orientation = pivot + forms.next_offsets[last, chosen], forms.next_orientations[last, chosen]
        if _fits(masks, forms, head, orientation):
            _take(grown, masks, forms, previous)
            grown.starts[dash], grown.pivots[dash], grown.orientations[dash] = head, pivot, orientation
            return True
    return False


@compiled
def _fits(masks, forms, head, orientation):
    """Whether a dash touches none of those that are there."""
    limit = forms.limit[orientation]
    for row in range(limit.shape[0]):
        begin = head + forms.to_window + row * forms.stride
        there, allowed = masks.taken[begin : begin + limit.shape[1]], limit[row]
        touching = False
        for column in range(allowed.size):  # to the end of the row, for whole vectors at a time
            touching |= there[column] > allowed[column]
        if touching:
            return False
    return True


@compiled
def _take(grown, masks, forms, dash):
    """Mark the surroundings of a dash as taken."""
    taken, near = forms.taken[grown.orientations[dash]], forms.near[grown.orientations[dash]]
    for row in range(taken.shape[0]):
        begin = grown.starts[dash] + forms.to_window + row * forms.stride
        for mask, form in ((masks.taken, taken[row]), (masks.near, near[row])):
            there = mask[begin : begin + form.size]
            for column in range(form.size):
                there[column] = form[column] if form[column] > there[column] else there[column]
