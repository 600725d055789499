"""The transforms of `torch.func`, against loops and against the textbook formula under the same transform."""

import pytest
import torch
from attention_cases import generator

import flash_sparse
from flash_sparse import nn, patterns

SHAPE = (2, 2, 40, 8)  # (B, H, N, D)
OPTIONS = {
    "dense": {},
    "causal": {"is_causal": True, "return_lse": True},
    "layout": {"layout": True, "window": (9, 3)},
    "lengths": {"key_lengths": True},
}


def samples(device, count=3):
    return [torch.randn(count, *SHAPE, generator=generator(i)).to(device) for i in range(3)]


def loss(options, device, backend):
    """A number from query, key and value."""
    options = dict(options)
    if "layout" in options:
        options["layout"] = patterns.local(40, 16, window=16).to(device)
    if "key_lengths" in options:
        options["key_lengths"] = torch.tensor([40, 13], device=device)

    def call(query, key, value):
        found = flash_sparse.attention(query, key, value, **options, backend=backend)
        output, logsumexp = found if isinstance(found, tuple) else (found, torch.zeros(()))
        return output.square().sum() + logsumexp.sum()

    return call


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_of_each_sample(kernel, device, options):
    rows = samples(device)
    every = (0, 1, 2)
    found = torch.func.vmap(torch.func.grad(loss(options, device, kernel), every))(*rows)
    for number in range(len(rows[0])):
        own = [part[number] for part in rows]
        leaves = [part.clone().requires_grad_() for part in own]
        plain = torch.autograd.grad(loss(options, device, kernel)(*leaves), leaves)
        once = torch.func.grad(loss(options, device, kernel), every)(*own)
        formula = torch.func.grad(loss(options, device, "reference"), every)(*own)
        for stacked, alone, expected, textbook in zip(found, once, plain, formula, strict=True):
            assert torch.equal(stacked[number], expected)
            assert torch.equal(alone, expected)
            torch.testing.assert_close(expected, textbook, rtol=1e-4, atol=1e-5)


def test_jacobian_and_vjp(kernel, device):
    query, key, value = (part[0, :1, :, :5] for part in samples(device))

    def call(backend):
        return lambda query, key: flash_sparse.attention(query, key, value[..., :5, :], backend=backend).sum((1, 3))

    key = key[..., :5, :]
    found = torch.func.jacrev(call(kernel), (0, 1))(query, key)
    expected = torch.func.jacrev(call("reference"), (0, 1))(query, key)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    output, pull = torch.func.vjp(call(kernel), query, key)
    torch.testing.assert_close(pull(torch.ones_like(output))[0], found[0].sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_only_some_inputs_have_gradients(kernel, device):
    query, key, value = (part[0] for part in samples(device))
    call = loss({}, device, kernel)
    torch.testing.assert_close(
        torch.func.grad(call, 1)(query, key, value), torch.func.grad(call, (0, 1, 2))(query, key, value)[1]
    )


def test_a_dimension_of_lengths_and_one_that_is_not_first(kernel, device):
    query, key, value = samples(device)
    lengths = torch.tensor([[3, 40], [0, 7], [40, 40]], device=device)

    def call(*arguments):
        *rows, own = arguments
        return flash_sparse.attention(*rows, key_lengths=own, backend=kernel)

    found = torch.func.vmap(call, in_dims=(2, 0, 0, 0), out_dims=1)(query.movedim(0, 2), key, value, lengths)
    for number in range(3):
        expected = call(query[number], key[number], value[number], lengths[number])
        assert torch.equal(found[:, number], expected)


def test_packs(kernel, device):
    query, key, value = (torch.randn(3, 50, 2, 8, generator=generator(i)).to(device) for i in range(3))
    bounds = torch.tensor([0, 20, 50], dtype=torch.int32, device=device)

    def call(*rows):
        return flash_sparse.attention_varlen(*rows, bounds, 30, is_causal=True, backend=kernel).square().sum()

    found = torch.func.vmap(torch.func.grad(call))(query, key, value)
    for number in range(3):
        assert torch.equal(found[number], torch.func.grad(call)(query[number], key[number], value[number]))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_as_vmap_is_told(kernel, device, randomness):
    query, key, value = (part[:1].expand(3, *SHAPE) for part in samples(device))

    def call(*rows):
        return flash_sparse.attention(*rows, dropout_p=0.5, backend=kernel)

    first, second, _ = torch.func.vmap(call, randomness=randomness)(query, key, value)
    assert torch.equal(first, second) == (randomness == "same")


def test_gradients_of_each_sample_of_a_model():
    """As differentially private training takes them."""
    torch.manual_seed(0)
    model = nn.Attention(16, 2, rotary="1d", layout=patterns.local(40, 16, window=16))
    parameters = {name: part.detach() for name, part in model.named_parameters()}
    tokens = torch.randn(4, 30, 16)

    def call(parameters, own):
        return torch.func.functional_call(model, parameters, (own[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(call), in_dims=(None, 0))(parameters, tokens)
    for number in range(4):
        model.zero_grad()
        model(tokens[number : number + 1]).square().sum().backward()
        for name, part in model.named_parameters():
            torch.testing.assert_close(found[name][number], part.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", [torch.func.hessian, lambda call: torch.func.jacrev(torch.func.jacrev(call))])
def test_second_derivatives_are_refused_and_the_formula_has_them(kernel, device, transform):
    query, key, value = (part[0, :1, :1, :3] for part in samples(device))

    def call(backend):
        return lambda query: flash_sparse.attention(query, key, value, backend=backend).square().sum()

    with pytest.raises(NotImplementedError, match="backend='reference'"):
        transform(call(kernel))(query)
    assert transform(call("reference"))(query).abs().max() > 0
