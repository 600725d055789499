"""How one's own documents are dealt out: with each label's share, in folds, and as an earlier run had them."""

import hashlib
import json
import random
from collections import Counter

import numpy as np
import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.shared.seeded_split import row_key, seeded_split

CLASSES = {"often": 140, "sometimes": 40, "seldom": 20}


def write(path, rows):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


@pytest.fixture
def rows():
    labels = [label for label, count in CLASSES.items() for _ in range(count)]
    random.Random(0).shuffle(labels)
    return [(f"text {number}", label) for number, label in enumerate(labels)]


@pytest.fixture
def file(tmp_path, rows):
    return write(tmp_path / "mine.jsonl", rows)


def splits(dataset) -> dict[str, dict]:
    """Split -> text -> labels."""
    parts = ("train", "validation", "test")
    return {part: {document.text: document.labels for document in getattr(dataset, part)} for part in parts}


def by_texts_alone(rows, seed=0) -> list[str]:
    """The texts of the test where labels play no part."""
    keys = np.array([row_key(seed, hashlib.sha256(text.encode()).digest()) for text, _ in rows], "S16")
    names = sorted({label for _, label in rows})
    ids = np.array([names.index(label) for _, label in rows], np.intc)
    split = seeded_split(keys, np.arange(len(rows) + 1), ids, 0.1, 0.1)
    return [text for (text, _), part in zip(rows, split, strict=True) if part == 2]


# With each label's share


def test_each_split_has_each_labels_share(file):
    for seed in range(5):
        dataset = load(file, split_seed=seed)
        assert "each with every label's share" in dataset.description
        for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            counts = Counter(labels[0] for labels in splits(dataset)[part].values())
            assert counts == {label: round(share * count) for label, count in CLASSES.items()}
    assert splits(dataset) != splits(load(file, split_seed=9))


def test_the_order_of_the_rows_does_not_count(tmp_path, rows, file):
    turned = write(tmp_path / "turned.jsonl", rows[::-1])
    assert splits(load(file)) == splits(load(turned))


def test_texts_that_stand_several_times_stay_together(tmp_path, rows):
    many = [row for row in rows for _ in range(3)] + [("everywhere", "often")] * 200
    dataset = load(write(tmp_path / "many.jsonl", many))
    parts = {part: set(texts) for part, texts in splits(dataset).items()}
    assert not parts["train"] & parts["test"]
    assert not parts["validation"] & (parts["train"] | parts["test"])
    assert "everywhere" in parts["train"]
    assert len(dataset.test) == pytest.approx(80, abs=3)


def test_without_it_and_where_a_label_has_too_few_the_texts_alone_count(tmp_path, rows, file):
    assert sorted(splits(load(file, stratify=False))["test"]) == sorted(by_texts_alone(rows))
    few = [*rows, ("alone", "once")]
    dataset = load(write(tmp_path / "few.jsonl", few))
    assert sorted(splits(dataset)["test"]) == sorted(by_texts_alone(few))
    assert "share" not in dataset.description


def test_several_labels_are_as_before(tmp_path, rows):
    listed = [(text, [label]) for text, label in rows]
    dataset = load(write(tmp_path / "several.jsonl", listed))
    assert sorted(splits(dataset)["test"]) == sorted(by_texts_alone(rows))
    assert dataset.fingerprint == load(tmp_path / "several.jsonl", stratify=False).fingerprint


# Folds


@pytest.mark.parametrize("several", [False, True])
def test_each_document_is_tested_once_and_never_trained_on_in_that_fold(tmp_path, rows, several):
    rows = [*rows, *rows[:30]]  # some texts twice
    path = write(tmp_path / "a.jsonl", [(text, [label]) for text, label in rows] if several else rows)
    tested = Counter()
    for fold in range(1, 6):
        dataset = load(path, folds=5, fold=fold)
        parts = splits(dataset)
        assert f"5 folds, of which number {fold} is the test" in dataset.description
        assert not parts["test"].keys() & (parts["train"].keys() | parts["validation"].keys())
        assert not parts["validation"].keys() & parts["train"].keys()
        assert len(dataset.validation) >= 15
        tested.update(parts["test"].keys())
        if not several:
            counts = Counter(labels[0] for labels in parts["test"].values())
            assert counts == {label: count / 5 for label, count in CLASSES.items()}
    assert tested == Counter(text for text, _ in rows[:200])


