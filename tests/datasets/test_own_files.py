"""One's own files: formats, labels, layouts of folders, splits, fingerprints."""

import csv
import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flash_sparse_datasets
from flash_sparse_datasets import load
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN, VALIDATION, row_key, seeded_split

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
ROWS = [(f"document {i} says {'yes' if i % 3 else 'no'}", "ab"[i % 2]) for i in range(40)]
ODD_TEXTS = [
    "plain",
    " leading space, comma; \"quotes\" and 'more'",
    "two\nlines\r\nand a third\rand a fourth",
    "tab\tinside",
    "naïve façade 日本語 \U0001f600 \u2028 \u0085 \x0b \x0c \ufeff",
    "back\\slash \\n \\u0041",
    '"',
    '""',
    "x" * 200_000,
]


def write_rows(path, rows, text="text", label="label"):
    """Write (text, label) rows in the format of the path's ending."""
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({text: [row[0] for row in rows], label: [row[1] for row in rows]}), path)
        return path
    with (gzip.open if name.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        if ".jsonl" in name:
            for value, labels in rows:
                file.write(json.dumps({text: value, label: labels}, ensure_ascii=False) + "\n")
        else:
            writer = csv.writer(file, delimiter="\t" if ".tsv" in name else ",")
            writer.writerow([text, label])
            writer.writerows(rows)
    return path


def contents(dataset):
    return {
        split: [(document.text, document.labels) for document in getattr(dataset, split)]
        for split in ("train", "validation", "test")
    }


def everything(dataset):
    return sorted(row for rows in contents(dataset).values() for row in rows)


FORMATS = ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.parquet", "A.CSV"]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_documents_and_split(tmp_path, name):
    dataset = load(write_rows(tmp_path / name, ROWS))
    assert dataset.name == name
    assert (dataset.task, dataset.labels, dataset.notes) == ("single-label", ("a", "b"), ())
    assert everything(dataset) == sorted((text, (label,)) for text, label in ROWS)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [32, 4, 4]
    assert contents(dataset) == contents(load(write_rows(tmp_path / "reference.jsonl", ROWS)))
    assert contents(dataset) == contents(dataset)  # may be iterated again
    assert contents(pickle.loads(pickle.dumps(dataset))) == contents(dataset)  # worker processes


@pytest.mark.parametrize("name", FORMATS)
def test_odd_texts_come_back_unchanged(tmp_path, name):
    rows = [(text, f"label {i % 2}") for i, text in enumerate(ODD_TEXTS)]
    assert everything(load(write_rows(tmp_path / name, rows))) == sorted((text, (label,)) for text, label in rows)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_random_texts_come_back_unchanged(tmp_path, name):
    random = np.random.default_rng(0)
    alphabet = [*"abc \t\n\r\",;\\'{}[]", "\r\n", "é", "日", "\U0001f600", "\u2028", "\u00a0", "\x1f", "\x7f"]
    if sys.version_info >= (3, 11) or name in ("a.jsonl", "a.parquet"):  # the csv module of 3.10 rejects NUL
        alphabet.append("\0")
    rows = [("x" + "".join(random.choice(alphabet, random.integers(0, 30))), "ab"[i % 2]) for i in range(300)]
    assert everything(load(write_rows(tmp_path / name, rows))) == sorted((text, (label,)) for text, label in rows)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_any_line_ending_byte_order_mark_and_blank_lines(tmp_path, name, ending):
    lines = write_rows(tmp_path / name, ROWS).read_text().splitlines()
    lines.insert(3, "")
    (tmp_path / name).write_bytes(("\ufeff" + ending.join(lines)).encode())  # no line end at the end
    assert everything(load(tmp_path / name)) == sorted((text, (label,)) for text, label in ROWS)


def test_text_as_a_list_of_paragraphs(tmp_path):
    for name in ("a.jsonl", "a.parquet"):
        dataset = load(write_rows(tmp_path / name, [([text, "second"], label) for text, label in ROWS]))
        assert everything(dataset) == sorted((text + "\n\nsecond", (label,)) for text, label in ROWS)


def test_labels_of_every_kind(tmp_path):
    def labels(values, name="a.jsonl", **options):
        rows = [(f"text {i}", values[i % len(values)]) for i in range(12)]
        dataset = load(write_rows(tmp_path / name, rows), **options)
        return dataset.task, dataset.labels

    assert labels([3, 10]) == ("single-label", ("10", "3"))
    assert labels([True, False]) == ("single-label", ("false", "true"))
    assert labels([" spaced ", "spaced", "other"]) == ("single-label", ("other", "spaced"))
    assert labels([["b", "a", "b"], []]) == ("multi-label", ("a", "b"))
    assert labels([[1, True], ["x"]]) == ("multi-label", ("1", "true", "x"))
    assert labels(["a", "b"], task="multi-label") == ("multi-label", ("a", "b"))
    assert labels([["a"], ["b"]], task="single-label") == ("single-label", ("a", "b"))
    assert labels(["a; b", "b;", ""], "a.csv", label_separator=";") == ("multi-label", ("a", "b"))
    assert labels(["a", ""], "a.csv", task="multi-label") == ("multi-label", ("a",))
    assert labels([3, 10], "a.parquet") == ("single-label", ("10", "3"))
    assert labels([[3, 10], []], "a.parquet") == ("multi-label", ("10", "3"))


def test_parquet_categories_and_large_strings(tmp_path):
    texts = pa.array([text for text, _ in ROWS], pa.large_string())
    labels = pa.array([label for _, label in ROWS]).dictionary_encode()
    pq.write_table(pa.table({"text": texts, "label": labels, "a.b": labels}), tmp_path / "a.parquet")
    expected = sorted((text, (label,)) for text, label in ROWS)
    assert everything(load(tmp_path / "a.parquet")) == expected
    assert everything(load(tmp_path / "a.parquet", label_field="a.b")) == expected


def test_documents_labels_are_sorted_and_known(tmp_path):
    rows = [(f"text {i}", ["b", "a"]) for i in range(12)] + [("nothing", [])]
    dataset = load(write_rows(tmp_path / "a.jsonl", rows, label="labels"))
    assert {labels for rows in contents(dataset).values() for _, labels in rows} == {("a", "b"), ()}


def test_field_names_and_ids(tmp_path):
    rows = [{"body": text, "topic": label, "n": i} for i, (text, label) in enumerate(ROWS)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    dataset = load(path, text_field="body", label_field="topic")
    assert {d.id for d in dataset.train} <= {f"a.jsonl:{2 * i + 1}" for i in range(40)}  # every other line is blank
    dataset = load(path, text_field="body", label_field="topic", id_field="n")
    assert all(ROWS[int(document.id)][0] == document.text for document in dataset.test)


def write_class_folders(folder, rows):
    for i, (text, label) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        write = gzip.open if i % 2 else open
        with write(folder / label / f"{i}.txt{'.gz' if i % 2 else ''}", "wt", encoding="utf-8", newline="") as file:
            file.write(text)
    return folder


def test_class_folders(tmp_path):
    dataset = load(write_class_folders(tmp_path / "mine", ROWS))
    assert (dataset.name, dataset.task, dataset.labels) == ("mine", "single-label", ("a", "b"))
    assert everything(dataset) == sorted((text, (label,)) for text, label in ROWS)
    assert {document.id for document in dataset.train} <= {
        f"{label}/{i}.txt{'.gz' if i % 2 else ''}" for i, (_, label) in enumerate(ROWS)
    }
    (tmp_path / "mine" / "README.md").write_text("about")
    (tmp_path / "mine" / ".hidden").mkdir()
    (tmp_path / "mine" / "a" / "notes.odt").write_text("x")
    (note,) = load(tmp_path / "mine").notes
    assert "2 (first:" in note
    assert "README.md" in note


@pytest.mark.parametrize("validation", ["validation", "val", "dev"])
def test_folders_of_splits(tmp_path, validation):
    for split, rows in (("train", ROWS[:30]), (validation, ROWS[30:35]), ("test", ROWS[35:])):
        write_class_folders(tmp_path / "folders" / split, rows)
        (tmp_path / "files").mkdir(exist_ok=True)
        write_rows(tmp_path / "files" / f"{split}.{'csv.gz' if split == 'test' else 'jsonl'}", rows)
    folders, files = load(tmp_path / "folders"), load(tmp_path / "files")
    for dataset in (folders, files):
        for split, rows in (("train", ROWS[:30]), ("validation", ROWS[30:35]), ("test", ROWS[35:])):
            assert sorted(contents(dataset)[split]) == sorted((text, (label,)) for text, label in rows)


def test_a_folder_with_train_and_test_draws_the_validation_documents(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS[:30])
    write_rows(tmp_path / "test.jsonl", ROWS[30:])
    dataset = load(tmp_path)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 10]
    assert [text for text, _ in contents(dataset)["test"]] == [text for text, _ in ROWS[30:]]
    assert dataset.fingerprint != load(tmp_path, split_seed=1).fingerprint


def test_explicit_files(tmp_path):
    main = write_rows(tmp_path / "a.csv", ROWS[:30])
    held = write_rows(tmp_path / "b.jsonl", ROWS[30:35])
    folder = write_class_folders(tmp_path / "c", ROWS[35:])
    dataset = load(main, validation=held, test=folder)
    assert sorted(contents(dataset)["test"]) == sorted((text, (label,)) for text, label in ROWS[35:])
    assert contents(dataset)["validation"] == [(text, (label,)) for text, label in ROWS[30:35]]
    assert len(dataset.train) == 30


def test_a_symbolic_link_is_followed(tmp_path):
    write_class_folders(tmp_path / "real", ROWS)
    (tmp_path / "linked").mkdir()
    for label in "ab":
        (tmp_path / "linked" / label).symlink_to(tmp_path / "real" / label)
    assert everything(load(tmp_path / "linked")) == everything(load(tmp_path / "real"))


# Splits


def split_by_hand(texts, labels, seed=0, shares=(0.1, 0.1)):
    import hashlib

    keys = np.array([row_key(seed, hashlib.sha256(text.encode()).digest()) for text in texts], "S16")
    names = sorted({label for row in labels for label in row})
    ids = np.array([names.index(label) for row in labels for label in row], np.intc)
    offsets = np.cumsum([0, *map(len, labels)])
    return seeded_split(keys, offsets, ids, *shares)


def test_equal_texts_stay_together_and_the_shares_hold():
    texts = [f"text {i // 4}" for i in range(1000)]
    split = split_by_hand(texts, [["a"]] * 1000)
    assert (split.reshape(250, 4) == split.reshape(250, 4)[:, :1]).all()
    assert [int((split == s).sum()) for s in (TRAIN, VALIDATION, TEST)] == [800, 100, 100]
    assert (split != split_by_hand(texts, [["a"]] * 1000, seed=1)).any()


def test_a_text_that_is_most_of_the_rows_goes_to_training():
    for seed in range(20):
        split = split_by_hand(["same"] * 70 + [f"text {i}" for i in range(30)], [["a"]] * 100, seed)
        assert (split[:70] == TRAIN).all()
        assert [int((split == s).sum()) for s in (VALIDATION, TEST)] == [10, 10]


def test_every_label_is_in_training_by_its_first_row():
    for seed in range(30):
        labels = [["common"] for _ in range(60)]
        labels[10], labels[20], labels[30] = ["rare", "common"], ["rare"], ["once"]
        split = split_by_hand([f"text {i}" for i in range(60)], labels, seed)
        rare = [int(split[10]), int(split[20])]
        assert split[30] == TRAIN
        assert TRAIN in rare
        plain = split_by_hand([f"text {i}" for i in range(60)], [["common"]] * 60, seed)
        moved = np.flatnonzero(split != plain)
        expected = {30} if plain[30] != TRAIN else set()
        if plain[10] != TRAIN and plain[20] != TRAIN:
            expected.add(10)
        assert set(moved.tolist()) == expected


def test_rows_of_equal_text_move_to_training_together():
    labels = [["a"]] * 50 + [["rare"], ["a"]]
    texts = [f"text {i}" for i in range(50)] + ["twin", "twin"]
    for seed in range(30):
        assert split_by_hand(texts, labels, seed)[50:].tolist() == [TRAIN, TRAIN]


def test_the_split_does_not_depend_on_the_order_of_the_rows(tmp_path):
    one, other = load(write_rows(tmp_path / "a.csv", ROWS)), load(write_rows(tmp_path / "b.csv", ROWS[::-1]))
    assert {k: sorted(v) for k, v in contents(one).items()} == {k: sorted(v) for k, v in contents(other).items()}


def test_the_fingerprint_follows_content_and_split(tmp_path):
    def fingerprint(rows, **options):
        return load(write_rows(tmp_path / "a.jsonl", rows), **options).fingerprint

    before = fingerprint(ROWS)
    assert before == fingerprint(ROWS)
    assert before != fingerprint([(ROWS[0][0] + " ", ROWS[0][1]), *ROWS[1:]])
    assert before != fingerprint([(ROWS[0][0], "b"), *ROWS[1:]])
    assert before != fingerprint([(text, [label]) for text, label in ROWS])  # the task
    assert before != fingerprint(ROWS, split_seed=1)
    assert before != fingerprint(ROWS, test_share=0.2)


def test_the_same_in_another_process_with_another_hash_seed(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [(text, [label, "c"]) for text, label in ROWS])
    write_rows(tmp_path / "b.jsonl", [("new", ["x", "y", "z", "a"]), (ROWS[0][0], ["q", "b"])])
    code = (
        "import sys, flash_sparse_datasets as d\n"
        "s = d.load(sys.argv[1], test=sys.argv[2], unseen_labels='ignore')\n"
        "documents = [(x.id, x.labels) for split in (s.train, s.validation, s.test) for x in split]\n"
        "print(s.fingerprint, s.labels, s.notes, documents)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / "b.jsonl"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1


def test_duplicates_of_training_texts_are_noted(tmp_path):
    main = write_rows(tmp_path / "a.jsonl", ROWS)
    test = write_rows(tmp_path / "t.jsonl", [("new", "a"), *ROWS[:40]])
    notes = load(main, validation=write_rows(tmp_path / "v.jsonl", [("other", "b")]), test=test).notes
    assert notes == (f"test: 40 of 41 documents have a text that is also in training (first: {test} line 2)",)


def test_unseen_labels_ignored(tmp_path):
    main = write_rows(tmp_path / "a.jsonl", ROWS)
    test = write_rows(tmp_path / "t.jsonl", [("one", "a"), ("two", "z"), ("three", "b")])
    dataset = load(main, test=test, unseen_labels="ignore")
    assert contents(dataset)["test"] == [("one", ("a",)), ("three", ("b",))]
    assert dataset.notes == (
        f"test: documents left out, whose label is not in training: 1 (first: {test} line 2, 'z')",
    )

    main = write_rows(tmp_path / "a.jsonl", [(text, [label]) for text, label in ROWS])
    test = write_rows(tmp_path / "t.jsonl", [("one", ["a"]), ("two", ["z", "y", "b"]), ("three", [])])
    dataset = load(main, test=test, unseen_labels="ignore")
    assert contents(dataset)["test"] == [("one", ("a",)), ("two", ("b",)), ("three", ())]
    assert dataset.notes == (
        f"test: documents without those labels that are not in training: 1 (first: {test} line 2, 'y')",
    )
    assert dataset.labels == ("a", "b")


# The script


def run_script(*arguments):
    return subprocess.run([sys.executable, DOOR, *arguments], capture_output=True, text=True, check=False)


def test_the_script_prints_statistics(tmp_path):
    path = write_rows(tmp_path / "a.csv", ROWS, text="body", label="topic")
    done = run_script(path, "--text-field", "body", "--label-field", "topic")
    assert (done.returncode, done.stderr) == (0, "")
    train = next(line for line in done.stdout.splitlines() if line.startswith("train "))
    assert train.split() == ["train", "32", "128", "4", "4", "4", "1.00"]


def test_the_script_says_bad_data_in_one_line(tmp_path):
    done = run_script(tmp_path / "missing.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: '{tmp_path / 'missing.csv'}': no such file or folder, nor a dataset's name")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_enough(tmp_path):
    path = write_rows(tmp_path / "a.csv", ROWS)
    command = f'"{sys.executable}" "{DOOR}" "{path}" | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a.csv: single-label")
    assert done.stderr == ""


def test_splits_named_as_on_the_hub(tmp_path):
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}-00000-of-00001.parquet", ROWS)
    dataset = load(tmp_path)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [len(ROWS)] * 3


@pytest.mark.parametrize("write", [json.dumps, str], ids=["json", "python"])
def test_a_cell_that_is_a_list_has_several_labels(tmp_path, write):
    labels = [["sport", "cook"], ["cook"], ["sport"], []] * 5
    path = write_rows(tmp_path / "lists.csv", [(f"text {i}", write(given)) for i, given in enumerate(labels)])
    dataset = flash_sparse_datasets.load(path)
    assert (dataset.task, dataset.labels) == ("multi-label", ("cook", "sport"))
    found = {text: given for split in contents(dataset).values() for text, given in split}
    assert found == {f"text {i}": tuple(sorted(given)) for i, given in enumerate(labels)}


def test_a_label_in_brackets_is_a_label(tmp_path):
    path = write_rows(tmp_path / "tags.csv", [(f"text {i}", ["[NEWS]", "[ a"][i % 2]) for i in range(20)])
    dataset = flash_sparse_datasets.load(path)
    assert (dataset.task, dataset.labels) == ("single-label", ("[ a", "[NEWS]"))


@pytest.mark.parametrize(
    ("labels", "separator"),
    [
        (["law;space", "law", "space", "law;tax"], ";"),
        (["a|b", "b|c"], "|"),
        (["Arts, crafts", "Sports"], None),  # one name with a comma
        (["R&D; other", "sales", "support", "law"], None),  # a few
        (["a", "b"], None),
    ],
)
def test_labels_that_seem_to_be_several_are_noted(tmp_path, labels, separator):
    path = write_rows(tmp_path / "a.csv", [(f"text {number}", labels[number % len(labels)]) for number in range(80)])
    notes = [note for note in load(path).notes if "--label-separator" in note]
    assert len(notes) == (separator is not None)
    if separator is not None:
        assert notes[0].startswith(f"labels such as {sorted(labels)[0 if separator == '|' else 1]!r} count as one each")
        assert not load(path, label_separator=separator).notes


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["Sport", "sport", "news"], "'Sport' and 'sport'"),
        (["caf\u00e9", "cafe\u0301", "news"], "'cafe\\u0301' and 'caf\\xe9'"),
        (["\ufb01t", "FIT", "ma\u00dfe", "MASSE"], "'FIT' and 'ﬁt', 'MASSE' and 'maße'"),
    ],
)
def test_labels_that_people_take_for_one_are_noted(tmp_path, labels, shown):
    rows = [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load(tmp_path / "a.jsonl")
    assert dataset.labels == tuple(sorted(labels))
    note = f"labels that differ by case or Unicode form alone count as different: {shown}"
    assert [said for said in dataset.notes if "case" in said] == [note]
    rows = [row | {"label": "ab"[i % 2]} for i, row in enumerate(rows)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not any("case" in said for said in load(tmp_path / "a.jsonl").notes)
