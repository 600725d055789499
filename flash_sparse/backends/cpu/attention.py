"""Flash attention in torch operations, block by block: trains on any CPU, with memory linear in length.

The algorithm is FlashAttention's (Dao et al. 2022, algorithms 1, 4 and 5), with its tiles batched into products large
enough for a CPU's matrix library: an online softmax over pieces of the keys, and a backward pass that computes the
probabilities again from the log-sum-exp. Exponentials are in base 2, which CPUs compute several times faster.

Letters as in `plan.py`.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from flash_sparse.backends.cpu.bundles import bundles
from flash_sparse.backends.cpu.plan import WORK, DensePlan, SparsePlan

LOG2_E = math.log2(math.e)
# Rows whose outputs and gradients are multiplied at a time: few enough for the products to stay in cache.
DELTA_ROWS = 2048


def forward(
    query: Tensor,  # (B, H, Nq, D)
    key: Tensor,  # (B, Hkv, Nk, D)
    value: Tensor,  # (B, Hkv, Nk, D)
    row_offsets: Tensor | None,  # (Bl, Hl, Qb + 1)
    row_blocks: Tensor | None,  # (nnz,)
    block_size: int,
    cu_seqlens: Tensor | None,  # (sequences + 1,)
    key_lengths: Tensor | None,  # (B,)
    left: int,
    right: int,
    dropout_p: float,
    seed: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output, shaped and strided as `query`, and log-sum-exp, (B, H, Nq) float32."""
    output = torch.zeros_like(query)  # (B, H, Nq, D)
    logsumexp = query.new_full(query.shape[:3], -torch.inf, dtype=torch.promote_types(query.dtype, torch.float32))
    dropout = Dropout(dropout_p, seed)
    dtype = logsumexp.dtype
    with bfloat16_matrix_units(query.dtype):
        for bundle in bundles(query, key, row_offsets, row_blocks, block_size, cu_seqlens, key_lengths, left, right):
            queries, keys, plan = bundle
            with (
                queries.write(output, 0, dtype) as part,
                queries.write(logsumexp[..., None], -torch.inf, dtype) as part_logsumexp,
            ):
                rows = queries.load(query, dtype), keys.load(key, dtype), keys.load(value, dtype)
                _forward(plan, *rows, part, part_logsumexp, dropout, scale)
    return output, logsumexp


