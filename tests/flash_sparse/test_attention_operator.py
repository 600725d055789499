"""`torch.library.opcheck` of the two operators: schema, autograd, fake tensors and dynamic shapes."""

import dataclasses

import pytest
import torch
from attention_cases import Case, generator, plain_options

import flash_sparse  # noqa: F401 (defines the operators)
from flash_sparse.backends.options import DIFFERENTIABLE

SINKS = DIFFERENTIABLE[3]  # their place among the forward operator's arguments

DENSE = Case(0, batch=2, heads=4, key_heads=2, query_length=33, key_length=20, head_dim=5)
CASES = {
    "dense": DENSE,
    "causal": Case(0, query_length=17, key_length=17, head_dim=8, is_causal=True),
    "window": Case(0, query_length=17, key_length=40, head_dim=8, window=(3, None)),
    "lengths": Case(0, batch=2, query_length=17, key_length=17, head_dim=8, key_lengths=(0, 9)),
    "layout": Case(0, batch=2, heads=2, query_length=40, key_length=70, block_size=16, density=0.5),
    "per head": Case(0, batch=2, heads=2, key_heads=2, block_size=32, density=0.5, leading=(2,)),
    "per batch": Case(0, batch=2, heads=2, key_heads=1, block_size=16, density=0.5, leading=(2, 1), is_causal=True),
    "empty layout": Case(0, block_size=16, density=0.0),
    "float16": Case(0, "float16", query_length=20, key_length=20),
    "bfloat16": Case(0, "bfloat16", query_length=20, key_length=20, block_size=16),
    "float64": Case(0, "float64", query_length=20, key_length=20, is_causal=True),
    "transposed": Case(0, batch=2, heads=3, key_heads=3, strides="transposed"),
    "fused": Case(0, batch=2, heads=3, key_heads=3, strides="fused", block_size=16, density=0.5),
    "expanded": Case(0, batch=2, heads=2, key_heads=2, query_length=9, key_length=9, strides="expanded"),
    "last": Case(0, batch=2, heads=2, key_heads=2, strides="last"),
    "capped": Case(0, batch=2, heads=2, query_length=20, key_length=20, softcap=3.0, is_causal=True),
    "sinks": Case(0, batch=2, heads=2, key_heads=2, query_length=20, key_length=20, sinks=True, block_size=16),
    "capped, sinks": Case(0, "bfloat16", heads=2, query_length=20, key_length=30, softcap=3.0, sinks=True),
}


def arguments(case, device, dropout_p=0.0, cu_seqlens=None, max_seqlen=0):
    """Of `flash_sparse::forward`."""
    *rows, grad_output = case.tensors(device)
    left, right = case.window or (None, None)
    options = plain_options(
        case.layout(device),
        cu_seqlens=None if cu_seqlens is None else torch.tensor(cu_seqlens, dtype=torch.int32, device=device),
        max_seqlen=max_seqlen,
        max_seqlen_k=max_seqlen,
        key_lengths=case.options(device)["key_lengths"],
        left=-1 if left is None else left,
        right=0 if case.is_causal else -1 if right is None else right,
        dropout_p=dropout_p,
        seed=torch.tensor(7, device=device) if dropout_p else None,
        scale=case.head_dim**-0.5,
        softcap=case.softcap or 0.0,
        sinks=case.options(device)["sinks"],
    )
    return grad_output, [*rows, *options]


def check(case, device, grad_logsumexp=True, wanted=(True, True, True, True), **more):
    grad_output, forward = arguments(case, device, **more)
    sinks = forward[SINKS]
    if sinks is not None:
        forward[SINKS] = sinks.requires_grad_()
    torch.library.opcheck(torch.ops.flash_sparse.forward.default, forward)
    query, key, value, *common = (part.detach() if isinstance(part, torch.Tensor) else part for part in forward)
    output, logsumexp = torch.ops.flash_sparse.forward(query, key, value, *common)
    upstream = torch.randn(logsumexp.shape, generator=generator(0)).to(logsumexp) if grad_logsumexp else None
    wanted = [*wanted[:3], wanted[3] and sinks is not None]
    backward = [grad_output, upstream, query, key, value, output, logsumexp, *common, wanted]
    torch.library.opcheck(torch.ops.flash_sparse.backward.default, backward)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck(kernel, device, case):
    if case.dtype == "float64" and device != "cpu":
        pytest.skip("float64 is for CPUs")
    check(case, device)


def test_opcheck_without_a_gradient_of_the_logsumexp(kernel, device):
    check(DENSE, device, grad_logsumexp=False)


@pytest.mark.parametrize("wanted", [[n == place for n in range(4)] for place in range(4)])
def test_opcheck_where_some_gradients_are_not_wanted(kernel, device, wanted):
    check(dataclasses.replace(DENSE, sinks=True), device, wanted=wanted)


def test_opcheck_with_dropout(kernel, device):
    check(DENSE, device, dropout_p=0.3)


@pytest.mark.parametrize("block_size", [0, 16])
def test_opcheck_with_packed_sequences(kernel, device, block_size):
    case = Case(0, heads=2, key_heads=1, query_length=50, key_length=50, block_size=block_size, density=0.7)
    check(case, device, cu_seqlens=[0, 0, 20, 50], max_seqlen=30)


def test_fake_tensors_have_the_strides_of_the_real_ones(kernel, device):
    for case in CASES.values():
        if case.dtype == "float64" and device != "cpu":
            continue
        grad_output, forward = arguments(case, device)
        forward = [part.detach() if isinstance(part, torch.Tensor) else part for part in forward]
        output, logsumexp = torch.ops.flash_sparse.forward(*forward)
        rows = *forward[:3], output, logsumexp
        wanted = [True, True, True, case.sinks]
        gradients = torch.ops.flash_sparse.backward(grad_output, None, *rows, *forward[3:], wanted)
        meta = [part.to("meta") if isinstance(part, torch.Tensor) else part for part in forward]
        meta[:3] = [
            torch.empty_strided(part.shape, part.stride(), dtype=part.dtype, device="meta") for part in forward[:3]
        ]
        fake_output, fake_logsumexp = torch.ops.flash_sparse.forward(*meta)
        fake_gradients = torch.ops.flash_sparse.backward(
            torch.empty_like(fake_output), None, *meta[:3], fake_output, fake_logsumexp, *meta[3:], wanted
        )
        real, fake = (output, logsumexp, *gradients), (fake_output, fake_logsumexp, *fake_gradients)
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype), case
