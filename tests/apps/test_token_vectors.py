"""Token vectors from neighbours: the counts, the decomposition, and what training begins with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from flash_sparse.nn import Encoder
from flash_sparse_apps import classify
from flash_sparse_apps.models import token_vectors as module
from flash_sparse_apps.models.token_vectors import begin_with_vectors, count_neighbours, token_vectors

from .conftest import TINY

VOCABULARY = 12


class Store:
    """Documents of random tokens, each of one or two texts; token 0 and 11 are in none of them."""

    def __init__(self, texts: int = 1):
        generator = np.random.default_rng(3)
        self.documents = [
            [generator.integers(1, 11, length) for length in generator.integers(1, 30, texts)] for _ in range(20)
        ]

    def __len__(self):
        return len(self.documents)

    def texts(self, index, seq_len):
        return [text[:seq_len] for text in self.documents[index]]


def by_hand(store: Store, seq_len: int) -> np.ndarray:
    counts = np.zeros((VOCABULARY, VOCABULARY))  # (V, V)
    for index in range(len(store)):
        for text in store.texts(index, seq_len):
            for here, token in enumerate(text):
                for there, other in enumerate(text):
                    if here != there and abs(here - there) <= module.REACH:
                        counts[token, other] += 1 / abs(here - there)
    return counts


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_neighbours_are_counted_within_a_text_alone(monkeypatch, texts, at_once):
    monkeypatch.setattr(module, "COUNTED_AT_ONCE", at_once)
    store = Store(texts)
    for seq_len in (1, 7, 100):
        counts = count_neighbours(store, seq_len, VOCABULARY, 0)
        np.testing.assert_allclose(counts.toarray(), by_hand(store, seq_len), rtol=1e-5)


def test_of_many_documents_some_are_counted(monkeypatch):
    monkeypatch.setattr(module, "ENOUGH_TOKENS", 40)
    store = Store()
    found = [count_neighbours(store, 100, VOCABULARY, seed).sum() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(0 < total < by_hand(store, 100).sum() / 2 for total in found)


def test_vectors_are_the_weighted_singular_vectors_of_positive_information():
    counts = by_hand(Store(), 100)
    often = counts.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / often[:, None] / (often**0.75 / (often**0.75).sum()))
    positive = np.nan_to_num(np.maximum(information, 0), nan=0.0)  # (V, V)
    vectors = token_vectors(csr_matrix(counts.astype(np.float32)), VOCABULARY, 0).double().numpy()  # (V, V)
    left, sizes, _ = np.linalg.svd(positive)
    np.testing.assert_allclose(vectors @ vectors.T, left @ np.diag(sizes) @ left.T, atol=1e-4)
    few = token_vectors(csr_matrix(counts.astype(np.float32)), 3, 0)
    assert few.shape == (VOCABULARY, 3)
    np.testing.assert_allclose(few.square().sum(0), sizes[:3], rtol=1e-3)


def test_tokens_with_like_neighbours_have_like_vectors():
    generator = np.random.default_rng(0)
    counts = generator.random((40, 40)) ** 8
    counts[1] = counts[0] * 3  # ten times as frequent or rarer, in the same company
    counts = np.maximum(counts, counts.T)
    counts[:, 1] = counts[1] = 3 * counts[0]
    vectors = torch.nn.functional.normalize(token_vectors(csr_matrix(counts.astype(np.float32)), 8, 0))
    likeness = vectors @ vectors[0]  # (V,)
    assert likeness[1] > 0.95
    assert likeness[2:].max() < likeness[1]


@pytest.mark.parametrize("width", [4, 16])
def test_the_embedding_takes_them_at_its_own_size(width):
    encoder = Encoder(VOCABULARY, width, 0, 2, num_outputs=2)
    before = encoder.embedding.weight.detach().clone()  # (V, W)
    begin_with_vectors(encoder, Store(), 100, 0)
    after = encoder.embedding.weight.detach().clone()
    assert encoder.embedding.weight.requires_grad
    assert torch.equal(after[[0, 11]], before[[0, 11]])  # tokens that no text has
    assert torch.equal(after[:, VOCABULARY:], before[:, VOCABULARY:])
    changed = after[1:11, :VOCABULARY]
    assert not torch.isclose(changed, before[1:11, :VOCABULARY]).any(dim=1).all()
    assert changed.square().mean().sqrt() == pytest.approx(float(before.std()), rel=1e-4)
    with torch.no_grad():
        encoder.embedding.weight.copy_(before)
    begin_with_vectors(encoder, Store(), 100, 0)
    assert torch.equal(encoder.embedding.weight, after)


def test_texts_without_neighbours_change_nothing():
    encoder = Encoder(VOCABULARY, 4, 0, 2, num_outputs=2)
    before = encoder.embedding.weight.detach().clone()
    begin_with_vectors(encoder, Store(), 1, 0)
    assert torch.equal(encoder.embedding.weight, before)


def test_a_run_says_what_its_embeddings_began_as(multi_label_run, planted_files, cache_folder, tmp_path):
    files = ("--cache-dir", str(cache_folder), "--output", str(tmp_path / "run"))
    few = ("--epochs", "1", "--no-linear-baseline", "--examples", "0", "--embeddings", "random")
    assert classify.main(["--dataset", str(planted_files["multi-label"]), *TINY, *files, *few]) == 0
    for run, began in ((multi_label_run, "cooccurrence"), (tmp_path / "run", "random")):
        assert json.loads((run / "metrics.json").read_text())["model"]["embeddings"] == began
        page = (run / "report.html").read_text()
        assert ("Token embeddings began as vectors made from" in page) == (began == "cooccurrence")
