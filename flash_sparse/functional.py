"""Exact attention, dense or block-sparse: the public functions, their argument checks and the choice of a backend.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension, total tokens of all packed
sequences.
"""

from __future__ import annotations

import itertools
import numbers
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

from flash_sparse import dispatch, transforms
from flash_sparse.backends import reference
from flash_sparse.backends.options import Options
from flash_sparse.layout import BlockLayout

Backend = Literal["auto", "triton", "cpu", "reference"]
Window = tuple[int | None, int | None]

MAX_WIDTH = 2**62  # of a window: operators take 64-bit integers, and no sequence is longer


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
    _refuse_unknown(unknown)
    _refuse_tracing(backend)
    _check_tensors(query, key, value)
    query, key, value = _autocast(query, key, value)
    _check_rows(query, key, value, dims=4, shape="(B, H, N, D)")
    if key.shape != value.shape:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected the key's, {tuple(key.shape)}")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"key has shape {tuple(key.shape)}; expected batch {query.shape[0]} and head dimension {query.shape[3]} "
            f"as in the query, {tuple(query.shape)}"
        )
    _check_heads(query.shape[1], key.shape[1])
    if layout is not None:
        _check_layout(layout, query, batch=query.shape[0])
        if layout.query_length < query.shape[2] or layout.key_length < key.shape[2]:
            raise ValueError(
                f"layout is made for {layout.query_length} x {layout.key_length} tokens; expected at least "
                f"{query.shape[2]} x {key.shape[2]}, the lengths of query and key"
            )
    if key_lengths is not None:
        _check_integers("key_lengths", key_lengths, (query.shape[0],), query.device)
        if _values_known(key_lengths) and not bool(((key_lengths >= 0) & (key_lengths <= key.shape[2])).all()):
            raise ValueError(f"key_lengths is {key_lengths.tolist()}; expected 0 to {key.shape[2]}, the key's length")
    left, right = _check_window(window, is_causal)
    _check_flag("return_lse", return_lse)
    dropout_p, scale = _check_numbers(dropout_p, scale, query.shape[3])
    softcap = _check_softcap(softcap)
    sinks = _check_sinks(sinks, query, heads=query.shape[1])

    options = Options(
        *_layout_arguments(layout, query), cu_seqlens=None, max_seqlen=0, cu_seqlens_k=None, max_seqlen_k=0,
        key_lengths=key_lengths, left=left, right=right, dropout_p=dropout_p, seed=None, scale=scale,
        softcap=softcap, sinks=sinks,
    )  # fmt: skip
    operation = _pick(backend, query.device)
    if operation is None:
        none = layout is None or not query.shape[2] or not key.shape[2]  # nor has a layout of no tokens blocks
        own = None if none else layout.crop(query.shape[2], key.shape[2])
        output, logsumexp = reference.attention(query, key, value, own, options)
    else:
        _refuse_tangents(query, key, value, sinks)
        output, logsumexp = operation(query, key, value, *_with_seed(options, query.device))
    return (output, logsumexp) if return_lse else output


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
    _refuse_unknown(unknown)
    _refuse_tracing(backend)
    _check_tensors(query, key, value)
    query, key, value = _autocast(query, key, value)
    _check_rows(query, key, value, dims=3, shape="(total, H, D)")
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
    _check_heads(query.shape[1], key.shape[1])
    max_seqlen = _check_packing(cu_seqlens, max_seqlen, query, QUERIES)
    if crossed:
        max_seqlen_k = _check_packing(cu_seqlens_k, max_seqlen_k, key, KEYS)
        if cu_seqlens_k.shape != cu_seqlens.shape:
            raise ValueError(
                f"cu_seqlens_k has shape {tuple(cu_seqlens_k.shape)}; expected that of cu_seqlens, "
                f"{tuple(cu_seqlens.shape)}"
            )
    else:
        max_seqlen_k = max_seqlen
    if layout is not None:
        _check_layout(layout, query, batch=cu_seqlens.shape[0] - 1)
        if layout.query_length < max_seqlen or layout.key_length < max_seqlen_k:
            raise ValueError(
                f"layout is made for {layout.query_length} x {layout.key_length} tokens; expected at least "
                f"{max_seqlen} x {max_seqlen_k}, from max_seqlen{' and max_seqlen_k' if crossed else ''}"
            )
    left, right = _check_window(window, is_causal)
    _check_flag("return_lse", return_lse)
    dropout_p, scale = _check_numbers(dropout_p, scale, query.shape[2])
    softcap = _check_softcap(softcap)
    sinks = _check_sinks(sinks, query, heads=query.shape[1])

    options = Options(
        *_layout_arguments(layout, query), cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_k=max_seqlen_k, key_lengths=None, left=left, right=right, dropout_p=dropout_p, seed=None,
        scale=scale, softcap=softcap, sinks=sinks,
    )  # fmt: skip
    operation = _pick(backend, query.device)
    if operation is None:
        output, logsumexp = reference.attention_varlen(query, key, value, layout, options)
    else:
        _refuse_tangents(query, key, value, sinks)
        packed = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]  # (1, H | Hkv, total, D)
        output, logsumexp = operation(*packed, *_with_seed(options, query.device))
        output, logsumexp = output[0].transpose(0, 1), logsumexp[0]  # (total, H, D), (H, total)
    return (output, logsumexp) if return_lse else output


