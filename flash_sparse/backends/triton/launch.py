"""The Triton backend's functions behind the operators: outputs, launch grids and the kernels' compile-time choices."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from flash_sparse.backends.options import Options
from flash_sparse.backends.sinks import sink_gradients
from flash_sparse.backends.triton.backward import delta_kernel, keys_kernel, query_kernel
from flash_sparse.backends.triton.forward import forward_kernel
from flash_sparse.backends.triton.tiles import Tile, architecture, choose, split_head_dim

DELTA_TILE = 32  # rows of one program of the kernel for delta
UNBOUNDED = 1 << 30  # positions: no sequence is longer, and sums of two still fit 32 bits


def forward(
    query: Tensor,  # (B, H, Nq, D)
    key: Tensor,  # (B, Hkv, Nk, D)
    value: Tensor,  # (B, Hkv, Nk, D)
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Output, shaped and strided as `query`, and log-sum-exp, (B, H, Nq) float32."""
    output = torch.empty_like(query)  # (B, H, Nq, D)
    logsumexp = query.new_empty(query.shape[:3], dtype=torch.float32)  # (B, H, Nq)
    query, key, value, rows = dense_rows(query), dense_rows(key), dense_rows(value), dense_rows(output)
    tile = choose(architecture(query.device), query.shape[3], query.dtype, options.block_size).forward
    launch(
        forward_kernel, tile, query.shape[2], options.max_seqlen, query.shape[1],
        (query, key, value, rows), (logsumexp,), options.rows, options,
        sinks=options.sinks, TILE_M=tile.own, TILE_N=tile.other,
        DESCRIPTORS=tile.descriptors and fits_descriptor(key) and fits_descriptor(value),
    )  # fmt: skip
    if rows is not output:
        output.copy_(rows)
    return output, logsumexp


