"""Where attention looks: the probabilities of chosen rows, and what each block of a layout gets.

Attention itself never stores them. They come back from the log-sum-exp, a part at a time, so that memory stays linear
in length.

Letters: B batch, H query heads, Hkv key heads, G = H / Hkv, Nq queries, Nk keys, D head dimension, R chosen rows, Bl
and Hl the layout's own batch entries and heads, Qb and Kb blocks of queries and keys, n blocks kept over all heads and
batch entries, c of them looked at together, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_sparse.arguments import (
    Window,
    autocast,
    check_heads,
    check_integers,
    check_layout,
    check_numbers,
    check_rows,
    check_softcap,
    check_tensors,
    check_window,
)
from flash_sparse.layout import BlockLayout

SCORES_AT_ONCE = 2**22  # of the blocks that `block_mass` looks at together


@torch.no_grad()
def attention_weights(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    rows: Tensor | Sequence[int],
    layout: BlockLayout | None = None,
    *,
    is_causal: bool = False,
    window: Window | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The attention probabilities of some queries, before dropout, by what `attention(..., return_lse=True)` returned.

    Give the arguments that `attention` had, but for sinks: they are in the log-sum-exp, and what they got is missing
    from a row's sum. Of a packed sequence give its own part: `query[start:stop].transpose(0,
    1)[None]`, the key likewise, `logsumexp[None, :, start:stop]`, and rows that count from its beginning.

    Args:
        query: (B, H, Nq, D).
        key: (B, Hkv, Nk, D).
        logsumexp: (B, H, Nq).
        rows: (R,), integer, 0 to Nq - 1: the queries, in any order.
        The others: as in `attention`.

    Returns:
        (B, H, R, Nk) in float32 (float64 for float64), 0 at hidden keys; without gradients.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or range.
    """
    query, key, scale, left, right = _check(query, key, logsumexp, layout, key_lengths, is_causal, window, scale)
    softcap = check_softcap(softcap)
    rows = torch.as_tensor(rows, device=query.device)  # (R,)
    if not rows.numel():
        rows = rows.long()
    check_integers("rows", rows, None, query.device)
    if bool(((rows < 0) | (rows >= query.shape[2])).any()):
        raise ValueError(f"rows is {rows.tolist()}; expected 0 to {query.shape[2] - 1}, the query's rows")

    keys = torch.arange(key.shape[2], device=query.device)  # (Nk,)
    seen = _visible(rows[:, None] + key.shape[2] - query.shape[2], keys, left, right)[None, None]  # (1, 1, R, Nk)
    if key_lengths is not None:
        seen = seen & (keys < key_lengths[:, None, None, None])  # (B, 1, R, Nk)
    if layout is not None:
        seen = seen & _seen_blocks(layout, rows).repeat_interleave(layout.block_size, 3)[..., : key.shape[2]]

    own = query[:, :, rows].to(logsumexp.dtype)  # (B, H, R, D)
    grouped = own.unflatten(1, (key.shape[1], -1)).flatten(2, 3)  # (B, Hkv, G R, D)
    with torch.autocast(query.device.type, enabled=False):
        scores = _capped(grouped @ key.to(logsumexp.dtype).mT * scale, softcap)  # (B, Hkv, G R, Nk)
    scores = scores.view(*own.shape[:3], key.shape[2])  # (B, H, R, Nk)
    return (scores - logsumexp[:, :, rows, None]).exp().masked_fill(~seen, 0)


