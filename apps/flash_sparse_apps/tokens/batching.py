"""Which documents go through the model together, and how they are packed end to end.

An optimizer step is `batch_size` documents, drawn evenly from the epoch. Where they do not fit into the token budget
at once, the step is cut into micro-batches whose gradients add up, so the budget decides memory and never the result.

Letters: N documents of the split, B documents of a micro-batch, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flash_sparse_apps.tokens.token_store import TokenStore


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """B documents end to end.

    Attributes:
        tokens: (total,) int64; of a pair the first text, then the second.
        cu_seqlens: (B + 1,) int32, where each document begins; the last entry is total. Of pairs (2 B + 1,), where each
            text begins.
        max_seqlen: tokens of the longest text.
        targets: (B, L) float32 of 0 and 1 for multi-label, (B,) int64 for single-label.
        indices: (B,) int64, positions in the split.
        step_documents: documents of the whole optimizer step, all its micro-batches and all ranks; B in evaluation.
        counts: False for documents that another batch has too, and which are here so that ranks stay in step.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    targets: Tensor
    indices: Tensor
    step_documents: int
    counts: bool = True

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on a device; from pinned memory without waiting for the copy."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def halves(self) -> list[PackedBatch]:
        """The same documents in two batches of about as many tokens, or itself where there is one document alone."""
        count = len(self.indices)
        if count == 1:
            return [self]
        each = (len(self.cu_seqlens) - 1) // count  # texts of a document
        starts = self.cu_seqlens[::each].contiguous()  # (B + 1,)
        half = int(torch.searchsorted(starts, starts[-1:] // 2))
        middle = min(max(half, 1), count - 1)
        parts = []
        for documents in (slice(0, middle), slice(middle, count)):
            bounds = self.cu_seqlens[documents.start * each : documents.stop * each + 1]
            parts.append(
                replace(
                    self,
                    tokens=self.tokens[bounds[0] : bounds[-1]],
                    cu_seqlens=bounds - bounds[0],
                    max_seqlen=int(bounds.diff().max()),
                    targets=self.targets[documents],
                    indices=self.indices[documents],
                )
            )
        return parts

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory; needs a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, function) -> PackedBatch:
        names = ("tokens", "cu_seqlens", "targets", "indices")
        return replace(self, **{name: function(getattr(self, name)) for name in names})


def collate(
    store: TokenStore,
    indices: Sequence[int],
    seq_len: int,
    num_labels: int,
    task: str,
    step_documents: int | None = None,
    counts: bool = True,
) -> PackedBatch:
    """Pack the first `seq_len` tokens of these documents, of pairs those of each text.

    Args:
        indices: (B,) positions in the split, B at least 1.
        task: "single-label" or "multi-label".
        step_documents: what the batch says about its step, B if None.
        counts: what the batch says about itself.

    Raises:
        ValueError: a document of a single-label task does not have exactly one label.
    """
    texts = [text for index in indices for text in store.texts(index, seq_len)]
    lengths = [len(text) for text in texts]
    labels = [store.label_indices(index) for index in indices]
    if task == "single-label":
        for index, given in zip(indices, labels, strict=True):
            if len(given) != 1:
                raise ValueError(f"document {store.ids(index)!r} has {len(given)} labels; expected 1 (single-label)")
        targets = torch.from_numpy(np.concatenate(labels).astype(np.int64))  # (B,)
    else:
        targets = torch.zeros(len(indices), num_labels)  # (B, L)
        for row, given in enumerate(labels):
            targets[row, given] = 1
    return PackedBatch(
        tokens=torch.from_numpy(np.concatenate(texts)),  # (total,)
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),  # (B + 1,)
        max_seqlen=max(lengths),
        targets=targets,
        indices=torch.tensor(indices, dtype=torch.int64),  # (B,)
        step_documents=len(indices) if step_documents is None else step_documents,
        counts=counts,
    )


@dataclass(frozen=True)
class Step:
    """One optimizer step on one rank.

    Attributes:
        micro_batches: on all ranks as many. One that has fewer of its own repeats a document in the others.
        own: how many of them are its own, the first ones.
        documents: that all ranks have in the step, without repeats.
    """

    micro_batches: list[list[int]]
    own: int
    documents: int


