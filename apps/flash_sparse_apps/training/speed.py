"""What --sparse buys: the time of dense and of sparse steps, and of others', and how often both predict the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse_apps.metrics import Compared, Peers
from flash_sparse_apps.models.lightning_module import document_losses, to_probabilities
from flash_sparse_apps.models.peers import attending, sdpa, textbook, textbook_fits
from flash_sparse_apps.scores.evaluation import agreement, predict_labels
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_datasets.shared.progress import Progress

REPEATS = 3
ENOUGH_SECONDS = 10.0  # a step that took longer is not repeated


def step_seconds(encoder: nn.Module, batch: PackedBatch, layout: BlockLayout | None, task: str) -> float:
    """Wall clock of forward and backward over one packed batch: the median of a few, after one to warm up."""
    device = batch.tokens.device
    encoder.train()

    def once() -> float:
        _wait(device)
        began = time.perf_counter()
        logits = encoder(batch.tokens, batch.cu_seqlens, batch.max_seqlen, layout)
        document_losses(logits, batch.targets, task).mean().backward()
        _wait(device)
        return time.perf_counter() - began

    try:
        first = once()
        return first if first > ENOUGH_SECONDS else statistics.median(once() for _ in range(REPEATS))
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.eval()


def time_peers(encoder: nn.Module, layout: BlockLayout | None, task: str, longest: PackedBatch) -> Peers:
    """Time one step over a batch: as it was trained, and dense with PyTorch's and with textbook attention.

    Returns:
        step_tokens; own_seconds, pytorch_seconds and textbook_seconds, None where the memory is not enough.
    """
    longest = longest.to(next(encoder.parameters()).device)
    own = step_seconds(encoder, longest, layout, task)
    with attending(encoder, sdpa):
        pytorch = step_seconds(encoder, longest, None, task)
    by_textbook = None
    if textbook_fits(encoder, longest.max_seqlen, longest.tokens.device):
        with attending(encoder, textbook):
            by_textbook = step_seconds(encoder, longest, None, task)
    return {
        "step_tokens": int(longest.tokens.numel()),
        "own_seconds": own,
        "pytorch_seconds": pytorch,
        "textbook_seconds": by_textbook,
    }


def compare(
    encoder: nn.Module,
    layout: BlockLayout,
    task: str,
    longest: PackedBatch,
    batches: Iterable[PackedBatch],
    sparse_predictions: np.ndarray,
    thresholds: np.ndarray | None,
    max_documents: int,
    max_seconds: float,
) -> Compared:
    """Time both kinds of step on the same weights and tokens, and predict some test documents densely too.

    Args:
        longest: the batch that is timed.
        batches: test documents, in an order that does not depend on them.
        sparse_predictions: what the sparse model predicts for all test documents, (N, L) or (N,).
        max_documents, max_seconds: when to stop, whichever comes first; one batch is always compared.
    """
    device = next(encoder.parameters()).device
    longest = longest.to(device)
    with Progress(None, "timing steps", unit=""):
        sparse_seconds = step_seconds(encoder, longest, layout, task)
        dense_seconds = step_seconds(encoder, longest, None, task)
    began = time.monotonic()
    rows, predictions, count = [], [], 0
    with torch.no_grad():
        for batch in Progress(batches, "comparing with dense attention", max_documents):
            batch = batch.to(device)
            logits = encoder(batch.tokens, batch.cu_seqlens, batch.max_seqlen, None)
            predictions.append(predict_labels(to_probabilities(logits, task).cpu().numpy(), thresholds, task))
            rows.append(batch.indices.cpu().numpy())
            count += len(rows[-1])
            if count >= max_documents or time.monotonic() - began > max_seconds:
                break
    dense, sparse = np.concatenate(predictions), sparse_predictions[np.concatenate(rows)]  # (n, L) or (n,)
    return {
        "step_tokens": int(longest.tokens.numel()),
        "sparse_step_seconds": sparse_seconds,
        "dense_step_seconds": dense_seconds,
        "speedup": dense_seconds / sparse_seconds,
        "documents": count,
        "test_documents": len(sparse_predictions),
        "label_agreement": float((dense == sparse).mean()),
        "document_agreement": agreement(dense, sparse),
    }


def _wait(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