def _pick(backend: Backend, device: torch.device) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The operator that runs, None for the textbook formula; raises where the backend cannot run on the device."""
    if backend == "reference":
        return None
    kinds = {"cpu": "cpu", "triton": "cuda"}
    if backend == "triton" and device.type == "cpu" and dispatch.INTERPRETED:
        return transforms.transformable(dispatch.interpreted_forward)
    if backend == "auto":
        if device.type not in kinds.values():
            raise ValueError(f"query is on {device}; expected one of {', '.join(kinds.values())}")
    elif backend not in kinds:
        raise ValueError(f"backend is {backend!r}; expected one of 'auto', 'triton', 'cpu', 'reference'")
    elif device.type != kinds[backend]:
        raise ValueError(f"backend is {backend!r}, which runs on {kinds[backend]}; query is on {device}")
    return transforms.transformable(dispatch.forward)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype, where autocast is on, as for PyTorch's own attention: all but float64."""
    kind = tensors[0].device.type
    # PyTorch 2.11 cannot compile the question of whether a device has autocast; those that it compiles for have it.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)
    if not (available and torch.is_autocast_enabled(kind)):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    kept = torch.float64, *(tensor.dtype for tensor in tensors if not tensor.is_floating_point())
    return tuple(tensor if tensor.dtype in kept else tensor.to(dtype) for tensor in tensors)


def _refuse_unknown(unknown: dict) -> None:
    """Raise for arguments that are not taken; say of those of PyTorch's attention what stands in their place."""
    instead = {
        "attn_mask": "key_lengths for padding, is_causal, a window, or blocks of your own in a layout",
        "enable_gqa": "nothing: key and value may always have fewer heads",
    }
    for name in unknown:
        raise TypeError(f"{name} is no argument; expected {instead.get(name, 'one of those in the signature')}")


def _refuse_tracing(backend: Backend) -> None:
    """Raise where a tracer that cannot record an operator of ours would fail later, in words that do not say so."""
    if backend != "reference" and not torch.compiler.is_compiling() and torch.jit.is_tracing():
        raise NotImplementedError(
            "torch.jit.trace, and the ONNX export built on it, do not know the operator of flash_sparse; expected "
            "torch.export, which does, or backend='reference'"
        )


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}; expected a dense tensor")
        _check_dense(name, tensor)


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} is {kind}; expected a dense tensor")


