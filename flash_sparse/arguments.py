"""What the public functions check of their arguments, at the call and before anything is launched.

Each check names the argument, its value and what was expected, and returns what operators take where that is another.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension, total tokens of all packed
sequences.
"""

from __future__ import annotations

import itertools
import numbers
import sys
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

from flash_sparse import dispatch
from flash_sparse.layout import BlockLayout

Backend = Literal["auto", "triton", "cpu", "reference"]
Window = tuple[int | None, int | None]

MAX_WIDTH = 2**62  # of a window: operators take 64-bit integers, and no sequence is longer


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype, where autocast is on, as for PyTorch's own attention: all but float64."""
    kind = tensors[0].device.type
    # PyTorch 2.11 cannot compile the question of whether a device has autocast; those that it compiles for have it.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)
    if not (available and torch.is_autocast_enabled(kind)):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    kept = torch.float64, *(tensor.dtype for tensor in tensors if not tensor.is_floating_point())
    return tuple(tensor if tensor.dtype in kept else tensor.to(dtype) for tensor in tensors)


def refuse_unknown(unknown: dict) -> None:
    """Raise for arguments that are not taken; say of those of PyTorch's attention what stands in their place."""
    instead = {
        "attn_mask": "key_lengths for padding, is_causal, a window, or blocks of your own in a layout",
        "enable_gqa": "nothing: key and value may always have fewer heads",
    }
    for name in unknown:
        raise TypeError(f"{name} is no argument; expected {instead.get(name, 'one of those in the signature')}")


def refuse_tracing(backend: Backend) -> None:
    """Raise where a tracer that cannot record an operator of ours would fail later, in words that do not say so."""
    if backend != "reference" and not torch.compiler.is_compiling() and torch.jit.is_tracing():
        raise NotImplementedError(
            "torch.jit.trace, and the ONNX export built on it, do not know the operator of flash_sparse; expected "
            "torch.export, which does, or backend='reference'"
        )


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}; expected a dense tensor")
        _check_dense(name, tensor)


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise TypeError(f"{name} is {kind}; expected a dense tensor")


def refuse_tangents(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> None:
    """Raise where a forward-mode derivative is wanted: the operators have none, and it would be taken for zero."""
    if torch.compiler.is_compiling():
        return
    for name, tensor in (("query", query), ("key", key), ("value", value), ("sinks", sinks)):
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(f"{name} has a tangent; only backend='reference' has forward-mode derivatives")


def check_rows(query: Tensor, key: Tensor, value: Tensor, dims: int, shape: str) -> None:
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


def check_heads(heads: int, key_heads: int) -> None:
    if key_heads == 0 or heads == 0 or heads % key_heads:
        raise ValueError(f"key has {key_heads} heads; expected a divisor of the query's {heads} heads")


def check_layout(layout: BlockLayout, query: Tensor, batch: int, lengths: tuple[int, int], source: str) -> None:
    """Type, device and leading shape of a layout, and that it covers `lengths` of queries and keys, from `source`."""
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
    if layout.query_length < lengths[0] or layout.key_length < lengths[1]:
        raise ValueError(
            f"layout is made for {layout.query_length} x {layout.key_length} tokens; expected at least "
            f"{lengths[0]} x {lengths[1]}, {source}"
        )


def check_integers(name: str, tensor: Tensor, shape: tuple[int, ...] | None, device: torch.device) -> None:
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


def check_packing(cu_seqlens: Tensor, max_seqlen: int, rows: Tensor, side: Side) -> int:
    """Check how `rows` (total, H, D) are packed; returns `max_seqlen` as operators take it."""
    check_integers(side.bounds, cu_seqlens, None, rows.device)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"{side.bounds} is {cu_seqlens.dtype}; expected torch.int32")
    max_seqlen = _check_longest(max_seqlen, side)
    if values_known(cu_seqlens):
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


def check_window(window: Window | None, is_causal: bool) -> tuple[int, int]:
    """Tokens seen to the left and right of the diagonal; -1 where unbounded."""
    if window is not None and not (isinstance(window, (tuple, list)) and len(window) == 2):
        raise TypeError(f"window is {window!r}; expected None or a pair (left, right), in tokens")
    left, right = (None, None) if window is None else window
    for side, width in (("left", left), ("right", right)):
        if width is not None and (isinstance(width, bool) or not isinstance(width, numbers.Integral) or width < 0):
            raise ValueError(f"window's {side} side is {width!r}; expected None or an integer of at least 0, in tokens")
    check_flag("is_causal", is_causal)
    if is_causal:
        right = 0
    return _side(left), _side(right)


def check_flag(name: str, flag: bool) -> None:
    if not isinstance(flag, bool):
        raise TypeError(f"{name} is {flag!r}; expected True or False")


def _side(width: int | None) -> int:
    """A side of a window as operators take it."""
    return -1 if width is None else min(int(width), MAX_WIDTH)


def check_numbers(dropout_p: float, scale: float | None, head_dim: int) -> tuple[float, float]:
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


def check_softcap(softcap: float | None) -> float:
    """The cap as a number of Python's, 0 where there is none."""
    if softcap is None:
        return 0.0
    if isinstance(softcap, bool) or not isinstance(softcap, (numbers.Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"softcap is {softcap!r}; expected None or a number")
    softcap = _plain(softcap)
    if not 1e-30 <= softcap <= 1e30:  # beyond, float32 would lose scores divided by it
        raise ValueError(f"softcap is {softcap}; expected None or a number from 1e-30 to 1e30")
    return softcap


def check_sinks(sinks: Tensor | None, query: Tensor, heads: int) -> Tensor | None:
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


def values_known(tensor: Tensor) -> bool:
    """Whether the tensor has values and reading them is free: not on another device, not while a graph is traced."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not isinstance(tensor, FakeTensor) and not torch._C._functorch.is_batchedtensor(tensor)


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:4]))}, ..., {values[-1]}]"


def layout_arguments(
    layout: BlockLayout | None, query: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, int]:
    """The first of the `Options`."""
    if layout is None:
        return None, None, None, None, None, None, 0
    rows = layout.row_offsets, layout.row_blocks, layout.row_order
    columns = layout.column_offsets, layout.column_blocks, layout.column_order
    if not torch.compiler.is_compiling() and isinstance(query, FakeTensor):  # which meet none that have values
        fake = query.fake_mode.from_tensor
        rows = fake(rows[0]), fake(rows[1]), fake(rows[2])
        columns = fake(columns[0]), fake(columns[1]), fake(columns[2])
    return *rows, *columns, layout.block_size
