"""Self-attention as a module.

Letters: B sequences, N tokens of each when padded, total tokens of all when packed, W width, H heads, Hkv key heads,
D = W / H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from flash_sparse.arguments import Window, check_softcap, values_known
from flash_sparse.functional import attention_varlen
from flash_sparse.layout import BlockLayout
from flash_sparse.nn.packing import positions, segments
from flash_sparse.nn.rotary import AxialRotary, Rotary, rotate


class Attention(nn.Module):
    """Multi-head self-attention, exact, dense or block-sparse, on padded or on packed sequences.

    `Attention(width, heads)(x)` with x (B, N, width) is dense attention over all tokens.

    Args:
        width: W, features of a token.
        heads: H, a divisor of W.
        kv_heads: heads of keys and values, a divisor of H; H if None, 1 for multi-query attention.
        dropout: share of attention probabilities dropped in training.
        rotary: "1d" for texts, "2d" for images (needs `grid`), None for no position embedding.
        rotary_base: base of the rotary frequencies.
        grid: (height, width) of the image, for "2d".
        layout: the blocks to compute, None for all; made for the longest sequence, it serves shorter ones by its upper
            left part. It moves with the module, and is no part of its state.
        is_causal: tokens see none that come later.
        window: (left, right) tokens seen on either side, None on a side is unbounded.
        softcap: cap on the scores, above 0, as in Gemma 2; None leaves them as they are.
        sinks: give each head a sink, as in GPT-OSS: a learned logit, 0 at first, that joins the softmax's denominator
            and has no value, so that a query may attend to nothing.

    Attributes:
        sinks: (H,), the parameter; None without.
        attend: what computes the attention of packed sequences, `attention_varlen`; something else of its signature may
            be set in its place, to compare.

    Raises:
        TypeError: `sinks` is neither True nor False.
        ValueError: heads that do not divide the width, or key heads the heads; an unknown rotary embedding, or one that
            does not fit the head dimension; a softcap out of range.
    """

    attend: Callable[..., Tensor] = staticmethod(attention_varlen)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        dropout: float = 0.0,
        rotary: Literal["1d", "2d"] | None = None,
        rotary_base: float = 10000.0,
        grid: tuple[int, int] | None = None,
        layout: BlockLayout | None = None,
        is_causal: bool = False,
        window: Window | None = None,
        softcap: float | None = None,
        sinks: bool = False,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or width % heads:
            raise ValueError(f"heads is {heads}; expected a divisor of the width, {width}")
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads is {kv_heads}; expected a divisor of the heads, {heads}")
        if not isinstance(sinks, bool):
            raise TypeError(f"sinks is {type(sinks).__name__}; expected True or False: the module makes the parameter")
        check_softcap(softcap)
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_dim = width // heads
        self.dropout = dropout
        self.layout = layout
        self.is_causal = is_causal
        self.window = window
        self.softcap = softcap
        self.register_parameter("sinks", nn.Parameter(torch.zeros(heads)) if sinks else None)  # (H,)
        self.rotary = make_rotary(rotary, self.head_dim, rotary_base, grid)
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.head_dim, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        key_lengths: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        layout: BlockLayout | None = None,
        turns: Tensor | None = None,
    ) -> Tensor:
        """Attend within each sequence.

        Args:
            x: (B, N, W), or packed (total, W) with `cu_seqlens` and `max_seqlen`.
            cu_seqlens: (B + 1,) int32, where each packed sequence begins; the last entry is total.
            max_seqlen: tokens of the longest packed sequence.
            key_lengths: (B,) integer, 0 to N: tokens of padded sequences at or past it are padding, which no other
                token sees. The output at padding is finite and without meaning.
            key_padding_mask: (B, N) bool, True at padding, which must be at the end: `key_lengths` in the form that
                `torch.nn.MultiheadAttention` takes. It is read to be checked, which waits for a GPU.
            layout: in place of the module's own.
            turns: (total, D / 2) complex64, in place of those of the module's own rotary embedding.

        Returns:
            The shape of x.

        Raises:
            ValueError: arguments that do not fit each other; see also `flash_sparse.attention_varlen`.
        """
        layout = self.layout if layout is None else layout
        if x.dim() == 2:
            if cu_seqlens is None or max_seqlen is None or key_lengths is not None or key_padding_mask is not None:
                raise ValueError(
                    f"x has shape {tuple(x.shape)}, packed; expected cu_seqlens and max_seqlen, and neither "
                    "key_lengths nor key_padding_mask"
                )
            return self._packed(x, cu_seqlens, max_seqlen, layout, turns)
        if x.dim() != 3 or cu_seqlens is not None or max_seqlen is not None:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, N, {self.qkv.in_features}) alone or "
                f"(total, {self.qkv.in_features}) with cu_seqlens and max_seqlen"
            )
        if key_padding_mask is not None:
            if key_lengths is not None:
                raise ValueError("key_lengths and key_padding_mask are both given; expected one of them")
            key_lengths = _lengths(key_padding_mask, x)
        if key_lengths is not None and layout is not None and layout.leading[0] > 1:
            raise ValueError(f"layout has {layout.leading[0]} batch entries; expected 1 beside padding")
        cu_seqlens = _bounds(x, key_lengths)
        return self._packed(x.flatten(0, 1), cu_seqlens, x.shape[1], layout, turns).view(x.shape)

    def _packed(
        self, x: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None, turns: Tensor | None
    ) -> Tensor:
        rows = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (total, H + 2 Hkv, D)
        query, key, value = rows.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if turns is None and self.rotary is not None:
            turns = self.rotary(positions(cu_seqlens, segments(cu_seqlens, x.shape[0])))  # (total, D / 2)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        attended = self.attend(
            query,
            key,
            value,
            cu_seqlens,
            max_seqlen,
            layout,
            is_causal=self.is_causal,
            window=self.window,
            dropout_p=self.dropout if self.training else 0.0,
            softcap=self.softcap,
            sinks=self.sinks,
        )  # (total, H, D)
        return self.output(attended.flatten(-2))  # (total, W)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.layout is not None:
            device = fn(torch.empty(0, device=self.layout.device)).device
            if device.type != "meta":  # a layout keeps its numbers, which nothing would fill in again
                self.layout = self.layout.to(device)
        return self

    def extra_repr(self) -> str:
        shape = f"heads={self.heads}, kv_heads={self.kv_heads}, dropout={self.dropout}, layout={self.layout}"
        return f"{shape}, softcap={self.softcap}, sinks={self.sinks is not None}"


def make_rotary(
    kind: Literal["1d", "2d"] | None, head_dim: int, base: float, grid: tuple[int, int] | None
) -> Rotary | AxialRotary | None:
    """The rotary embedding of a name."""
    if kind not in (None, "1d", "2d"):
        raise ValueError(f"rotary is {kind!r}; expected '1d', '2d' or None")
    if (grid is not None) != (kind == "2d"):
        raise ValueError(f"grid is {grid} with rotary {kind!r}; expected (height, width) with '2d' and only there")
    if not base > 0:
        raise ValueError(f"rotary_base is {base}; expected a number above 0")
    if kind is None:
        return None
    return Rotary(head_dim, base) if grid is None else AxialRotary(head_dim, grid, base)


def _bounds(x: Tensor, key_lengths: Tensor | None) -> Tensor:
    """Where the sequences of x (B, N, W) begin when it is laid out flat; padding becomes sequences of its own."""
    batch, length = x.shape[:2]
    starts = torch.arange(batch + 1, device=x.device, dtype=torch.int32) * length  # (B + 1,)
    if key_lengths is None:
        return starts
    if key_lengths.shape != (batch,) or key_lengths.is_floating_point():
        raise ValueError(f"key_lengths is {key_lengths.dtype} {tuple(key_lengths.shape)}; expected ({batch},) integers")
    if values_known(key_lengths) and bool(((key_lengths < 0) | (key_lengths > length)).any()):
        raise ValueError(f"key_lengths is {key_lengths.tolist()}; expected 0 to {length}, the tokens of a sequence")
    ends = starts[:-1] + key_lengths.int()  # (B,)
    return torch.cat([torch.stack([starts[:-1], ends], dim=1).flatten(), starts[-1:]])  # (2 B + 1,)


def _lengths(key_padding_mask: Tensor, x: Tensor) -> Tensor:
    """Tokens before the padding, (B,)."""
    if key_padding_mask.dtype != torch.bool or key_padding_mask.shape != x.shape[:2]:
        raise ValueError(
            f"key_padding_mask is {key_padding_mask.dtype} {tuple(key_padding_mask.shape)}; expected torch.bool "
            f"{tuple(x.shape[:2])}"
        )
    unknown = torch.compiler.is_compiling() or isinstance(key_padding_mask, FakeTensor)
    if not unknown and bool((key_padding_mask[:, :-1] & ~key_padding_mask[:, 1:]).any()):
        raise ValueError("key_padding_mask has padding before a token; expected all padding at the end")
    return (~key_padding_mask).sum(dim=1)  # (B,)
