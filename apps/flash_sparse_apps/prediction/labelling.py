"""Documents through a saved model: their labels, probabilities, and the passages that carry the labels."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.machine import give_back_memory
from flash_sparse_apps.models.lightning_module import to_probabilities
from flash_sparse_apps.models.logits import compute_logits
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.evidence import cut, find_passages
from flash_sparse_apps.prediction.new_documents import NewDocument
from flash_sparse_apps.scores.calibration import confidence
from flash_sparse_apps.scores.evaluation import given_labels, predict_labels

TOGETHER = 64  # documents that are read and sorted by length together
GIVE_BACK = 1.0  # seconds after which memory goes back to the system: it would grow for as long as there are documents


def predict_documents(
    model: SavedModel, documents: Iterable[NewDocument], tokens_per_batch: int, device: str, evidence: bool = False
) -> Iterator[dict]:
    """For each document, in order: id, labels given, confidence, probabilities (L,) as a list, tokens, truncated, the
    first word that is unknown (None if all are known); and evidence. For one that cannot be read: id and error."""
    encoder = model.encoder.to(device)
    layout = model.layout()
    layout = layout.to(device) if layout is not None else None
    documents = iter(documents)
    given_back = time.monotonic()
    while chunk := list(itertools.islice(documents, TOGETHER)):
        readable = [document for document in chunk if document.error is None]
        labelled = _label(model, encoder, readable, layout, tokens_per_batch, evidence) if readable else iter([])
        for document in chunk:
            yield next(labelled) if document.error is None else {"id": document.id, "error": document.error}
        if time.monotonic() - given_back >= GIVE_BACK:
            give_back_memory()
            given_back = time.monotonic()


def _label(
    model: SavedModel,
    encoder: nn.Module,
    documents: Sequence[NewDocument],
    layout: BlockLayout | None,
    tokens_per_batch: int,
    evidence: bool,
) -> Iterator[dict]:
    """Predictions of a few documents, at least one, which are read together."""
    encoded = encode(model, documents)
    logits = compute_logits(encoder, [read(model, texts) for texts in encoded], layout, tokens_per_batch)
    for document, texts, values in zip(documents, encoded, logits, strict=True):
        prediction = decide(model, document, texts, values)
        if evidence and document.made:
            prediction["text"] = document.text  # to which the passages refer
        if evidence:
            prediction["evidence"] = find(model, document, prediction["labels"], encoder, layout, tokens_per_batch)
        yield prediction


def encode(model: SavedModel, documents: Sequence[NewDocument]) -> list[tuple]:
    """All tokens of each document: of its one text or, for a model of pairs, its two."""
    columns: list[list] = [[document.text for document in documents]]
    columns += [[document.second for document in documents]] if model.pairs else []
    return list(zip(*(model.tokenizer.encode_batch(column) for column in columns), strict=True))


def read(model: SavedModel, texts: tuple, side: str = "right") -> list[Tensor]:
    """What the model reads of a document's tokens; where they are too many, they are cut at a `side`."""
    first = 0 if model.tokenizer.cls_id is None else 1
    return [torch.tensor(cut(tokens, model.seq_len, first, side), dtype=torch.int64) for tokens in texts]


def decide(model: SavedModel, document: NewDocument, texts: tuple, logits: Tensor) -> dict:
    """What `predict_documents` gives for a document, without evidence, from its tokens and its logits (L,)."""
    # alone: in a batch, the last digits would depend on the other rows
    probabilities = to_probabilities(logits[None], model.task).numpy()  # (1, L)
    predictions = predict_labels(probabilities, model.thresholds, model.task)
    (predicted,) = predictions
    indices = given_labels(predicted)
    text = cast(str, document.text)  # only pixels are bytes, and of those no words are read
    return {
        "id": document.id,
        "labels": [model.labels[index] for index in indices],
        "confidence": float(confidence(probabilities, predictions)[0]),
        "probabilities": [float(share) for share in probabilities[0]],
        "tokens": sum(map(len, texts)),
        "truncated": max(map(len, texts)) > model.seq_len,
        "unknown": model.tokenizer.first_unknown(texts[0], text),
    }


def find(
    model: SavedModel,
    document: NewDocument,
    labels: Sequence[str],
    encoder: nn.Module,
    layout: BlockLayout | None,
    tokens_per_batch: int,
    side: str = "right",
) -> dict[str, list[dict]]:
    """For each label its passages as characters `start` to `end`, `drop`, and their `text`."""
    text = cast(str, document.text)
    indices = [model.labels.index(label) for label in labels]
    arguments = (text, indices, layout, model.task, model.seq_len, tokens_per_batch, side)
    found = find_passages(encoder, model.tokenizer, *arguments)
    return {
        model.labels[label]: [
            {"start": start, "end": stop, "drop": drop, "text": text[start:stop]} for start, stop, drop in passages
        ]
        for label, passages in found.items()
    }
