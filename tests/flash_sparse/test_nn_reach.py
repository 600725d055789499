"""Does what stands near token 16,384 reach the answer? That is read at the first token: attention must carry it."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from flash_sparse import nn, patterns
from flash_sparse.nn import Encoder

LENGTH, BLOCK = 16384, 128
FAR = LENGTH - 5
# name -> (layout, layers that it needs to carry the last block to the first token; None: it never does in two)
PATTERNS = {
    "dense": (lambda: None, 1),
    "longformer": (lambda: patterns.longformer(LENGTH, BLOCK), 1),
    "bigbird": (lambda: patterns.bigbird(LENGTH, BLOCK, global_blocks=1), 1),
    "butterfly": (lambda: patterns.butterfly(LENGTH, BLOCK, global_blocks=1), 1),
    "global_tokens": (lambda: patterns.global_tokens(LENGTH, BLOCK, positions=[0]), 1),
    "strided": (lambda: patterns.strided(LENGTH, BLOCK), 2),
    "axial": (lambda: patterns.axial(LENGTH, 64, width=128), 2),
    "local": (lambda: patterns.local(LENGTH, BLOCK, window=256), None),
    "neighborhood_2d": (lambda: patterns.neighborhood_2d(LENGTH, BLOCK, width=128, window=4), None),
}


def gradient_at_the_far_end(layout, depth: int) -> torch.Tensor:
    """Of the first token's output by the embedding of token FAR."""
    encoder = Encoder(10, 8, depth, 1, num_outputs=1, pooling="cls").eval()
    tokens = torch.randint(9, (LENGTH,))
    tokens[FAR] = 9  # nowhere else
    logits = encoder(tokens, torch.tensor([0, LENGTH], dtype=torch.int32), LENGTH, layout)
    (gradient,) = torch.autograd.grad(logits.sum(), encoder.embedding.weight)
    return gradient[9]


@pytest.mark.parametrize("name", PATTERNS)
def test_the_far_end_reaches_the_answer(name: str):
    make, depth = PATTERNS[name]
    layout = make()
    if depth is None:
        assert not gradient_at_the_far_end(layout, 2).any()
        return
    assert gradient_at_the_far_end(layout, depth).any()
    if depth > 1:
        assert not gradient_at_the_far_end(layout, depth - 1).any()


def test_fake_tensors_give_shapes_where_a_layout_has_numbers():
    layout = patterns.local(64, 16, window=16)
    outside = nn.Encoder(100, 16, 1, 2, num_outputs=3)
    with FakeTensorMode() as mode:
        module = nn.Attention(16, 2, rotary="1d", layout=patterns.local(64, 16, window=16))
        x = torch.randn(2, 40, 16)
        padding = torch.zeros(2, 40, dtype=torch.bool)
        module(x).sum().backward()
        assert module.qkv.weight.grad.shape == (48, 16)
        assert module(x, key_lengths=torch.tensor([3, 4])).shape == (2, 40, 16)
        assert module(x, key_padding_mask=padding).shape == (2, 40, 16)

        parameters = {name: mode.from_tensor(part) for name, part in outside.named_parameters()}
        pack = torch.zeros(40, dtype=torch.int64), torch.zeros(3, dtype=torch.int32), 30, layout
        assert torch.func.functional_call(outside, parameters, pack).shape == (2, 3)
    assert module.layout == layout