class StepSampler:
    """The optimizer steps of one epoch, as positions in the split.

    Each step takes the next `batch_size` documents of a random permutation of all N, decided by `(seed, epoch)` alone.
    The last step of an epoch has what is left. Within a step, documents are sorted by length, longest first, dealt to
    the ranks, and cut into micro-batches of at most `tokens_per_batch` tokens; a document that is longer than that is
    a micro-batch of its own.

    All ranks have the same steps, and as many micro-batches in each. A rank may have no document of its own in a step.
    Neither the token budget nor the number of ranks changes which documents make up a step.

    It goes through an epoch once, from `step` on; `set_epoch` begins another. A step counts as taken from when it is
    handed out.

    Attributes:
        epoch, step: where it is: the next step to hand out.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Take the tokens of each document as it is read, (N,), cut at seq_len already.

        Raises:
            ValueError: no documents, none in a step, or no tokens in a micro-batch.
        """
        if tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch is {tokens_per_batch}; expected at least 1")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        if len(lengths) < 1:
            raise ValueError("0 training documents; expected at least 1")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.step = 0

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Step]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
        while self.step < len(self):
            start = self.step * self.batch_size
            self.step += 1
            drawn = order[start : start + self.batch_size]
            drawn = _longest_first(drawn, self.lengths)
            micro_batches, own = _share(drawn, self.lengths, self.tokens_per_batch, self.rank, self.world_size)
            yield Step(micro_batches, own, len(drawn))

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; no effect within that epoch."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where it is, and what the steps depend on, as plain integers; the same on all ranks."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go where another sampler of the same documents, batch size and seed was.

        Raises:
            ValueError: it had other documents, another batch size or another seed, so its steps were other steps.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise ValueError(f"cannot go on in mid-epoch: {name} is {value}, but was {state[name]} before")
        self.epoch, self.step = state["epoch"], state["step"]

    def _identity(self) -> dict[str, int]:
        return {"documents": len(self.lengths), "batch_size": self.batch_size, "seed": self.seed}


class EvaluationSampler:
    """Micro-batches that go through every document once, longest first, each under the token budget.

    With several ranks, each has its own part of the documents, sizes differing by at most one; together they have
    every document exactly once. All have as many micro-batches: one that has fewer of its own repeats a document.

    Attributes:
        own: how many micro-batches are no repeats, the first ones.
    """

    def __init__(self, lengths: np.ndarray, tokens_per_batch: int, *, rank: int = 0, world_size: int = 1):
        """Take the tokens of each document as it is read, (N,), cut at seq_len already."""
        order = _longest_first(np.arange(len(lengths)), lengths)
        self._micro_batches, self.own = _share(order, lengths, tokens_per_batch, rank, world_size)

    def __len__(self) -> int:
        return len(self._micro_batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._micro_batches)


def _longest_first(documents: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return documents[np.argsort(-lengths[documents], kind="stable")]


def _dealt(count: int, world_size: int) -> np.ndarray:
    """The rank of each of `count` documents sorted by length: to and fro, so that tokens come out about even."""
    turn = np.arange(count) % (2 * world_size)
    return np.minimum(turn, 2 * world_size - 1 - turn)


def _share(
    documents: np.ndarray, lengths: np.ndarray, tokens_per_batch: int, rank: int, world_size: int
) -> tuple[list[list[int]], int]:
    """A rank's micro-batches of documents sorted by length, and how many of them are its own.

    Ranks meet in every micro-batch, to exchange gradients, buffers or shards of weights: all must have as many. One
    with fewer repeats the shortest document.
    """
    ranks = _dealt(len(documents), world_size)
    cuts = [_cut(documents[ranks == each], lengths, tokens_per_batch) for each in range(world_size)]
    own, most = cuts[rank], max(len(cut) for cut in cuts)
    return own + [documents[-1:].tolist()] * (most - len(own)), len(own)


def _cut(documents: np.ndarray, lengths: np.ndarray, tokens_per_batch: int) -> list[list[int]]:
    micro_batches: list[list[int]] = []
    tokens = 0
    for document in documents.tolist():
        if not micro_batches or tokens + lengths[document] > tokens_per_batch:
            micro_batches.append([])
            tokens = 0
        micro_batches[-1].append(document)
        tokens += lengths[document]
    return micro_batches