@torch.no_grad()
def block_mass(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    layout: BlockLayout,
    *,
    is_causal: bool = False,
    window: Window | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """What each kept block gets of the attention of its rows, before dropout: the sum of its probabilities.

    A row's probabilities sum to 1, so that the blocks of a row of blocks sum to its number of queries that see a key;
    to less where there are sinks. The arguments are as in `attention_weights`.

    Returns:
        A sparse tensor (B, H, Qb, Kb) in float32 (float64 for float64), with an entry for each block that the layout
        keeps, in the layout's order; without gradients. `.to_dense()` has 0 for all others.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or range.
    """
    if layout is None:
        raise TypeError("layout is None; expected a BlockLayout, whose blocks are summed over")
    query, key, scale, left, right = _check(query, key, logsumexp, layout, key_lengths, is_causal, window, scale)
    softcap = check_softcap(softcap)
    (batch, heads, query_length, _), key_length = query.shape, key.shape[2]
    layout = layout.crop(query_length, key_length)
    shape = batch, heads, layout.num_query_blocks, layout.num_key_blocks
    indices = torch.stack(torch.unravel_index(layout._keys(shape[:2]).long().sort().values, shape))  # (4, n)
    within = torch.arange(layout.block_size, device=query.device)  # (S,)

    masses = []
    for entry, head, row, column in indices.split(SCORES_AT_ONCE // layout.block_size**2, dim=1):
        queries = row[:, None] * layout.block_size + within  # (c, S)
        keys = column[:, None] * layout.block_size + within  # (c, S)
        inside = (queries < query_length)[:, :, None] & (keys < key_length)[:, None]  # (c, S, S)
        seen = inside & _visible(queries[:, :, None] + key_length - query_length, keys[:, None], left, right)
        if key_lengths is not None:
            seen = seen & (keys < key_lengths[entry, None])[:, None]

        queries, keys = queries.clamp(max=query_length - 1), keys.clamp(max=key_length - 1)  # outside: any will do
        entry, head = entry[:, None], head[:, None]  # (c, 1)
        own = query[entry, head, queries].to(logsumexp.dtype)  # (c, S, D)
        other = key[entry, head // (heads // key.shape[1]), keys].to(logsumexp.dtype)  # (c, S, D)
        with torch.autocast(query.device.type, enabled=False):
            scores = _capped(own @ other.mT * scale, softcap)  # (c, S, S)
        weights = (scores - logsumexp[entry, head, queries][:, :, None]).exp().masked_fill(~seen, 0)  # (c, S, S)
        masses.append(weights.sum((1, 2)))  # (c,)
    return torch.sparse_coo_tensor(indices, torch.cat(masses), shape, check_invariants=False, is_coalesced=True)


def _check(
    query: Tensor,
    key: Tensor,
    logsumexp: Tensor,
    layout: BlockLayout | None,
    key_lengths: Tensor | None,
    is_causal: bool,
    window: Window | None,
    scale: float | None,
) -> tuple[Tensor, Tensor, float, int, int]:
    """Query and key as attention read them, the scale, and the window's two sides, -1 where unbounded."""
    check_tensors(query, key, key)
    query, key = autocast(query, key)
    check_rows(query, key, key, dims=4, shape="(B, H, N, D)")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected batch {query.shape[0]} and head dimension {query.shape[3]} "
            f"as in the query, {tuple(query.shape)}"
        )
    check_heads(query.shape[1], key.shape[1])
    expected = query.shape[:3], torch.promote_types(query.dtype, torch.float32), query.device
    if not isinstance(logsumexp, Tensor) or (logsumexp.shape, logsumexp.dtype, logsumexp.device) != expected:
        kind = type(logsumexp).__name__
        if isinstance(logsumexp, Tensor):
            kind = f"{logsumexp.dtype} {tuple(logsumexp.shape)} on {logsumexp.device}"
        raise ValueError(
            f"logsumexp is {kind}; expected {expected[1]} {tuple(expected[0])} on {expected[2]}, from attention"
        )
    if layout is not None:
        lengths = query.shape[2], key.shape[2]
        check_layout(layout, query, query.shape[0], lengths, "the lengths of query and key")
    if key_lengths is not None:
        check_integers("key_lengths", key_lengths, (query.shape[0],), query.device)
    _, scale = check_numbers(0.0, scale, query.shape[3])
    return query, key, scale, *check_window(window, is_causal)


def _capped(scores: Tensor, softcap: float) -> Tensor:
    """The scores as attention has them; 0 leaves them as they are."""
    return softcap * (scores / softcap).tanh() if softcap else scores


def _visible(diagonal: Tensor, keys: Tensor, left: int, right: int) -> Tensor:
    """Whether keys lie in the window of queries that stand at the key positions `diagonal`."""
    seen = torch.ones_like(keys - diagonal, dtype=torch.bool)
    if left >= 0:
        seen = seen & (keys >= diagonal - left)
    if right >= 0:
        seen = seen & (keys <= diagonal + right)
    return seen


def _seen_blocks(layout: BlockLayout, rows: Tensor) -> Tensor:
    """The key blocks that the layout keeps for each row (R,): bool (Bl, Hl, R, Kb)."""
    chosen, place = (rows // layout.block_size).unique(return_inverse=True)  # (u,), (R,)
    indices = layout.indices()  # (4, nnz)
    batch, head, row, column = indices[:, torch.isin(indices[2], chosen)]
    kept = torch.zeros(*layout.leading, len(chosen), layout.num_key_blocks, dtype=torch.bool, device=rows.device)
    kept[batch, head, torch.searchsorted(chosen, row), column] = True  # (Bl, Hl, u, Kb)
    return kept[:, :, place]
