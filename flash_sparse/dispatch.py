"""The attention operator of torch.library: one for every backend, chosen by the device of its tensors.

`flash_sparse::forward` and `flash_sparse::backward` take tensors and numbers alone, so that `torch.compile`, autograd
and `torch.library.opcheck` know them. A backend is a pair of functions registered for a device type; nothing above this
file knows which one runs. Packed sequences come as one batch entry with `cu_seqlens`.

Each backend is imported with its first call: the one for CPUs needs Numba, the one for GPUs Triton. Under Triton's
interpreter (TRITON_INTERPRET=1 in the environment, for tests and debugging) the latter also runs on CPU tensors. There
the device no longer says which backend is meant, so that it gets a pair of operators of its own:
`flash_sparse::interpreted_forward` and `flash_sparse::interpreted_backward`.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension, Bl and Hl the layout's own batch
entries and heads (1 where shared), Qb and Kb blocks of queries and keys, nnz blocks kept.
"""

import os

import torch
from torch import Tensor

# What both operators take after their tensors of rows. `left` and `right` are the window around the diagonal, negative
# where it is unbounded; `seed` holds the dropout's seed, None without dropout.
_COMMON = """
    Tensor? row_offsets, Tensor? row_blocks, Tensor? row_order,
    Tensor? column_offsets, Tensor? column_blocks, Tensor? column_order, SymInt block_size,
    Tensor? cu_seqlens, SymInt max_seqlen, Tensor? key_lengths, SymInt left, SymInt right,
    float dropout_p, Tensor? seed, float scale
"""

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

_library = torch.library.Library("flash_sparse", "DEF")


def _define(prefix: str):
    """Define a pair of operators, with their shapes and their derivative; returns the first."""
    forward, backward = f"{prefix}forward", f"{prefix}backward"
    _library.define(f"{forward}(Tensor query, Tensor key, Tensor value, {_COMMON}) -> (Tensor, Tensor)")
    _library.define(
        f"{backward}(Tensor grad_output, Tensor? grad_logsumexp, Tensor query, Tensor key, Tensor value, "
        f"Tensor output, Tensor logsumexp, {_COMMON}, bool[] wanted) -> (Tensor, Tensor, Tensor)"
    )
    torch.library.register_fake(f"flash_sparse::{forward}", _forward_fake, lib=_library)
    torch.library.register_fake(f"flash_sparse::{backward}", _backward_fake, lib=_library)

    def differentiate(ctx, grad_output, grad_logsumexp):
        query, key, value, output, logsumexp, *tensors = ctx.saved_tensors
        common = [number if tensor is None else tensor for number, tensor in zip(ctx.numbers, tensors, strict=True)]
        wanted = list(ctx.needs_input_grad[:3])
        gradients = getattr(torch.ops.flash_sparse, backward)(
            grad_output, grad_logsumexp, query, key, value, output, logsumexp, *common, wanted
        )
        gradients = (gradient if want else None for gradient, want in zip(gradients, wanted, strict=True))
        return *gradients, *(None for _ in common)

    torch.library.register_autograd(f"flash_sparse::{forward}", differentiate, setup_context=_save, lib=_library)
    torch.library.register_autograd(f"flash_sparse::{backward}", _second_backward, lib=_library)
    return getattr(torch.ops.flash_sparse, forward)


def _save(ctx, inputs, output):
    query, key, value, *common = inputs
    ctx.numbers = [None if isinstance(item, Tensor) else item for item in common]
    ctx.save_for_backward(query, key, value, *output, *(item if isinstance(item, Tensor) else None for item in common))


def _second_backward(ctx, *gradients):
    raise NotImplementedError("the gradient of flash_sparse attention cannot be differentiated again")


def _forward_fake(query, key, value, *common):
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=logsumexp_dtype(query.dtype))


def _backward_fake(grad_output, grad_logsumexp, query, key, value, output, logsumexp, *common):
    rows = zip((query, key, value), common[-1], strict=True)  # those not wanted come without elements
    return tuple(torch.empty_like(tensor) if want else tensor.new_empty(0) for tensor, want in rows)


def logsumexp_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.promote_types(dtype, torch.float32)


forward = _define("")
interpreted_forward = _define("interpreted_") if INTERPRETED else None


@torch.library.impl(_library, "forward", "CPU")
def _forward_cpu(*arguments):
    from flash_sparse.backends.cpu import launch

    return launch.forward(*arguments)


@torch.library.impl(_library, "backward", "CPU")
def _backward_cpu(*arguments):
    from flash_sparse.backends.cpu import launch

    return launch.backward(*arguments)


def _forward_triton(*arguments):
    from flash_sparse.backends.triton import launch

    return launch.forward(*arguments)


def _backward_triton(*arguments):
    from flash_sparse.backends.triton import launch

    return launch.backward(*arguments)


for _prefix, _key in (("", "CUDA"), ("interpreted_", "CPU"))[: 2 if INTERPRETED else 1]:
    _library.impl(f"{_prefix}forward", _forward_triton, _key)
    _library.impl(f"{_prefix}backward", _backward_triton, _key)
