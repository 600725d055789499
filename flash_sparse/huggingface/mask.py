"""What a transformers model's mask says, in the terms of `attention`: window, key lengths, bounds of sequences.

transformers describes a mask by a function of (batch entry, head, query position, key position) and a picture of the
padding. Nothing of the size of queries times keys is made here. What kind of mask it is follows from how transformers
asks for it; that its function indeed says so is then checked at the edges of what each query sees, and whatever cannot
be expressed raises.

Letters: B batch, Nq queries, Nk keys, N tokens where both are the same sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from flash_sparse.arguments import Window

INEXPRESSIBLE = "attention_mask cannot be expressed as padding, causality, a sliding window and packed sequences"


FINISHED = (
    "attention_mask is used as a tensor, by the model's own code or for a cache of fixed length; expected a model that "
    "leaves the masks of transformers.masking_utils to its attention function, and a cache that grows"
)


@dataclass(eq=False)
class Mask:
    """Which keys each query sees. At most one of the three ways to leave out padding is used.

    Models hand it from layer to layer in the place of a tensor. One that computes with it, or looks into it, gets an
    error that says so.
    """

    window: Window = (None, None)
    order: Tensor | None = None  # (B, Nk): the keys in another order, those that are seen first
    key_lengths: Tensor | None = None  # (B,): so many keys are seen, the first ones
    cu_seqlens: Tensor | None = None  # (sequences + 1,): bounds of sequences in the flattened batch, padding's own too
    starts: tuple[int, ...] | None = None  # for each batch entry: the first key that is no padding
    key_count: int | None = None  # how many keys it is for; None: it hides none, however many there are

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Mask:
        """The same mask on another device, for models whose layers are on several."""
        if isinstance(device, torch.dtype):
            raise ValueError(FINISHED)
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def __getattr__(self, name: str):
        if name.startswith("__"):  # what Python itself asks for
            raise AttributeError(name)
        raise ValueError(FINISHED)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise ValueError(FINISHED)


def _refuse(self, *others):
    raise ValueError(FINISHED)


for _name in ("getitem", "len", "iter", "eq", "ne", "lt", "gt", "invert", "neg", "add", "sub", "mul", "and", "or"):
    setattr(Mask, f"__{_name}__", _refuse)


def dense_mask(**arguments) -> Mask:
    """The mask function that transformers calls for dense attention."""
    return _make_mask(sparse=False, **arguments)


def sparse_mask(**arguments) -> Mask:
    """The mask function that transformers calls for block-sparse attention, whose blocks begin with each sequence."""
    return _make_mask(sparse=True, **arguments)


def _make_mask(
    sparse: bool,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others,
) -> Mask:
    """A `Mask` from what transformers hands to `sdpa_mask`, whose arguments these are."""
    if use_vmap:
        raise ValueError(f"{INEXPRESSIBLE}: the model adds a mask function of its own")
    causal = "allow_is_bidirectional_skip" not in others  # only said of bidirectional masks
    if isinstance(q_offset, Tensor) or (causal and q_offset + q_length < kv_offset + kv_length):
        raise ValueError("past_key_values is a cache of fixed length; expected one that grows, as DynamicCache")
    valid = _valid(attention_mask, kv_length, kv_offset)
    plain = mask_function in (causal_mask_function, bidirectional_mask_function)
    batch = torch.arange(batch_size, device=device)[:, None]  # (B, 1)
    head = torch.zeros((), dtype=torch.int64, device=device)
    queries = (torch.arange(q_length, device=device) + q_offset)[None]  # (1, Nq)

    if q_length == 1 and not plain:  # one query: any mask is a choice of keys
        keys = (torch.arange(kv_length, device=device) + kv_offset)[None]  # (1, Nk)
        seen = mask_function(batch, head, queries, keys).expand(batch_size, kv_length)  # (B, Nk)
        return _choose_keys(seen if valid is None else seen & valid, kv_length)
    if not sparse and (q_length == 1 or (not causal and local_size is None)):
        if not plain:
            raise ValueError(f"{INEXPRESSIBLE}: {mask_function} is not transformers' own bidirectional mask")
        return _choose_keys(valid, kv_length if causal else None)
    if q_offset + q_length != kv_offset + kv_length:
        raise ValueError(
            f"attention_mask is for {q_length} queries from position {q_offset} and {kv_length} keys from {kv_offset}; "
            "expected both to end together, for a sliding window or a block-sparse pattern"
        )

    window = (local_size, local_size)
    if causal:
        window = (None if local_size is None else local_size - 1, 0)
    same = q_length == kv_length and q_length > 1
    linked = None  # (B, N): whether a token belongs to the same packed sequence as the one before it
    if not plain:
        if same and window[0] != 0:
            linked = mask_function(batch, head, queries, (queries - 1).clamp(min=kv_offset)).expand(batch_size, -1)
            linked = linked & (queries > kv_offset)  # (B, N)
        _check_edges(mask_function, (batch, head, queries), linked, window, kv_offset, kv_length)
    if same:
        return Mask(window, cu_seqlens=_bounds(valid, linked, batch_size, q_length, device), key_count=kv_length)
    return Mask(window, starts=_starts(valid, q_length), key_count=kv_length)


def _valid(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> Tensor | None:
    """The keys that are no padding, bool (B, Nk)."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}; expected (batch, length)")
    missing = kv_offset + kv_length - attention_mask.shape[1]
    if missing > 0:
        attention_mask = torch.nn.functional.pad(attention_mask, (0, missing))
    return attention_mask.bool()[:, kv_offset : kv_offset + kv_length]


