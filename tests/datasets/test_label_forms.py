"""Labels in every form that cells hold: read where it is unambiguous, refused or noted where it is not."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.shared.label_forms import written


def write_table(path: Path, labels, header=("text", "labels")) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *((f"text {i}", label) for i, label in enumerate(labels))])
    return path


def write_rows(path: Path, labels, **more) -> Path:
    rows = ({"text": f"text {i}", "labels": label} | more for i, label in enumerate(labels))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labels_of(dataset) -> dict[str, tuple[str, ...]]:
    parts = (dataset.train, dataset.validation, dataset.test)
    return {document.text: document.labels for part in parts for document in part}


def error_of(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def has_note(dataset, words: str) -> bool:
    return any(words in note for note in dataset.notes)


# Lists as programs print them

LISTS = {
    '["a", "b"]': ["a", "b"],
    "['a', 'b']": ["a", "b"],
    "['a' 'b']": ["a", "b"],
    "['a'\n 'b']": ["a", "b"],
    "[\"it's\" 'b']": ["it's", "b"],
    "[np.str_('a'), np.str_('b')]": ["a", "b"],
    "array(['a', 'b'], dtype='<U1')": ["a", "b"],
    "np.array(['a', 'b'])": ["a", "b"],
    "array(['a', 'b'], dtype=object)": ["a", "b"],
    "('a', 'b')": ["a", "b"],
    "('a',)": ["a"],
    "{'a'}": ["a"],
    "frozenset({'a'})": ["a"],
    "set()": [],
    "()": [],
    "[]": [],
    "[1 2]": [1, 2],
    "[1. 2.]": [1.0, 2.0],
    "[np.int64(1), np.int64(2)]": [1, 2],
    "[True False]": [True, False],
    "[1, 2]": [1, 2],
    " ['a'] ": ["a"],
}


@pytest.mark.parametrize("cell", LISTS)
def test_a_list_in_every_form(cell):
    assert written(cell) == LISTS[cell]


@pytest.mark.parametrize(
    "cell", ["a", "[NEWS]", "[ a", "(other)", "Foo (bar, baz)", "(North, South)", "[Breaking news]"]
)
def test_what_is_no_list_stays_a_label(cell):
    assert written(cell) == cell


def test_what_numpy_really_prints():
    names = np.array(["sport", "the court's", 'said "no"', *(f"label {i}" for i in range(30))])
    assert written(str(names)) == names.tolist()
    assert written(repr(names)) == names.tolist()
    assert written(str(list(names))) == names.tolist()
    assert written(str(np.array([0, 1, 0]))) == [0, 1, 0]


@pytest.mark.parametrize(
    "cell", ["[a, b]", "{a,b}", "[nan]", "[None]", "['a', nan]", "['a' 'b', 'c']", "['a", "array(a)"]
)
def test_an_unclear_list_is_refused_with_its_row(tmp_path, cell):
    if cell == "['a":
        assert written(cell) == cell  # no bracket closes it
        return
    message = error_of(write_table(tmp_path / "a.csv", [*["['a']", "['b']"] * 10, cell]))
    assert message.startswith("a.csv row 22: 'labels' is ")
    assert "looks like a list and is none, expected quotes around each label" in message


def test_a_list_that_was_shortened_is_refused(tmp_path):
    cell = str(np.array([f"label {i}" for i in range(2000)]))
    message = error_of(write_table(tmp_path / "a.csv", [*["['a']", "['b']"] * 10, cell]))
    assert "a list that was shortened when it was written, expected all of it" in message


def test_brackets_and_quotes_do_not_count_beside_a_separator(tmp_path):
    path = write_table(tmp_path / "a.csv", ["('sport', 'law')", "[law]", "sport", "[]"] * 5)
    dataset = load(path, label_separator=",")
    assert dataset.labels == ("law", "sport")
    assert labels_of(dataset)["text 0"] == ("law", "sport")
    assert labels_of(dataset)["text 3"] == ()


# Zeros and ones


@pytest.mark.parametrize("hot", [[0, 1, 0], [False, True, False], [0.0, 1.0, 0.0], ["0", "1", "0"]])
def test_multi_hot_lists(tmp_path, hot):
    other = [hot[1], hot[0], hot[1]]
    expected = {"text 0": ("1",), "text 1": ("0", "2")}
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        path = tmp_path / name
        if name == "a.jsonl":
            write_rows(path, [hot, other] * 10)
        elif name == "a.parquet":
            pq.write_table(pa.table({"text": [f"text {i}" for i in range(20)], "labels": [hot, other] * 10}), path)
        else:
            write_table(path, [str(np.array(values)) for values in [hot, other] * 10])
        dataset = load(path)
        assert (dataset.task, dataset.labels) == ("multi-label", ("0", "1", "2"))
        assert expected.items() <= labels_of(dataset).items()
        assert has_note(dataset, "'labels' holds lists of 3 zeros and ones, read as multi-hot: the labels are named by")


def test_multi_hot_with_a_separator_and_one_hot_as_single_label(tmp_path):
    path = write_table(tmp_path / "a.csv", ["0;1", "1;0"] * 10)
    assert labels_of(load(path, label_separator=";"))["text 0"] == ("1",)
    path = write_rows(tmp_path / "a.jsonl", [[0, 1], [1, 0]] * 10)
    dataset = load(path, task="single-label")
    assert (dataset.task, dataset.labels, labels_of(dataset)["text 0"]) == ("single-label", ("0", "1"), ("1",))
    write_rows(path, [*[[0, 1], [1, 0]] * 10, [1, 1]])
    assert "expected exactly one label" in error_of(path, task="single-label")


def test_bare_zeros_and_ones_are_a_list_where_all_rows_have_them(tmp_path):
    dataset = load(write_table(tmp_path / "a.csv", ["0 1 0", "1 0 1"] * 10))
    assert (dataset.task, dataset.labels) == ("multi-label", ("0", "1", "2"))
    assert labels_of(dataset)["text 0"] == ("1",)
    path = write_table(tmp_path / "b.csv", ["0 1", "1 1", "2 5"] * 10)
    for task in ("single-label", "multi-label"):
        assert load(path, task=task).labels == ("0 1", "1 1", "2 5")
    message = error_of(path)
    assert "row 4: 'labels' is a single label, but a list in row 2, expected them alike (or task to say" in message


@pytest.mark.parametrize("hot", ["0 1 0", "[0, 1, 0]"])
@pytest.mark.parametrize("odd", ["", "law"])
def test_a_row_that_is_left_out_does_not_say_that_others_are_not_multi_hot(tmp_path, hot, odd):
    path = write_table(tmp_path / "a.csv", [*[hot, "[1, 0, 1]"] * 10, odd])
    dataset = load(path, bad_rows="skip")
    assert labels_of(dataset)["text 0"] == ("1",)
    assert has_note(dataset, "1 documents left out that cannot be read: row 22: 'labels' is a single label, but a list")


@pytest.mark.parametrize("empty", ["", "[]"])
def test_multi_hot_lists_beside_an_empty_one_are_not_read_as_names(tmp_path, empty):
    path = write_table(tmp_path / "a.csv", [*["[0, 1, 0]", "[1, 0, 1]"] * 10, empty])
    message = error_of(path, task="multi-label")
    assert message == "a.csv row 22: 'labels' holds 0 zeros and ones, expected 3 as in other rows"


def test_lists_that_are_not_multi_hot(tmp_path):
    for labels in ([[0, 1], [1], [0]], [[0, 2], [1, 0]], [["0"], ["1"]]):
        dataset = load(write_rows(tmp_path / "a.jsonl", labels * 10))
        assert not has_note(dataset, "multi-hot")
        assert labels_of(dataset)["text 0"] == tuple(sorted(str(label) for label in labels[0]))
    message = error_of(write_rows(tmp_path / "a.jsonl", [*[[0, 1, 0], [1, 0, 1]] * 10, [1, 0]]))
    assert message == "a.jsonl line 21: 'labels' holds 2 zeros and ones, expected 3 as in other rows"


def test_parts_that_write_labels_differently(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [[0, 1, 0], [1, 0, 1]] * 10)
    test = write_rows(tmp_path / "t.jsonl", [["0"], ["1"]])
    assert error_of(path, test=test) == (
        "t.jsonl: lists of no zeros and ones as labels, but 3 zeros and ones in training, expected them alike"
    )


def test_a_list_that_repeats_a_label_is_noted(tmp_path):
    dataset = load(write_rows(tmp_path / "a.jsonl", [["a", "b"], ["b", "a", "b"]] * 10))
    path = tmp_path / "a.jsonl"
    note = f"{path}: 10 rows repeat a label in their list, which counts once (first: {path} line 2)"
    assert note in dataset.notes


def test_columns_that_are_labels(tmp_path):
    rows = [
        ["text", "sport", "law"],
        *([f"text {i}", *[("1", "0"), ("x", ""), ("TRUE", "false")][i % 3]] for i in range(30)),
    ]
    rows[7][2] = "yes"
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    dataset = load(tmp_path / "a.csv", label_fields=["sport", "law"])
    assert (dataset.task, dataset.labels) == ("multi-label", ("law", "sport"))
    assert labels_of(dataset)["text 0"] == ("sport",)
    assert labels_of(dataset)["text 6"] == ("law", "sport")
    with open(tmp_path / "a.csv", "a", newline="") as file:
        csv.writer(file).writerow(["more", "2", "0"])
    message = error_of(tmp_path / "a.csv", label_fields=["sport", "law"])
    assert message.startswith(
        "a.csv row 32: 'sport' is '2', expected 1 or x for a row that has this label, 0 or nothing"
    )
    assert "no field 'tax' (label_fields)" in error_of(tmp_path / "a.csv", label_fields=["sport", "tax"])


# Labels that may be meant otherwise


def test_cells_that_hold_several_labels(tmp_path):
    clauses = ["Anti-Assignment; Cap On Liability", "Cap On Liability", "Anti-Assignment", "Exclusivity"]
    dataset = load(write_table(tmp_path / "a.csv", clauses * 10))
    assert has_note(
        dataset, "'Anti-Assignment; Cap On Liability' count as one each; to part them: --label-separator ';'"
    )
    path = write_table(tmp_path / "b.csv", [*clauses * 10, "", "  "])
    message = error_of(path)
    assert message.startswith("b.csv: 2 documents cannot be read")
    assert "row 42: 'labels' has an empty label" in message
    assert message.endswith("; to part them: --label-separator ';'")
    dataset = load(path, label_separator=";")
    assert dataset.labels == ("Anti-Assignment", "Cap On Liability", "Exclusivity")
    assert not has_note(dataset, "--label-separator")


def test_errors_name_the_row_of_a_spreadsheet_and_the_id(tmp_path):
    rows = [
        ("id", "text", "label"),
        *((f"C-{i}", f"two\nlines {i}", "ab"[i % 2]) for i in range(20)),
        ("C-x", "text", ""),
    ]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    message = error_of(tmp_path / "a.csv", id_field="id")
    assert message.startswith("a.csv row 22 (line 42), id 'C-x': 'label' has an empty label")


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A", "#N/A"])
def test_words_for_nothing_are_noted(tmp_path, word):
    dataset = load(write_table(tmp_path / "a.csv", ["a", "b", word, "a"] * 10))
    assert word in dataset.labels
    note = f"learned as labels like any other, though they may stand for none: {word!r} on 10 documents"
    assert note in dataset.notes


@pytest.mark.parametrize("word", ["nan", "#REF!", "None"])
def test_texts_that_are_words_for_nothing_are_noted(tmp_path, word):
    rows = [*((f"text {i}", "ab"[i % 2]) for i in range(20)), (word, "a"), (f" {word}", "b")]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    note = "a.csv: 2 of 22 texts are a word that may stand for none, such as nan (first: "
    assert has_note(load(tmp_path / "a.csv"), note)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("law", "Law"),
        ("n\u00e9", "ne\u0301"),
        ("1", "1.0"),
        ("a b", "a  b"),
        ("sport", "sport,"),
        ("\ufb01", "fi"),
        ("law", "law\u200b"),
    ],
)
def test_labels_that_look_alike_are_noted(tmp_path, one, other):
    dataset = load(write_rows(tmp_path / "a.jsonl", [one, other, "z"] * 10))
    shown = map(ascii if "\u0301" in other else repr, sorted((one, other)))  # the same signs in other codes
    assert f"learned as different labels, though they look alike: {' and '.join(shown)}" in dataset.notes
    assert len(dataset.labels) == 3


@pytest.mark.parametrize("labels", [("A", "A+", "A-"), ("C", "C++", "C#"), ("1", "10", "1.5")])
def test_labels_that_only_resemble_each_other_are_not(tmp_path, labels):
    assert not has_note(load(write_rows(tmp_path / "a.jsonl", labels * 10)), "look alike")


def test_numbers_that_are_measured_are_noted(tmp_path):
    dataset = load(write_table(tmp_path / "a.csv", ["0.5", "1.5", "2"] * 10, ("text", "label")))
    assert "labels such as '0.5' are numbers; each is learned as a class of its own" in dataset.notes
    assert not has_note(load(write_table(tmp_path / "b.csv", ["0", "1.0", "a"] * 10)), "are numbers")
    assert not has_note(load(write_table(tmp_path / "c.csv", ["0.0", "1.0"] * 10)), "are numbers")


def test_a_separator_that_parts_nothing_is_noted(tmp_path):
    path = write_table(tmp_path / "a.csv", ["a; b", "a", "c"] * 10)
    assert has_note(load(path, label_separator="|"), "a.csv: --label-separator '|' parts the labels of no row")
    assert not has_note(load(path, label_separator=";"), "--label-separator")


def test_a_separator_between_quotes_does_not_count(tmp_path):
    path = write_table(tmp_path / "a.csv", ['"law, civil", tax', '"law, civil"', "['tax', 'x']", "x"] * 10)
    assert load(path, label_separator=",").labels == ("law, civil", "tax", "x")
    path = write_table(tmp_path / "b.csv", ['a, "b', 'a\n, "c"', "a"] * 10)
    assert load(path, label_separator=",").labels == ('"b', "a", "c")


@pytest.mark.parametrize(("typed", "separator"), [("\\n", "\n"), ("\\t", "\t")])
def test_separators_that_cannot_be_typed(tmp_path, typed, separator):
    path = write_table(tmp_path / "a.csv", [f"a{separator}b", "a", "c"] * 10)
    dataset = load(path, label_separator=typed)
    assert dataset.labels == ("a", "b", "c")
    assert not has_note(dataset, "--label-separator")


def test_labels_that_are_never_tested_are_counted(tmp_path):
    dataset = load(write_rows(tmp_path / "a.jsonl", [["a"], ["b"]] * 20 + [["rare"]]))
    (note,) = [note for note in dataset.notes if "no test document" in note]
    assert note == "1 of 3 labels have no test document, so that the scores say nothing of them: ['rare']"


# The same text more than once


def test_equal_texts_with_different_labels(tmp_path):
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)] + [("text 0", "b"), ("text 3", "b"), ("text 0", "c")]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    dataset = load(path)
    note = (
        f"texts that stand in several places with different labels, which no model can learn: 1 (first: {path} line 1 "
        f"and {path} line 41); --join-rows makes each one document with all of its labels"
    )
    assert note in dataset.notes

    joined = load(path, join_rows=True)
    assert (joined.task, joined.labels) == ("multi-label", ("a", "b", "c"))
    found = labels_of(joined)
    assert sum(map(len, (joined.train, joined.validation, joined.test))) == len(found) == 40
    assert (found["text 0"], found["text 3"], found["text 4"]) == (("a", "b", "c"), ("b",), ("a",))
    assert labels_of(joined) == found  # a second reading
    assert not has_note(joined, "--join-rows")
    assert joined.fingerprint != load(path, task="multi-label").fingerprint


def test_equal_files_in_two_class_folders(tmp_path):
    for i in range(20):
        for label in "ab" if i % 5 == 0 else "ab"[i % 2]:
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / f"{i}.txt").write_text(f"text {i}")
    assert has_note(
        load(tmp_path), "texts that stand in several places with different labels, which no model can learn: 4"
    )
    dataset = load(tmp_path, join_rows=True)
    assert labels_of(dataset)["text 5"] == ("a", "b")
    assert dataset.task == "multi-label"


def test_joined_rows_in_a_test_file(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["a", "b"] * 20)
    test = tmp_path / "t.jsonl"
    test.write_text(
        "".join(
            json.dumps({"text": text, "labels": label}) + "\n" for text, label in [("x", "a"), ("y", "b"), ("x", "b")]
        )
    )
    dataset = load(path, test=test, join_rows=True)
    assert [(document.text, document.labels) for document in dataset.test] == [("x", ("a", "b")), ("y", ("b",))]


# Bad rows


def test_all_bad_rows_are_told_or_left_out(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["a", "b"] * 20)
    bad = [
        "{}",
        '{"text": "", "labels": "a"}',
        "broken",
        '{"text": "x", "labels": null}',
        '{"text": "x", "labels": ["a"]}',
    ]
    lines = path.read_text().splitlines()
    for place, line in zip((0, 0, 10, 30, 41), bad, strict=True):
        lines.insert(place, line)
    path.write_text("\n".join(lines))
    message = error_of(path)
    assert message.startswith(
        "a.jsonl: 5 documents cannot be read, expected them mended, or bad_rows to be skip: line 1: "
    )
    for part in (
        "line 1: 'text' is empty",
        "line 2: has no field",
        "line 11: broken JSON",
        "'labels' is null",
        "a list",
    ):
        assert part in message
    dataset = load(path, bad_rows="skip")
    assert labels_of(dataset) == {f"text {i}": ("ab"[i % 2],) for i in range(40)}
    assert labels_of(dataset) == labels_of(dataset)
    assert has_note(dataset, f"{path}: 5 documents left out that cannot be read: line 1: 'text' is empty")
    path.write_text("\n".join(lines + ["{}"] * 20))
    message = error_of(path)
    assert message.count("; line ") == 9
    assert message.endswith("; and 15 more")
    path.write_text("\n".join(['{"text": "", "labels": "a"}'] * 3))
    assert "3 documents cannot be read" in error_of(path, bad_rows="skip")


def test_bad_rows_of_a_table_and_of_folders(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)) + 'x\n"a" b,a\n,a\n')
    dataset = load(path, bad_rows="skip")
    assert len(labels_of(dataset)) == 20
    assert has_note(dataset, "3 documents left out that cannot be read: row 22: the row has 1 cells")
    for i in range(20):
        (tmp_path / "f" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        content = {3: b"", 4: b" \n", 5: b"caf\xe9"}.get(i, b"text %d" % i)
        (tmp_path / "f" / "ab"[i % 2] / f"{i}.txt").write_bytes(content)
    message = error_of(tmp_path / "f")
    assert "f: 3 documents cannot be read" in message
    for part in ("4.txt: the text is empty", "3.txt: the file is empty", "5.txt line 1: 0xe9"):
        assert part in message
    dataset = load(tmp_path / "f", bad_rows="skip")
    assert len(labels_of(dataset)) == 17
