"""The linear model computed from packed tokens."""

import itertools

import numpy as np
import pytest
import torch

from flash_sparse_apps.scores.linear_baseline import linear_baseline
from flash_sparse_apps.scores.linear_model import PAIR_BITS, LinearModel, token_columns
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Document

LABELS = ("a", "b", "c")


class Words:
    vocab_size = 1000

    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]


def make_stores(folder, task):
    """Three stores of noise, in which the label follows from a token."""
    stores = []
    for name, count in (("train", 80), ("validation", 30), ("test", 30)):
        rng = np.random.default_rng(count)
        documents = []
        for i in range(count):
            words = rng.integers(10, 60, rng.integers(5, 40))
            given = rng.integers(3)
            words[rng.integers(len(words))] = 900 + given
            labels = [LABELS[given]] + ["a"] * int(task == "multi-label" and given == 1)
            documents.append(Document(str(i), " ".join(map(str, words)), tuple(labels)))
        stores.append(TokenStore.build_or_open(folder, documents, Words(), LABELS, name, progress=False))
    return stores


def test_pairs_are_hashed_as_unsigned_integers_are():
    tokens = [5, 2**31 - 2**20 - 1, 0, 7]
    expected = [
        ((first << 32 | second) * 0x9E3779B97F4A7C15 % 2**64) >> (64 - PAIR_BITS)
        for first, second in itertools.pairwise(tokens)
    ]
    expected += [token + 2**PAIR_BITS for token in tokens]
    assert token_columns(torch.tensor(tokens)).tolist() == expected


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_margins_are_those_of_the_fitted_machines(tmp_path, task):
    stores = make_stores(tmp_path, task)
    result = linear_baseline(*stores, 30, 3, task)
    for store, probabilities in zip(
        stores[1:], (result.validation_probabilities, result.test_probabilities), strict=True
    ):
        tokens = [torch.from_numpy(store.tokens(i, 30)) for i in range(len(store))]
        bounds = torch.tensor([0, *map(len, tokens)]).cumsum(0)
        margins = result.model(torch.cat(tokens), bounds)
        calm = margins / result.temperature
        found = calm.softmax(1) if task == "single-label" else calm.sigmoid()
        np.testing.assert_allclose(found, probabilities, atol=1e-3 / result.temperature)  # coefficients: float16
        alone = torch.cat([result.model(text, torch.tensor([0, len(text)])) for text in tokens])
        assert torch.equal(margins, alone)


def test_a_document_of_unknown_tokens_has_the_intercepts():
    model = LinearModel(2, 3)
    model.columns.copy_(torch.tensor([5, 2**PAIR_BITS + 1]))
    model.coefficients.fill_(1)
    model.intercepts.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert model(torch.tensor([9]), torch.tensor([0, 1])).tolist() == [[1, 2, 3]]
    assert LinearModel(0, 3)(torch.tensor([9]), torch.tensor([0, 1])).tolist() == [[0, 0, 0]]


def test_too_many_coefficients_are_not_kept(tmp_path, monkeypatch):
    stores = make_stores(tmp_path, "single-label")
    kept = linear_baseline(*stores, 30, 3, "single-label")
    monkeypatch.setattr("flash_sparse_apps.scores.linear_baseline.MOST_COEFFICIENTS", 10)
    result = linear_baseline(*stores, 30, 3, "single-label")
    assert result.model is None
    assert np.array_equal(result.test_probabilities, kept.test_probabilities)
