"""Attention as others compute it, dense, for packed sequences: to be timed beside ours in the same model.

Letters: B sequences, total tokens of all sequences, H heads, Hkv key heads, D head dimension, N tokens of one sequence.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from flash_sparse.nn import Attention

# Matrices of N x N in float32 that a step of textbook attention holds at its peak for each layer and head: the scores'
# softmax, kept for the way back, its gradient, the gradient of the scores, and one being made of another.
TEXTBOOK_MATRICES = 4
MEMORY_SHARE = 0.5  # of the device's memory that they may take


@contextmanager
def attending(encoder: nn.Module, attend: Callable[..., Tensor]) -> Iterator[None]:
    """Let every layer of the encoder compute its attention by `attend`, for as long as the context is open."""
    pretrained = _find_pretrained(encoder)
    if pretrained is not None:  # transformers has both of its own
        with pretrained.attending({sdpa: "sdpa", textbook: "eager"}[attend]):
            yield
        return
    modules = [module for module in encoder.modules() if isinstance(module, Attention)]
    for module in modules:
        module.attend = attend
    try:
        yield
    finally:
        for module in modules:
            del module.attend  # the class's own shows again


def sdpa(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *unused, dropout_p: float, **masks) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, a batch where lengths are equal, else one by one: (total, H, D)."""
    return _each(
        lambda query, key, value: scaled_dot_product_attention(
            query, key, value, dropout_p=dropout_p, enable_gqa=query.shape[1] != key.shape[1]
        ),
        (query, key, value),
        cu_seqlens,
        masks,
    )


def textbook(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *unused, dropout_p: float, **masks
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V with the whole N x N matrix in memory: (total, H, D)."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = (rows.repeat_interleave(groups, dim=1) for rows in (key, value))  # (1, H, N, D)
        scores = query / math.sqrt(query.shape[-1]) @ key.mT  # (1, H, N, N)
        return dropout(scores.softmax(-1), dropout_p) @ value  # (1, H, N, D)

    return _each(attend, (query, key, value), cu_seqlens, masks)


def textbook_fits(encoder: nn.Module, length: int, device: torch.device) -> bool:
    """Whether the matrices of one sequence of this length are well below the device's memory."""
    pretrained = _find_pretrained(encoder)
    if pretrained is None:
        heads: list[int] = [module.heads for module in encoder.modules() if isinstance(module, Attention)]
    else:
        heads = [pretrained.body.config.num_attention_heads] * pretrained.body.config.num_hidden_layers
    # one matrix of every layer is kept for the way back, the others are of one layer at a time
    needed = 4 * length**2 * (sum(heads) + (TEXTBOOK_MATRICES - 1) * max(heads))
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return needed <= MEMORY_SHARE * memory


def _find_pretrained(encoder: nn.Module) -> Any:
    """The `PretrainedEncoder` that this is or holds; its class is not named, as it needs transformers."""
    return next((module for module in encoder.modules() if hasattr(type(module), "attending")), None)


def _each(attend: Callable[..., Tensor], rows: tuple[Tensor, ...], cu_seqlens: Tensor, masks: dict) -> Tensor:
    if masks.get("is_causal") or any(masks.get(name) is not None for name in ("window", "softcap", "sinks")):
        raise ValueError(f"masks are {masks}; expected none: peers are timed dense, with neither cap nor sinks")
    bounds = list(itertools.pairwise(cu_seqlens.tolist()))
    if len({stop - start for start, stop in bounds}) == 1:  # sequences of one length are a batch
        batch = (tensor.unflatten(0, (len(bounds), -1)).transpose(1, 2) for tensor in rows)  # (B, H, N, D)
        return attend(*batch).transpose(1, 2).flatten(0, 1)  # (total, H, D)
    outputs = []
    for start, stop in bounds:
        part = (tensor[start:stop].transpose(0, 1)[None] for tensor in rows)  # (1, H, N, D)
        outputs.append(attend(*part)[0].transpose(0, 1))  # (N, H, D)
    return torch.cat(outputs)
