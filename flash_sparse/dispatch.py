"""The attention operator of torch.library: one for every backend, chosen by the device of its tensors.

`flash_sparse::forward` and `flash_sparse::backward` take tensors and numbers alone, so that `torch.compile`, autograd
and `torch.library.opcheck` know them. A backend is a pair of functions registered for a device type; nothing above this
file knows which one runs. Packed sequences come as one batch entry with `cu_seqlens`.

Each backend is imported with its first call: the one for CPUs needs Numba, the one for GPUs Triton. Under Triton's
interpreter (TRITON_INTERPRET=1 in the environment, for tests and debugging) the latter also runs on CPU tensors. There
the device no longer says which backend is meant, so that it gets a pair of operators of its own:
`flash_sparse::interpreted_forward` and `flash_sparse::interpreted_backward`.

The operators take their options one by one, the backends as one `Options`.
"""

import importlib
import os

import torch
from torch import Tensor

from flash_sparse.backends.options import DIFFERENTIABLE, SCHEMA, Options, in_places

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

_library = torch.library.Library("flash_sparse", "DEF")


def _define(prefix: str):
    """Define a pair of operators, with their shapes and their derivative; returns the first."""
    forward, backward = f"{prefix}forward", f"{prefix}backward"
    _library.define(f"{forward}(Tensor query, Tensor key, Tensor value, {SCHEMA}) -> (Tensor, Tensor)")
    _library.define(
        f"{backward}(Tensor grad_output, Tensor? grad_logsumexp, Tensor query, Tensor key, Tensor value, "
        f"Tensor output, Tensor logsumexp, {SCHEMA}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)"
    )
    torch.library.register_fake(f"flash_sparse::{forward}", _forward_fake, lib=_library)
    torch.library.register_fake(f"flash_sparse::{backward}", _backward_fake, lib=_library)

    def differentiate(ctx, grad_output, grad_logsumexp):
        query, key, value, output, logsumexp, *tensors = ctx.saved_tensors
        options = [number if tensor is None else tensor for number, tensor in zip(ctx.numbers, tensors, strict=True)]
        wanted = [ctx.needs_input_grad[place] for place in DIFFERENTIABLE]
        gradients = getattr(torch.ops.flash_sparse, backward)(
            grad_output, grad_logsumexp, query, key, value, output, logsumexp, *options, wanted
        )
        return tuple(in_places(gradients, wanted))

    torch.library.register_autograd(f"flash_sparse::{forward}", differentiate, setup_context=_save, lib=_library)
    torch.library.register_autograd(f"flash_sparse::{backward}", _second_backward, lib=_library)
    return getattr(torch.ops.flash_sparse, forward)


def _save(ctx, inputs, output):
    query, key, value, *options = inputs
    ctx.numbers = [None if isinstance(item, Tensor) else item for item in options]
    ctx.save_for_backward(query, key, value, *output, *(item if isinstance(item, Tensor) else None for item in options))


def _second_backward(ctx, *gradients):
    raise NotImplementedError("the gradient of flash_sparse attention cannot be differentiated again")


def _forward_fake(query, key, value, *options):
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=logsumexp_dtype(query.dtype))


def _backward_fake(grad_output, grad_logsumexp, query, key, value, output, logsumexp, *options_and_wanted):
    *options, wanted = options_and_wanted
    tensors = zip((query, key, value, Options(*options).sinks), wanted, strict=True)
    # Those not wanted come without elements.
    return tuple(torch.empty_like(tensor) if want else query.new_empty(0) for tensor, want in tensors)


def logsumexp_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.promote_types(dtype, torch.float32)


forward = _define("")
interpreted_forward = _define("interpreted_") if INTERPRETED else None


def _implement(backend: str, device: str, prefix: str = ""):
    """Let a backend's `launch.forward` and `launch.backward` stand behind the operators for a device."""

    def run_forward(query, key, value, *options):
        launch = importlib.import_module(f"flash_sparse.backends.{backend}.launch")
        return launch.forward(query, key, value, Options(*options))

    def run_backward(grad_output, grad_logsumexp, query, key, value, output, logsumexp, *options_and_wanted):
        launch = importlib.import_module(f"flash_sparse.backends.{backend}.launch")
        *options, wanted = options_and_wanted
        rows = query, key, value, output, logsumexp
        return launch.backward(grad_output, grad_logsumexp, *rows, Options(*options), wanted)

    _library.impl(f"{prefix}forward", run_forward, device)
    _library.impl(f"{prefix}backward", run_backward, device)


_implement("cpu", "CPU")
_implement("triton", "CUDA")
if INTERPRETED:
    _implement("triton", "CPU", "interpreted_")
