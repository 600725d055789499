"""The linear baseline on small made-up tasks."""

import numpy as np
import pytest

from flash_sparse_apps.scores.evaluation import evaluate
from flash_sparse_apps.scores.linear_baseline import _count, linear_baseline
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Document

LABELS = ("a", "b", "c", "all")


class Words:
    vocab_size = 1000

    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]


def make_store(folder, name, documents):
    return TokenStore.build_or_open(folder, documents, Words(), LABELS, name, progress=False)


def make_documents(count, seed, task):
    """Noise with a telling token for a, a telling pair for b, and c told only after the 50th token."""
    rng = np.random.default_rng(seed)
    documents = []
    for i in range(count):
        words = rng.integers(10, 60, 100)
        has = rng.random(3) < (0.5, 0.4, 0.3)
        if task == "single-label":
            has = np.arange(3) == rng.integers(3)
        if has[0]:
            words[rng.integers(0, 40, 3)] = 900
        for start in (41, 44, 47):  # 901 and 902 are in every document; only their order tells
            words[start : start + 2] = (901, 902) if has[1] else (902, 901)
        if has[2]:
            words[rng.integers(60, 100, 3)] = 903
        labels = [label for label, given in zip("abc", has, strict=True) if given]
        documents.append(Document(str(i), " ".join(map(str, words)), (*labels, *(["all"] * (task == "multi-label")))))
    return documents


@pytest.fixture(scope="module", params=["multi-label", "single-label"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def stores(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    sizes = {"train": 200, "validation": 60, "test": 100}
    return [make_store(folder, name, make_documents(size, i, task)) for i, (name, size) in enumerate(sizes.items())]


def targets(store, task):
    matrix = store.label_matrix().toarray()
    return matrix.argmax(1) if task == "single-label" else matrix


def test_learns_tokens_and_pairs(stores, task):
    result = linear_baseline(*stores, 101, 4, task)
    found = evaluate(result.test_probabilities, targets(stores[2], task), result.thresholds, task)
    assert found["micro_f1"] > 0.97
    assert found["per_label"]["f1"][1] > 0.95  # told by a pair alone
    assert result.validation_probabilities.shape == (60, 4)
    assert ((result.test_probabilities > 0) & (result.test_probabilities < 1)).all()
    assert result.test_predictions.shape == ((100, 4) if task == "multi-label" else (100,))
    assert (result.thresholds is None) == (task == "single-label")


def test_reads_only_what_the_transformer_reads(stores, task):
    result = linear_baseline(*stores, 50, 4, task)
    found = evaluate(result.test_probabilities, targets(stores[2], task), result.thresholds, task)
    if task == "multi-label":
        assert found["per_label"]["f1"][0] > 0.9
        assert found["per_label"]["f1"][2] < 0.7  # the token that tells it is cut off


def test_the_same_stores_give_the_same_result(stores, task):
    first, second = (linear_baseline(*stores, 101, 4, task, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.test_probabilities, second.test_probabilities)
    np.testing.assert_array_equal(first.test_predictions, second.test_predictions)


def test_held_out_documents_are_counted_in_parts(stores, task, monkeypatch):
    whole = linear_baseline(*stores, 101, 4, task)
    monkeypatch.setattr("flash_sparse_apps.scores.linear_baseline.CHUNK_TOKENS", 700)  # seven documents or so
    parts = linear_baseline(*stores, 101, 4, task)
    assert whole.train_documents == 200
    np.testing.assert_array_equal(parts.test_probabilities, whole.test_probabilities)
    np.testing.assert_array_equal(parts.validation_probabilities, whole.validation_probabilities)


def test_a_large_corpus_is_sampled(stores, task, monkeypatch):
    monkeypatch.setattr("flash_sparse_apps.scores.linear_baseline.MOST_TOKENS", 101 * 150 + 7)
    first, second = (linear_baseline(*stores, 101, 4, task, seed=3) for _ in range(2))
    assert first.train_documents == 150
    np.testing.assert_array_equal(first.test_probabilities, second.test_probabilities)
    found = evaluate(first.test_probabilities, targets(stores[2], task), first.thresholds, task)
    assert found["micro_f1"] > 0.95  # each document kept its own labels


def test_a_sample_is_never_empty(stores, task, monkeypatch):
    monkeypatch.setattr("flash_sparse_apps.scores.linear_baseline.MOST_TOKENS", 10)
    assert linear_baseline(*stores, 101, 4, task).train_documents == 1


def test_bars_are_shown_where_asked_for(stores, task, capsys, monkeypatch):
    monkeypatch.setattr("flash_sparse_datasets.shared.progress.INTERVAL", 0)
    linear_baseline(*stores, 50, 4, task)
    assert capsys.readouterr().err == ""
    linear_baseline(*stores, 50, 4, task, progress=True)
    err = capsys.readouterr().err
    assert "counting tokens" in err
    assert "linear model" in err


def test_counts_tokens_and_pairs(tmp_path):
    store = make_store(tmp_path, "counts", [Document("x", "5 6 5 6", ()), Document("y", "", ())])
    counts = _count(store, range(2), 100)
    assert counts.shape == (2, (1 << 20) + 7)
    tokens = counts[:, 1 << 20 :].toarray()
    assert tokens.tolist() == [[1, 0, 0, 0, 0, 2, 2], [1, 0, 0, 0, 0, 0, 0]]
    pairs = counts[:, : 1 << 20]
    assert sorted(pairs[[0]].data) == [1, 1, 2]  # 0 5, 6 5, and 5 6 twice
    assert pairs[[1]].nnz == 0


def test_one_training_document(tmp_path):
    documents = [Document("x", "5 6", ("a",))]
    one, other = make_store(tmp_path, "one", documents), make_store(tmp_path, "other", [Document("y", "7", ("b",))])
    result = linear_baseline(one, other, other, 10, 4, "single-label")
    assert result.test_predictions.tolist() == [0]


def test_balanced_weights_let_a_rare_label_count_as_much(tmp_path, monkeypatch):
    """Texts that do not tell: the squared hinge loss then has its least at the difference of the classes' weights."""
    monkeypatch.setattr("flash_sparse_apps.scores.linear_baseline.fit_temperature", lambda *unused: 1.0)
    documents = [Document(str(i), "10 11 12", ("a",) if i % 5 == 0 else ("b",)) for i in range(20)]
    stores = [make_store(tmp_path, name, documents) for name in ("train", "validation", "test")]
    plain, balanced = (
        linear_baseline(*stores, 10, len(LABELS), "multi-label", balanced=flag).test_probabilities[0, :2]
        for flag in (False, True)
    )
    assert plain == pytest.approx(1 / (1 + np.exp([0.6, -0.6])), abs=0.02)
    assert balanced == pytest.approx(np.array([0.5, 0.5]), abs=0.02)
