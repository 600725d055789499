"""A served model: documents in, predictions out, by the functions that `predict.py` uses."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction import labelling
from flash_sparse_apps.prediction.new_documents import NewDocument
from flash_sparse_apps.serving.batching import Batcher
from flash_sparse_apps.serving.errors import Refused
from flash_sparse_apps.serving.limits import Limits
from flash_sparse_apps.serving.review import review
from flash_sparse_apps.serving.traffic import Traffic


class Labeller:
    """Labels documents of many requests.

    Args:
        tokens_per_batch: tokens that go through the model at once.
    """

    def __init__(self, model: SavedModel, device: str, tokens_per_batch: int, limits: Limits, traffic: Traffic):
        layout = model.layout()
        layout = layout.to(device) if layout is not None else None
        self.model = model
        self.batcher = Batcher(model.encoder.to(device), layout, tokens_per_batch, limits.waiting, traffic.note_pack)

    async def scores(
        self, documents: Sequence[NewDocument], raw: bool, truncate: bool, side: str
    ) -> list[list[dict[str, Any]]]:
        """For each document all labels and their scores, the highest first."""
        read = await self._read(documents, truncate, side)
        if raw:
            rows = [logits.tolist() for _, _, logits in read]
        else:
            rows = [prediction["probabilities"] for prediction in await asyncio.to_thread(self._decide, read)]
        return [
            [{"label": self.model.labels[index], "score": values[index]} for index in _falling(values)]
            for values in rows
        ]

    async def details(
        self, documents: Sequence[NewDocument], evidence: bool, truncate: bool, side: str
    ) -> list[dict[str, Any]]:
        """For each document what `schema.Detail` describes."""
        read = await self._read(documents, truncate, side)
        predictions = await asyncio.to_thread(self._decide, read)
        for document, prediction in zip(documents, predictions, strict=True):
            shares = prediction["probabilities"]
            prediction["review"] = review(self.model, prediction["labels"], shares, prediction["truncated"])
            prediction["probabilities"] = {self.model.labels[index]: shares[index] for index in _falling(shares)}
            if prediction["unknown"] is None:
                del prediction["unknown"]
            if evidence and self.has_evidence:
                prediction["evidence"] = await self.batcher.search(
                    functools.partial(self._find, document, prediction["labels"], side)
                )
        return predictions

    @property
    def has_evidence(self) -> bool:
        return not self.model.pairs and self.model.grid is None

    async def _read(
        self, documents: Sequence[NewDocument], truncate: bool, side: str
    ) -> list[tuple[NewDocument, tuple, Tensor]]:
        """Each document with its tokens and its logits."""
        encoded = await asyncio.to_thread(labelling.encode, self.model, documents)
        for document, texts in zip(documents, encoded, strict=True):
            longest = max(map(len, texts))
            if longest > self.model.seq_len and not truncate:
                raise Refused(
                    f"{document.id}: {longest} tokens, but the run reads {self.model.seq_len}; expected a shorter text "
                    'or "truncate": true'
                )
        logits = await self.batcher.logits([labelling.read(self.model, texts, side) for texts in encoded])
        return list(zip(documents, encoded, logits, strict=True))

    def _decide(self, read: Sequence[tuple[NewDocument, tuple, Tensor]]) -> list[dict[str, Any]]:
        """What `labelling.decide` gives for each document; to look for unknown words, a long one takes seconds."""
        return [labelling.decide(self.model, document, texts, logits) for document, texts, logits in read]

    def _find(self, document: NewDocument, labels: Sequence[str], side: str, encoder: torch.nn.Module) -> dict:
        return labelling.find(
            self.model, document, labels, encoder, self.batcher.layout, self.batcher.tokens_per_batch, side
        )


def _falling(values: Sequence[float]) -> list[int]:
    """Places of values, the highest first."""
    return sorted(range(len(values)), key=lambda index: -values[index])
