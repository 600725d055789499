"""Which passages of a text carry a label: taken out of it, they leave the model less sure (Li et al. 2016).

To take out each passage in turn would cost hundreds of readings of a long text. So quarters are taken out first, then
quarters of those that mattered most, down to passages: some forty readings for a label, whatever the length. A reading
tells of all labels at once, and what several labels follow is read once.

Letters: N tokens of a text, C labels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.models.logits import compute_logits
from flash_sparse_apps.prediction.borders import Borders
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import Tokenizer

PASSAGE_TOKENS = 64  # of a passage, about
PARTS = 4  # that a stretch is cut into
LEAST_DROP = 0.01  # of a probability: what changes less does not carry a label alone
FOLLOWED = 3  # stretches that are cut further, and passages that are named, at most


class Passage(NamedTuple):
    """From `start` to `stop` in a text, and how far the label's probability falls when it is taken out."""

    start: int
    stop: int
    drop: float


def cut(tokens: Any, seq_len: int, first: int, side: str = "right") -> Any:
    """What the model reads of more tokens than `seq_len`: those of the other side, and always the `first` ones."""
    if side == "right" or len(tokens) <= seq_len:
        return tokens[:seq_len]
    return [*tokens[:first], *tokens[len(tokens) - seq_len + first :]]


def find_passages(
    encoder: nn.Module,
    tokenizer: Tokenizer | ByteTokenizer,
    text: str,
    labels: Sequence[int],
    layout: BlockLayout | None,
    task: str,
    seq_len: int,
    tokens_per_batch: int,
    side: str = "right",
) -> dict[int, list[Passage]]:
    """For each label the passages that carry it, in characters of the text; arguments as of `find_evidence` and
    `cut`."""
    tokens, spans = tokenizer.encode_with_spans(text, seq_len if side == "right" else None)
    first = 0 if tokenizer.cls_id is None else 1
    read = torch.tensor(cut(tokens, seq_len, first, side), dtype=torch.int64)  # (N,)
    spans = cut(spans, seq_len, first, side)
    borders = Borders.of_text(text, spans, first)
    found = find_evidence(encoder, read, labels, layout, task, tokens_per_batch, borders)
    return {
        label: [_trimmed(text, Passage(spans[start][0], spans[stop - 1][1], drop)) for start, stop, drop in passages]
        for label, passages in found.items()
    }


def _trimmed(text: str, passage: Passage) -> Passage:
    """Without the white space around it."""
    words = text[passage.start : passage.stop]
    start = passage.start + len(words) - len(words.lstrip())
    return passage._replace(start=start, stop=start + len(words.strip())) if words.strip() else passage


def find_evidence(
    encoder: nn.Module,
    tokens: Tensor,
    labels: Sequence[int],
    layout: BlockLayout | None,
    task: str,
    tokens_per_batch: int,
    borders: Borders,
) -> dict[int, list[Passage]]:
    """For each label the passages that carry it, the weightiest first. Where no passage alone does, the one that does
    most, with a drop below `LEAST_DROP`; none in a text that is too short to be cut.

    Args:
        encoder: in evaluation mode.
        tokens: (N,) int64, as the model reads them.
        tokens_per_batch: tokens that go through the model at once.
        borders: where a passage may begin or end; before the first one stands what belongs to no passage, such as
            [CLS], and the last one is N.
    """
    first, length = borders.places[0], borders.places[-1]
    if not labels or length == first or (first == 0 and len(borders.places) == 2):
        return {label: [] for label in labels}  # nothing to take out, or nothing that would be left
    size = max(1, min(PASSAGE_TOKENS, (length - first) // 8))  # finer in a short text
    known: dict[tuple[int, int], Tensor] = {}

    def read_without(stretches: Iterable[tuple[int, int]]):
        """Put into `known` what the model says of the text without each stretch, (C,): logarithms of probabilities,
        which tell apart what is near certain."""
        new = [stretch for stretch in dict.fromkeys(stretches) if stretch not in known]
        if new:
            rest = [torch.cat([tokens[:start], tokens[stop:]]) for start, stop in new]
            logits = compute_logits(encoder, [(text,) for text in rest], layout, tokens_per_batch)  # (stretches, C)
            logarithms = F.log_softmax(logits, 1) if task == "single-label" else F.logsigmoid(logits)
            known.update(zip(new, logarithms, strict=True))

    def sureness(label: int, stretch: tuple[int, int]) -> float:
        return float(known[stretch][label])

    nothing = (first, first)
    read_without([nothing])
    before: dict[int, list[tuple[int, int]]] = {}
    followed = {label: [(first, length)] for label in labels}
    while followed != before:
        parts = {
            label: [part for start, stop in stretches for part in borders.cut(start, stop, _parts(stop - start, size))]
            for label, stretches in followed.items()
        }
        read_without(part for stretches in parts.values() for part in stretches)
        before = followed
        followed = {
            label: sorted(stretches, key=functools.partial(sureness, label))[:FOLLOWED]
            for label, stretches in parts.items()
        }
    found = {}
    for label, stretches in followed.items():
        drops = [float(known[nothing][label].exp() - known[stretch][label].exp()) for stretch in stretches]
        passages = [Passage(*stretch, drop) for stretch, drop in zip(stretches, drops, strict=True)]
        found[label] = [passage for passage in passages if passage.drop >= LEAST_DROP] or passages[:1]
    return found


def _parts(length: int, size: int) -> int:
    """In how many parts a stretch is cut: at most `PARTS`, not much shorter than `size`."""
    return min(PARTS, max(1, round(length / size)))
