"""Exact attention, dense or block-sparse: the public functions, and the choice of a backend.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension, total tokens of all packed
sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypedDict, overload

import torch
from torch import Tensor

from flash_sparse import dispatch, transforms
from flash_sparse.arguments import (
    KEYS,
    QUERIES,
    Backend,
    Window,
    autocast,
    check_flag,
    check_heads,
    check_integers,
    check_layout,
    check_numbers,
    check_packing,
    check_rows,
    check_sinks,
    check_softcap,
    check_tensors,
    check_window,
    layout_arguments,
    refuse_tangents,
    refuse_tracing,
    refuse_unknown,
    values_known,
)
from flash_sparse.backends import reference
from flash_sparse.backends.options import Options
from flash_sparse.layout import BlockLayout

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Choices(TypedDict, total=False):
    """What both functions take by name, for type checkers."""

    is_causal: bool
    window: Window | None
    dropout_p: float
    scale: float | None
    softcap: float | None
    sinks: Tensor | None
    backend: Backend


class _PaddedChoices(_Choices, total=False):
    key_lengths: Tensor | None


class _PackedChoices(_Choices, total=False):
    cu_seqlens_k: Tensor | None
    max_seqlen_k: int | None


@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout | None = None,
    *, return_lse: Literal[False] = False, **choices: Unpack[_PaddedChoices],
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout | None = None,
    *, return_lse: Literal[True], **choices: Unpack[_PaddedChoices],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout | None = None,
    *, return_lse: bool, **choices: Unpack[_PaddedChoices],
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: BlockLayout | None = None,
    *,
    is_causal: bool = False,
    window: Window | None = None,
    key_lengths: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    backend: Backend = "auto",
    **unknown,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over exactly the keys that the layout and the masks let through.

    Memory is linear in length, forward and backward: the Nq x Nk matrix is never stored. A query that sees no key gets
    output 0, log-sum-exp minus infinity and gradient 0.

    Args:
        query: (B, H, Nq, D), float16, bfloat16 or float32 (float64 on a CPU); any strides.
        key: (B, Hkv, Nk, D); H is a multiple of Hkv, and query head h uses key head h // (H // Hkv).
        value: (B, Hkv, Nk, D).
        layout: the blocks that are computed; made for at least Nq x Nk tokens, of which it is the upper left part. None
            for all of them.
        is_causal: hide the keys to the right of the diagonal, which ends at the bottom right: query i stands at key
            position i + Nk - Nq.
        window: (left, right): keys a query sees on either side of the diagonal, in tokens; None on a side is unbounded.
        key_lengths: (B,), integer, 0 to Nk: keys at or past it are padding.
        dropout_p: share of probabilities that are dropped, 0 <= dropout_p < 1, as
            `torch.nn.functional.scaled_dot_product_attention` does: set it to 0 in evaluation. Drawn from PyTorch's
            generator.
        scale: factor on the scores; D ** -0.5 if None.
        softcap: cap on the scores, above 0: they become softcap * tanh(scale * score / softcap), as in Gemma 2, before
            any mask.
        sinks: (H,), floating point: logits that join the softmax's denominator in each row of their head and have no
            value, as in GPT-OSS; they have gradients. A query that sees no key still gets output 0.
        return_lse: also return the natural logarithm of the sum of exponentials of each query's scores, with its
            head's sink among them.
        backend: "auto" picks by device; "cpu" and "triton" insist on one; "reference" is the textbook formula, which
            stores the Nq x Nk matrix. `torch.export` and AOTInductor take all of them, `torch.onnx.export` "reference"
            alone.

    Returns:
        (B, H, Nq, D) in the inputs' dtype; with `return_lse` also (B, H, Nq) in float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or range.
        NotImplementedError: under `torch.jit.trace`, a forward-mode derivative or, in the backward pass, a second
            derivative.

    Source: Dao et al. 2022, "FlashAttention", algorithms 1 and 4 (dense) and 5 (block-sparse).
    """
    refuse_unknown(unknown)
    refuse_tracing(backend)
    check_tensors(query, key, value)
    query, key, value = autocast(query, key, value)
    check_rows(query, key, value, dims=4, shape="(B, H, N, D)")
    if key.shape != value.shape:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected the key's, {tuple(key.shape)}")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected batch {query.shape[0]} and head dimension {query.shape[3]} "
            f"as in the query, {tuple(query.shape)}"
        )
    check_heads(query.shape[1], key.shape[1])
    if layout is not None:
        lengths = query.shape[2], key.shape[2]
        check_layout(layout, query, query.shape[0], lengths, "the lengths of query and key")
    if key_lengths is not None:
        check_integers("key_lengths", key_lengths, (query.shape[0],), query.device)
        if values_known(key_lengths) and not bool(((key_lengths >= 0) & (key_lengths <= key.shape[2])).all()):
            raise ValueError(f"key_lengths is {key_lengths.tolist()}; expected 0 to {key.shape[2]}, the key's length")
    left, right = check_window(window, is_causal)
    check_flag("return_lse", return_lse)
    dropout_p, scale = check_numbers(dropout_p, scale, query.shape[3])
    softcap = check_softcap(softcap)
    sinks = check_sinks(sinks, query, heads=query.shape[1])

    options = Options(
        *layout_arguments(layout, query), cu_seqlens=None, max_seqlen=0, cu_seqlens_k=None, max_seqlen_k=0,
        key_lengths=key_lengths, left=left, right=right, dropout_p=dropout_p, seed=None, scale=scale,
        softcap=softcap, sinks=sinks,
    )  # fmt: skip
    operation = _pick(backend, query.device)
    if operation is None:
        own = None
        if layout is not None and query.shape[2] and key.shape[2]:  # nor has a layout of no tokens blocks
            own = layout.crop(query.shape[2], key.shape[2])
        output, logsumexp = reference.attention(query, key, value, own, options)
    else:
        refuse_tangents(query, key, value, sinks)
        output, logsumexp = operation(query, key, value, *_with_seed(options, query.device))
    return (output, logsumexp) if return_lse else output


