"""Who computes attention: `flash_sparse`, PyTorch's own ways, and the textbook formula.

A contender is a function from a case to a `Call`, and builds all that it needs beforehand: masks, layouts, compiled
code. What it cannot do it says by raising; the reason becomes the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from flash_sparse import BlockLayout, attention, attention_varlen
from flash_sparse_apps.benchmarking.problem import Case


class UnsupportedError(ValueError):
    """The contender cannot do what the case asks for."""


@dataclass(frozen=True)
class Call:
    """One contender on one case: `function(*inputs)`, with what it needs bound.

    Attributes:
        inputs: query, key and value as the contender takes them, which need gradients.
        grad_output: shaped like the output.
        packed: whether all these are (total, H, D), in place of (B, H, N, D).
        held: tensors beside query, key and value that are kept for the call: masks and layouts.
        has_backward: whether it can be differentiated.
    """

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    inputs: tuple[Tensor, Tensor, Tensor]
    grad_output: Tensor
    packed: bool = False
    held: tuple[Tensor, ...] = ()
    has_backward: bool = True

    def forward(self) -> Tensor:
        return self.function(*self.inputs)

    def backward(self, output: Tensor, grad_output: Tensor | None = None) -> tuple[Tensor, ...]:
        """The gradients of query, key and value."""
        return torch.autograd.grad(output, self.inputs, self.grad_output if grad_output is None else grad_output)

    def to_rows(self, tensor: Tensor) -> Tensor:
        """An output or a gradient as (B, H, N, D)."""
        return tensor.transpose(0, 1)[None] if self.packed else tensor

    def from_rows(self, tensor: Tensor) -> Tensor:
        """The way back."""
        return tensor[0].transpose(0, 1) if self.packed else tensor

    @property
    def held_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.held)


def _padded_call(case: Case, function: Callable[..., Tensor], held: Sequence[Tensor | None] = (), **extra) -> Call:
    """On (B, H, N, D), without a copy."""
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (case.query, case.key, case.value))
    return Call(function, inputs, case.grad_output, held=tuple(held), **extra)


def _packed_call(case: Case, function: Callable[..., Tensor], held: Sequence[Tensor | None] = ()) -> Call:
    """On (total, H, D), laid out so in memory."""
    query, key, value, grad_output = (
        tensor[0].transpose(0, 1).contiguous() for tensor in (case.query, case.key, case.value, case.grad_output)
    )
    inputs = tuple(tensor.requires_grad_() for tensor in (query, key, value))
    return Call(function, inputs, grad_output, packed=True, held=tuple(held))


def flash_sparse(case: Case) -> Call:
    dropout_p = case.problem.dropout_p
    if case.cu_seqlens is not None:
        function = functools.partial(
            attention_varlen, cu_seqlens=case.cu_seqlens, max_seqlen=max(case.lengths), dropout_p=dropout_p
        )
        return _packed_call(case, function, held=(case.cu_seqlens,))
    function = functools.partial(
        attention,
        layout=case.layout,
        is_causal=case.problem.mask == "causal",
        key_lengths=case.key_lengths,
        dropout_p=dropout_p,
    )
    return _padded_call(case, function, held=_layout_tensors(case.layout))


def _layout_tensors(layout: BlockLayout | None) -> tuple[Tensor, ...]:
    if layout is None:
        return ()
    return layout.row_offsets, layout.row_blocks, layout.column_offsets, layout.column_blocks


def sdpa(backend: SDPBackend) -> Callable[[Case], Call]:
    """One backend of `scaled_dot_product_attention` and no other, with a mask over tokens where it must have one."""

    def prepare(case: Case) -> Call:
        is_causal = case.problem.mask == "causal"
        mask = None if is_causal else case.mask
        if mask is not None and backend == SDPBackend.FLASH_ATTENTION:
            raise UnsupportedError("takes no mask but the causal one")

        def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(
                    query, key, value, mask, dropout_p=case.problem.dropout_p, is_causal=is_causal
                )

        return _padded_call(case, function, held=() if mask is None else (mask,))

    return prepare


def varlen_attn(case: Case) -> Call:
    """PyTorch's FlashAttention for sequences laid end to end."""
    from torch.nn.attention import varlen

    if case.cu_seqlens is None:
        raise UnsupportedError("is for packed sequences")
    if case.problem.dropout_p:
        raise UnsupportedError("has no dropout")
    longest = max(case.lengths)

    def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return varlen.varlen_attn(query, key, value, case.cu_seqlens, case.cu_seqlens, longest, longest)

    return _packed_call(case, function, held=(case.cu_seqlens,))


def textbook(case: Case) -> Call:
    """softmax(query key^T) value, operation by operation, in the inputs' dtype."""
    mask = case.mask
    scale = case.problem.head_dim**-0.5

    def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.mT * scale  # (B, H, N, N)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = torch.nn.functional.dropout(scores.softmax(-1), case.problem.dropout_p)  # (B, H, N, N)
        return weights @ value

    return _padded_call(case, function, held=() if mask is None else (mask,))


def flex(case: Case) -> Call:
    """FlexAttention compiled for the very shape, with its default options."""
    return flex_call(case, _compiled_flex())


def flex_call(case: Case, function: Callable[..., Tensor]) -> Call:
    """`function`, FlexAttention compiled or not, with the case's mask."""
    if case.problem.dropout_p:
        raise UnsupportedError("has no dropout")
    mask = block_mask(case)
    held = (
        mask and (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices),
        mask and (mask.q_num_blocks, mask.q_indices, mask.full_q_num_blocks, mask.full_q_indices),
    )
    held = tuple(tensor for tensors in held if tensors for tensor in tensors if tensor is not None)
    # PyTorch itself refuses to differentiate it on a CPU
    has_backward = case.device.type != "cpu"
    return _padded_call(case, functools.partial(function, block_mask=mask), held=held, has_backward=has_backward)


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    # Past this many shapes the compiler would go over to the uncompiled formula without a word.
    torch._dynamo.config.recompile_limit = 10_000
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    return torch.compile(flex_attention, dynamic=False)


def block_mask(case: Case) -> BlockMask | None:
    """The case's mask as FlexAttention wants it; None where every pair is visible."""
    problem = case.problem
    if problem.mask == "dense":
        return None
    if case.layout is not None:
        return layout_to_block_mask(case.layout)
    make = functools.partial(create_block_mask, Q_LEN=problem.length, KV_LEN=problem.length, device=case.device.type)
    if problem.mask == "causal":
        return make(causal, None, None)
    if case.key_lengths is not None:
        lengths = case.key_lengths
        return make(lambda batch, head, query, key: key < lengths[batch], problem.batch, None)
    documents = case.documents
    return make(lambda batch, head, query, key: documents[query] == documents[key], None, None)


def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


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


CONTENDERS: dict[str, Callable[[Case], Call]] = {
    "flash_sparse": flash_sparse,
    "FlexAttention": flex,
    "SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
    "SDPA efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "SDPA math": sdpa(SDPBackend.MATH),
    "varlen_attn": varlen_attn,
    "textbook": textbook,
}
COMPILED = ("flash_sparse", "FlexAttention")  # which are compiled for a shape or a kind of mask, at the first call
