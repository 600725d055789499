"""Images that no epoch has had: the generated ones for training, made anew a few steps ahead of where they are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import torch

from flash_sparse_apps.tokens.batching import PackedBatch, Step
from flash_sparse_datasets import Fresh
from flash_sparse_datasets.shared.workers import process_pool

AHEAD = 2  # steps that each worker may have before it


class Made:
    """The images of one step, in the order of its documents."""

    def __init__(self, future: Future):
        self._future = future

    def put_into(self, batches: list[PackedBatch]):
        """Replace the tokens and targets of the step's batches, in place."""
        images, classes = (
            torch.from_numpy(made) for made in self._future.result()
        )  # (documents, pixels), (documents,)
        begin = 0
        for batch in batches:
            part = slice(begin, begin + len(batch.indices))
            batch.tokens.copy_(images[part].flatten())
            batch.targets.copy_(classes[part])
            begin = part.stop


def made_ahead(fresh: Fresh, steps: Iterable[Step], images: int, epoch: int) -> Iterator[tuple[Step, Made]]:
    """Each step with images that stand for its documents in this epoch.

    Args:
        images: how many there are for training.
        epoch: from 1; the images of epoch 0 are those of the files.
    """
    pending: deque[tuple[Step, Made]] = deque()
    with process_pool(fresh.workers) as pool:
        try:
            for step in steps:
                numbers = [(epoch - 1) * images + int(index) for part in step.micro_batches for index in part]
                pending.append((step, Made(pool.submit(fresh.make, numbers))))
                if len(pending) > AHEAD * fresh.workers:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
