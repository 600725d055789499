"""What is wrong with one's own files is said in one line: the file, the row or field, the value, what was expected."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flash_sparse_datasets import DataError, load

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
GOOD = "".join(json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) + "\n" for i in range(20))
GOOD_CSV = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
GOOD_LISTS = "".join(json.dumps({"text": f"text {i}", "labels": ["ab"[i % 2]]}) + "\n" for i in range(20))


def row(**values):
    return json.dumps(values) + "\n"


def error_of(path, content=None, **options):
    """The message of the DataError, which is one line and begins with the file."""
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message.replace(str(path.parent) + os.sep, "")


# Line 21 follows the twenty good lines of JSONL; in CSV it is row 22.
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(label="a"), "line 21: has no field 'text'; its fields are: ['label']"),
        (row(text="x"), "line 21: has no field 'label'; its fields are: ['text']"),
        (row(text=None, label="a"), "line 21: 'text' is null, expected a value"),
        (row(text="x", label=None), "line 21: 'label' is null, expected a value"),
        (row(text="", label="a"), "line 21: 'text' is empty, expected a text"),
        (row(text=" \n\t", label="a"), "line 21: 'text' is empty, expected a text"),
        (row(text=[], label="a"), "line 21: 'text' is empty, expected a text"),
        (row(text=["", " "], label="a"), "line 21: 'text' is empty, expected a text"),
        (row(text=["x", 1], label="a"), "line 21: 'text' has the paragraph 1, expected strings"),
        (row(text=12, label="a"), "line 21: 'text' is 12, expected a string or a list of paragraphs"),
        (row(text={"a": 1}, label="a"), "line 21: 'text' is {'a': 1}, expected a string or a list of paragraphs"),
        (row(text="x", label=""), "line 21: 'label' has an empty label, expected a string, integer or boolean"),
        (row(text="x", label=1.5), "line 21: 'label' has 1.5, expected a string, integer or boolean"),
        (row(text="x", label={"a": 1}), "line 21: 'label' has {'a': 1}, expected a string, integer or boolean"),
        (
            row(text="x", label=["a"]),
            "line 21: 'label' is a list, but a single label in line 1, expected them alike (or task to say which is "
            "meant)",
        ),
        ('{"text": "x"\n', "line 21: broken JSON (Expecting ',' delimiter at column 13), expected one object a line"),
        ("not JSON\n", "line 21: broken JSON (Expecting value at column 1), expected one object a line"),
        (row(text="x", label="a").strip() + "{}\n", "line 21: broken JSON (Extra data at column "),
        ("[1, 2]\n", "line 21: [1, 2] is no JSON object, expected one object a line"),
        ('"a string"\n', "line 21: 'a string' is no JSON object, expected one object a line"),
        ("[" * 100_000 + "\n", "line 21: JSON that cannot be read ("),
        (
            '{"text": "\\ud800 x", "label": "a"}\n',
            "line 21: 'text' holds half a surrogate pair (U+D800), expected valid Unicode",
        ),
        ('{"text": "x", "label": "\\udfff"}\n', "line 21: 'label' holds half a surrogate pair (U+DFFF), expected"),
    ],
)
def test_a_bad_row_of_jsonl(tmp_path, bad, message):
    for name in ("a.jsonl", "a.jsonl.gz"):
        content = (GOOD + bad + GOOD).encode()
        got = error_of(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
        assert got.startswith(f"{name} {message}")


def test_a_bad_row_where_labels_are_lists(tmp_path):
    path = tmp_path / "a.jsonl"
    assert error_of(path, GOOD_LISTS + row(text="x", labels="a")).startswith(
        "a.jsonl line 21: 'labels' is a single label, but a list in line 1, expected them alike"
    )
    assert "line 21: 'labels' has None, expected" in error_of(path, GOOD_LISTS + row(text="x", labels=["a", None]))
    assert "line 21: 'labels' has ['b'], expected" in error_of(path, GOOD_LISTS + row(text="x", labels=["a", ["b"]]))
    assert "line 21: 'labels' is ['a', 'b'], expected exactly one label" in error_of(
        path, GOOD_LISTS + row(text="x", labels=["a", "b"]), task="single-label"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("x\n", "row 22: the row has 1 cells, expected 2 as in the header"),
        ("x,a,more\n", "row 22: the row has 3 cells, expected 2 as in the header"),
        (",a\n", "row 22: 'text' is empty, expected a text"),
        ("x,\n", "row 22: 'label' has an empty label, expected a string, integer or boolean"),
        ('"never closed,a\n', "row 22: broken row (a quoted cell that is never closed)"),
        ('"two\nlines",a\n\n"x" y,a\n', "row 24 (line 25): broken row ("),  # after a row of two lines and a blank
    ],
)
def test_a_bad_row_of_csv_and_tsv(tmp_path, bad, message):
    assert error_of(tmp_path / "a.csv", GOOD_CSV + bad).startswith(f"a.csv {message}")
    assert error_of(tmp_path / "a.tsv", (GOOD_CSV + bad).replace(",", "\t")).startswith(f"a.tsv {message}")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.gz", "a.parquet"])
def test_files_without_rows(tmp_path, name):
    assert error_of(tmp_path / name, b"") == f"{name}: the file is empty"
    blank = gzip.compress(b"\n\n \n"[:2]) if name.endswith("gz") else b"\n\n"
    expected = "damaged Parquet" if name == "a.parquet" else "no rows, only blank lines"
    assert error_of(tmp_path / name, blank).startswith(f"{name}: {expected}")
    if name == "a.csv.gz":
        assert error_of(tmp_path / name, gzip.compress(b"text,label\n")) == "a.csv.gz: a header and no rows"


def test_only_a_header(tmp_path):
    assert error_of(tmp_path / "a.csv", "text,label\n\n") == "a.csv: a header and no rows"
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    assert error_of(tmp_path / "a.parquet") == "a.parquet: columns and no rows"


def test_files_that_are_not_there_or_no_files(tmp_path):
    for name in (tmp_path / "nowhere.csv", "python-stdlibs", ""):
        with pytest.raises(DataError) as caught:
            load(name)
        assert str(caught.value).startswith(
            f"{str(name)!r}: no such file or folder, nor a dataset's name (those are: python-stdlib, "
        )
    (tmp_path / "a.csv").write_text(GOOD_CSV)
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read \(No such file or directory\), expected a file"):
        load(tmp_path / "a.csv", test=tmp_path / "nowhere.csv")
    assert error_of(tmp_path / "a.md", b"x").startswith("a.md: unknown kind of file, expected one of .csv .tsv")
    assert error_of(tmp_path / "a.xlsx", b"x").startswith("a.xlsx: damaged, or not an Excel workbook")
    assert error_of(tmp_path / "a.xls", b"x") == "a.xls: .xls cannot be read, expected it saved as .xlsx"
    assert error_of(tmp_path / "a.parquet.gz", b"x").startswith("a.parquet.gz: unknown kind of file, expected one of")
    (tmp_path / "folder.csv").mkdir()
    assert error_of(tmp_path / "folder.csv").startswith("folder.csv: expected class folders with documents, or train")
    os.mkfifo(tmp_path / "pipe.csv")
    assert error_of(tmp_path / "pipe.csv") == "pipe.csv: a pipe or device, expected a regular file"
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "gone")
    assert error_of(tmp_path / "dangling.csv").startswith("dangling.csv: cannot be read (No such file or directory)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_permission_denied(tmp_path):
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_text(GOOD)
        (tmp_path / name).chmod(0)
        assert error_of(tmp_path / name).startswith(f"{name}: ")
        assert "Permission denied" in error_of(tmp_path / name)


def test_permission_denied_by_a_stand_in(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(GOOD_CSV)

    def denied(path, encoding=None):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("flash_sparse_datasets.shared.row_files.row_file.open_text", denied)
    assert error_of(tmp_path / "a.csv") == "a.csv: cannot be read (Permission denied)"


def test_wrong_field_names(tmp_path):
    for name, content in (("a.csv", GOOD_CSV), ("a.jsonl", GOOD)):
        path = tmp_path / name
        fields = "its fields are: 'text', 'label'"
        hint = "one of them may name files (file_field)"
        assert error_of(path, content, text_field="body") == f"{name}: no field 'body' (text_field); {fields}; {hint}"
        assert error_of(path, content, label_field="topic") == f"{name}: no field 'topic' (label_field); {fields}"
        assert error_of(path, content, id_field="key") == f"{name}: no field 'key' (id_field); {fields}"
    pq.write_table(pa.table({"text": ["x"], "topic": ["y"]}), tmp_path / "a.parquet")
    expected = "a.parquet: no field 'labels' or 'label' (label_field); its fields are: 'text', 'topic'"
    assert error_of(tmp_path / "a.parquet") == expected
    assert error_of(tmp_path / "b.csv", "text,label,labels\nx,a,b\n") == (
        "b.csv: has both fields 'labels' and 'label', expected label_field to say which"
    )
    assert error_of(tmp_path / "c.csv", "text,x,x\nx,a,b\n") == (
        "c.csv: two columns are named 'x', expected different names"
    )
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"]), pa.array(["a"])], names=["text", "text", "label"])
    pq.write_table(twice, tmp_path / "c.parquet")
    assert error_of(tmp_path / "c.parquet").startswith("c.parquet: two columns are named 'text'")
    many = ",".join(f"column{i}" for i in range(1000))
    said = error_of(tmp_path / "d.csv", f"{many}\n{many.replace('column', 'x')}\n")
    assert said.endswith("'column19', ...; one of them may name files (file_field)")


def test_bad_ids(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2], "id": i} for i in range(20)]
    for bad in (None, 1.5, "", True, [1]):
        rows[7]["id"] = bad
        got = error_of(tmp_path / "a.jsonl", "".join(row(**r) for r in rows), id_field="id")
        assert got.startswith("a.jsonl line 8: 'id' is ")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.gz"])
def test_bytes_that_are_not_utf8(tmp_path, name):
    good = (GOOD_CSV if "csv" in name else GOOD).encode()
    lines = good.splitlines(keepends=True)
    lines[11] = lines[11].replace(b"text", b"caf\xe9")
    content = b"".join(lines) + good * 3000  # far more than is decoded at a time
    at = lines[11].index(b"\xe9") + 1
    got = error_of(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert got.startswith(f"{name} line 12: 0xe9 at its byte {at} is not UTF-8 (as cp1252 it reads ")
    assert "café" in got
    assert got.endswith("), expected UTF-8 text or --encoding")


def test_damaged_gzip(tmp_path):
    texts = random.Random(0)
    lines = [row(text=f"{texts.random()} {i}", label="ab"[i % 2]) for i in range(5000)]
    packed = gzip.compress("".join(lines).encode())
    assert error_of(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2]).startswith(
        "a.jsonl.gz: damaged or cut off gzip after line 2"
    )
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 255
    broken[len(packed) // 2 + 1] ^= 255
    assert error_of(tmp_path / "a.jsonl.gz", bytes(broken)).startswith("a.jsonl.gz")
    wrong_sum = packed[:-8] + b"\0" * 8
    assert "damaged or cut off gzip after line 5000" in error_of(tmp_path / "a.jsonl.gz", wrong_sum)
    assert "damaged or cut off gzip after line 0" in error_of(tmp_path / "a.csv.gz", GOOD_CSV)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i} " * 50 for i in range(500)], "label": ["a", "b"] * 250}), path)
    whole = path.read_bytes()
    assert error_of(path, whole[: len(whole) // 2]).startswith("a.parquet: damaged Parquet, or none (")
    assert error_of(path, GOOD).startswith("a.parquet: damaged Parquet, or none (")
    broken = bytearray(whole)
    broken[4:200] = b"\xff" * 196  # in the first pages
    assert error_of(path, bytes(broken)).startswith("a.parquet: damaged Parquet, or none (")


def test_parquet_values_of_other_types(tmp_path):
    path = tmp_path / "a.parquet"

    def message(text, label):
        pq.write_table(pa.table({"text": text, "label": label}), path)
        return error_of(path)

    labels = ["a", "b", "a"]
    assert message(["x", "y", None], labels) == "a.parquet row 3: 'text' is null, expected a value"
    assert message(["x", b"y".decode(), ""], labels).startswith("a.parquet row 3: 'text' is empty")
    assert message([b"x", b"y", b"z"], labels).startswith(
        "a.parquet: 3 documents cannot be read, expected them mended, or bad_rows to be skip: row 1: 'text' is b'x', "
    )
    assert message(["x", "y", "z"], [1.0, 2.5, 1.0]).startswith("a.parquet row 2: 'label' has 2.5, expected a string")
    bad = pa.array([b"x", b"caf\xe9", b"y"]).view(pa.string())
    assert message(bad, labels) == "a.parquet row 2: a string that is not UTF-8"


def test_unseen_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    for split in ("validation", "test"):
        (tmp_path / "b.jsonl").write_text(row(text="one", label="a") + "\n" + row(text="two", label="z\n" * 99))
        with pytest.raises(DataError) as caught:
            load(tmp_path / "a.jsonl", **{split: tmp_path / "b.jsonl"})
        assert str(caught.value).startswith(f"{tmp_path / 'b.jsonl'} line 3: the label 'z\\nz\\n")
        assert "is not in the training documents" in str(caught.value)
    (tmp_path / "b.jsonl").write_text(row(text="one", label="z"))
    with pytest.raises(DataError, match="none of its labels is in the training documents"):
        load(tmp_path / "a.jsonl", test=tmp_path / "b.jsonl", unseen_labels="ignore")


def test_too_few_rows_or_classes(tmp_path):
    path = tmp_path / "a.jsonl"
    assert error_of(path, row(text="x", label="a") + row(text="y", label="b")).startswith(
        "a.jsonl: 2 rows are too few to split"
    )
    one_class = "".join(row(text=f"text {i}", label="a") for i in range(20))
    assert error_of(path, one_class) == (
        "a.jsonl: all training documents have the one label 'a', expected at least two classes"
    )
    none = "".join(row(text=f"text {i}", labels=[]) for i in range(20))
    assert error_of(path, none) == "a.jsonl: no document has a label, expected labels to learn"
    same = "".join(row(text="same", label="ab"[i % 2]) for i in range(20))
    assert error_of(path, same).startswith("a.jsonl: 20 rows are too few to split, validation would be empty")
    load_ok = "".join(row(text=f"text {i}", labels=["a"] * (i % 2)) for i in range(20))
    path.write_text(load_ok)
    assert load(path).labels == ("a",)  # to have the label or not is a task


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_path_for_a_split(tmp_path, split):
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=f"{split} is '', expected a file or folder"):
        load(tmp_path / "a.jsonl", **{split: ""})


def test_one_file_for_two_splits(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    for same in ("a.jsonl", "link.jsonl"):
        with pytest.raises(DataError, match=rf"{same}: given for both train and test, expected different files"):
            load(tmp_path / "a.jsonl", test=tmp_path / same)
    (tmp_path / "b.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"b\.jsonl: given for both validation and test"):
        load(tmp_path / "a.jsonl", validation=tmp_path / "b.jsonl", test=tmp_path / "b.jsonl")


def test_files_of_different_tasks(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "b.jsonl").write_text(GOOD_LISTS)
    with pytest.raises(DataError, match=r"b\.jsonl: multi-label, but .*a\.jsonl is single-label"):
        load(tmp_path / "a.jsonl", test=tmp_path / "b.jsonl")


def make(folder, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(GOOD if name.endswith("jsonl") else f"text of {name}")
    return folder


def test_folders_that_cannot_be_read(tmp_path):
    assert "it holds ['data.jsonl']" in error_of(make(tmp_path / "a", "data.jsonl"))
    both = error_of(make(tmp_path / "b", "train.jsonl", "val.jsonl", "dev.jsonl"))
    assert both == "b: both dev.jsonl and val.jsonl, expected one file for validation"
    assert error_of(make(tmp_path / "c", "test.jsonl")) == (
        "c: test.jsonl and nothing for training, expected train too"
    )
    assert "expected class folders" in error_of(make(tmp_path / "d", "train/1.txt", "test/2.txt"))
    assert error_of(make(tmp_path / "e", "x/1.md", "y/2.md")) == (
        "e: no documents (.txt .txt.gz .pdf .docx .html .htm) in its class folders"
    )
    assert error_of(make(tmp_path / "f", "x/1.txt", "y/deep/2.txt")) == (
        f"f{os.sep}y{os.sep}deep: a folder in the class folder 'y', expected documents"
    )
    folder = make(tmp_path / "g", *(f"{'xy'[i % 2]}/{i}.txt" for i in range(20)))
    assert error_of(folder, task="multi-label").startswith("g: class folders give each file one label")
    (folder / "x" / "4.txt").write_text(" \n")
    assert error_of(folder) == f"g{os.sep}x{os.sep}4.txt: the text is empty, expected a text"
    (folder / "x" / "4.txt").write_bytes(b"one\ncaf\xe9")
    assert error_of(folder) == (
        f"g{os.sep}x{os.sep}4.txt line 2: 0xe9 at its byte 4 is not UTF-8 (as cp1252 it reads 'café'), expected UTF-8 "
        "text or --encoding"
    )
    (folder / "x" / "4.txt").write_bytes(b"")
    assert error_of(folder) == f"g{os.sep}x{os.sep}4.txt: the file is empty"


def test_a_file_that_changes_after_loading(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    dataset = load(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text(GOOD + GOOD)
    with pytest.raises(DataError, match=r"a\.jsonl: changed since it was first read"):
        list(dataset.train)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(No such file or directory\)"):
        list(dataset.train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 0}, "validation_share is 0, expected a share between 0 and 1"),
        ({"test_share": 1.5}, "test_share is 1.5, expected a share between 0 and 1"),
        ({"validation_share": 0.5, "test_share": 0.5}, "expected a sum below 1"),
        ({"task": "regression"}, "task is 'regression', expected 'auto', 'single-label' or 'multi-label'"),
        ({"label_separator": ""}, "label_separator is '', expected at least one character"),
        ({"unseen_labels": "drop"}, "unseen_labels is 'drop', expected 'error' or 'ignore'"),
        ({"text_feld": "x"}, "has no option 'text_feld'; it has: text_field, label_field, id_field, validation"),
        ({"path": "x"}, "has no option 'path'"),
        ({"root": "/"}, "root is for named datasets"),
    ],
)
def test_arguments(tmp_path, options, message):
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(tmp_path / "a.jsonl", **options)
    assert not isinstance(caught.value, DataError)


def test_a_split_given_twice(tmp_path):
    folder = make(tmp_path / "a", "train.jsonl", "test.jsonl")
    (tmp_path / "b.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=r"already has test\.jsonl, expected one"):
        load(folder, test=tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "error: 'nothing': no such file or folder, nor a dataset's name (those are: python-stdlib, "),
        (("listops",), "error: one of the arguments --output --root is required\n"),
        (("imdb", "--level", "words"), "error: argument --level: invalid choice: 'words' (choose from "),
    ],
)
def test_wrong_flags_of_the_commands_are_one_line(arguments, message):
    done = subprocess.run([sys.executable, DOOR, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(message)
