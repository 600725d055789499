"""Figures in plain words."""

from __future__ import annotations

import pytest

from flash_sparse_apps.reports.words import pages, places, plain_sentence


def make_metrics(accuracy=0.68, interval=(0.57, 0.78), documents=85, task="multi-label", **changes) -> dict:
    test = {"accuracy": accuracy, "accuracy_interval": interval, "documents": documents} | changes
    data = {"task": task, "grid": None, "pairs": False, "tokens_per_page": 500}
    return {"test": test, "data": data}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            make_metrics(),
            "Of 10 new documents of this kind, about 7 get exactly the right labels "
            "(6 to 8, as far as the 85 documents in the test can tell).",
        ),
        (
            make_metrics(0.104, (0.1, 0.11), 5000, "single-label"),
            "Of 10 new documents of this kind, about 1 gets the right label (by the 5,000 documents in the test).",
        ),
        (
            make_metrics(0.985, (0.96, 1.0), 200, "single-label"),
            "Of 100 new documents of this kind, about 98 get the right label "
            "(96 to 100, as far as the 200 documents in the test can tell).",
        ),
        (make_metrics(1.0, (1.0, 1.0), 12), "All of the 12 documents in the test got exactly the right labels."),
        (make_metrics(0.0, (0, 0), 12, "single-label"), "None of the 12 documents in the test got the right label."),
        (make_metrics(0.0, (0, 0), 1), "The one document in the test did not get exactly the right labels."),
    ],
)
def test_what_to_expect(metrics, said):
    assert plain_sentence(metrics) == said


def test_labels_one_by_one():
    said = plain_sentence(make_metrics(precision=0.81, recall=0.04))
    assert said.endswith(
        " Of the labels given, about 8 of 10 are right; of the labels there are, about 4 of 100 are found."
    )
    assert plain_sentence(make_metrics(precision=1.0, recall=0.1)).endswith(
        " Of the labels given, all are right; of the labels there are, about 1 of 10 is found."
    )
    assert plain_sentence(make_metrics(precision=None, recall=0.0)) == plain_sentence(make_metrics())


def test_pairs_and_images_are_called_so():
    metrics = make_metrics()
    for key, value, name in (("pairs", True, "pairs of texts"), ("grid", (32, 32), "images")):
        changed = metrics | {"data": metrics["data"] | {key: value}}
        assert plain_sentence(changed).startswith(f"Of 10 new {name} of this kind")
        assert f"85 {name} in the test" in plain_sentence(changed)


@pytest.mark.parametrize(("documents", "decimals"), [(12, 2), (999, 2), (1000, 3), (99_999, 3), (100_000, 4)])
def test_decimals_that_a_test_can_tell_apart(documents, decimals):
    assert places(documents) == decimals


@pytest.mark.parametrize(("tokens", "said"), [(16_384, " (about 33 pages)"), (500, " (about 1 page)"), (96, "")])
def test_pages(tokens, said):
    assert pages(make_metrics(), tokens) == said
    assert pages({"data": {}}, tokens) == ""  # of an older run