def backward(
    grad_output: Tensor,  # (B, H, Nq, D)
    grad_logsumexp: Tensor | None,  # (B, H, Nq)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    options: Options,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and sinks, shaped and strided as what they belong to; empty where not wanted."""
    gradients = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
    grad_output, output = dense_rows(grad_output), dense_rows(output)
    query, key, value = dense_rows(query), dense_rows(key), dense_rows(value)
    grad_query, grad_key, grad_value = map(dense_rows, gradients)
    logsumexp = logsumexp.contiguous()

    delta = torch.empty_like(logsumexp)  # (B, H, Nq)
    batch, heads, length, head_dim = query.shape
    tiles = -(-length // DELTA_TILE)
    with torch.cuda.device_of(query):
        delta_kernel[(tiles * heads * batch,)](
            output, grad_output, logsumexp, grad_logsumexp, delta, output.stride()[:3], grad_output.stride()[:3],
            (0, 0, 0) if grad_logsumexp is None else grad_logsumexp.stride(), heads, length, tiles,
            HEAD_DIM=head_dim, WIDTH=1 << (head_dim - 1).bit_length(), TILE=DELTA_TILE, num_warps=4,
        )  # fmt: skip

    kernels = choose(architecture(query.device), head_dim, query.dtype, options.block_size)
    if wanted[1] or wanted[2]:  # one kernel for both
        launch(
            keys_kernel, kernels.keys, key.shape[2], options.max_seqlen_k, key.shape[1],
            (query, key, value, grad_output, grad_key, grad_value), (logsumexp, delta), options.columns, options,
            TILE_M=kernels.keys.other, TILE_N=kernels.keys.own, result_scale=options.scale,
        )  # fmt: skip
    if wanted[0]:
        launch(
            query_kernel, kernels.query, length, options.max_seqlen, heads,
            (query, key, value, grad_output, grad_query), (logsumexp, delta), options.rows, options,
            TILE_M=kernels.query.own, TILE_N=kernels.query.other, result_scale=options.scale,
            DESCRIPTORS=kernels.query.descriptors and fits_descriptor(key) and fits_descriptor(value),
        )  # fmt: skip
    for gradient, rows in zip(gradients, (grad_query, grad_key, grad_value), strict=True):
        if rows is not gradient:
            gradient.copy_(rows)
    grad_sinks = query  # whose place stays empty
    if wanted[3] and options.sinks is not None:
        grad_sinks = sink_gradients(options.sinks, logsumexp, delta).sum((0, 2))  # (H,)
    found = zip((*gradients, grad_sinks), wanted, strict=True)
    for_query, for_key, for_value, for_sinks = (grad if want else grad.new_empty(0) for grad, want in found)
    return for_query, for_key, for_value, for_sinks


def launch(
    kernel,
    tile: Tile,
    length: int,
    longest: int,
    heads: int,
    matrices: tuple[Tensor, ...],
    vectors: tuple[Tensor, ...],
    lines: tuple[Tensor | None, Tensor | None, Tensor | None],
    options: Options,
    **more: int | float | Tensor | None,
) -> None:
    """Start `kernel` with one program for each tile of `length` positions, of `heads` heads, of each sequence.

    Args:
        longest: where sequences are packed, the length of the longest one, which may be more than there is.
        matrices: rows of query, key and value, then those that the kernel adds, (B, H | Hkv, N, D) each.
        vectors: (B, H, Nq) each, contiguous.
        lines: the layout by rows or by columns, `Options.rows` or `Options.columns`.
        more: the kernel's own arguments, by name.
    """
    query, key = matrices[:2]
    entries = query.shape[0]
    if options.cu_seqlens is not None:
        entries, length = options.cu_seqlens.shape[0] - 1, min(longest, length)
    tiles = -(-length // tile.own)
    offsets = lines[0]
    layout_strides = (0, 0)
    if offsets is not None:
        tiles = (offsets.shape[2] - 1) * (options.block_size // tile.own)  # of the whole layout, which may be larger
        layout_strides = _stride(offsets, 0), _stride(offsets, 1)
    main, tail = split_head_dim(query.shape[3])
    magnitude = max(abs(options.scale), 1e-30)  # 0 would turn the minus infinity of hidden scores into NaN
    # The chance to stay, in steps of 2 ** -24; probabilities are divided by exactly that chance.
    threshold = max(1, round((1 - options.dropout_p) * 2**24))
    grid = (tiles * heads * entries,)
    # Triton asks whoever is set in the present context for memory that descriptors stand in: set in a copy of it, since
    # the backward pass runs in a thread, hence a context, of its own, and the caller may have set another.
    context = contextvars.copy_context()
    context.run(triton.set_allocator, scratch)
    start: Callable[..., object] = kernel[grid]
    with torch.cuda.device_of(query):
        context.run(
            start,
            *matrices, *vectors, *lines, options.cu_seqlens, options.cu_seqlens_k, options.key_lengths, options.seed,
            *(matrix.stride()[:3] for matrix in matrices), layout_strides,
            query.shape[1], query.shape[1] // key.shape[1], query.shape[2], key.shape[2], tiles,
            min(options.left, UNBOUNDED), min(options.right, UNBOUNDED),
            scale=(options.softcap or magnitude) * math.log2(math.e),
            cap=magnitude / options.softcap if options.softcap else None,
            threshold=threshold, keep_scale=2**24 / threshold,
            LEFT=options.left >= 0, RIGHT=options.right >= 0, DROPOUT=options.dropout_p > 0,
            NEGATIVE=options.scale < 0, BLOCK_SIZE=options.block_size,
            HEAD_DIM=query.shape[3], MAIN=main, TAIL=tail, WIDE=any(map(is_wide, matrices)),
            PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
            **more, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def _stride(offsets: Tensor, dim: int) -> int:
    """From one batch entry or head of a layout to the next, 0 where all share one."""
    return offsets.stride(dim) if offsets.shape[dim] > 1 else 0


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is contiguous, as the kernels want it, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory of `size` bytes for a kernel on the current device, aligned as all of PyTorch's."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def fits_descriptor(matrix: Tensor) -> bool:
    """Whether a tensor descriptor can stand for the rows of any head: all of them begin at multiples of 16 bytes."""
    strides = [stride for stride, size in zip(matrix.stride()[:2], matrix.shape[:2], strict=True) if size > 1]
    strides.append(matrix.stride(2))
    aligned = all(stride * matrix.itemsize % 16 == 0 for stride in strides) and matrix.data_ptr() % 16 == 0
    return aligned and matrix.stride(2) >= matrix.shape[3]  # nor do they overlap


def is_wide(matrix: Tensor) -> bool:
    """Whether offsets inside one head need 64 bits; those of heads and batch entries always have them."""
    return matrix.shape[2] * matrix.stride(2) + matrix.shape[3] >= 2**31
