"""The attention operators under the transforms of `torch.func`: `grad`, `vjp`, `jacrev`, `vmap`, and one in another.

Operators of `torch.library` that bring their own derivative are unknown to these transforms. There they are called
through two autograd functions that are known: `Forward` and, for its gradient, `Backward`. `vmap` calls the operator
once for each entry of its dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from flash_sparse.backends.options import DIFFERENTIABLE, in_places


def transformable(operation: Callable) -> Callable:
    """The operator itself or, inside a transform, what stands for it."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return operation
    backward = getattr(torch.ops.flash_sparse, operation.__name__.replace("forward", "backward"))
    return functools.partial(Forward.apply, operation, backward)


class Forward(torch.autograd.Function):
    """`flash_sparse::forward`, of the operator, its backward pass, and the operator's arguments."""

    @staticmethod
    def forward(operation, backward, *arguments):
        return operation(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.backward, *arguments = inputs
        ctx.numbers = [None if isinstance(item, Tensor) else item for item in arguments]
        ctx.save_for_backward(*output, *(item if isinstance(item, Tensor) else None for item in arguments))

    @staticmethod
    def backward(ctx, grad_output, grad_logsumexp):
        output, logsumexp, *tensors = ctx.saved_tensors
        saved = (number if tensor is None else tensor for number, tensor in zip(ctx.numbers, tensors, strict=True))
        query, key, value, *options = saved
        wanted = [ctx.needs_input_grad[2 + place] for place in DIFFERENTIABLE]
        gradients = Backward.apply(
            ctx.backward, grad_output, grad_logsumexp, query, key, value, output, logsumexp, *options, wanted
        )
        return None, None, *in_places(gradients, wanted)

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError("only backend='reference' has forward-mode derivatives")

    @staticmethod
    def vmap(info, in_dims, operation, backward, *arguments):
        return _one_by_one(info, in_dims[2:], functools.partial(Forward.apply, operation, backward), arguments)


class Backward(torch.autograd.Function):
    """`flash_sparse::backward`, of the operator and its arguments."""

    @staticmethod
    def forward(operation, *arguments):
        return operation(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "the gradient of flash_sparse attention cannot be differentiated again; backend='reference' can"
        )

    jvp = Forward.jvp

    @staticmethod
    def vmap(info, in_dims, operation, *arguments):
        return _one_by_one(info, in_dims[1:], functools.partial(Backward.apply, operation), arguments)


def _one_by_one(info, in_dims: tuple, call: Callable, arguments: tuple) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results for each entry of the dimension that `vmap` takes away, stacked."""
    results = []
    for entry in range(info.batch_size):
        own = (
            item.select(dim, entry) if isinstance(dim, int) else item
            for item, dim in zip(arguments, in_dims, strict=True)
        )
        results.append(call(*own))
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
