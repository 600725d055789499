"""Test documents with the passages that carry their labels, for the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse_apps.prediction.evidence import find_passages
from flash_sparse_apps.reports.examples import Example, Excerpt
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.training.preparing import Prepared

LABELS = 2  # of a document that passages are looked for
SECONDS = 15.0  # after which no further document is begun
CONTEXT = 160  # characters that are shown on either side of a passage


def can_be_read(prepared: Prepared) -> bool:
    """Whether passages can be shown: not of pairs, whose labels no passage carries alone, nor of bytes and pixels."""
    return not prepared.stores["test"].pairs and not isinstance(prepared.tokenizer, ByteTokenizer)


def find_examples(
    settings: Settings,
    prepared: Prepared,
    encoder: nn.Module,
    layout: BlockLayout | None,
    probabilities: np.ndarray,
    predictions: np.ndarray,
) -> list[Example]:
    """Up to `settings.examples` test documents, drawn by the seed among those that are given a label.

    Args:
        probabilities: (N, L) of the test documents.
        predictions: (N, L) or (N,), as `evaluation.predict_labels` gives them.
    """
    dataset, store = prepared.dataset, prepared.stores["test"]
    given = [np.flatnonzero(row) if predictions.ndim == 2 else np.array([row]) for row in predictions]
    rows = [row for row in np.random.default_rng(settings.seed).permutation(len(store)) if len(given[row])]
    rows = rows[: settings.examples]
    texts: dict[int, str] = {}
    for row, document in enumerate(dataset.test):
        if len(texts) == len(rows):
            break
        if row in rows:
            texts[row] = cast(str, document.text)  # `can_be_read` has looked
    began = time.monotonic()
    examples: list[Example] = []
    for row in rows:
        if examples and time.monotonic() - began > SECONDS:
            break
        likely = sorted(given[row].tolist(), key=lambda label: -probabilities[row, label])[:LABELS]
        examples.append(
            Example(
                id=store.ids(row),
                labels=tuple(dataset.labels[label] for label in store.label_indices(row)),
                predicted=tuple(dataset.labels[label] for label in given[row]),
                tokens=int(store.lengths[row]),
                excerpts=_excerpts(settings, prepared, encoder, layout, texts[row], likely),
            )
        )
    return examples


def _excerpts(
    settings: Settings,
    prepared: Prepared,
    encoder: nn.Module,
    layout: BlockLayout | None,
    text: str,
    labels: Sequence[int],
) -> tuple[Excerpt, ...]:
    found = find_passages(
        encoder,
        prepared.tokenizer,
        text,
        labels,
        layout,
        prepared.dataset.task,
        settings.seq_len,
        settings.tokens_per_batch,
    )
    return tuple(
        Excerpt(
            label=prepared.dataset.labels[label],
            drop=drop,
            before=text[max(0, start - CONTEXT) : start],
            passage=text[start:stop],
            after=text[stop : stop + CONTEXT],
        )
        for label, passages in found.items()
        for start, stop, drop in passages
    )
