"""The same bits for a document, whatever it is packed with."""

import random

import pytest
import torch
import torch.nn.functional as F

from flash_sparse.nn import Encoder
from flash_sparse_apps.models.even_products import EvenProducts
from flash_sparse_apps.models.logits import compute_logits


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 8, 1), (95, 16, 3), (96, 16, 40), (500, 48, 5)])
def test_products_are_right(rows, inner, outer):
    x, weight, bias = torch.randn(2, rows, inner), torch.randn(outer, inner), torch.randn(outer)
    exact = F.linear(x.double(), weight.double(), bias.double())
    error = (F.linear(x, weight, bias) - exact).abs().max()
    with EvenProducts():
        even, plain = F.linear(x, weight, bias), F.linear(x, weight)
    assert even.shape == (2, rows, outer)
    assert (even - exact).abs().max() <= 2 * error + 1e-6
    assert torch.equal(plain + bias, even)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
@pytest.mark.parametrize("num_outputs", [1, 5])
def test_logits_do_not_depend_on_neighbours(pooling, num_outputs):
    encoder = Encoder(50, 48, 2, 4, num_outputs=num_outputs, pooling=pooling).eval()
    draw = random.Random(1)
    documents = [(torch.randint(50, (length,)),) for length in (1, 2, 3, 17, 64, 97, 300, 301)]
    alone = torch.cat([compute_logits(encoder, [document], None, 1 << 16) for document in documents])
    for budget in (1 << 16, 200):
        order = draw.sample(range(len(documents)), 6)
        found = compute_logits(encoder, [documents[index] for index in order], None, budget)
        assert torch.equal(found, alone[order])