def _refuse_tangents(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> None:
    """Raise where a forward-mode derivative is wanted: the operators have none, and it would be taken for zero."""
    if torch.compiler.is_compiling():
        return
    for name, tensor in (("query", query), ("key", key), ("value", value), ("sinks", sinks)):
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(f"{name} has a tangent; only backend='reference' has forward-mode derivatives")


def _check_rows(query: Tensor, key: Tensor, value: Tensor, dims: int, shape: str) -> None:
    """Dimensions, dtype and device of query, key and value."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != dims:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {dims} dimensions, {shape}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} is {tensor.dtype}; expected the query's dtype, {query.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}; expected the query's device, {query.device}")
    allowed = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    if query.device.type != "cpu":
        allowed.pop()
    if query.dtype not in allowed:
        names = ", ".join(map(str, allowed))
        raise TypeError(f"query is {query.dtype}; expected one of {names} on {query.device.type}")
    if not 1 <= query.shape[-1] <= 256:
        raise ValueError(f"query has head dimension {query.shape[-1]}; expected 1 to 256")


def _check_heads(heads: int, key_heads: int) -> None:
    if key_heads == 0 or heads == 0 or heads % key_heads:
        raise ValueError(f"key has {key_heads} heads; expected a divisor of the query's {heads} heads")


def _check_layout(layout: BlockLayout, query: Tensor, batch: int) -> None:
    if not isinstance(layout, BlockLayout):
        instead = " (BlockLayout.from_blocks makes one, key_lengths hide padding)" if isinstance(layout, Tensor) else ""
        raise TypeError(f"layout is {type(layout).__name__}; expected a BlockLayout or None{instead}")
    if layout.device != query.device:
        raise ValueError(
            f"layout is on {layout.device}; expected the query's device, as by layout.to('{query.device}')"
        )
    for name, own, size in zip(("batch entries", "heads"), layout.leading, (batch, query.shape[1]), strict=True):
        if own not in (1, size):
            raise ValueError(f"layout has {own} {name}; expected 1 or {size}")


def _check_integers(name: str, tensor: Tensor, shape: tuple[int, ...] | None, device: torch.device) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.int32, torch.int64):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} is {kind}; expected a tensor of torch.int32 or torch.int64")
    _check_dense(name, tensor)
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; expected the query's device, {device}")
    if tensor.dim() != 1 or (shape is not None and tensor.shape != shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape or 'one dimension'}")


class Side(NamedTuple):
    """What packed queries, or keys, call their bounds and their longest sequence, and whose they are."""

    bounds: str
    longest: str
    owner: str


QUERIES = Side("cu_seqlens", "max_seqlen", "query")
KEYS = Side("cu_seqlens_k", "max_seqlen_k", "key")


def _check_packing(cu_seqlens: Tensor, max_seqlen: int, rows: Tensor, side: Side) -> int:
    """Check how `rows` (total, H, D) are packed; returns `max_seqlen` as operators take it."""
    _check_integers(side.bounds, cu_seqlens, None, rows.device)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"{side.bounds} is {cu_seqlens.dtype}; expected torch.int32")
    max_seqlen = _check_longest(max_seqlen, side)
    if _values_known(cu_seqlens):
        _check_bounds(cu_seqlens, rows.shape[0], max_seqlen, side)
    elif cu_seqlens.device.type == "cuda":
        _assert_bounds(cu_seqlens, rows.shape[0], max_seqlen, side)
    return max_seqlen


def _check_bounds(cu_seqlens: Tensor, total: int, max_seqlen: int, side: Side = QUERIES) -> None:
    bounds = cu_seqlens.tolist()
    if not bounds or bounds[0] != 0 or bounds[-1] != total or bounds != sorted(bounds):
        raise ValueError(
            f"{side.bounds} is {_shorten(bounds)}; expected it to rise from 0 to {total}, the {side.owner}'s tokens"
        )
    longest = max((stop - start for start, stop in itertools.pairwise(bounds)), default=0)
    if longest > max_seqlen:
        raise ValueError(
            f"{side.longest} is {max_seqlen}; expected at least {longest}, the longest sequence in {side.bounds}"
        )


def _assert_bounds(cu_seqlens: Tensor, total: int, max_seqlen: int, side: Side = QUERIES) -> None:
    """`_check_bounds` on the device, which nothing waits for: else rows that no sequence has would keep what their
    memory held before."""
    lengths = cu_seqlens.diff()  # (sequences,)
    ends = (cu_seqlens.select(0, 0) == 0) & (cu_seqlens.select(0, -1) == total)  # ()
    torch._assert_async(
        ends & (lengths == lengths.clamp(0, max_seqlen)).all(),
        f"{side.bounds} does not rise from 0 to the {side.owner}'s tokens, or a sequence in it is longer than "
        f"{side.longest}",
    )


def _check_longest(max_seqlen: int, side: Side) -> int:
    """The longest sequence's length as an integer of Python's, or the symbol of one."""
    if isinstance(max_seqlen, bool) or not isinstance(max_seqlen, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{side.longest} is {max_seqlen!r}; expected an integer, the longest sequence's length")
    if torch.compiler.is_compiling():  # a check would become a bound on the lengths that the graph takes
        return max_seqlen
    if not 0 <= max_seqlen <= MAX_WIDTH:
        raise ValueError(f"{side.longest} is {max_seqlen}; expected the longest sequence's length")
    return int(max_seqlen)


def _check_window(window: Window | None, is_causal: bool) -> tuple[int, int]:
    """Tokens seen to the left and right of the diagonal; -1 where unbounded."""
    if window is not None and not (isinstance(window, (tuple, list)) and len(window) == 2):
        raise TypeError(f"window is {window!r}; expected None or a pair (left, right), in tokens")
    left, right = (None, None) if window is None else window
    for side, width in (("left", left), ("right", right)):
        if width is not None and (isinstance(width, bool) or not isinstance(width, numbers.Integral) or width < 0):
            raise ValueError(f"window's {side} side is {width!r}; expected None or an integer of at least 0, in tokens")
    _check_flag("is_causal", is_causal)
    if is_causal:
        right = 0
    return tuple(-1 if width is None else min(int(width), MAX_WIDTH) for width in (left, right))


def _check_flag(name: str, flag: bool) -> None:
    if not isinstance(flag, bool):
        raise TypeError(f"{name} is {flag!r}; expected True or False")


def _check_numbers(dropout_p: float, scale: float | None, head_dim: int) -> tuple[float, float]:
    """The dropout and the scale to use, as numbers of Python's."""
    for name, number in (("dropout_p", dropout_p), ("scale", 0 if scale is None else scale)):
        if isinstance(number, bool) or not isinstance(number, (numbers.Real, torch.SymInt, torch.SymFloat)):
            raise TypeError(f"{name} is {number!r}; expected a number")
    dropout_p, scale = _plain(dropout_p), head_dim**-0.5 if scale is None else _plain(scale)
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p is {dropout_p}; expected 0 <= dropout_p < 1")
    if not abs(scale) <= sys.float_info.max:  # an integer can be larger
        raise ValueError(f"scale is {scale}; expected a finite number")
    return dropout_p, scale


def _check_softcap(softcap: float | None) -> float:
    """The cap as a number of Python's, 0 where there is none."""
    if softcap is None:
        return 0.0
    if isinstance(softcap, bool) or not isinstance(softcap, (numbers.Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"softcap is {softcap!r}; expected None or a number")
    softcap = _plain(softcap)
    if not 1e-30 <= softcap <= 1e30:  # beyond, float32 would lose scores divided by it
        raise ValueError(f"softcap is {softcap}; expected None or a number from 1e-30 to 1e30")
    return softcap


def _check_sinks(sinks: Tensor | None, query: Tensor, heads: int) -> Tensor | None:
    """The sinks in the log-sum-exp's dtype."""
    if sinks is None:
        return None
    if not isinstance(sinks, Tensor) or not sinks.is_floating_point():
        kind = sinks.dtype if isinstance(sinks, Tensor) else type(sinks).__name__
        raise TypeError(f"sinks is {kind}; expected None or a tensor of floating point")
    _check_dense("sinks", sinks)
    if sinks.device != query.device:
        raise ValueError(f"sinks is on {sinks.device}; expected the query's device, {query.device}")
    if sinks.shape != (heads,):
        raise ValueError(
            f"sinks has shape {tuple(sinks.shape)}; expected {(heads,)}, one for each of the query's heads"
        )
    return sinks.to(dispatch.logsumexp_dtype(query.dtype)).contiguous()


def _plain(number: float) -> float:
    """NumPy's numbers as Python's, which operators take; all others as they are."""
    return number if isinstance(number, (int, float, torch.SymInt, torch.SymFloat)) else float(number)


def _values_known(tensor: Tensor) -> bool:
    """Whether the tensor has values and reading them is free: not on another device, not while a graph is traced."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not isinstance(tensor, FakeTensor) and not torch._C._functorch.is_batchedtensor(tensor)


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:4]))}, ..., {values[-1]}]"


def _layout_arguments(layout: BlockLayout | None, query: Tensor | None = None) -> tuple[Tensor | int | None, ...]:
    if layout is None:
        return None, None, None, None, None, None, 0
    rows = layout.row_offsets, layout.row_blocks, layout.row_order
    tensors = *rows, layout.column_offsets, layout.column_blocks, layout.column_order
    if not torch.compiler.is_compiling() and isinstance(query, FakeTensor):  # which meet none that have values
        tensors = map(query.fake_mode.from_tensor, tensors)
    return *tensors, layout.block_size


def _with_seed(options: Options, device: torch.device) -> Options:
    """With a seed on the device, where there is dropout: drawn from PyTorch's generator, so that `torch.manual_seed`
    and checkpointing repeat it."""
    return options._replace(seed=torch.randint(2**62, (), device=device)) if options.dropout_p > 0 else options
