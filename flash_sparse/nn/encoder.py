"""A transformer encoder for packed sequences: embedding, pre-norm layers, pooling, logits.

Letters: B sequences, total tokens of all, W width, M width inside the MLP.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flash_sparse.arguments import values_known
from flash_sparse.layout import BlockLayout, check_integer
from flash_sparse.nn import pooling as pool
from flash_sparse.nn.attention import Attention, make_rotary
from flash_sparse.nn.dropout import Dropout
from flash_sparse.nn.packing import positions, segments, without
from flash_sparse.padding import unpad

Activation = Literal["geglu", "gelu"]
Pooling = Literal["mean", "max", "cls", "label"]


class MLP(nn.Module):
    """Two layers, or three with a gate: `output(gelu(gate(x)) * value(x))`.

    The gate is a matrix of its own, not half of one: halves of a product lie apart in memory, which costs more on a CPU
    than the second product.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2, FFN_GEGLU.
    """

    def __init__(self, width: int, mlp_width: int, activation: Activation):
        super().__init__()
        self.gate = nn.Linear(width, mlp_width, bias=False)
        self.value = nn.Linear(width, mlp_width, bias=False) if activation == "geglu" else None
        self.output = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.gate(x))  # (..., M)
        if self.value is not None:
            inner = inner * self.value(x)
        return self.output(inner)  # (..., W)


class EncoderLayer(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and added to its input.

    Args:
        width: W, features of a token.
        heads: attention heads, a divisor of W.
        mlp_width: M; None for 4 W with "gelu" and 8/3 W, rounded up to a multiple of 32, with "geglu", which has as
            many weights.
        activation: "geglu" or "gelu".
        dropout: share of features dropped before each addition in training.
        attention_dropout: share of attention probabilities dropped in training.
        attention: further arguments of `Attention`, such as `softcap` and `sinks`.

    Raises:
        ValueError: an unknown activation, a dropout out of range; see also `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int | None = None,
        activation: Activation = "geglu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        **attention,
    ):
        super().__init__()
        if mlp_width is not None:
            check_integer("mlp_width", mlp_width, 1)
        if activation not in ("geglu", "gelu"):
            raise ValueError(f"activation is {activation!r}; expected 'geglu' or 'gelu'")
        if mlp_width is None:
            mlp_width = 4 * width if activation == "gelu" else -(-8 * width // 96) * 32
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout=attention_dropout, **attention)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width, activation)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, **where) -> Tensor:
        """(B, N, W) or packed (total, W) to the same; `where` is what `Attention.forward` takes beside x."""
        x = x + self.dropout(self.attention(self.attention_norm(x), **where))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Encoder(nn.Module):
    """Tokens of packed sequences to one row of logits for each sequence. No work is done on padding.

    Args:
        vocab_size: tokens are 0 to vocab_size - 1.
        width: W, features of a token.
        depth: layers.
        iterations: how many times all layers are applied, with the same weights; the embedding is added anew before
            each time but the first, so that depth costs time alone, and can grow with what there is to follow.
        heads: attention heads, a divisor of W.
        mlp_width, activation, dropout, attention_dropout: as in `EncoderLayer`; dropout also on the embedding and on
            the pooled vector.
        kv_heads: heads of keys and values, a divisor of `heads`; `heads` if None.
        rotary: "1d" for texts, "2d" for images (needs `grid`), None for no position embedding. Positions begin at
            0 in each sequence and have no upper limit.
        rotary_base: base of the rotary frequencies.
        grid: (height, width) of the image, for "2d".
        softcap, sinks: as in `Attention`, for every layer.
        pooling: "mean" or "max" over a sequence's tokens, "cls" for its first token, "label" for label-wise attention,
            which is `LabelAttention`.
        num_outputs: logits of a sequence.
        skip_token: a token that is left out of every sequence before the first layer, such as black pixels; the others
            keep their positions. A sequence that has no other keeps its first.
        skip_through: the last token that is left out so, where `skip_token` is the first of several.
        checkpoint_activations: keep only the input of each layer for the backward pass and compute the rest again: less
            memory, a third more work.

    Raises:
        TypeError, ValueError: a size that is no integer or too small, an unknown pooling; see also `EncoderLayer` and
            `Attention`.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_width: int | None = None,
        activation: Activation = "geglu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        *,
        num_outputs: int,
        iterations: int = 1,
        kv_heads: int | None = None,
        rotary: Literal["1d", "2d"] | None = "1d",
        rotary_base: float = 10000.0,
        grid: tuple[int, int] | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        pooling: Pooling = "mean",
        skip_token: int | None = None,
        skip_through: int | None = None,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        sizes = {"vocab_size": vocab_size, "width": width, "depth": depth, "num_outputs": num_outputs}
        for name, size in sizes.items():
            check_integer(name, size, 0 if name == "depth" else 1)
        check_integer("iterations", iterations, 1)
        if skip_token is not None:
            check_integer("skip_token", skip_token, 0)
        if skip_through is not None:
            check_integer("skip_through", skip_through, 0 if skip_token is None else skip_token)
            if skip_token is None:
                raise ValueError(f"skip_through is {skip_through}; it needs skip_token, the first that is left out")
        if pooling not in ("mean", "max", "cls", "label"):
            raise ValueError(f"pooling is {pooling!r}; expected 'mean', 'max', 'cls' or 'label'")
        self.pooling = pooling
        self.skip_token = skip_token
        self.skip_through = skip_through
        self.iterations = iterations
        self.checkpoint_activations = checkpoint_activations
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = Dropout(dropout)
        attention: dict[str, Any] = {"kv_heads": kv_heads, "softcap": softcap, "sinks": sinks}
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, mlp_width, activation, dropout, attention_dropout, **attention)
            for _ in range(depth)
        )
        self.rotary = make_rotary(rotary, width // heads, rotary_base, grid)
        self.norm = nn.LayerNorm(width)
        self.head = pool.LabelAttention(width, num_outputs) if pooling == "label" else nn.Linear(width, num_outputs)
        self._initialise(depth * iterations)

    def _initialise(self, depth: int) -> None:
        """Truncated normal weights of BERT's size, 0.02 at its width of 768 and in proportion to the root of others;
        smaller where a layer adds to the residual stream, which then does not grow with depth."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = 0.02 * (768 / module.in_features) ** 0.5
                if name.endswith("output"):
                    std /= (2 * depth) ** 0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02, a=-0.06, b=0.06)

    def forward(
        self,
        tokens: Tensor,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        layout: BlockLayout | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Classify each sequence.

        Args:
            tokens: (total,) int64, the sequences end to end, none of them empty; or (B, N), which is packed first.
            cu_seqlens: (B + 1,) int32, where each packed sequence begins; the last entry is total.
            max_seqlen: tokens of the longest packed sequence.
            layout: the blocks that attention computes, None for all; made for `max_seqlen` tokens, or N, or more.
            lengths: (B,) integer, 1 to N, for (B, N): tokens at or past it are padding, whatever they are. None: there
                is no padding.

        Returns:
            Logits (B, num_outputs).

        Raises:
            ValueError: arguments that do not fit each other; an empty sequence, a token that is not in the vocabulary
                (both checked on a CPU alone); see also `flash_sparse.attention_varlen`.
        """
        if tokens.dim() == 2 and cu_seqlens is None and max_seqlen is None:
            tokens, cu_seqlens, max_seqlen = _pack(tokens, lengths)
        elif tokens.dim() != 1 or cu_seqlens is None or max_seqlen is None or lengths is not None:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; expected (total,) with cu_seqlens and max_seqlen, or (B, N) "
                "alone or with lengths"
            )
        if values_known(tokens):
            if bool((cu_seqlens.diff() < 1).any()):
                raise ValueError(f"cu_seqlens has an empty sequence at {int((cu_seqlens.diff() < 1).nonzero()[0])}")
            known = self.embedding.num_embeddings
            if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < known:
                wrong = tokens[(tokens < 0) | (tokens >= known)][0]
                raise ValueError(f"tokens has {int(wrong)}; expected 0 to {known - 1}, the tokens of the vocabulary")
        places = None
        if self.skip_token is not None:
            tokens, cu_seqlens, max_seqlen, places = without(tokens, cu_seqlens, self.skip_token, self.skip_through)
        return self.classify(self.encode(tokens, cu_seqlens, max_seqlen, layout, places), cu_seqlens)

    def encode(
        self,
        tokens: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        layout: BlockLayout | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """The tokens after the last layer and its norm, (total, W), no token left out.

        Args:
            places: (total,) integer, the position of each token in its sequence; None counts from 0.

        The other arguments are as in `forward`.
        """
        turns = None
        if self.rotary is not None:
            if places is None:
                places = positions(cu_seqlens, segments(cu_seqlens, tokens.shape[0]))  # (total,)
            turns = self.rotary(places)  # (total, D / 2)
        where: dict[str, Any] = {
            "cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen, "layout": layout, "turns": turns,
        }  # fmt: skip
        embedded = hidden = self.dropout(self.embedding(tokens))  # (total, W)
        for number, layer in enumerate(list(self.layers) * self.iterations):
            if number and number % len(self.layers) == 0:
                hidden = hidden + embedded
            if self.checkpoint_activations and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, use_reentrant=False, **where)
            else:
                hidden = layer(hidden, **where)
        return self.norm(hidden)

    def classify(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """From what `encode` returns, (total, W), to logits (B, num_outputs)."""
        segment, num_segments = segments(cu_seqlens, hidden.shape[0]), cu_seqlens.shape[0] - 1
        if self.pooling == "label":
            return self.head(hidden, segment, num_segments)
        if self.pooling == "mean":
            pooled = pool.mean(hidden, segment, num_segments)  # (B, W)
        elif self.pooling == "max":
            pooled = pool.maximum(hidden, segment, num_segments)  # (B, W)
        else:
            pooled = hidden[cu_seqlens[:-1]]  # (B, W)
        return self.head(self.dropout(pooled))


def _pack(tokens: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Tokens end to end, where each sequence begins, and the tokens of the longest, from (B, N) and (B,)."""
    batch, length = tokens.shape
    if lengths is None:
        starts = torch.arange(batch + 1, dtype=torch.int32, device=tokens.device) * length  # (B + 1,)
        return tokens.flatten(), starts, length
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise ValueError(f"lengths is {lengths.dtype} {tuple(lengths.shape)}; expected ({batch},) integers")
    if values_known(lengths) and bool(((lengths < 1) | (lengths > length)).any()):
        raise ValueError(f"lengths is {lengths.tolist()}; expected 1 to {length}, the tokens of a sequence")
    mask = torch.arange(length, device=tokens.device) < lengths[:, None]  # (B, N)
    return unpad(tokens, mask)[:3]
