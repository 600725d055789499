"""The textbook formula: the specification that every other backend is tested against.

Stores the whole attention matrix, in the precision of its inputs but at least float32. Letters: B batch, H query heads,
Hkv key heads, Nq queries, Nk keys, D head dimension.
"""

import itertools

import torch
from torch import Tensor

from flash_sparse.backends.options import Options
from flash_sparse.layout import BlockLayout


def attention(
    query: Tensor,  # (B, H, Nq, D)
    key: Tensor,  # (B, Hkv, Nk, D)
    value: Tensor,  # (B, Hkv, Nk, D)
    layout: BlockLayout | None,  # of exactly Nq x Nk tokens; the options' own arrays of blocks are not read
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Softmax(scale * query @ key^T) @ value over the visible keys; also the log-sum-exp, (B, H, Nq).

    With a cap and sinks where the options have them; the sinks are in the log-sum-exp.
    """
    dtype, group = query.dtype, query.shape[1] // key.shape[1]
    query, key, value = (rows.to(torch.promote_types(dtype, torch.float32)) for rows in (query, key, value))
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)  # (B, H, Nk, D)
    window = None if options.left < 0 else options.left, None if options.right < 0 else options.right
    seen = visible(query.shape[2], key.shape[2], layout, window, options.key_lengths, query.device)
    hidden = ~seen  # (B | 1, H | 1, Nq, Nk)

    with torch.autocast(query.device.type, enabled=False):  # which would compute the products in its own dtype
        scores = query @ key.mT * options.scale  # (B, H, Nq, Nk)
        if options.softcap:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        scores = scores.masked_fill(hidden, -torch.inf)
        # A row that sees nothing would be 0 / 0: its scores become zeros, and its weights are zeroed after the softmax.
        empty = hidden.all(-1, keepdim=True)  # (B | 1, H | 1, Nq, 1)
        finite = scores.masked_fill(empty, 0)
        if options.sinks is not None:  # one more key in each row, whose value is zero
            column = options.sinks[:, None, None].expand(*scores.shape[:3], 1)  # (B, H, Nq, 1)
            scores, finite = torch.cat([scores, column], -1), torch.cat([finite, column], -1)
        logsumexp = torch.logsumexp(scores, -1)  # (B, H, Nq)
        weights = finite.softmax(-1)[..., : key.shape[2]].masked_fill(hidden, 0)  # (B, H, Nq, Nk)
        weights = torch.nn.functional.dropout(weights, options.dropout_p)
        return (weights @ value).to(dtype), logsumexp


def attention_varlen(
    query: Tensor,  # (total, H, D)
    key: Tensor,  # (total of keys, Hkv, D)
    value: Tensor,  # (total of keys, Hkv, D)
    layout: BlockLayout | None,  # for the longest sequence, or longer
    options: Options,
) -> tuple[Tensor, Tensor]:
    """`attention` of each sequence by itself; (total, H, D) and the log-sum-exp, (H, total)."""
    outputs = [query[:0]]  # so that no sequences at all give no rows
    logsumexps = [query.new_empty((query.shape[1], 0), dtype=torch.promote_types(query.dtype, torch.float32))]
    bounds = options.cu_seqlens
    assert bounds is not None
    key_bounds = bounds if options.cu_seqlens_k is None else options.cu_seqlens_k
    spans = (itertools.pairwise(part.tolist()) for part in (bounds, key_bounds))
    for entry, (queries, keys) in enumerate(zip(*spans, strict=True)):
        own_query, own_key, own_value = (
            tensor[slice(*span)].transpose(0, 1)[None]  # (1, H | Hkv, N, D)
            for tensor, span in ((query, queries), (key, keys), (value, keys))
        )
        own = None if layout is None else upper_left(layout, entry, own_query.shape[2], own_key.shape[2])
        output, logsumexp = attention(own_query, own_key, own_value, own, options)
        outputs.append(output[0].transpose(0, 1))  # (N, H, D)
        logsumexps.append(logsumexp[0])  # (H, N)
    return torch.cat(outputs), torch.cat(logsumexps, 1)


def upper_left(layout: BlockLayout, entry: int, query_length: int, key_length: int) -> BlockLayout | None:
    """The upper left part of a layout, for packed sequence `entry` of so many queries and keys."""
    if query_length == 0 or key_length == 0:
        return None
    rows, columns = (-(-length // layout.block_size) for length in (query_length, key_length))
    blocks = layout.to_blocks()[entry if layout.leading[0] > 1 else 0, :, :rows, :columns]  # (Hl, rows, columns)
    return BlockLayout.from_blocks(blocks, layout.block_size, query_length, key_length)


def visible(
    query_length: int,
    key_length: int,
    layout: BlockLayout | None,
    window: tuple[int | None, int | None],
    key_lengths: Tensor | None,  # (B,)
    device: torch.device,
) -> Tensor:
    """Which keys each query may see, bool (B | 1, H | 1, Nq, Nk)."""
    keys = torch.arange(key_length, device=device)  # (Nk,)
    diagonal = torch.arange(query_length, device=device)[:, None] + key_length - query_length  # (Nq, 1)
    left, right = window
    mask = torch.ones(1, 1, query_length, key_length, dtype=torch.bool, device=device)
    if left is not None:
        mask = mask & (keys >= diagonal - left)
    if right is not None:
        mask = mask & (keys <= diagonal + right)
    if key_lengths is not None:
        mask = mask & (keys < key_lengths[:, None, None, None])
    if layout is not None:
        mask = mask & layout.to_mask()
    return mask  # (B | 1, H | 1, Nq, Nk)
