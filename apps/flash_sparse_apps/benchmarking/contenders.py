"""Who computes attention: `flash_sparse`, PyTorch's own ways, and the textbook formula.

What a contender cannot do it says by raising; the reason becomes the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from flash_sparse import BlockLayout, attention, attention_varlen
from flash_sparse_apps.benchmarking.problem import Case

AnyMask = BlockLayout | BlockMask | Tensor | None
Attention = Callable[..., Tensor]  # query, key, value to output, (B, H, N, D) each


class UnsupportedError(ValueError):
    """The contender has no way to do what the case asks for."""


@dataclass(frozen=True)
class Contender:
    """Attributes:
    make_mask: what it must know of who sees whom, made from the case's own description; None where that will do.
    attend: the function of query, key and value, with the case and the mask bound.
    """

    make_mask: Callable[[Case], AnyMask]
    attend: Callable[[Case, Any], Attention]


def _flash_sparse(case: Case, layout: BlockLayout | None) -> Attention:
    dropout_p = case.problem.dropout_p
    if case.cu_seqlens is not None:
        return _packed(
            functools.partial(
                attention_varlen, cu_seqlens=case.cu_seqlens, max_seqlen=max(case.lengths), dropout_p=dropout_p
            )
        )
    is_causal = case.problem.mask == "causal"
    return functools.partial(
        attention, layout=layout, is_causal=is_causal, key_lengths=case.key_lengths, dropout_p=dropout_p
    )


def _flash_varlen(case: Case, mask: None) -> Attention:
    """PyTorch's FlashAttention for sequences laid end to end."""
    if case.problem.dropout_p:
        raise UnsupportedError("has no dropout")
    if case.cu_seqlens is None:
        raise UnsupportedError("takes sequences laid end to end alone")
    starts, longest = case.cu_seqlens, max(case.lengths)
    return _packed(functools.partial(varlen_attn, cu_seq_q=starts, cu_seq_k=starts, max_q=longest, max_k=longest))


def _packed(function: Attention) -> Attention:
    """A function of (total, H, D) as one of (1, H, total, D); packed cases lie in memory so that nothing is copied."""

    def on_packed(*tensors: Tensor) -> Tensor:
        return function(*(tensor[0].transpose(0, 1) for tensor in tensors)).transpose(0, 1)[None]

    return on_packed


def _sdpa(backend: SDPBackend, case: Case, mask: Tensor | None) -> Attention:
    """One backend of `scaled_dot_product_attention` and no other, with a mask over tokens where it must have one."""
    if mask is not None and backend == SDPBackend.FLASH_ATTENTION:
        raise UnsupportedError("takes no mask but the causal one")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                query, key, value, mask, case.problem.dropout_p, is_causal=case.problem.mask == "causal"
            )

    return attend


def _token_mask_unless_causal(case: Case) -> Tensor | None:
    return None if case.problem.mask == "causal" else case.token_mask()


def _textbook(case: Case, mask: Tensor | None) -> Attention:
    """softmax(query key^T) value, operation by operation, in the inputs' dtype."""
    scale = case.problem.head_dim**-0.5

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.mT * scale  # (B, H, N, N)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.nn.functional.dropout(scores.softmax(-1), case.problem.dropout_p) @ value

    return attend


def _flex(case: Case, mask: BlockMask | None) -> Attention:
    """FlexAttention compiled for the very shape, with its default options."""
    if case.problem.dropout_p:
        raise UnsupportedError("has no dropout")
    return functools.partial(compiled_flex(), block_mask=mask)


@functools.cache
def compiled_flex() -> Callable[..., Tensor]:
    # Past the limits the compiler would go over to the uncompiled formula; fullgraph makes that an error, not a figure.
    torch._dynamo.config.recompile_limit = 10_000
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def block_mask(case: Case) -> BlockMask | None:
    """The case's mask as FlexAttention wants it; None where every pair is visible."""
    problem = case.problem
    if problem.mask == "dense":
        return None
    if case.layout is not None:
        return layout_to_block_mask(case.layout)
    make = functools.partial(create_block_mask, Q_LEN=problem.length, KV_LEN=problem.length, device=case.device.type)
    if problem.mask == "causal":
        return make(lambda batch, head, query, key: query >= key, None, None)
    if case.key_lengths is not None:
        lengths = case.key_lengths
        return make(lambda batch, head, query, key: key < lengths[batch], problem.batch, None)
    documents = case.documents
    return make(lambda batch, head, query, key: documents[query] == documents[key], None, None)


def layout_to_block_mask(layout: BlockLayout) -> BlockMask:
    """The same blocks, all of them full, so that FlexAttention computes no mask inside any."""
    blocks = layout.to_blocks()  # (Bl, Hl, Qb, Kb)
    counts = blocks.sum(3, dtype=torch.int32)  # (Bl, Hl, Qb)
    indices = blocks.int().argsort(dim=3, descending=True, stable=True).int()  # (Bl, Hl, Qb, Kb), kept ones first
    return BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        torch.zeros_like(indices),
        counts,
        indices,
        BLOCK_SIZE=layout.block_size,
        seq_lengths=(layout.query_length, layout.key_length),
    )


def _own_layout(case: Case) -> BlockLayout | None:
    """Made anew, for its time; padding, packing and causality need none."""
    return None if case.layout is None else case.problem.make_layout().to(case.device)


CONTENDERS = {
    "flash_sparse": Contender(_own_layout, _flash_sparse),
    "FlexAttention": Contender(block_mask, _flex),
    "SDPA flash": Contender(_token_mask_unless_causal, functools.partial(_sdpa, SDPBackend.FLASH_ATTENTION)),
    "SDPA cuDNN": Contender(_token_mask_unless_causal, functools.partial(_sdpa, SDPBackend.CUDNN_ATTENTION)),
    "SDPA efficient": Contender(_token_mask_unless_causal, functools.partial(_sdpa, SDPBackend.EFFICIENT_ATTENTION)),
    "varlen_attn": Contender(lambda case: None, _flash_varlen),
    "SDPA math": Contender(_token_mask_unless_causal, functools.partial(_sdpa, SDPBackend.MATH)),
    "textbook": Contender(Case.token_mask, _textbook),
}
