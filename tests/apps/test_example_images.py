"""Test images in a run's report: which are shown, and as what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from flash_sparse_apps.reports import figures
from flash_sparse_apps.training import example_images
from flash_sparse_apps.training.example_images import find_images

TRUTH = np.array([0, 1, 0, 1, 0, 1, 0, 1])  # (N,)
DATASET = SimpleNamespace(labels=("no", "<yes>"), grid=(2, 3))


class Store:
    """Image n has pixels n, n + 1, ..."""

    def __len__(self):
        return len(TRUTH)

    def label_indices(self, index):
        return TRUTH[index : index + 1]

    def tokens(self, index, count):
        return np.arange(index, index + min(count, 6))


def find(predictions: np.ndarray, count: int, seed: int = 0, seq_len: int = 6):
    probabilities = np.full((len(TRUTH), 2), 0.25)  # (N, 2)
    probabilities[np.arange(len(TRUTH)), predictions] = 0.75
    return find_images(DATASET, Store(), seq_len, probabilities, predictions, count, seed)


def test_as_many_right_as_wrong_and_each_as_it_is():
    predictions = np.where(np.arange(8) < 3, 1 - TRUTH, TRUTH)  # the first three are wrong
    found = find(predictions, 2)
    assert [example.right for example in found] == [True, True, False, False]
    for example in found:
        row = int(example.pixels[0, 0])
        assert (example.pixels == np.arange(row, row + 6).reshape(2, 3)).all()
        assert example.label == DATASET.labels[TRUTH[row]]
        assert example.given == DATASET.labels[predictions[row]]
        assert example.right == (row >= 3)
        assert example.probability == 0.75
    chosen = {tuple(int(example.pixels[0, 0]) for example in find(predictions, 2, seed)) for seed in range(8)}
    assert len(chosen) > 1


def test_what_is_not_read_is_not_shown():
    (example,) = find(TRUTH, 1, seq_len=4)
    assert np.isnan(example.pixels).tolist() == [[False] * 3, [False, True, True]]
    assert "data:image/png" in figures.images([example])


def test_few_or_none_of_a_kind():
    assert [example.right for example in find(TRUTH, 3)] == [True] * 3
    assert [example.right for example in find(1 - TRUTH, 20)] == [False] * 8
    assert find(TRUTH, 0) == []


def test_no_more_than_fit_side_by_side(monkeypatch):
    monkeypatch.setattr(example_images, "MOST", 3)
    assert [example.right for example in find(np.where(np.arange(8) < 4, 1 - TRUTH, TRUTH), 1000)] == [True] * 3 + [
        False
    ] * 3


@pytest.mark.parametrize("wrong", [0, 1, 8])
def test_the_picture_names_label_and_answer(wrong):
    predictions = np.where(np.arange(8) < wrong, 1 - TRUTH, TRUTH)
    examples = find(predictions, 3)
    drawn = figures.images(examples)
    assert drawn.count("data:image/png;base64,") == len(examples)
    for example in examples:
        shown = {name: name.replace("<", "&lt;").replace(">", "&gt;") for name in (example.label, example.given)}
        assert f"{shown[example.label]}; given {shown[example.given]}, 0.75" in drawn
