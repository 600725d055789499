"""What others published on Long Range Arena, in percent of right answers: to stand beside a suite's own results.

None is a task that was not run or did not get above chance. None of these figures was measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

FLASH = "Dao et al. 2022, FlashAttention, tables 3 and 6"


@dataclass(frozen=True)
class Published:
    """One model.

    Attributes:
        scores: task -> accuracy in percent.
        own_average: as its source has it: over the first five tasks, Mega's over six.
        speedup: times as fast in training as textbook attention, the geometric mean over its tasks, or None.
        source: where the figures are.
    """

    model: str
    scores: dict[str, float | None]
    own_average: float
    speedup: float | None
    source: str

    def average(self, tasks: list[str]) -> float | None:
        """Over these tasks; None where one of them is missing."""
        scores = [score for task in tasks if (score := self.scores.get(task)) is not None]
        return sum(scores) / len(scores) if scores and len(scores) == len(tasks) else None


def _row(
    model: str, scores: tuple[float | None, ...], own_average: float, source: str, speedup: float | None = None
) -> Published:
    tasks = ("listops", "imdb", "aan", "cifar10", "pathfinder32", "pathx", "pathfinder256")
    return Published(model, dict(zip(tasks, scores, strict=True)), own_average, speedup, source)


README_OF_LRA = "README of google-research/long-range-arena"
PAPERS = "Ma et al. 2023, Mega, as Papers with Code lists it"
PUBLISHED = (
    _row("Transformer", (36.37, 64.27, 57.46, 42.44, 71.40, None, None), 54.39, README_OF_LRA),
    _row("Transformer", (36.0, 63.6, 81.6, 42.3, 72.7, None, None), 59.3, FLASH, 1.0),
    _row("FlashAttention", (37.6, 63.9, 81.4, 43.5, 72.7, 61.4, None), 59.8, FLASH, 2.4),
    _row("Block-sparse FlashAttention", (37.0, 63.0, 81.3, 43.6, 73.3, 56.0, 63.1), 59.6, FLASH, 2.8),
    _row("Local attention", (36.1, 60.2, 76.7, 40.6, 66.6, None, None), 56.0, FLASH, 1.7),
    _row("Linear attention", (38.8, 63.2, 80.7, 42.6, 72.5, None, None), 59.6, FLASH, 2.3),
    _row("Performer", (36.8, 63.6, 82.2, 42.1, 69.9, None, None), 58.9, FLASH, 1.8),
    _row("Mega-chunk", (58.76, 90.19, 90.97, 85.80, 94.41, 93.81, None), 85.66, PAPERS),
    _row("Mega", (63.14, 90.43, 91.25, 90.44, 96.01, 97.98, None), 88.21, PAPERS),
)
