"""Labelling new texts with a run folder."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_sparse_apps import predict
from flash_sparse_apps.prediction.new_documents import NewDocument, Reading, read_all, read_documents

SCRIPT = Path(__file__).parents[2] / "apps" / "predict.py"


@pytest.fixture
def label(capsys):
    """Run the command; exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = predict.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def objects(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_predictions_are_those_of_the_runs_own_test(task, label, planted_files, request):
    run = request.getfixturevalue(f"{task.replace('-', '_')}_run")
    code, out, _ = label(run, planted_files[task], "--id-field", "name")
    assert code == 0
    if task == "multi-label":  # its ids are the field
        found = {row["id"]: row for row in objects(out)}
    else:  # its ids are file name and line
        found = {f"{planted_files[task].name}:{number}": row for number, row in enumerate(objects(out), 1)}
    tested = objects((run / "predictions.jsonl").read_text())
    assert len(tested) >= 10
    for row in tested:
        assert found[row["id"]]["labels"] == row["predicted"]
        assert found[row["id"]]["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)


def test_a_moved_run_needs_neither_data_nor_checkpoints(label, multi_label_run, tmp_path):
    text = tmp_path / "new.txt"
    text.write_text("word1 keyword0 word2")
    shutil.copytree(multi_label_run / "model", tmp_path / "elsewhere" / "model")
    assert label(tmp_path / "elsewhere", text) == label(multi_label_run, text)
    assert label(tmp_path / "elsewhere" / "model", text)[0] == 0


def test_every_kind_of_file_gives_the_same(label, multi_label_run, tmp_path):
    texts = ["word1 keyword0", 'word2, "keyword1"\nword3', "日本 keyword3"]
    for number, text in enumerate(texts):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["body"], *[[text] for text in texts]])
    pyarrow.parquet.write_table(pyarrow.table({"body": texts}), tmp_path / "a.parquet")
    results = []
    for name in ("folder", "a.jsonl", "a.csv", "a.parquet"):
        code, out, err = label(multi_label_run, tmp_path / name, "--text-field", "body")
        assert (code, err) == (0, "")
        results.append([row["probabilities"] for row in objects(out)])
    assert len(results[0]) == 3
    assert results == [results[0]] * 4


def test_what_is_cut_is_said(label, multi_label_run, tmp_path):
    (tmp_path / "long.txt").write_text("word1 " * 200)
    (tmp_path / "short.txt").write_text("word1")
    code, out, err = label(multi_label_run, tmp_path / "long.txt", tmp_path / "short.txt")
    assert code == 0
    long, short = objects(out)
    assert (long["truncated"], short["truncated"]) == (True, False)
    assert long["tokens"] > 96
    assert err == "note: 1 of 2 documents are longer than 96 tokens and were cut\n"


def test_order_and_batches_do_not_matter(label, multi_label_run, planted_files):
    _, together, _ = label(multi_label_run, planted_files["multi-label"])
    _, alone, _ = label(multi_label_run, planted_files["multi-label"], "--tokens-per-batch", "1")
    for one, other in zip(objects(together), objects(alone), strict=True):
        assert one["id"] == other["id"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_csv_and_table_say_the_same_as_jsonl(label, multi_label_run, planted_files):
    data = planted_files["multi-label"]
    rows = objects(label(multi_label_run, data)[1])
    lines = list(csv.DictReader(io.StringIO(label(multi_label_run, data, "--format", "csv")[1])))
    assert len(lines) == 4 * len(rows)
    for row in rows:
        mine = [line for line in lines if line["id"] == row["id"]]
        assert {line["label"]: float(line["probability"]) for line in mine} == row["probabilities"]
        assert {line["label"] for line in mine if line["predicted"] == "True"} == set(row["labels"])
    table = label(multi_label_run, data, "--format", "table")[1].splitlines()
    assert len(table) == 1 + len(rows)
    for row, line in zip(rows, table[1:], strict=True):
        for name in row["probabilities"]:
            assert (f"{name} {row['probabilities'][name]:.3f}" in line) == (name in row["labels"])


def test_the_table_shows_the_thresholds_that_labels_have_reached(label, multi_label_run, planted_files):
    data = planted_files["multi-label"]
    described = json.loads((multi_label_run / "model" / "classifier.json").read_text())
    thresholds = dict(zip(described["labels"], described["thresholds"], strict=True))
    rows = objects(label(multi_label_run, data)[1])
    lines = label(multi_label_run, data, "--format", "table")[1].splitlines()[1:]
    assert any(row["labels"] for row in rows)
    for row, line in zip(rows, lines, strict=True):
        for name in row["labels"]:
            assert f"{name} {row['probabilities'][name]:.3f} (from {thresholds[name]:.3f})" in line


def test_a_table_tells_the_terminal_nothing(label, multi_label_run, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "keyword0 \x1b[2J \x9b2J", "name": "\x1b]0;title\x07 a"}))
    given = ("--id-field", "name", "--format", "table", "--evidence")
    code, out, _ = label(multi_label_run, tmp_path / "a.jsonl", *given)
    assert code == 0
    assert "\ufffd]0;title\ufffd a" in out
    assert all(character.isprintable() for character in out.replace("\n", ""))


