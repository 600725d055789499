"""Capped scores and learned sinks in the modules, beside the textbook formula written out."""

import math

import pytest
import torch

from flash_sparse import patterns
from flash_sparse.nn import Attention, Encoder, EncoderLayer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_attention(**options):
    """A module whose scores reach the cap and whose sinks are worth something."""
    module = Attention(32, 4, **options)
    with torch.no_grad():
        module.qkv.weight.mul_(4)
        if module.sinks is not None:
            module.sinks.normal_(std=2)
    return module


def textbook(module, x):
    """What the module computes of x (B, N, W), with each head's sink as one more column of scores."""
    query, key, value = module.qkv(x).unflatten(-1, (12, 8)).transpose(1, 2).split(4, dim=1)  # (B, 4, N, 8)
    scores = query @ key.mT / math.sqrt(8)  # (B, 4, N, N)
    if module.softcap is not None:
        scores = module.softcap * torch.tanh(scores / module.softcap)
    if module.sinks is not None:
        column = module.sinks[:, None, None].expand(x.shape[0], -1, x.shape[1], 1)  # (B, 4, N, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(-1)[..., : x.shape[1]]
    return module.output((weights @ value).transpose(1, 2).flatten(-2))  # (B, N, W)


@pytest.mark.parametrize("options", [{"softcap": 1.5}, {"sinks": True}, {"softcap": 1.5, "sinks": True}], ids=str)
def test_attention_is_the_textbooks(options):
    module = make_attention(**options).double()
    x, upstream = torch.randn(2, 2, 40, 32, dtype=torch.float64)
    parameters = list(module.parameters())
    expected = textbook(module, x)
    found = module(x)
    torch.testing.assert_close(found, expected)
    expected_gradients = torch.autograd.grad(expected, parameters, upstream)
    torch.testing.assert_close(torch.autograd.grad(found, parameters, upstream), expected_gradients)
    for option in options:  # each does something: without it the output is another
        plain = make_attention(**{name: value for name, value in options.items() if name != option}).double()
        plain.load_state_dict(module.state_dict(), strict=False)
        assert not torch.allclose(plain(x), expected, atol=1e-3)


def test_sinks_with_layouts_padding_and_packs():
    module = make_attention(softcap=1.5, sinks=True, layout=patterns.local(40, 16))
    x = torch.randn(2, 40, 32)
    lengths, bounds = torch.tensor([40, 7]), torch.tensor([0, 40, 47], dtype=torch.int32)
    padded = module(x, key_lengths=lengths)
    packed = module(torch.cat([x[0], x[1, :7]]), cu_seqlens=bounds, max_seqlen=40)
    torch.testing.assert_close(packed, torch.cat([padded[0], padded[1, :7]]))
    dense = make_attention(softcap=1.5, sinks=True)
    dense.load_state_dict(module.state_dict())
    torch.testing.assert_close(padded[1:, :7], textbook(dense, x[1:, :7]))


def test_sinks_are_a_parameter_of_each_layer():
    encoder = Encoder(50, 32, 2, 4, num_outputs=5, sinks=True, softcap=20.0)
    names = {f"layers.{number}.attention.sinks" for number in range(2)}
    assert names <= set(encoder.state_dict())
    assert names <= {name for name, _ in encoder.named_parameters()}
    for layer in encoder.layers:
        assert layer.attention.softcap == 20.0
        assert layer.attention.sinks.tolist() == [0.0] * 4
    assert not any("sinks" in name for name in Encoder(50, 32, 2, 4, num_outputs=5).state_dict())
    assert "softcap=20.0, sinks=True" in repr(encoder)


def test_state_of_sinks_loads_and_refuses_to_be_lost():
    encoder, other = (Encoder(50, 32, 1, 4, num_outputs=5, sinks=True).eval() for _ in range(2))
    with torch.no_grad():
        encoder.layers[0].attention.sinks.copy_(torch.tensor([3.0, -1.0, 0.5, 0.0]))
    other.load_state_dict(encoder.state_dict())
    tokens = torch.randint(50, (2, 30))
    assert torch.equal(other(tokens), encoder(tokens))
    with pytest.raises(RuntimeError, match=r"layers\.0\.attention\.sinks"):
        Encoder(50, 32, 1, 4, num_outputs=5).load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_moves_sinks(checkpointed):
    encoder = Encoder(50, 32, 2, 4, num_outputs=5, sinks=True, checkpoint_activations=checkpointed)
    encoder(torch.randint(50, (2, 30))).square().sum().backward()
    for layer in encoder.layers:
        assert (layer.attention.sinks.grad != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_sinks_in_other_precisions(dtype):
    module = make_attention(sinks=True, softcap=1.5)
    x = torch.randn(1, 40, 32)
    expected = module(x)
    converted = module.to(dtype)
    assert converted.sinks.dtype == dtype
    found = converted(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-5, rtol=0)
    found.sum().backward()
    assert converted.sinks.grad.dtype == dtype


def test_compiles_with_sinks():
    module, x = make_attention(sinks=True, softcap=1.5), torch.randn(1, 40, 32)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))
    compiled(x).sum().backward()
    found = module.sinks.grad
    expected = torch.autograd.grad(module(x).sum(), module.sinks)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"softcap": 0.0}, ValueError, "softcap is 0.0; expected None or a number from 1e-30"),
        ({"softcap": True}, TypeError, "softcap is True; expected None or a number"),
        ({"sinks": torch.zeros(4)}, TypeError, "sinks is Tensor; expected True or False"),
        ({"sinks": 4}, TypeError, "sinks is int; expected True or False"),
    ],
)
def test_errors(options, error, message):
    for make in (
        lambda: Attention(32, 4, **options),
        lambda: EncoderLayer(32, 4, **options),
        lambda: Encoder(50, 32, 2, 4, num_outputs=5, **options),
    ):
        with pytest.raises(error, match=message):
            make()
