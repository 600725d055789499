"""The random words of dropout: Philox as published, and a seed's words whatever the batch around them."""

import math

import numpy as np
import pytest
import torch
from attention_cases import plain_options

import flash_sparse
from flash_sparse.backends.cpu import launch


def philox(counter, key, rounds):
    """Philox-4x32 as Salmon et al. 2011 define it, in Python's integers."""
    first, second, third, fourth = counter
    low, high = key
    for _ in range(rounds):
        product_a, product_b = 0xD2511F53 * first, 0xCD9E8D57 * third
        first, second, third, fourth = (
            (product_b >> 32) ^ second ^ low, product_b & 0xFFFFFFFF, (product_a >> 32) ^ fourth ^ high,
            product_a & 0xFFFFFFFF,
        )  # fmt: skip
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return first, second, third, fourth


ONES = 0xFFFFFFFF


# Known answers of the authors' library, Random123: philox4x32, 10 rounds and 7.
@pytest.mark.parametrize(
    ("rounds", "counter", "key", "expected"),
    [
        (10, (0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (10, (ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (10, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)  # fmt: skip
def test_the_formula_gives_the_published_answers(rounds, counter, key, expected):
    assert philox(counter, key, rounds) == expected


def words(rows, seed, cu_seqlens=None):
    """The words of queries and of keys, each (2, B, H, N) uint32; `rows` is (B, H, N, D)."""
    options = plain_options(cu_seqlens=cu_seqlens, dropout_p=0.5, seed=torch.tensor(seed))
    _, tables = launch.make_problem(rows, rows, options)
    shape = (2, *rows.shape[:3])
    return [
        table[: math.prod(shape)].view(np.uint32).reshape(shape) for table in (tables.query_words, tables.key_words)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822 % 2**62, 2**62 - 1])
def test_words_are_those_of_philox(seed):
    batch, heads, length = 3, 2, 5
    for axis, found in enumerate(words(torch.zeros(batch, heads, length, 4), seed)):
        for entry in range(batch):
            for head in range(heads):
                for position in range(length):
                    counter = position, entry * heads + head, axis, 0
                    expected = philox(counter, (seed & ONES, seed >> 32), 7)[:2]
                    assert tuple(found[:, entry, head, position].tolist()) == expected


def test_each_sequence_of_a_pack_begins_anew():
    bounds = torch.tensor([0, 4, 4, 7], dtype=torch.int32)
    packs = words(torch.zeros(1, 2, 7, 4), 5, bounds)
    batches = words(torch.zeros(3, 2, 4, 4), 5)
    for pack, alone in zip(packs, batches, strict=True):
        assert np.array_equal(pack[:, 0, :, :4], alone[:, 0])
        assert np.array_equal(pack[:, 0, :, 4:], alone[:, 2, :, :3])


def test_a_pack_drops_what_the_padded_batch_drops():
    lengths, heads, dim = [70, 33, 90], 2, 96
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    query = torch.zeros(sum(lengths), heads, dim)
    value = torch.cat([torch.eye(dim)[:length] for length in lengths])[:, None].expand_as(query)
    torch.manual_seed(3)
    packed = flash_sparse.attention_varlen(query, query, value, bounds, 90, dropout_p=0.4)
    torch.manual_seed(3)
    rows = torch.zeros(3, heads, 90, dim)
    padded = flash_sparse.attention(
        rows, rows, torch.eye(dim)[:90].expand_as(rows), key_lengths=torch.tensor(lengths), dropout_p=0.4
    )
    for i, length in enumerate(lengths):
        own = packed[bounds[i] : bounds[i + 1]].transpose(0, 1)  # (H, N, D)
        assert torch.equal(own != 0, padded[i, :, :length] != 0)
