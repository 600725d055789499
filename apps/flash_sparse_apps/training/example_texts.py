"""Test documents with the passages that carry their labels, for the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse_apps.metrics import Mistake
from flash_sparse_apps.prediction.evidence import FOLLOWED, LEAST_DROP, find_passages
from flash_sparse_apps.reports.examples import Example, Excerpt
from flash_sparse_apps.scores.evaluation import given_labels
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.training.preparing import Prepared
from flash_sparse_datasets.shared.progress import Progress

WRONG = 10  # documents that are wrong, at most
LABELS = 2  # of a document that passages are looked for
SECONDS = 15.0  # after which no further document is begun
CONTEXT = 160  # characters that are shown on either side of a passage


def can_be_read(prepared: Prepared) -> bool:
    """Whether passages can be shown: not of pairs, whose labels no passage carries alone, nor of bytes and pixels."""
    return not prepared.stores["test"].pairs and not isinstance(prepared.tokenizer, ByteTokenizer)


def draw_likely(settings: Settings, probabilities: np.ndarray, predictions: np.ndarray) -> dict[int, list[int]]:
    """Up to `settings.examples` test documents, drawn by the seed among those that are given a label: row -> the most
    probable of the labels given.

    Args:
        probabilities: (N, L) of the test documents.
        predictions: (N, L) or (N,), as `evaluation.predict_labels` gives them.
    """
    rows = np.random.default_rng(settings.seed).permutation(len(predictions))
    given = {int(row): given_labels(predictions[row]) for row in rows}
    drawn = [row for row, labels in given.items() if labels][: settings.examples]
    return {row: sorted(given[row], key=lambda label: -probabilities[row, label])[:LABELS] for row in drawn}


def doubtful(labels: Sequence[str], mistakes: Sequence[Mistake]) -> dict[int, list[int]]:
    """The first of the documents that are wrong: row -> the label of the surest mistake, and one that it lacks."""
    position = {label: index for index, label in enumerate(labels)}
    chosen = {}
    for mistake in mistakes[:WRONG]:
        missed = [label for label in mistake["labels"] if label not in mistake["predicted"]]
        names = dict.fromkeys([mistake["label"], *missed])
        chosen[mistake["row"]] = [position[name] for name in names][:LABELS]
    return chosen


def find_examples(
    settings: Settings,
    prepared: Prepared,
    encoder: nn.Module,
    layout: BlockLayout | None,
    predictions: np.ndarray,
    chosen: Mapping[int, Sequence[int]],
    passages: int = FOLLOWED,
) -> list[Example]:
    """Test documents with the passages that carry the labels chosen of each, in their order, until it takes too long.

    Args:
        predictions: (N, L) or (N,), as `evaluation.predict_labels` gives them.
        chosen: row -> labels.
        passages: of each label, at most.
    """
    dataset, store = prepared.dataset, prepared.stores["test"]
    texts: dict[int, str] = {}
    for row, document in enumerate(dataset.test):
        if len(texts) == len(chosen):
            break
        if row in chosen:
            texts[row] = cast(str, document.text)  # `can_be_read` has looked
    began = time.monotonic()
    examples: list[Example] = []
    for row, labels in Progress(chosen.items(), "looking for passages"):
        if examples and time.monotonic() - began > SECONDS:
            break
        examples.append(
            Example(
                id=store.ids(row),
                labels=tuple(dataset.labels[label] for label in store.label_indices(row)),
                predicted=tuple(dataset.labels[label] for label in given_labels(predictions[row])),
                tokens=int(store.lengths[row]),
                excerpts=_excerpts(settings, prepared, encoder, layout, texts[row], labels, passages),
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
    most: int,
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
            carries=drop >= LEAST_DROP,
        )
        for label, passages in found.items()
        for start, stop, drop in passages[:most]
    )
