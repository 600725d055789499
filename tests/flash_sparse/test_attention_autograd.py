"""Beside the other parts of PyTorch: partial gradients, autocast, checkpointing, inference mode, copies."""

import copy
import itertools
import pickle

import pytest
import torch
from attention_cases import Case, generator
from torch.utils.checkpoint import checkpoint

import flash_sparse
from flash_sparse import BlockLayout

CASE = Case(0, batch=2, heads=4, key_heads=2, query_length=50, key_length=70, head_dim=16, block_size=16, density=0.6)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)))
def test_gradients_of_those_that_require_them(backend, device, wanted):
    *rows, grad_output = CASE.tensors(device)
    expected = torch.autograd.grad(
        flash_sparse.attention(*rows, **CASE.options(device), backend=backend), rows, grad_output
    )
    leaves = [part.detach().requires_grad_(flag) for part, flag in zip(rows, wanted, strict=True)]
    output = flash_sparse.attention(*leaves, **CASE.options(device), backend=backend)
    assert output.requires_grad == any(wanted)
    if any(wanted):
        output.backward(grad_output)
    for leaf, flag, gradient in zip(leaves, wanted, expected, strict=True):
        assert (leaf.grad is not None) == flag
        if flag:
            torch.testing.assert_close(leaf.grad, gradient, rtol=0, atol=0)


def test_one_tensor_as_query_key_and_value(backend, device):
    rows = torch.randn(1, 2, 30, 8, generator=generator(0)).to(device).requires_grad_()
    apart = [rows.detach().clone().requires_grad_() for _ in range(3)]
    flash_sparse.attention(rows, rows, rows, backend=backend).square().sum().backward()
    flash_sparse.attention(*apart, backend=backend).square().sum().backward()
    torch.testing.assert_close(rows.grad, sum(part.grad for part in apart))