def test_the_table_of_a_single_label_run_has_no_thresholds(label, single_label_run, planted_files):
    assert "(from" not in label(single_label_run, planted_files["single-label"], "--format", "table")[1]


def test_top_k_lists_the_most_probable_and_whatever_is_given(label, multi_label_run, planted_files):
    everything = objects(label(multi_label_run, planted_files["multi-label"])[1])
    listed = objects(label(multi_label_run, planted_files["multi-label"], "--top-k", "1")[1])
    assert any(len(row["labels"]) > 1 for row in listed)
    for row, whole in zip(listed, everything, strict=True):
        assert row["labels"] == whole["labels"]
        assert next(iter(row["probabilities"])) == max(whole["probabilities"], key=whole["probabilities"].__getitem__)
        assert row["probabilities"].keys() - row["labels"] <= {next(iter(row["probabilities"]))}
        assert set(row["labels"]) <= row["probabilities"].keys()
        assert row["probabilities"].items() <= whole["probabilities"].items()


@pytest.mark.parametrize("name", ["out.csv", "OUT.CSV", "out.jsonl", "out"])
def test_the_name_of_the_output_says_its_format(label, multi_label_run, tmp_path, name):
    (tmp_path / "a.txt").write_text("word1")
    assert label(multi_label_run, tmp_path / "a.txt", "--output", tmp_path / name) == (0, "", "")
    kind = "csv" if name.lower().endswith("csv") else "jsonl"
    expected = label(multi_label_run, tmp_path / "a.txt", "--format", kind)[1]
    assert (tmp_path / name).read_bytes() == expected.encode()


def test_output_file_is_whole_or_not_there(label, multi_label_run, tmp_path):
    (tmp_path / "good.jsonl").write_text('{"text": "word1"}\n')
    target = tmp_path / "out.jsonl"
    code, out, _ = label(multi_label_run, tmp_path / "good.jsonl", "--output", target)
    assert (code, out) == (0, "")
    assert len(objects(target.read_text())) == 1
    (tmp_path / "bad.jsonl").write_text('{"text":\n')
    before = set(tmp_path.iterdir())
    code, _, err = label(multi_label_run, tmp_path / "bad.jsonl", "--output", tmp_path / "other.jsonl")
    assert code == 2
    assert "line 1" in err
    assert set(tmp_path.iterdir()) == before


def test_an_output_larger_than_memory_is_written_as_it_is_made(tmp_path):
    pieces = (b"%d" % (number % 10) * 2**20 for number in range(100))
    tracemalloc.start()
    try:
        predict._write(pieces, tmp_path / "out.jsonl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out.jsonl").stat().st_size == 100 * 2**20
    assert peak < 5 * 2**20