def _choose_keys(valid: Tensor | None, key_count: int | None) -> Mask:
    """A mask of the keys chosen in (B, Nk), the same for all queries, wherever they are.

    Args:
        key_count: of the mask, where it hides none.
    """
    if valid is None:
        return Mask(key_count=key_count)
    lengths = valid.sum(dim=1)
    if not torch.compiler.is_compiling():
        if bool(valid.all()):
            return Mask(key_count=key_count)
        if not bool((valid[:, 1:] & ~valid[:, :-1]).any()):  # padding at the end alone
            return Mask(key_lengths=lengths, key_count=valid.shape[1])
    order = valid.int().argsort(dim=1, descending=True, stable=True)
    return Mask(order=order, key_lengths=lengths, key_count=valid.shape[1])


def _bounds(
    valid: Tensor | None, linked: Tensor | None, batch: int, length: int, device: torch.device | str
) -> Tensor | None:
    """Where sequences begin in the flattened batch, with each run of padding a sequence of its own; None: at each N."""
    total = torch.full((1,), batch * length, dtype=torch.int32, device=device)
    rows = torch.arange(batch, dtype=torch.int32, device=device) * length  # (B,)
    if torch.compiler.is_compiling():  # sizes must not depend on values
        if linked is not None:
            _require(linked[:, 1:].all(), "packed sequences in a compiled model; expected one sequence in each row")
        if valid is None:
            return None
        count = valid.sum(dim=1)  # (B,)
        first = valid.int().argmax(dim=1)  # (B,), 0 for a row of padding alone
        last = torch.where(count > 0, length - 1 - valid.flip(1).int().argmax(dim=1), first - 1)
        _require((last - first + 1 == count).all(), _holes("between tokens"))
        bounds = torch.stack([rows, rows + first.int(), rows + last.int() + 1], dim=1).flatten()  # (3 B,)
        return torch.cat([bounds, total])
    if (valid is None or bool(valid.all())) and (linked is None or bool(linked[:, 1:].all())):
        return None
    position = torch.arange(length, device=device)[None]  # (1, N)
    begins = (position == 0).expand(batch, length) if linked is None else ~linked  # (B, N)
    if valid is not None:
        before = valid.roll(1, dims=1)
        sequence = torch.where(begins, position, 0).cummax(dim=1).values  # (B, N): where a token's sequence begins
        token = torch.where(valid, position, -1).cummax(dim=1).values.roll(1, dims=1)  # (B, N): the last one before
        resumes = valid & ~before & (position > 0) & (token >= sequence)
        if bool(resumes.any()):
            raise ValueError(_holes(f"at {resumes.nonzero()[0].tolist()} (batch entry, position) a token follows it"))
        begins = begins | (valid != before)
    return torch.cat([begins.flatten().nonzero()[:, 0].int(), total])


def _holes(where: str) -> str:
    return (
        f"attention_mask has padding inside a sequence: {where}; expected it before or after the tokens, for causal, "
        "sliding-window and block-sparse attention"
    )


def _starts(valid: Tensor | None, q_length: int) -> tuple[int, ...] | None:
    """The first key of each batch entry that is no padding; a cache may be padded at the beginning alone."""
    if valid is None:
        return None
    if torch.compiler.is_compiling():
        raise ValueError(f"attention_mask with {q_length} queries after a cache in a compiled model; expected no mask")
    if bool(valid.all()):
        return None
    if bool((valid[:, :-1] & ~valid[:, 1:]).any()) or not bool(valid[:, -1].all()):
        raise ValueError("attention_mask has padding after a token, with a cache; expected padding on the left alone")
    return tuple(valid.int().argmax(dim=1).tolist())


def _check_edges(
    mask_function: Callable,
    indices: tuple[Tensor, Tensor, Tensor],
    linked: Tensor | None,
    window: Window,
    kv_offset: int,
    kv_length: int,
) -> None:
    """Raise unless each query sees the keys from one edge to the other: those at the edges, none beside them."""
    queries = indices[2]  # (1, Nq)
    low, high = kv_offset, kv_offset + kv_length - 1  # the keys that there are
    first, last = torch.full_like(queries, low), torch.full_like(queries, high)  # of the query's packed sequence
    if linked is not None:
        first = torch.where(linked, low, queries).cummax(dim=1).values  # (B, N)
        ends = torch.cat([~linked[:, 1:], torch.ones_like(linked[:, :1])], dim=1)
        last = torch.where(ends, queries, high).flip(1).cummin(dim=1).values.flip(1)  # (B, N)
    left, right = window
    first = first if left is None else torch.maximum(first, queries - left)
    last = last if right is None else torch.minimum(last, queries + right)

    def seen(keys: Tensor) -> Tensor:
        return mask_function(*indices, keys.clamp(low, high))

    inside = seen(first) & seen(last)
    outside = (seen(first - 1) & (first > low)) | (seen(last + 1) & (last < high))
    _require((inside & ~outside).all(), INEXPRESSIBLE)


def _require(condition: Tensor, message: str) -> None:
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)  # raises when the compiled model runs
    elif not bool(condition):
        raise ValueError(message)
