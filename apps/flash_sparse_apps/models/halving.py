"""Batches in ever smaller parts where memory is too little for them (--auto-batch)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_datasets.shared.exit_codes import is_too_little_memory


class Halving:
    """How a step computes its micro-batches: as they come, or cut in halves as often as memory has asked for.

    Gradients add up over micro-batches, so this decides memory and never the result, but for rounding and the draws of
    dropout.

    Args:
        allowed: whether they may be cut at all.

    Attributes:
        times: how often they are cut in halves by now.
    """

    def __init__(self, allowed: bool):
        self.allowed = allowed
        self.times = 0

    def compute(self, step: Callable[[Sequence[PackedBatch]], Tensor], batch: Sequence[PackedBatch]) -> Tensor:
        """What `step` gives for these micro-batches. It is called again, with smaller ones, where memory is too little;
        an error is raised where that is not allowed, or where each is a single document already."""
        parts = list(batch)
        for _ in range(self.times):
            parts = [half for part in parts for half in part.halves()]
        while True:
            try:
                return step(parts)
            except (MemoryError, RuntimeError) as error:
                single = max(len(part.indices) for part in parts) == 1
                if not self.allowed or single or not is_too_little_memory(error):
                    raise
            # here the error is gone, and with it what its frames held
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            parts = [half for part in parts for half in part.halves()]
            self.times += 1
            tqdm.write("  too little memory: going on with half of --tokens-per-batch")