def test_a_text_on_standard_input(multi_label_run):
    command = [sys.executable, str(SCRIPT), str(multi_label_run), "-", "--accelerator", "cpu"]
    done = subprocess.run(command, input=b"word1 keyword0\n", capture_output=True)
    assert done.returncode == 0, done.stderr
    (row,) = objects(done.stdout.decode())
    assert row["id"] == "-"
    assert row["tokens"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding_of_stdout(multi_label_run, tmp_path, encoding):
    (tmp_path / "café 😀.txt").write_text("word1 keyword3")
    command = [sys.executable, str(SCRIPT), str(multi_label_run), str(tmp_path), "--accelerator", "cpu"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    (row,) = objects(done.stdout.decode("utf-8"))
    assert row["id"].endswith("café 😀.txt")
    assert "日本" in row["probabilities"]
    assert ("café" in done.stdout.decode("utf-8")) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "/not/there.txt"], "/not/there.txt: no such file"),
        (["/not/there", "/not/there.txt"], "/not/there: no such folder; expected the folder of a finished run"),
        (["/not/a/run", "FILE"], "/not/a/run"),
        (["RUN", ""], "the name of a file is empty"),
        (["RUN", "EMPTY_FOLDER"], "no documents (.txt .txt.gz .pdf .docx .html .htm) in this folder"),
        (["RUN", "PIPES"], "a pipe or device"),
        (["RUN", "FILE", "--output", ""], "--output is ''; expected a file"),
        (["RUN", "FILE", "--output", "EMPTY_FOLDER"], "expected a file"),
        (["RUN", "FILE", "--output", "FILE"], "which is to be read"),
        (
            ["RUN", "FILE", "--output", "out.ods"],
            "--output is out.ods; expected a name that ends in .jsonl, .csv, .xlsx",
        ),
        (["RUN", "FILE", "--output", "out.csv", "--format", "xlsx"], "a name that suits --format xlsx"),
        (["RUN", "FILE", "--output", "out.xlsx", "--format", "wide-csv"], "a name that suits --format wide-csv"),
        (["RUN", "FILE", "--format", "xlsx"], "expected an --output as well, such as out.xlsx"),
        (["RUN", "FILE", "--output", "out.csv", "--format", "jsonl"], "a name that suits --format jsonl"),
        (["RUN", "LATIN"], "UTF-8"),
        (["RUN", "BLANK"], "blank.txt: the text is empty, expected a text"),
        (["RUN", "ROWS", "--text-field", "body"], "no field 'body' (--text-field)"),
        (["RUN", "NUMBERS"], "line 1: 'text' is 7, expected a string or a list of paragraphs"),
        (["RUN", "FILE", "--top-k", "0"], "--top-k is 0"),
        (["RUN", "FILE", "--output", "/not/there/out.jsonl"], "/not/there"),
    ],
)
def test_mistakes_are_one_line(label, multi_label_run, tmp_path, arguments, said):
    (tmp_path / "a.txt").write_text("word1")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "rows.jsonl").write_text('{"text": "word1", "id": 1}\n{"text": "word1"}\n')
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "a.txt")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "numbers.jsonl").write_text('{"text": 7}\n')
    (tmp_path / "empty").mkdir()
    places = {
        **{"RUN": multi_label_run, "FILE": tmp_path / "a.txt", "EMPTY_FOLDER": tmp_path / "empty"},
        **{"PIPES": tmp_path / "pipes", "BLANK": tmp_path / "blank.txt"},
        **{"LATIN": tmp_path / "latin.txt", "ROWS": tmp_path / "rows.jsonl", "NUMBERS": tmp_path / "numbers.jsonl"},
    }
    if "/not/there/out.jsonl" in arguments:  # a folder cannot be made below a file, whoever runs this
        arguments = [*arguments[:-1], str(tmp_path / "a.txt" / "out.jsonl")]
        said = "a.txt"
    code, out, err = label(*[places.get(argument, argument) for argument in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert said in err


@pytest.fixture
def some_unreadable(tmp_path) -> list[Path]:
    """Two files, five documents of which cannot be read and three can."""
    rows = [{"text": ""}, {"text": "word1 keyword0"}, {"text": None}, {"text": " "}, {"text": "word2", "id": 5}]
    lines = [json.dumps({"id": number} | row) for number, row in enumerate(rows, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, '{"text": ']))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "texts" / "b.txt").write_text("word3")
    return [tmp_path / "rows.jsonl", tmp_path / "texts"]