@overload
def attention_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None,
    *, return_lse: Literal[False] = False, **choices: Unpack[_PackedChoices],
) -> Tensor: ...  # fmt: skip
@overload
def attention_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None,
    *, return_lse: Literal[True], **choices: Unpack[_PackedChoices],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def attention_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None,
    *, return_lse: bool, **choices: Unpack[_PackedChoices],
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip
def attention_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    layout: BlockLayout | None = None,
    *,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_k: int | None = None,
    is_causal: bool = False,
    window: Window | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    backend: Backend = "auto",
    **unknown,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` of each sequence to itself, for sequences laid end to end, so that nothing is spent on padding.

    With `cu_seqlens_k`, of each sequence of queries to one of keys (cross-attention). As in `attention`, the diagonal
    of a causal mask or a window ends at the bottom right of each pair.

    Args:
        query: (total, H, D).
        key, value: (total, Hkv, D), or with `cu_seqlens_k` any number of tokens.
        cu_seqlens: (sequences + 1,) int32: where each sequence begins, from 0; the last entry is total.
        max_seqlen: the length of the longest sequence, or more.
        cu_seqlens_k, max_seqlen_k: the same of the keys, for as many sequences, each of which may be empty on either
            side; both or neither.
        layout: made for at least `max_seqlen` x `max_seqlen_k` tokens; every sequence uses its upper left part. One
            that differs between batch entries has an entry for each sequence.
        The others: as in `attention`.

    Returns:
        (total, H, D) in the inputs' dtype; with `return_lse` also (H, total).

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or range. What `cu_seqlens` holds is
            checked at the call on a CPU; on a GPU, by an assertion that stops the device.
    """
    refuse_unknown(unknown)
    refuse_tracing(backend)
    check_tensors(query, key, value)
    query, key, value = autocast(query, key, value)
    check_rows(query, key, value, dims=3, shape="(total, H, D)")
    if key.shape != value.shape:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected the key's, {tuple(key.shape)}")
    crossed = cu_seqlens_k is not None
    if crossed != (max_seqlen_k is not None):
        given, missing = ("cu_seqlens_k", "max_seqlen_k") if crossed else ("max_seqlen_k", "cu_seqlens_k")
        raise TypeError(f"{missing} is None with {given}; expected both, where keys are packed by bounds of their own")
    if query.shape[2] != key.shape[2] or (not crossed and query.shape[0] != key.shape[0]):
        tokens = "" if crossed else f"{query.shape[0]} tokens and "
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected {tokens}head dimension {query.shape[2]} as in the query, "
            f"{tuple(query.shape)}"
        )
    check_heads(query.shape[1], key.shape[1])
    max_seqlen = check_packing(cu_seqlens, max_seqlen, query, QUERIES)
    if cu_seqlens_k is not None and max_seqlen_k is not None:
        max_seqlen_k = check_packing(cu_seqlens_k, max_seqlen_k, key, KEYS)
        if cu_seqlens_k.shape != cu_seqlens.shape:
            raise ValueError(
                f"cu_seqlens_k has shape {tuple(cu_seqlens_k.shape)}; expected that of cu_seqlens, "
                f"{tuple(cu_seqlens.shape)}"
            )
    else:
        max_seqlen_k = max_seqlen
    if layout is not None:
        source = "from max_seqlen and max_seqlen_k" if crossed else "from max_seqlen"
        check_layout(layout, query, cu_seqlens.shape[0] - 1, (max_seqlen, max_seqlen_k), source)
    left, right = check_window(window, is_causal)
    check_flag("return_lse", return_lse)
    dropout_p, scale = check_numbers(dropout_p, scale, query.shape[2])
    softcap = check_softcap(softcap)
    sinks = check_sinks(sinks, query, heads=query.shape[1])

    options = Options(
        *layout_arguments(layout, query), cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_k=max_seqlen_k, key_lengths=None, left=left, right=right, dropout_p=dropout_p, seed=None,
        scale=scale, softcap=softcap, sinks=sinks,
    )  # fmt: skip
    operation = _pick(backend, query.device)
    if operation is None:
        output, logsumexp = reference.attention_varlen(query, key, value, layout, options)
    else:
        refuse_tangents(query, key, value, sinks)
        packed = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]  # (1, H | Hkv, total, D)
        output, logsumexp = operation(*packed, *_with_seed(options, query.device))
        output, logsumexp = output[0].transpose(0, 1), logsumexp[0]  # (total, H, D), (H, total)
    return (output, logsumexp) if return_lse else output


def _pick(backend: Backend, device: torch.device) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The operator that runs, None for the textbook formula; raises where the backend cannot run on the device."""
    if backend == "reference":
        return None
    kinds = {"cpu": "cpu", "triton": "cuda"}
    if backend == "triton" and device.type == "cpu" and dispatch.interpreted_forward is not None:
        return transforms.transformable(dispatch.interpreted_forward)
    if backend == "auto":
        if device.type not in kinds.values():
            raise ValueError(f"query is on {device}; expected one of {', '.join(kinds.values())}")
    elif backend not in kinds:
        raise ValueError(f"backend is {backend!r}; expected one of 'auto', 'triton', 'cpu', 'reference'")
    elif device.type != kinds[backend]:
        raise ValueError(f"backend is {backend!r}, which runs on {kinds[backend]}; query is on {device}")
    return transforms.transformable(dispatch.forward)


def _with_seed(options: Options, device: torch.device) -> Options:
    """With a seed on the device, where there is dropout: drawn from PyTorch's generator, so that `torch.manual_seed`
    and checkpointing repeat it."""
    return options._replace(seed=torch.randint(2**62, (), device=device)) if options.dropout_p > 0 else options
