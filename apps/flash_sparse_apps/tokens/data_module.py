"""The data of a Lightning run: stores, samplers and loaders that resume in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch

from flash_sparse_apps.tokens.batching import EvaluationSampler, PackedBatch, Step, StepSampler, collate
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.fresh_images import Made, made_ahead
from flash_sparse_apps.tokens.growing import Growth
from flash_sparse_apps.tokens.pixels import turn_images
from flash_sparse_apps.tokens.token_store import TokenStore, store_key
from flash_sparse_apps.tokens.tokenization import Tokenizer
from flash_sparse_datasets import Dataset


class TextDataModule(L.LightningDataModule):
    """A dataset's three splits as packed batches.

    `train_dataloader` yields one optimizer step at a time, a list of `PackedBatch` (its micro-batches), for Lightning's
    manual optimization: each step has exactly `batch_size` documents over all ranks, whatever the token budget.
    `val_dataloader` and `test_dataloader` yield one `PackedBatch` at a time, over all ranks each document once. All
    ranks have as many batches, whether they have documents or not: some are repeats, which do not count.

    Batches are made where they are used, without worker processes: tokens are memory-mapped, and packing a step takes
    a fraction of what it takes to compute one. Give the Trainer `use_distributed_sampler=False`; ranks are dealt with
    here.

    Args:
        seq_len: tokens read of each document, of a pair's two texts each.
        batch_size: documents of an optimizer step, over all ranks.
        tokens_per_batch: tokens of a micro-batch on one rank, at most, unless a single document has more.
        seed: of the order of the training documents.
        cache_dir: folder of the token stores.
        progress: show a progress bar while tokenizing.
        turned: the documents are square images; turn and mirror those for training at random.
        fresh: the documents are images that can be made; train on others in every epoch but the first.
        growth: train on images of its levels instead, none of them twice; None for those of the dataset.

    Attributes (after `setup`):
        train_store, validation_store, test_store: the `TokenStore` of each split.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: Tokenizer | ByteTokenizer,
        *,
        seq_len: int,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        cache_dir: str | Path,
        progress: bool = True,
        turned: bool = False,
        fresh: bool = False,
        growth: Growth | None = None,
    ):
        super().__init__()
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.cache_dir = cache_dir
        self.progress = progress
        self.turned = turned
        self.fresh = fresh
        self.growth = growth

    def prepare_data(self) -> None:
        """Tokenize what is not in the cache yet; Lightning calls it on one rank of each machine."""
        for split in ("train", "validation", "test"):
            self._open(split)

    def setup(self, stage: str | None = None) -> None:
        """Open the three stores, whatever the stage."""
        self.train_store = self._open("train")
        self.validation_store = self._open("validation")
        self.test_store = self._open("test")

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self)

    def val_dataloader(self) -> EvaluationLoader:
        return EvaluationLoader(self, self.validation_store, *self._rank())

    def test_dataloader(self) -> EvaluationLoader:
        return EvaluationLoader(self, self.test_store, *self._rank())

    def all_batches(self, store: TokenStore) -> EvaluationLoader:
        """Every document of a store once, on this rank alone, however many there are."""
        return EvaluationLoader(self, store, 0, 1)

    def batch(
        self, store: TokenStore, indices: Sequence[int], step_documents: int | None = None, counts: bool = True
    ) -> PackedBatch:
        """Documents of a store, packed; in page-locked memory where there is a GPU."""
        labels, task = len(self.dataset.labels), self.dataset.task
        packed = collate(store, indices, self.seq_len, labels, task, step_documents, counts)
        return packed.pin_memory() if torch.cuda.is_available() else packed

    def read_lengths(self, store: TokenStore) -> np.ndarray:
        """(N,) tokens of each document as it is read."""
        return store.read_lengths(self.seq_len)

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _open(self, split: str) -> TokenStore:
        return TokenStore.build_or_open(
            self.cache_dir,
            getattr(self.dataset, split),
            self.tokenizer,
            self.dataset.labels,
            store_key(self.dataset.fingerprint, self.tokenizer.fingerprint, split),
            progress=self.progress,
        )


class StepLoader:
    """What `train_dataloader` gives to Lightning: `len`, iteration, and its place for checkpoints.

    Lightning finds `sampler.set_epoch` and calls it before each epoch; it saves `state_dict` with each checkpoint and
    gives it back before it iterates again. As this has a length, Lightning fetches no step ahead.
    """

    def __init__(self, data: TextDataModule):
        rank, world_size = data._rank()
        self._data = data
        self.sampler = StepSampler(
            data.read_lengths(data.train_store),
            data.batch_size,
            data.tokens_per_batch,
            data.seed,
            rank=rank,
            world_size=world_size,
        )

    def __len__(self) -> int:
        """Steps of a whole epoch, also when it goes on in the middle of one."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        # a generator: Lightning makes the iterator first and tells the epoch afterwards
        data, epoch = self._data, self.sampler.epoch
        steps: Iterable[tuple[Step, Made | None]] = ((step, None) for step in self.sampler)
        if data.fresh and data.dataset.fresh is not None and epoch > 0:
            steps = made_ahead(data.dataset.fresh, self.sampler, len(data.train_store), epoch)
        for step, images in steps:
            batches = [
                data.batch(data.train_store, part, step.documents, counts=number < step.own)
                for number, part in enumerate(step.micro_batches)
            ]
            if images is not None:
                images.put_into(batches)
            if data.growth is not None:
                data.growth.put_into(batches, epoch, len(data.train_store))
            if data.turned and data.dataset.grid is not None:
                for batch in batches:
                    turn_images(batch, data.dataset.grid[0], data.seed, epoch)
            yield batches

    def state_dict(self) -> dict[str, Any]:
        state = self.sampler.state_dict()
        if self._data.trainer is not None:
            # a step that an exception broke off was handed out, but is to be done again
            current = self._data.trainer.fit_loop.epoch_loop.batch_progress.current
            processed = cast(Any, current).processed  # which Lightning's type of it leaves out
            state["step"] = min(state["step"], processed)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class EvaluationLoader:
    """The documents of one store, packed, longest first; over all ranks each once, beside repeats that do not count."""

    def __init__(self, data: TextDataModule, store: TokenStore, rank: int, world_size: int):
        self._data = data
        self._store = store
        lengths = data.read_lengths(store)
        self._micro_batches = EvaluationSampler(lengths, data.tokens_per_batch, rank=rank, world_size=world_size)

    def __len__(self) -> int:
        return len(self._micro_batches)

    def __iter__(self) -> Iterator[PackedBatch]:
        for number, indices in enumerate(self._micro_batches):
            yield self._data.batch(self._store, indices, counts=number < self._micro_batches.own)
