"""Which labels are taken for one another, and which documents are wrong although the model was sure."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from flash_sparse_apps.scores.mistakes import (
    DOCUMENTS,
    PAIRS,
    micro_precision_recall,
    most_confused,
    surest_mistakes,
)


def test_pairs_of_a_single_label_task():
    targets, predictions = np.array([0, 0, 2, 1, 2, 0]), np.array([1, 1, 0, 1, 0, 2])
    assert most_confused(targets, predictions) == [(0, 1, 2), (2, 0, 2), (0, 2, 1)]
    assert most_confused(targets, targets) == []


def test_pairs_of_a_multi_label_task():
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=np.uint8)
    predictions = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 1]], dtype=np.uint8)
    assert most_confused(targets, predictions) == [(0, 1, 2), (0, 2, 2)]  # nothing is missed where one is only added
    assert most_confused(targets, targets) == []


def test_there_are_only_so_many():
    many = np.arange(100)
    assert len(most_confused(many, np.roll(many, 1))) == PAIRS
    assert len(surest_mistakes(np.full((100, 100), 0.01), many, np.roll(many, 1), None)) == DOCUMENTS


def test_the_surest_come_first():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.02, 0.98], [0.3, 0.7]])
    found = surest_mistakes(probabilities, np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1]), None)
    assert [(each.row, each.label, each.given, each.confidence) for each in found] == [
        (2, 1, True, 0.98), (0, 0, True, 0.9), (3, 1, True, 0.7)
    ]  # fmt: skip


def test_what_is_withheld_is_a_mistake_too():
    probabilities = np.array([[0.9, 0.05], [0.8, 0.3], [0.9, 0.2]])
    even = np.array([0.5, 0.5])
    targets = np.array([[1, 1], [0, 0], [1, 0]], dtype=np.uint8)
    predictions = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.uint8)
    found = surest_mistakes(probabilities, targets, predictions, even)
    assert [(each.row, each.label, each.given, each.confidence) for each in found] == [
        (0, 1, False, 0.95), (1, 0, True, 0.8)
    ]  # fmt: skip
    assert surest_mistakes(probabilities, predictions, predictions, even) == []
    # a rare label is seldom probable: 0.05 is no surprise where 0.06 would do
    rare = surest_mistakes(probabilities, targets, predictions, np.array([0.5, 0.06]))
    assert [(each.row, each.given) for each in rare] == [(1, True), (0, False)]


def test_precision_and_recall_over_all_labels():
    targets, predictions = (np.array(rows, dtype=np.uint8) for rows in ([[1, 1], [0, 1]], [[1, 0], [1, 0]]))
    assert micro_precision_recall(targets, predictions) == {"precision": 1 / 2, "recall": 1 / 3}
    assert micro_precision_recall(0 * targets, 0 * targets) == {"precision": None, "recall": None}


def test_a_run_lists_its_mistakes_unless_they_are_confidential(multi_label_run, single_label_run):
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    rows = [json.loads(line) for line in (multi_label_run / "predictions.jsonl").read_text().splitlines()]
    wrong = [row for row in rows if row["labels"] != row["predicted"]]
    assert len(metrics["mistakes"]) == min(DOCUMENTS, len(wrong)) > 0
    for mistake in metrics["mistakes"]:
        row = rows[mistake["row"]]
        assert (mistake["id"], mistake["labels"], mistake["predicted"]) == (row["id"], row["labels"], row["predicted"])
        share = row["probabilities"][mistake["label"]]
        assert np.isclose(mistake["confidence"], share if mistake["given"] else 1 - share)
        assert (mistake["label"] in row["predicted"]) == mistake["given"] != (mistake["label"] in row["labels"])
    single = json.loads((single_label_run / "metrics.json").read_text())
    assert single["mistakes"] == []  # --examples 0
    rows = [json.loads(line) for line in (single_label_run / "predictions.jsonl").read_text().splitlines()]
    wrong = [(*row["labels"], *row["predicted"]) for row in rows if row["labels"] != row["predicted"]]
    pairs = {(pair["label"], pair["given"]): pair["documents"] for pair in single["confusions"]}
    assert pairs == Counter(wrong)
    assert pairs
