"""Which passages of a text carry a label: taken out of it, they leave the model less sure (Li et al. 2016).

To take out each passage in turn would cost hundreds of readings of a long text. So quarters are taken out first, then
quarters of those that mattered most, down to passages: some forty readings for a label, whatever the length.

Letters: N tokens of a text, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokenization import Tokenizer

PASSAGE_TOKENS = 64  # of a passage, about
PARTS = 4  # that a stretch is cut into
LEAST_DROP = 0.01  # of a probability: what changes less carries nothing
FOLLOWED = 3  # stretches that are cut further, and passages that are named, at most


class Passage(NamedTuple):
    """From `start` to `stop` in a text, and how far the label's probability falls when it is taken out."""

    start: int
    stop: int
    drop: float


def find_passages(
    encoder: nn.Module,
    tokenizer: Tokenizer | ByteTokenizer,
    text: str,
    labels: Sequence[int],
    layout: BlockLayout | None,
    task: str,
    seq_len: int,
    tokens_per_batch: int,
) -> dict[int, list[Passage]]:
    """For each label the passages that carry it, in characters of the text; arguments as of `find_evidence`."""
    tokens, spans = tokenizer.encode_with_spans(text)
    device = next(encoder.parameters()).device
    read = torch.tensor(tokens[:seq_len], dtype=torch.int64, device=device)
    first = 0 if tokenizer.cls_id is None else 1
    found = {}
    for label in labels:
        passages = find_evidence(encoder, read, label, layout, task, tokens_per_batch, first)
        found[label] = [
            Passage(spans[passage.start][0], spans[passage.stop - 1][1], passage.drop) for passage in passages
        ]
    return found


@torch.no_grad()
def find_evidence(
    encoder: nn.Module,
    tokens: Tensor,
    label: int,
    layout: BlockLayout | None,
    task: str,
    tokens_per_batch: int,
    first: int,
) -> list[Passage]:
    """The passages that carry the label, the weightiest first; none where no passage alone does.

    Args:
        encoder: in evaluation mode.
        tokens: (N,) int64, as the model reads them.
        tokens_per_batch: tokens that go through the model at once.
        first: tokens at the beginning that belong to no passage, such as [CLS].
    """

    def log_probabilities(texts: Sequence[Tensor]) -> Tensor:
        """(texts,); logarithms tell apart what is near certain."""
        logits = torch.cat([_logits(encoder, batch, layout) for batch in _batches(texts, tokens_per_batch)])
        return (F.log_softmax(logits, 1) if task == "single-label" else F.logsigmoid(logits))[:, label].cpu()

    length = tokens.shape[0]
    size = max(1, min(PASSAGE_TOKENS, (length - first) // 8))  # finer in a short text
    before = log_probabilities([tokens])[0]
    stretches, drops = [(first, length)], []
    while not drops or any(_parts(*stretch, size) > 1 for stretch in stretches):
        stretches = [part for stretch in stretches for part in _cut(*stretch, size)]
        rest = [torch.cat([tokens[:start], tokens[stop:]]) for start, stop in stretches]
        if not all(text.shape[0] for text in rest):
            return []  # a text of one token
        after = log_probabilities(rest)  # (stretches,)
        order = after.argsort()[:FOLLOWED].tolist()
        stretches = [stretches[index] for index in order]
        drops = [float(before.exp() - after[index].exp()) for index in order]
    return [Passage(*stretch, drop) for stretch, drop in zip(stretches, drops, strict=False) if drop >= LEAST_DROP]


def _parts(start: int, stop: int, size: int) -> int:
    """How many parts a stretch is cut into: at most `PARTS`, not much shorter than `size`."""
    return min(PARTS, max(1, round((stop - start) / size)))


def _cut(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretch in parts of nearly equal length."""
    parts = _parts(start, stop, size)
    for part in range(parts):
        yield start + (stop - start) * part // parts, start + (stop - start) * (part + 1) // parts


def _batches(texts: Sequence[Tensor], tokens_per_batch: int) -> Iterator[Sequence[Tensor]]:
    """Texts of nearly the same length, as many together as may be, at least one."""
    together = max(1, tokens_per_batch // max(text.shape[0] for text in texts))
    for start in range(0, len(texts), together):
        yield texts[start : start + together]


def _logits(encoder: nn.Module, texts: Sequence[Tensor], layout: BlockLayout | None) -> Tensor:
    """(texts, C)"""
    lengths = torch.tensor([0] + [text.shape[0] for text in texts])
    starts = lengths.cumsum(0).int().to(texts[0].device)  # (texts + 1,)
    return encoder(torch.cat(list(texts)), starts, int(lengths.max()), layout)