def test_only_the_logsumexp_is_used(backend, device):
    *rows, _ = Case(0, query_length=20, key_length=20, head_dim=8).tensors(device)
    _, logsumexp = flash_sparse.attention(*rows, return_lse=True, backend=backend)
    found = torch.autograd.grad(logsumexp.sum(), rows, allow_unused=True)
    query, key = (part.detach().double().cpu().requires_grad_() for part in rows[:2])
    exact = torch.autograd.grad((query @ key.mT * 8**-0.5).logsumexp(-1).sum(), (query, key))
    for gradient, expected in zip(found[:2], exact, strict=True):
        torch.testing.assert_close(gradient.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    assert found[2] is None or bool((found[2] == 0).all())


def test_an_expanded_upstream_gradient(kernel, device):
    *rows, _ = CASE.tensors(device)
    options = CASE.options(device)
    gradients = []
    for upstream in (torch.ones((), device=device).expand(2, 4, 50, 16), torch.ones(2, 4, 50, 16, device=device)):
        gradients.append(torch.autograd.grad(flash_sparse.attention(*rows, **options), rows, upstream))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_inputs_and_upstream_gradient_are_left_alone(kernel, device):
    for dtype in ("float32", "bfloat16"):
        *rows, grad_output = Case(0, dtype, block_size=16, density=0.7).tensors(device)
        before = [part.detach().clone() for part in (*rows, grad_output)]
        output = flash_sparse.attention(*rows)
        kept = output.detach().clone()
        output.backward(grad_output)
        assert torch.equal(output, kept)
        for part, copied in zip((*rows, grad_output), before, strict=True):
            assert torch.equal(part, copied)


def test_backward_twice_through_one_graph(kernel, device):
    *rows, grad_output = CASE.tensors(device)
    output = flash_sparse.attention(*rows, **CASE.options(device), dropout_p=0.2)
    first = torch.autograd.grad(output, rows, grad_output, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(output, rows, grad_output), first, rtol=0, atol=0)


def test_changing_a_saved_tensor_is_noticed(kernel, device):
    *rows, grad_output = CASE.tensors(device)
    query = rows[0] * 1
    output = flash_sparse.attention(query, *rows[1:], **CASE.options(device))
    with torch.no_grad():
        query.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(grad_output)


def test_second_derivatives_are_refused(kernel, device):
    rows = [torch.randn(1, 1, 5, 4, device=device, requires_grad=True) for _ in range(3)]
    (gradient,) = torch.autograd.grad(flash_sparse.attention(*rows).square().sum(), rows[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
        gradient.square().sum().backward()


def test_inference_mode_and_no_grad(backend, device):
    *rows, _ = CASE.tensors(device)
    expected = flash_sparse.attention(*rows, **CASE.options(device), backend=backend)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = flash_sparse.attention(*rows, **CASE.options(device), backend=backend)
        assert not found.requires_grad
        assert torch.equal(found, expected)


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_backward_inside_is_the_backward_outside(self, kernel, device, dtype):
        *rows, grad_output = CASE.tensors(device)
        rows = [part.detach().to(dtype).requires_grad_() for part in rows]
        gradients = []
        for inside in (False, True):
            output = flash_sparse.attention(*rows, **CASE.options(device))
            with torch.autocast(device, dtype=dtype, enabled=inside):
                gradients.append(torch.autograd.grad(output, rows, grad_output.to(dtype)))
        torch.testing.assert_close(*gradients, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_casts_as_torch_does(self, backend, device, dtype):
        rows = [torch.randn(1, 2, 40, 16, generator=generator(i)).to(device).requires_grad_() for i in range(3)]
        with torch.autocast(device, dtype=dtype):
            found = flash_sparse.attention(*rows, backend=backend)
            expected = torch.nn.functional.scaled_dot_product_attention(*rows)
        assert found.dtype == expected.dtype == dtype
        # The products inside are not cast once more: the same bits as with a cast before the call.
        assert torch.equal(found, flash_sparse.attention(*(part.to(dtype) for part in rows), backend=backend))
        found.sum().backward()
        assert all(part.grad.dtype == torch.float32 for part in rows)

    def test_leaves_float64_as_torch_does(self):
        rows = [torch.randn(1, 2, 40, 16, dtype=torch.float64, generator=generator(i)) for i in range(3)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = flash_sparse.attention(*rows)
            assert torch.nn.functional.scaled_dot_product_attention(*rows).dtype == torch.float64
        assert torch.equal(found, flash_sparse.attention(*rows))

    def test_takes_inputs_of_mixed_dtypes(self, backend, device):
        query, key, value = (torch.randn(1, 2, 20, 16, device=device) for _ in range(3))
        with torch.autocast(device, dtype=torch.bfloat16):
            found = flash_sparse.attention(query.bfloat16(), key, value.half(), backend=backend)
        assert found.dtype == torch.bfloat16

    def test_packed_sequences(self, backend, device):
        rows = torch.randn(20, 2, 16, device=device)
        cu_seqlens = torch.tensor([0, 20], dtype=torch.int32, device=device)
        with torch.autocast(device, dtype=torch.bfloat16):
            found = flash_sparse.attention_varlen(rows, rows, rows, cu_seqlens, 20, backend=backend)
        assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_activation_checkpointing(backend, device, dropout_p, use_reentrant):
    *rows, grad_output = CASE.tensors(device)

    def call(*rows):
        return flash_sparse.attention(*rows, **CASE.options(device), dropout_p=dropout_p, backend=backend)

    results = []
    for function in (call, lambda *rows: checkpoint(call, *rows, use_reentrant=use_reentrant)):
        leaves = [part.detach().requires_grad_() for part in rows]
        torch.manual_seed(0)
        output = function(*leaves)
        torch.manual_seed(1)  # what follows the forward pass must not matter
        output.backward(grad_output)
        results.append([output.detach(), *(part.grad for part in leaves)])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


class Layer(torch.nn.Module):
    """Projections around attention with a layout as an attribute."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(16, 48)
        self.layout = BlockLayout.from_blocks(torch.ones(3, 3, dtype=torch.bool).tril(), 16, 40)

    def forward(self, tokens):  # (B, N, 16)
        rows = self.project(tokens).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, D)
        return flash_sparse.attention(*rows, self.layout).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_of_a_module_that_holds_a_layout(duplicate):
    layer = Layer()
    twin = duplicate(layer)
    tokens = torch.randn(2, 40, 16)
    assert torch.equal(layer(tokens), twin(tokens))
    assert twin.layout == layer.layout
    assert twin.layout.row_blocks.data_ptr() != layer.layout.row_blocks.data_ptr()


def test_functional_call():
    layer = Layer()
    parameters = {name: part.detach().clone().requires_grad_() for name, part in layer.named_parameters()}
    tokens = torch.randn(1, 40, 16)
    torch.func.functional_call(layer, parameters, (tokens,)).sum().backward()
    layer(tokens).sum().backward()
    for name, part in layer.named_parameters():
        torch.testing.assert_close(part.grad, parameters[name].grad)


def test_deterministic_algorithms_may_be_demanded(kernel, device):
    *rows, grad_output = CASE.tensors(device)
    torch.use_deterministic_algorithms(True)
    try:
        flash_sparse.attention(*rows, **CASE.options(device), dropout_p=0.1).backward(grad_output)
    finally:
        torch.use_deterministic_algorithms(False)


def test_inference_mode_leaves_nothing_behind(backend, device):
    """What a call in inference mode keeps for the next can be written to outside of it, in training."""
    shape = (1, 2, 700, 24)  # larger than in the other tests, so that buffers grow
    with torch.inference_mode():
        layout = flash_sparse.patterns.local(700, 16, window=40)
        rows = torch.randn(shape, generator=generator(0)).to(device)
        expected = flash_sparse.attention(rows, rows, rows, layout.to(device), backend=backend)
    leaf = rows.clone().requires_grad_()
    output = flash_sparse.attention(leaf, leaf, leaf, layout.to(device), backend=backend)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    output.sum().backward()
    assert leaf.grad.isfinite().all()


def test_forward_mode_is_refused_not_zero(kernel, device):
    rows = torch.randn(1, 2, 9, 8, generator=generator(0)).to(device)
    packed, bounds = rows[0].transpose(0, 1), torch.tensor([0, 9], dtype=torch.int32, device=device)
    for run in (
        lambda key: flash_sparse.attention(rows, key, rows, backend=kernel),
        lambda key: flash_sparse.attention_varlen(packed, key[0].transpose(0, 1), packed, bounds, 9, backend=kernel),
    ):
        with pytest.raises(NotImplementedError, match="key has a tangent"):
            torch.func.jvp(run, (rows,), (rows,))
    _, tangent = torch.func.jvp(
        lambda key: flash_sparse.attention(rows, key, rows, backend="reference"), (rows,), (rows,)
    )
    assert tangent.abs().max() > 0


def test_a_window_wider_than_64_bits_is_unbounded(backend, device):
    rows = torch.randn(1, 2, 30, 8, generator=generator(0)).to(device)
    wide = flash_sparse.attention(rows, rows, rows, window=(2**70, 2**63), backend=backend)
    torch.testing.assert_close(wide, flash_sparse.attention(rows, rows, rows, backend=backend), rtol=0, atol=0)
