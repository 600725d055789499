"""Documents through a saved model: their labels, probabilities, and the passages that carry the labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse_apps.models.lightning_module import to_probabilities
from flash_sparse_apps.models.logits import compute_logits
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.evidence import find_passages
from flash_sparse_apps.prediction.new_documents import NewDocument
from flash_sparse_apps.scores.evaluation import predict_labels

TOGETHER = 64  # documents that are read and sorted by length together


def predict_documents(
    model: SavedModel, documents: Iterable[NewDocument], tokens_per_batch: int, device: str, evidence: bool = False
) -> Iterator[dict]:
    """For each document, in order: id, labels given, probabilities (L,) as a list, tokens, truncated, the first word
    that is unknown (None if all are known); and evidence. For one that cannot be read: id and error."""
    encoder = model.encoder.to(device)
    layout = model.layout()
    layout = layout.to(device) if layout is not None else None
    documents = iter(documents)
    while chunk := list(itertools.islice(documents, TOGETHER)):
        readable = [document for document in chunk if document.error is None]
        labelled = _label(model, encoder, readable, layout, tokens_per_batch, evidence) if readable else iter([])
        for document in chunk:
            yield next(labelled) if document.error is None else {"id": document.id, "error": document.error}


def _label(
    model: SavedModel,
    encoder: nn.Module,
    documents: Sequence[NewDocument],
    layout: BlockLayout | None,
    tokens_per_batch: int,
    evidence: bool,
) -> Iterator[dict]:
    """Predictions of a few documents, at least one, which are read together."""
    columns: list[list] = [[document.text for document in documents]]
    columns += [[document.second for document in documents]] if model.pairs else []
    # the one text of each document, or its two
    encoded = list(zip(*(model.tokenizer.encode_batch(column) for column in columns), strict=True))
    read = [[torch.tensor(tokens[: model.seq_len], dtype=torch.int64) for tokens in texts] for texts in encoded]
    logits = compute_logits(encoder, read, layout, tokens_per_batch)
    probabilities = to_probabilities(logits, model.task).numpy()  # (documents, L)
    given = predict_labels(probabilities, model.thresholds, model.task)
    for document, texts, shares, predicted in zip(documents, encoded, probabilities, given, strict=True):
        indices = [int(predicted)] if model.task == "single-label" else np.flatnonzero(predicted).tolist()
        text = cast(str, document.text)  # only pixels are bytes, and of those neither words nor passages are read
        prediction = {
            "id": document.id,
            "labels": [model.labels[index] for index in indices],
            "probabilities": [float(share) for share in shares],
            "tokens": sum(map(len, texts)),
            "truncated": max(map(len, texts)) > model.seq_len,
            "unknown": model.tokenizer.first_unknown(texts[0], text),
        }
        if evidence:
            prediction["evidence"] = _evidence(model, text, indices, layout, tokens_per_batch)
        yield prediction


def _evidence(
    model: SavedModel, text: str, labels: list[int], layout: BlockLayout | None, tokens_per_batch: int
) -> dict[str, list[dict]]:
    """For each label its passages as characters `start` to `end`, `drop`, and their `text`."""
    found = find_passages(
        model.encoder, model.tokenizer, text, labels, layout, model.task, model.seq_len, tokens_per_batch
    )
    return {
        model.labels[label]: [
            {"start": start, "end": stop, "drop": drop, "text": text[start:stop]} for start, stop, drop in passages
        ]
        for label, passages in found.items()
    }
