"""Drawing the images of Pathfinder (Linsley et al. 2018; Tay et al. 2020): two long dashed snakes among short ones.

A snake is a chain of dashes ("paddles"). Two target snakes grow in turn, one dash each, and two discs mark either the
two ends of one of them (label 1) or one end of each (label 0); shorter snakes then fill what is free. A dash goes to a
pixel of the circle around the end of its snake, with a weight that falls with the turn and is zero where other dashes
are near; if it would touch one it is drawn again, three times at most. Where a target snake cannot grow, both are
thrown away and drawn anew: what remains has the distribution of a free growth, given that it succeeded. Going back a
few dashes instead would be faster, but would favour crowded images.

Most of the work is attempts that fail (about a hundred for an image of 128 x 128), so many images grow at once, each in
a lane of a few large arrays, one dash at a time. Dashes exist in few orientations, for each of which the pixels it sets
and the pixels it keeps free are known beforehand. The random numbers of an image are a function of (seed, its index)
and of how many it has used, so that an image does not depend on those beside it.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from scipy.ndimage import grey_dilation

LEVELS = {6: 2, 9: 3, 14: 4}  # dashes of a target snake -> of a distractor; 6 is "baseline", 14 is hard
PRESETS = ("released", "documented")
SUPERSAMPLING = 2
DRAWS = 3  # of one dash
DISTRACTOR_TRIES = 5
SEED_ROUNDS, SEED_POSITIONS = 30, 16  # of a distractor's first dash: a free pixel is found if 1% of them are free
FAILED_TOTAL = 1e-4
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


RECIPES = {
    32: Recipe(1, (1,), 7, 2, 0.5, 1.5, 1.0, 20, 1.5, 2.0),
    64: Recipe(1, (1,), 12, 5, 1.0, 2.5, 1.8, 22, 0.8, 0.8),
    128: Recipe(1, (2, 3), 20, 5, 1.5, 3.0, 1.8, 35, 0.9, 0.9),
    256: Recipe(22, (3,), 27, 5, 2.0, 5.0, 1.8, 30, 1.0, 1.0),
}


def distractors(size: int, level: int, preset: str) -> int:
    """At most so many: one for which there is no room is left out. The released 128 x 128 images have twice as many
    as documented."""
    dashes = RECIPES[size].distractor_dashes
    return (2 * dashes if (size, preset) == (128, "released") else dashes) // LEVELS[level]


# What a dash of each orientation sets and keeps free


@dataclass(frozen=True)
class Shapes:
    """Pixels, as offsets (rows times stride plus columns) from a dash's head, and their values, 0 to 255.

    There is a row for each orientation: 360 whole degrees for the first dash of a snake, then those of the candidates,
    for every margin.
    """

    stride: int
    border: int
    line_offsets: np.ndarray  # (orientations, pixels)
    line_values: np.ndarray
    taken: np.ndarray  # (orientations, window, window) the dash with its margin; its head is in the middle
    limit: np.ndarray  # (orientations, window, window) what may be taken already where the dash shall go
    near: np.ndarray  # (orientations, window, window) and with the margin of a candidate
    path_offsets: np.ndarray  # the dash one pixel wide, from its tail
    tail_to_head: np.ndarray  # (orientations, 2)
    tail_to_pivot: np.ndarray  # (orientations, 2)
    to_next_pivot: np.ndarray  # (orientations, 2) from the head
    next_offsets: np.ndarray  # (orientations, candidates) from that pivot
    next_orientations: np.ndarray
    weights: np.ndarray  # (orientations, candidates) float32
    first: tuple[int, ...]  # orientation 0 degrees of each margin
    marker: np.ndarray  # (2 * border + 1, 2 * border + 1) uint8


def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return y**2 + x**2 <= radius**2


@lru_cache
def _halve(pixels: int) -> np.ndarray:
    """(pixels, 2 * pixels): resampling to half the size by the Lanczos filter with three lobes."""
    position = (np.arange(2 * pixels) + 0.5 - (2 * np.arange(pixels)[:, None] + 1)) / 2  # in pixels of the result
    filter = np.where(abs(position) < 3, np.sinc(position) * np.sinc(position / 3), 0)
    return filter / filter.sum(1, keepdims=True)


def _resampled(image: np.ndarray) -> np.ndarray:
    halve = _halve(len(image) // 2)
    return np.clip(halve @ image @ halve.T * 255 + 0.5, 0, 255).astype(np.uint8)


def _translated(radians: float, distance: float) -> tuple[int, int]:
    """Rows and columns, rounded up; 0.001 less, so that what should be whole is."""
    return ceil(np.sin(radians) * distance - 1e-3), ceil(np.cos(radians) * distance - 1e-3)


def _sparse(images: list[np.ndarray], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of the pixels that are not zero; a row that is shorter repeats its first pixel."""
    rows = []
    for image in images:
        y, x = np.nonzero(image)
        rows.append(((y - len(image) // 2) * stride + x - len(image) // 2, image[y, x]))
    longest = max(len(values) for _, values in rows)
    columns = [np.where(np.arange(longest) < len(values), np.arange(longest), 0) for _, values in rows]
    offsets = np.array([row[0][column] for row, column in zip(rows, columns, strict=True)])
    return offsets, np.array([row[1][column] for row, column in zip(rows, columns, strict=True)], np.uint8)


def _windows(taken: list[np.ndarray], near: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both, and the limit, cut to the smallest square around the head that holds all of them."""
    used = np.any(near, axis=0)
    middle = len(used) // 2
    reach = abs(np.argwhere(used) - middle).max()
    cut = slice(middle - reach, middle + reach + 1)
    taken, near = np.array(taken)[:, cut, cut], np.array(near)[:, cut, cut]
    limit = np.minimum(TOUCHING - 1 - taken.astype(int), 255).astype(np.uint8)
    return taken, limit, near


@lru_cache
def shapes(size: int) -> Shapes:
    """The shapes for images of this size, about a second's work."""
    recipe = RECIPES[size]
    length, widest = recipe.paddle_length, max(recipe.margins)
    border = length + 4 * widest + 8  # whatever is drawn from a head in the image stays in the border around it
    stride = size + 2 * border
    y, x = np.mgrid[: SUPERSAMPLING * (2 * border + 1), : SUPERSAMPLING * (2 * border + 1)] - SUPERSAMPLING * border

    lines, taken, near, paths, angles, first, per_margin = [], [], [], [], [], [], []
    for margin in recipe.margins:
        circle = sorted({_translated(np.deg2rad(degree), length + margin) for degree in range(360)})
        radians = [*np.deg2rad(np.arange(360)), *(np.arctan2(dy, dx) for dy, dx in circle)]
        first.append(len(angles))
        per_margin.append((margin, circle, np.array(radians)))
        angles += radians
        for angle in radians:
            along = -(y * np.sin(angle) + x * np.cos(angle))
            width = max(1, round(recipe.paddle_thickness * SUPERSAMPLING))
            across = y * np.cos(angle) - x * np.sin(angle) - (width % 2 == 0) / 2  # an even width has no middle pixel
            drawn = (along >= 0) & (along <= SUPERSAMPLING * length)
            drawn &= abs(across) <= max(width / 2 - 0.25, 0.5)
            lines.append(_resampled(drawn.astype(float)))
            wide = grey_dilation(drawn.astype(np.uint8), footprint=_disk(SUPERSAMPLING * margin))
            taken.append(_resampled(wide.astype(float)))
            near.append(grey_dilation(taken[-1], footprint=_disk(margin)))
            steps = np.round(np.arange(length + 1)[:, None] * (np.sin(angle), np.cos(angle))).astype(int)
            paths.append(steps @ (stride, 1))

    candidates = max(len(circle) for _, circle, _ in per_margin)
    next_offsets = np.zeros((len(angles), candidates), int)
    next_orientations = np.zeros((len(angles), candidates), int)
    weights = np.zeros((len(angles), candidates), np.float32)
    head, pivot, next_pivot = [], [], []
    for begin, (margin, circle, radians) in zip(first, per_margin, strict=True):
        rows, columns = slice(begin, begin + len(radians)), slice(0, len(circle))
        next_offsets[rows, columns] = np.array(circle) @ (stride, 1)
        next_orientations[rows, columns] = begin + 360 + np.arange(len(circle))
        turn = abs(np.angle(np.exp(1j * (radians[:, None] - radians[360:]))))
        weights[rows, columns] = np.cos(np.minimum(recipe.continuity * turn, np.pi / 2)) ** 2
        head += [_translated(angle, length) for angle in radians]
        pivot += [_translated(angle + np.pi, margin) for angle in radians]
        next_pivot += [_translated(angle, margin) for angle in radians]

    marker = _resampled((y**2 + x**2 <= (SUPERSAMPLING * recipe.marker_radius) ** 2).astype(float))
    return Shapes(
        stride,
        border,
        *_sparse(lines, stride),
        *_windows(taken, near),
        np.array(paths),
        np.array(head),
        np.array(pivot),
        np.array(next_pivot),
        next_offsets,
        next_orientations,
        weights,
        tuple(first),
        marker,
    )


# Growing


class _Random:
    """SplitMix64 for each lane: the n-th number depends on the lane's key and n alone."""

    def __init__(self, lanes: int):
        self._state = np.zeros(lanes, np.uint64)

    def start(self, lanes: np.ndarray, keys: np.ndarray, attempts: np.ndarray | int = 0) -> None:
        self._state[lanes] = _mixed(keys + (np.asarray(attempts, np.uint64) + np.uint64(1)) * _GAMMA)

    def uniform(self, lanes: np.ndarray, count: int) -> np.ndarray:
        """(len(lanes), count) float64 in [0, 1)."""
        numbers = self._state[lanes][:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
        self._state[lanes] = numbers[:, -1]
        return (_mixed(numbers) >> np.uint64(11)) * 2.0**-53


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@dataclass(frozen=True)
class Drawing:
    """An image before it is drawn.

    Attributes:
        label: 1 if both markers are on one target snake.
        heads: (dashes, 2) rows and columns of the dashes' heads.
        orientations: (dashes,) rows of `Shapes`.
        snakes: (dashes,) which snake a dash belongs to: 0 and 1 are the targets.
        markers: (2, 2) rows and columns: the first end of a target snake, the last end of a target snake.
        marked: The two target snakes with the markers.
        attempts: How many pairs of target snakes were begun.
    """

    label: int
    heads: np.ndarray
    orientations: np.ndarray
    snakes: np.ndarray
    markers: np.ndarray
    marked: tuple[int, int]
    attempts: int


def drawings(indices: range, size: int, level: int, preset: str, seed: int) -> dict[int, Drawing]:
    """Grow the images of these indices."""
    growth = _Growth(256 if size < 256 else 128, size, level, preset)
    done: dict[int, Drawing] = {}
    for begin in range(0, len(indices), 1024):
        done |= growth.run(indices[begin : begin + 1024], seed)
    return done


class _Growth:
    """First all targets: a lane is one attempt for some image. The attempts of an image are numbered, each has random
    numbers of its own, and the first one that succeeds counts, so that several can be made at once without changing
    what comes out: an image that needs thousands of them does not leave all other lanes waiting. Then the distractors,
    where a lane is an image."""

    def __init__(self, lanes: int, size: int, level: int, preset: str):
        self.size, self.level = size, level
        self.recipe, self.shapes = RECIPES[size], shapes(size)
        self.most_distractors = distractors(size, level, preset)
        border, stride, padding = self.shapes.border, self.shapes.stride, self.recipe.padding
        self.image_area = -(-stride * stride // 8) * 8  # whole words, which are faster to copy
        # Offset from a head of the rows of a window; such a row is one item of _rows(), which is what makes it fast.
        self.window = self.shapes.near.shape[1]
        self.window_rows = np.arange(self.window) * stride - self.window // 2 * (stride + 1)

        # What is taken by dashes with their margin, and the same dilated by the margin once more: 0 to 255.
        inside = slice(border + padding, border + size - padding)
        empty = np.full((stride, stride), 255, np.uint8)
        empty[inside, inside] = 0
        self.empty_taken, self.empty_near = np.full((2, len(self.recipe.margins), self.image_area), 255, np.uint8)
        for number, margin in enumerate(self.recipe.margins):
            self.empty_taken[number, : stride * stride] = empty.reshape(-1)
            self.empty_near[number, : stride * stride] = grey_dilation(empty, footprint=_disk(margin)).reshape(-1)
        self.taken, self.near = np.zeros((2, lanes, self.image_area), np.uint8)
        self.kept_taken = np.zeros_like(self.taken)  # as it was before the distractor that grows
        self.kept_near = np.zeros_like(self.near)

        self.random = _Random(lanes)
        self.margin = np.zeros(lanes, int)  # its position in the recipe
        self.distractor = np.zeros(lanes, int)  # 0: the targets grow; n: the n-th distractor
        self.tries = np.zeros(lanes, int)
        self.seed_rounds = np.zeros(lanes, int)
        self.dash = np.zeros(lanes, int)  # of the group that grows: how many dashes are there
        self.dashes_before = np.zeros(lanes, int)  # those of finished groups
        most = 2 * level + self.most_distractors * LEVELS[level]
        self.heads = np.zeros((lanes, most), int)  # positions in an image with its border
        self.orientations = np.zeros((lanes, most), int)
        self.snakes = np.zeros((lanes, most), int)

    def run(self, indices: range, seed: int) -> dict[int, Drawing]:
        keys = np.array(
            [np.random.SeedSequence([seed, i]).generate_state(3, np.uint64) for i in indices]
        )  # (images, 3)
        choices = (_mixed(keys[:, 2:] + np.arange(1, 4, dtype=np.uint64) * _GAMMA) >> np.uint64(11)) * 2.0**-53
        margins = (choices[:, 0] * len(self.recipe.margins)).astype(int)
        labels, origins = (choices[:, 1:] * 2).astype(int).T
        attempts, heads, orientations = self._targets(keys[:, 0], margins)
        done, lanes = {}, len(self.distractor)
        for begin in range(0, len(indices), lanes):
            images = np.arange(begin, min(begin + lanes, len(indices)))
            self._distractors(keys[images, 1], margins[images], heads[images], orientations[images])
            for lane, image in enumerate(images):
                done[indices[image]] = self._finished(lane, labels[image], origins[image], attempts[image] + 1)
        return done

    def _targets(self, keys: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each image the first attempt that succeeds, from 0, and the heads and orientations of its dashes."""
        images, lanes = len(keys), len(self.distractor)
        heads, orientations = np.zeros((2, images, 2 * self.level), int)
        started = np.zeros(images, int)  # attempts
        success = np.full(images, np.iinfo(int).max)  # the first that is known
        image, attempt = np.zeros((2, lanes), int)  # of a lane
        self.distractor[:] = self.dashes_before[:] = turn = 0
        active, ready = np.zeros(lanes, bool), np.arange(lanes)
        while True:
            active[ready] = False
            if (waiting := np.flatnonzero(started >= 0)).size:  # each in its turn, several times if there are few
                turns = turn + np.arange(len(ready))
                turn = (turns[-1] + 1) % len(waiting) if len(ready) else turn % len(waiting)
                chosen = waiting[turns % len(waiting)]
                image[ready], attempt[ready] = chosen, started[chosen] + np.arange(len(ready)) // len(waiting)
                np.add.at(started, chosen, 1)
                self._clear(ready, margins[chosen])
                self.random.start(ready, keys[chosen], attempt[ready])
                self._seed_targets(ready)
                active[ready] = True
            growing = np.flatnonzero(active)
            if not growing.size:
                return success, heads, orientations
            failed = self._extend(growing)
            finished = growing[self.dash[growing] == 2 * self.level]
            for lane in finished:
                if attempt[lane] < success[image[lane]]:
                    success[image[lane]] = attempt[lane]
                    heads[image[lane]] = self.heads[lane, : 2 * self.level]
                    orientations[image[lane]] = self.orientations[lane, : 2 * self.level]
                    started[image[lane]] = -lanes - 1  # no more of them
            late = growing[attempt[growing] > success[image[growing]]] if finished.size else finished
            ready = np.unique(np.concatenate((failed, finished, late)))

    def _clear(self, lanes: np.ndarray, margins: np.ndarray) -> None:
        self.margin[lanes] = margins
        self.dash[lanes] = 0
        for margin in range(len(self.recipe.margins)):
            for mask, empty in ((self.taken, self.empty_taken), (self.near, self.empty_near)):
                mask.view(np.uint64)[lanes[margins == margin]] = empty[margin].view(np.uint64)

    def _distractors(self, keys: np.ndarray, margins: np.ndarray, heads: np.ndarray, orientations: np.ndarray) -> None:
        """Fill the lanes with these images' targets and grow the distractors."""
        lanes, targets = np.arange(len(keys)), 2 * self.level
        self.random.start(lanes, keys)
        self._clear(lanes, margins)
        self.heads[lanes, :targets], self.orientations[lanes, :targets] = heads, orientations
        self.snakes[lanes, :targets] = np.arange(targets) % 2
        # The last dash of the first snake keeps nothing free, as in the published generator.
        for column in (*range(targets - 2), targets - 1):
            self._take(lanes, np.full(len(lanes), column))
        self.dashes_before[lanes] = targets
        self.dash[lanes] = self.distractor[lanes] = 0
        self._next_distractor(lanes)
        while (active := lanes[self.distractor[lanes] <= self.most_distractors]).size:
            seeding = self.dash[active] == 0
            failed = np.concatenate((self._seed_distractors(active[seeding]), self._extend(active[~seeding])))
            self._restart(failed)
            whole = active[self.dash[active] == LEVELS[self.level]]
            self._take(whole, self.dashes_before[whole] + self.dash[whole] - 1)
            self._next_distractor(whole)

    def _next_distractor(self, lanes: np.ndarray) -> None:
        self.kept_taken[lanes], self.kept_near[lanes] = self.taken[lanes], self.near[lanes]
        self.dashes_before[lanes] += self.dash[lanes]
        self.distractor[lanes] += 1
        self.dash[lanes] = self.tries[lanes] = self.seed_rounds[lanes] = 0

    def _restart(self, lanes: np.ndarray) -> None:
        """Throw the distractor that grows away; one that has failed too often is left out."""
        self.taken[lanes] = self.kept_taken[lanes]
        self.near[lanes] = self.kept_near[lanes]
        self.dash[lanes] = self.seed_rounds[lanes] = 0
        self.tries[lanes] += 1
        given_up = lanes[self.tries[lanes] == DISTRACTOR_TRIES]
        self.distractor[given_up] += 1
        self.tries[given_up] = 0

    def _add(self, lanes: np.ndarray, heads: np.ndarray, orientations: np.ndarray) -> None:
        column = self.dashes_before[lanes] + self.dash[lanes]
        self.heads[lanes, column] = heads
        self.orientations[lanes, column] = orientations
        distractor = self.distractor[lanes]
        self.snakes[lanes, column] = np.where(distractor == 0, self.dash[lanes] % 2, distractor + 1)
        self.dash[lanes] += 1

    def _take(self, lanes: np.ndarray, columns: np.ndarray) -> None:
        """Mark the pixels of dashes as taken."""
        rows = (lanes * self.image_area + self.heads[lanes, columns])[:, None] + self.window_rows
        orientations = self.orientations[lanes, columns]
        for mask, shape in ((self.taken, self.shapes.taken), (self.near, self.shapes.near)):
            flat = self._rows(mask)
            windows = flat[rows].view(np.uint8).reshape(-1, self.window, self.window)
            np.maximum(windows, shape[orientations], out=windows)
            flat[rows] = windows.reshape(-1, self.window**2).view(flat.dtype)

    def _rows(self, mask: np.ndarray) -> np.ndarray:
        """The mask as overlapping items of `window` pixels: item n begins at pixel n."""
        return np.ndarray(mask.size - self.window + 1, f"V{self.window}", mask, strides=(1,))

    def _position(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return (rows + self.shapes.border) * self.shapes.stride + columns + self.shapes.border

    def _orientation(self, lanes: np.ndarray, draw: np.ndarray) -> np.ndarray:
        return np.array(self.shapes.first)[self.margin[lanes]] + (draw * 360).astype(int)

    def _seed_targets(self, lanes: np.ndarray) -> None:
        """First dashes: one in the centre of the image, the other at a distance from it. They never fail."""
        draws = self.random.uniform(lanes, 5)
        low, high = 2 * self.recipe.seed_distance, self.size - 2 * self.recipe.seed_distance
        first, second = self._orientation(lanes, draws[:, 0]), self._orientation(lanes, draws[:, 1])
        reach = self.shapes.tail_to_head[first]  # (lanes, 2); the whole dash is in the centre
        least, most = low + np.maximum(-reach, 0), high - np.maximum(reach, 0)
        tails = least + (draws[:, 2:4] * (most - least)).astype(int)
        self._add(lanes, self._position(*(tails + reach).T), first)
        angle = np.deg2rad((draws[:, 4] * 360).astype(int))
        distance = self.recipe.seed_distance
        tails = tails + np.ceil(np.stack((np.sin(angle), np.cos(angle)), 1) * distance - 1e-3).astype(int)
        self._add(lanes, self._position(*(tails + self.shapes.tail_to_head[second]).T), second)

    def _seed_distractors(self, lanes: np.ndarray) -> np.ndarray:
        """First dashes at pixels from which a line is free, each such pixel as likely as another."""
        draws = self.random.uniform(lanes, 1 + 2 * SEED_POSITIONS)
        orientations = self._orientation(lanes, draws[:, 0])
        tails = (draws[:, 1:] * self.size).astype(int).reshape(-1, SEED_POSITIONS, 2)
        paths = (
            self._position(tails[..., 0], tails[..., 1])[:, :, None] + self.shapes.path_offsets[orientations][:, None]
        )
        free = (self.taken.reshape(-1)[paths + (lanes * self.image_area)[:, None, None]] == 0).all(2)
        pivots = tails + self.shapes.tail_to_pivot[orientations][:, None]
        free &= ((pivots >= 0) & (pivots < self.size)).all(2)  # (lanes, SEED_POSITIONS)
        found, which = free.any(1), free.argmax(1)
        heads = tails[np.arange(len(lanes)), which] + self.shapes.tail_to_head[orientations]
        self._add(lanes[found], self._position(*heads[found].T), orientations[found])
        self.seed_rounds[lanes] += 1
        return lanes[~found & (self.seed_rounds[lanes] == SEED_ROUNDS)]

    def _extend(self, lanes: np.ndarray) -> np.ndarray:
        """One more dash for the snake whose turn it is; returns the lanes that failed."""
        shapes = self.shapes
        previous = self.dashes_before[lanes] + self.dash[lanes] - np.where(self.distractor[lanes] == 0, 2, 1)
        last = self.orientations[lanes, previous]
        offset = lanes * self.image_area
        pivots = self.heads[lanes, previous] + shapes.to_next_pivot[last] @ (shapes.stride, 1)
        candidates = (offset + pivots)[:, None] + shapes.next_offsets[last]  # (lanes, candidates)
        free = 255 - self.near.reshape(-1)[candidates]
        distribution = np.cumsum(shapes.weights[last] * free, 1)
        total = distribution[:, -1]
        draws = self.random.uniform(lanes, DRAWS) * total[:, None]
        left = np.flatnonzero(total >= FAILED_TOTAL * 255)
        failed = np.ones(len(lanes), bool)
        for draw in draws.T:
            chosen = (distribution[left] <= draw[left, None]).sum(1)
            chosen = np.minimum(chosen, distribution.shape[1] - 1)
            heads = candidates[left, chosen]
            orientations = shapes.next_orientations[last[left], chosen]
            windows = self._rows(self.taken)[heads[:, None] + self.window_rows].view(np.uint8)
            windows = windows.reshape(-1, self.window, self.window)
            fits = ~(windows > shapes.limit[orientations]).any((1, 2))
            added = left[fits]
            failed[added] = False
            self._take(lanes[added], previous[added])
            self._add(lanes[added], heads[fits] - offset[added], orientations[fits])
            left = left[~fits]
        return lanes[failed]

    def _finished(self, lane: int, label: int, origin: int, attempts: int) -> Drawing:
        terminal = origin if label else 1 - origin
        dashes = self.dashes_before[lane]
        heads = np.stack(np.divmod(self.heads[lane, :dashes], self.shapes.stride), 1) - self.shapes.border
        tail = heads[origin] - self.shapes.tail_to_head[self.orientations[lane, origin]]
        return Drawing(
            int(label),
            heads,
            self.orientations[lane, :dashes].copy(),
            self.snakes[lane, :dashes].copy(),
            np.array([tail, heads[2 * self.level - 2 + terminal]]),
            (int(origin), int(terminal)),
            int(attempts),
        )


# Drawing


def draw(drawing: Drawing, size: int) -> np.ndarray:
    """The image, (size, size) uint8; its brightest pixel is 255."""
    recipe, pixels = RECIPES[size], shapes(size)
    border, stride = pixels.border, pixels.stride
    image = np.zeros(stride * stride, np.float32)
    heads = (drawing.heads + border) @ (stride, 1)
    # distractors first, so that of two dashes at one pixel np.maximum below sees each
    for dashes, contrast in (
        (drawing.snakes > 1, recipe.distractor_contrast),
        (drawing.snakes < 2, recipe.target_contrast),
    ):
        offsets = heads[dashes, None] + pixels.line_offsets[drawing.orientations[dashes]]
        values = pixels.line_values[drawing.orientations[dashes]] * np.float32(contrast / 255)
        np.maximum.at(image, offsets, values)
    image = image.reshape(stride, stride)
    marker = pixels.marker * np.float32(1 / 255)
    for row, column in drawing.markers:
        window = image[row : row + 2 * border + 1, column : column + 2 * border + 1]
        np.maximum(window, marker, out=window)
    image = image[border : border + size, border : border + size]
    return (image * (255 / image.max()) + np.float32(0.5)).astype(np.uint8)


def images_of(indices: range, size: int, level: int, preset: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (len(indices), size, size) uint8 and labels (len(indices),) uint8."""
    grown = drawings(indices, size, level, preset, seed)
    images = np.stack([draw(grown[i], size) for i in indices])
    return images, np.array([grown[i].label for i in indices], np.uint8)