def test_what_cannot_be_read_does_not_stop_the_rest(label, multi_label_run, some_unreadable, tmp_path):
    code, out, err = label(multi_label_run, *some_unreadable)
    assert code == 1
    found = objects(out)
    ids = [f"{some_unreadable[0]}:{number}" for number in range(1, 6)]
    assert [row["id"] for row in found] == [
        *ids, f"{some_unreadable[0]}:6", *(str(some_unreadable[1] / name) for name in ("a.txt", "b.txt"))
    ]  # fmt: skip
    errors = ["'text' is empty", None, "'text' is ", "'text' is empty", None, "rows.jsonl line 6", "not UTF-8", None]
    for row, said in zip(found, errors, strict=True):
        assert (row.keys() == {"id", "error"}) == (said is not None)
        assert said is None or said in row["error"]
    assert err == f"5 of 8 documents could not be read, such as: {found[0]['error']}\n"

    # what can be read gets what it gets alone
    good = tmp_path / "good.jsonl"
    good.write_text('{"text": "word1 keyword0"}\n{"text": "word2"}\n{"text": "word3"}\n')
    alone = [row["probabilities"] for row in objects(label(multi_label_run, good)[1])]
    for row, expected in zip([row for row in found if "error" not in row], alone, strict=True):
        assert row["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_every_format_says_what_could_not_be_read(label, multi_label_run, some_unreadable, tmp_path):
    errors = {row["id"]: row["error"] for row in objects(label(multi_label_run, *some_unreadable)[1]) if "error" in row}
    assert label(multi_label_run, *some_unreadable, "--output", tmp_path / "out.csv")[0] == 1
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"]: row["error"] for row in rows if row["error"]} == errors
    assert len(rows) == 3 * 4 + 5
    code, table, _ = label(multi_label_run, *some_unreadable, "--format", "table")
    assert code == 1
    assert table.count("not read") == 5
    assert all(f"    {error}\n" in table for error in errors.values())


def test_a_row_without_an_id_goes_by_its_place(label, multi_label_run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "word1", "id": 1}\n{"text": "word1"}\n')
    code, out, _ = label(multi_label_run, tmp_path / "rows.jsonl", "--id-field", "id")
    good, bad = objects(out)
    assert (code, good["id"], bad["id"]) == (1, "1", f"{tmp_path / 'rows.jsonl'}:2")
    assert "line 2: has no field 'id'" in bad["error"]


def test_a_pipe_that_is_named_is_read(tmp_path):
    """As `predict.py RUN <(command)` gives one."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("word1"), daemon=True)
    writer.start()
    (document,) = read_all([str(tmp_path / "pipe")], lambda path: read_documents(path, Reading()))
    assert document == NewDocument(str(tmp_path / "pipe"), "word1")


def test_nothing_to_read_is_no_error():
    assert list(read_all(["images.npz"], lambda path: [])) == []


def test_output_through_a_link_and_into_a_pipe(label, multi_label_run, tmp_path):
    """What is no plain file is written to, never replaced by one."""
    (tmp_path / "a.txt").write_text("word1")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert label(multi_label_run, tmp_path / "a.txt", "--output", tmp_path / "link") == (0, "", "")
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert label(multi_label_run, tmp_path / "a.txt", "--output", tmp_path / "pipe") == (0, "", "")
    reader.join(timeout=10)
    assert (tmp_path / "pipe").is_fifo()
    assert read == [(tmp_path / "target").read_text()]


def test_names_that_are_not_utf8(label, multi_label_run, tmp_path):
    (tmp_path / "folder").mkdir()
    with open(os.fsencode(tmp_path / "folder") + b"/caf\xe9.txt", "w") as file:
        file.write("word1")
    (tmp_path / "folder" / "a folder named.txt").mkdir()
    code, out, _ = label(multi_label_run, tmp_path / "folder")
    assert code == 0
    (row,) = objects(out)
    assert row["id"].endswith(r"caf\udce9.txt")


def test_what_takes_seconds_is_imported_where_ctrl_c_is_awaited():
    command = "import sys, flash_sparse_apps.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_no_arguments_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        predict.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


class Harmful:
    def __reduce__(self):
        return (exit, (99,))


@pytest.mark.parametrize("damage", ["weights", "pickle", "description", "not json", "labels", "tokenizer"])
def test_damaged_models_are_one_line(label, multi_label_run, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(multi_label_run / "model", run / "model")
    (run / "model" / "SHA256SUMS").unlink()
    weights, described = run / "model" / "model.safetensors", run / "model" / "classifier.json"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "pickle":  # nothing in it is executed
        torch.save(Harmful(), weights)
    elif damage == "description":
        described.write_text('{"task": "multi-label"}')
    elif damage == "not json":
        described.write_text("{")
    elif damage == "labels":
        content = json.loads(described.read_text())
        content["encoder"]["num_outputs"] = 3
        described.write_text(json.dumps(content))
    else:
        (run / "model" / "tokenizer.json").unlink()
    (tmp_path / "a.txt").write_text("word1")
    code, out, err = label(run, tmp_path / "a.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(run / "model") in err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": ["a", "a", "b", "c"]}, "3 different labels; expected 4"),
        ({"labels": "abcd"}, "labels is 'abcd', no list"),
        ({"task": "single-label"}, "thresholds do not fit"),
        ({"task": "other"}, "task is 'other'"),
        ({"thresholds": [0.5]}, "thresholds do not fit"),
        ({"thresholds": [0.5, 0.5, 0.5, None]}, "thresholds.3 is None, no number from 0 to 1"),
        ({"thresholds": [0.5, 0.5, 0.5, float("nan")]}, "thresholds.3 is nan, no number from 0 to 1"),
        ({"thresholds": [0.5, 0.5, 0.5, 9.0]}, "thresholds.3 is 9.0, no number from 0 to 1"),
        ({"temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"pairs": 1}, "pairs is 1, no bool"),
        ({"grid": [8]}, "grid is [8]; expected rows and columns"),
        ({"grid": [8, 8]}, "grid is [8, 8], and its tokenizer reads texts"),
        ({"grid": [8, -8]}, "grid.1 is -8; expected an integer from 1 to 16,777,216"),
        ({"seq_len": 2**40}, "seq_len is 1099511627776; expected an integer from 1 to 16,777,216"),
        ({"dataset": None}, "dataset is None, no str"),
        ({"reading": {"columns": []}}, "--columns is [], expected different names"),
        ({"reading": {"delimiter": 3}}, "reading.delimiter is 3, no str"),
        ({"blend": {"features": 3}}, "blend.bias is missing"),
        ({"format": 0}, "format is 0; expected 1"),
        ({"seq_len": "96"}, "seq_len is '96'"),
        ({"attention": {}}, "sparse"),
        ({"attention": {"sparse": True, "pattern": "torch", "block_size": 16, "options": {}}}, "pattern is 'torch'"),
        ({"attention": {"sparse": True, "pattern": "local", "block_size": 16, "options": {"a": 1}}}, "'a'"),
    ],
)
def test_a_description_that_no_run_wrote(label, multi_label_run, tmp_path, changed, said):
    """It must not give labels that look right and are not."""
    shutil.copytree(multi_label_run / "model", tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    described = tmp_path / "model" / "classifier.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | changed))
    (tmp_path / "a.txt").write_text("word1")
    code, out, err = label(tmp_path, tmp_path / "a.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{described}: damaged: " in err
    assert said in err


def test_weights_that_are_not_finite(label, multi_label_run, tmp_path):
    shutil.copytree(multi_label_run / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["encoder.norm.weight"][0] = torch.nan
    (tmp_path / "model" / "SHA256SUMS").unlink()
    save_file(weights, tmp_path / "model" / "model.safetensors")
    (tmp_path / "a.txt").write_text("word1")
    code, out, err = label(tmp_path, tmp_path / "a.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "encoder.norm.weight holds numbers that are not finite" in err