def backward(
    grad_output: Tensor,  # (B, H, Nq, D)
    grad_logsumexp: Tensor | None,  # (B, H, Nq)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    row_offsets: Tensor | None,
    row_blocks: Tensor | None,
    block_size: int,
    cu_seqlens: Tensor | None,
    key_lengths: Tensor | None,
    left: int,
    right: int,
    dropout_p: float,
    seed: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, each shaped and strided as what it belongs to."""
    gradients = tuple(torch.zeros_like(tensor) for tensor in (query, key, value))
    dropout = Dropout(dropout_p, seed)
    dtype = logsumexp.dtype
    minus_delta, shift = row_constants(grad_output, grad_logsumexp, output, logsumexp)  # (B, H, Nq, 1) each
    with bfloat16_matrix_units(query.dtype):
        for bundle in bundles(query, key, row_offsets, row_blocks, block_size, cu_seqlens, key_lengths, left, right):
            queries, keys, plan = bundle
            with contextlib.ExitStack() as stack:
                parts = [
                    stack.enter_context(side.write(gradient, 0, dtype))
                    for side, gradient in zip((queries, keys, keys), gradients, strict=True)
                ]
                of_queries = [queries.load(tensor, dtype) for tensor in (query, grad_output, minus_delta)]
                of_queries.append(queries.load(shift, dtype, padding=-torch.inf))
                of_keys = [keys.load(tensor, dtype) for tensor in (key, value)]
                _backward(plan, *of_queries, *of_keys, *parts, dropout, scale)
    return gradients


def row_constants(
    grad_output: Tensor,  # (B, H, Nq, D)
    grad_logsumexp: Tensor | None,  # (B, H, Nq)
    output: Tensor,  # (B, H, Nq, D)
    logsumexp: Tensor,  # (B, H, Nq)
) -> tuple[Tensor, Tensor]:
    """What the backward pass adds to the gradients of the probabilities, and to the scores, (B, H, Nq, 1) each."""
    # The softmax's own term: the sum over keys of probability x gradient is the row sum of output x gradient.
    minus_delta = torch.zeros_like(logsumexp) if grad_logsumexp is None else grad_logsumexp.clone()
    for start in range(0, output.shape[2], DELTA_ROWS):
        rows = slice(start, start + DELTA_ROWS)
        product = output[:, :, rows].to(logsumexp.dtype) * grad_output[:, :, rows]
        minus_delta[:, :, rows] -= product.sum(3)
    # A row that saw nothing gets probability 2 ** (score - infinity) = 0.
    shift = logsumexp * -LOG2_E
    shift.masked_fill_(shift == torch.inf, -torch.inf)
    return minus_delta[..., None], shift[..., None]


def _forward(
    plan: DensePlan | SparsePlan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,  # zeros
    logsumexp: Tensor,  # minus infinity
    dropout: Dropout,
    scale: float,
) -> None:
    """Everything arranged by the plan."""
    dtype = logsumexp.dtype
    for group in plan.groups():
        tile_query = group.load(query) * (scale * LOG2_E)  # (C, M, D)
        maximum = total = tile_output = None  # of the pieces so far
        for piece in group.pieces():
            scores = WORK.buffer("scores", piece.shape, dtype)  # (C, K, M)
            torch.bmm(piece.load(key, "keys"), tile_query.mT, out=scores)
            hidden = piece.hide(scores)
            highest = scores.amax(1, keepdim=True)  # (C, 1, M)
            if maximum is not None:
                torch.maximum(highest, maximum, out=highest)
            # Where nothing has been seen yet, minus infinity would be subtracted from itself.
            shift = highest.masked_fill(highest == -torch.inf, 0) if hidden else highest
            scores.sub_(shift).exp2_()
            piece_sum = scores.sum(1, keepdim=True)  # (C, 1, M)
            if dropout.p:
                scores.mul_(dropout.keep(scores))
            tile_value = piece.load(value, "keys").mT  # (C, D, K)
            if maximum is None:
                total = piece_sum
                tile_output = torch.bmm(tile_value, scores)  # (C, D, M)
            else:
                rescale = (maximum - shift).exp2_()  # (C, 1, M)
                total = total * rescale + piece_sum
                tile_output.mul_(rescale).baddbmm_(tile_value, scores)  # (C, D, M)
            maximum = highest
        group.store(logsumexp, ((maximum + total.log2()) / LOG2_E).mT)
        group.store(output, tile_output.div_(total.masked_fill_(total == 0, 1)).mT)


def _backward(
    plan: DensePlan | SparsePlan,
    query: Tensor,
    grad_output: Tensor,
    minus_delta: Tensor,
    shift: Tensor,
    key: Tensor,
    value: Tensor,
    grad_query: Tensor,  # zeros
    grad_key: Tensor,  # zeros
    grad_value: Tensor,  # zeros
    dropout: Dropout,
    scale: float,
) -> None:
    """Everything arranged by the plan."""
    dtype = shift.dtype
    for group in plan.groups():
        tile_query = group.load(query) * (scale * LOG2_E)  # (C, M, D)
        tile_grad = group.load(grad_output)  # (C, M, D)
        tile_shift, tile_minus_delta = group.load(shift).mT, group.load(minus_delta).mT  # (C, 1, M) each
        tile_grad_query = None
        for piece in group.pieces():
            tile_key = piece.load(key, "keys")  # (C, K, D)
            probabilities = WORK.buffer("scores", piece.shape, dtype)  # (C, K, M)
            torch.baddbmm(tile_shift.expand(piece.shape), tile_key, tile_query.mT, out=probabilities)
            piece.hide(probabilities)
            probabilities.exp2_()

            tile_value = piece.load(value, "values")  # (C, K, D)
            grad_scores = WORK.buffer("grad_scores", piece.shape, dtype)  # (C, K, M)
            if dropout.p:
                torch.bmm(tile_value, tile_grad.mT, out=grad_scores)
                kept = dropout.keep(probabilities)  # (C, K, M)
                grad_scores.mul_(kept).add_(tile_minus_delta)
                kept.mul_(probabilities)
            else:  # within the product, the addition costs nothing
                torch.baddbmm(tile_minus_delta.expand(piece.shape), tile_value, tile_grad.mT, out=grad_scores)
                kept = probabilities
            grad_scores.mul_(probabilities)
            tile_rows = WORK.buffer("rows", tile_key.shape, dtype)  # (C, K, D)
            piece.add(grad_value, torch.bmm(kept, tile_grad, out=tile_rows))
            if tile_grad_query is None:
                tile_grad_query = torch.bmm(tile_key.mT, grad_scores)  # (C, D, M)
            else:
                tile_grad_query.baddbmm_(tile_key.mT, grad_scores)
            piece.add(grad_key, torch.bmm(grad_scores, tile_query, out=tile_rows))
        group.store(grad_query, tile_grad_query.mul_(scale).mT)
    grad_key.div_(LOG2_E)  # the tiles of query carried the scale, and log2(e) besides


class Dropout:
    """Draws the dropout of one piece after the other; a second one with the same seed draws the same."""

    def __init__(self, p: float, seed: int):
        self.p = p
        self._generator = torch.Generator().manual_seed(seed) if p else None

    def keep(self, scores: Tensor) -> Tensor:
        """What to multiply the scores' probabilities by: 0 where dropped, 1 / (1 - p) elsewhere."""
        keep = WORK.buffer("keep", scores.shape, scores.dtype)
        return keep.bernoulli_(1 - self.p, generator=self._generator).div_(1 - self.p)


class _MatrixUnits:
    """How many calls, over all threads, let float32 products use bfloat16, and the setting before the first of them."""

    lock = threading.Lock()
    users = 0
    before = "none"


@contextlib.contextmanager
def bfloat16_matrix_units(dtype: torch.dtype) -> Iterator[None]:
    """Let products of bfloat16 operands use the CPU's matrix instructions, where it has them.

    Operands are widened to float32 for scores and sums to be kept in it. Rounding them to bfloat16 again inside a
    product loses nothing of query, key and value; of the probabilities it loses what every flash kernel loses.

    The setting is the whole process's: the last of several calls that overlap puts it back.
    """
    if dtype != torch.bfloat16 or not torch.cpu.get_capabilities().get("amx_bf16", False):
        yield
        return
    matmul = torch.backends.mkldnn.matmul
    with _MatrixUnits.lock:
        if _MatrixUnits.users == 0:
            _MatrixUnits.before = matmul.fp32_precision
        _MatrixUnits.users += 1
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        with _MatrixUnits.lock:
            _MatrixUnits.users -= 1
            if _MatrixUnits.users == 0:
                matmul.fp32_precision = _MatrixUnits.before
