"""Training images that begin easy and grow: at first short snakes, then longer ones as the model has learnt these.

Half of each step has the newest length, the rest all shorter ones, so that nothing is forgotten. Which images a step
has depends on the seed, the epoch and the newest length alone; they are made when the step is asked for, because only
then it is known how far the lengths have grown.
"""

from __future__ import annotations

import numpy as np
import torch

from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_datasets import Fresh


class Growth:
    """How far the images have grown.

    Attributes:
        first, last: level of the shortest snakes, and of the dataset's own.
        newest: level of the longest that training has now.
    """

    def __init__(self, fresh: Fresh, first: int, seed: int):
        assert fresh.levels is not None  # `check_images` has seen to it
        self.first, self.last = first, fresh.levels[1]
        self.newest = first
        self._fresh = fresh
        self._seed = seed

    def levels(self, epoch: int, documents: list[int]) -> list[int]:
        """The level of each document of a step: of half of them the newest, of the others any that is shorter."""
        random = np.random.default_rng([self._seed, epoch, *documents])
        shorter = random.integers(self.first, max(self.newest, self.first + 1), len(documents))  # (documents,)
        newest = random.permutation(len(documents)) < (len(documents) + 1) // 2  # (documents,)
        return np.where(newest, self.newest, shorter).tolist()

    def put_into(self, batches: list[PackedBatch], epoch: int, images: int):
        """Replace the tokens and targets of a step's batches, in place, by images that no step had before.

        Args:
            epoch: from 0.
            images: how many documents an epoch has.
        """
        documents = [int(index) for batch in batches for index in batch.indices]
        numbers = [epoch * images + document for document in documents]
        made = self._fresh.make(numbers, self.levels(epoch, documents))
        pixels, classes = (torch.from_numpy(part) for part in made)  # (documents, pixels), (documents,)
        begin = 0
        for batch in batches:
            part = slice(begin, begin + len(batch.indices))
            batch.tokens.copy_(pixels[part].flatten())
            batch.targets.copy_(classes[part])
            begin = part.stop