def test_what_no_other_document_teaches_is_trained_on_and_said(tmp_path, rows):
    path = write(tmp_path / "a.jsonl", [*rows, ("alone", "once")])
    tested, notes = set(), []
    for fold in range(1, 6):
        dataset = load(path, folds=5, fold=fold)
        tested |= splits(dataset)["test"].keys()
        assert "alone" in splits(dataset)["train"]
        assert "once" in dataset.labels
        notes += dataset.notes
    assert tested == {text for text, _ in rows}
    assert len(notes) == 1
    assert "1 documents are trained on, not tested" in notes[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 5}, "fold is None, expected one from 1 to folds, 5"),
        ({"folds": 5, "fold": 6}, "fold is 6, expected one from 1 to folds, 5"),
        ({"folds": 200, "fold": 1}, "mine.jsonl: 200 different texts are too few for 200 folds"),
        ({"folds": 5, "fold": 1, "test": "here"}, "a test of its own, expected none beside folds"),
    ],
)
def test_wrong_folds_are_one_line(tmp_path, file, rows, options, said):
    if "test" in options:
        options = options | {"test": write(tmp_path / "held.jsonl", [("new", "often")])}
    with pytest.raises(ValueError, match=said):
        load(file, **options)


# As an earlier run had them


def keep(dataset, folder):
    """What a run writes of its splits."""
    folder.mkdir()
    np.savez(folder / "split.npz", **dataset.text_hashes)
    return folder / "split.npz"


@pytest.mark.parametrize("stratify", [False, True])
def test_documents_of_an_earlier_run_keep_their_parts(tmp_path, rows, file, stratify):
    before = splits(load(file, stratify=stratify))
    path = keep(load(file, stratify=stratify), tmp_path / "run")
    more = [*rows[::2], *((f"new {number}", "sometimes") for number in range(300)), *rows[1::2]]
    larger = write(tmp_path / "larger.jsonl", more)
    elsewhere = splits(load(larger, stratify=stratify))
    dataset = load(larger, stratify=stratify, keep_split=path)
    now = splits(dataset)
    for part in now:
        assert before[part].keys() <= now[part].keys(), part
    moved = sum(text not in elsewhere[part] for part in before for text in before[part])
    assert moved > 0
    assert [
        note for note in dataset.notes if f"{moved} documents stay in the part that they had in {path.parent}" in note
    ]
    assert any(text.startswith("new") for text in now["test"])


def test_what_a_run_before_that_one_had_counts_too(tmp_path, rows, file):
    first = keep(load(file), tmp_path / "first")
    new = [(f"new {number}", "often" if number % 3 else "seldom") for number in range(100)]
    second = load(write(tmp_path / "other.jsonl", new), keep_split=first)
    third = load(file, split_seed=7, keep_split=keep(second, tmp_path / "second"))
    assert splits(third) == splits(load(file))


def test_a_test_file_with_documents_that_were_trained_on_is_said(tmp_path, rows, file):
    path = keep(load(file), tmp_path / "run")
    trained = list(splits(load(file))["train"].items())[:7]
    held = write(tmp_path / "held.jsonl", [*((text, labels[0]) for text, labels in trained), ("new", "often")])
    dataset = load(write(tmp_path / "b.jsonl", [(f"b {n}", label) for n, (_, label) in enumerate(rows)]), test=held,
                   keep_split=path)  # fmt: skip
    assert f"test: 7 of 8 documents were in the training of {path.parent}: scores flatter there" in dataset.notes


def test_the_same_documents_are_no_news(tmp_path, file):
    path = keep(load(file), tmp_path / "run")
    assert load(file, keep_split=path).notes == load(file).notes
    assert load(file, keep_split=path).fingerprint == load(file).fingerprint


def test_a_damaged_split_is_named(tmp_path, file):
    (tmp_path / "split.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"split.npz: no split of a run .*expected what that run wrote there"):
        load(file, keep_split=tmp_path / "split.npz")
