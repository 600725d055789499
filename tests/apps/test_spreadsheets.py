"""Predictions for spreadsheets: a row for each document, a column for each label, and text that stays text."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from flash_sparse_apps import classify, predict
from flash_sparse_apps.prediction import spreadsheets
from flash_sparse_apps.prediction.spreadsheets import csv_line, guarded, wide_csv, workbook

from .conftest import TINY

HOSTILE = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "#N/A", "\tx", "a\x00b\x1fc\ufffe", "x" * 40_000, "😀" * 20_000,
    "-3.5", "plain", "＝1",
]  # fmt: skip


@pytest.fixture
def label(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = predict.main([*map(str, arguments), "--accelerator", "cpu"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def openpyxl():
    return pytest.importorskip("openpyxl", reason="needs the extra [documents]")


def sheet_of(content: bytes, openpyxl) -> list[list]:
    return [list(row) for row in openpyxl.load_workbook(io.BytesIO(content)).active.iter_rows()]


def predictions() -> list[dict]:
    """One for each hostile text, which is its id, label and passage."""
    about = {"confidence": 0.5, "probabilities": [0.256, 0.9], "tokens": 7, "truncated": False, "labels": ["=fig"]}
    passage = {"drop": 0.4, "text": "", "start": 0, "end": 1}
    rows = [about | {"id": text, "evidence": {"=fig": [passage | {"text": text}]}} for text in HOSTILE]
    return [*rows, {"id": "@bad", "error": "=error"}]


MODEL = SimpleNamespace(labels=("pear", "=fig"))


def test_a_workbook_computes_and_refuses_nothing(openpyxl):
    content = workbook(((row, None) for row in predictions()), MODEL, True)
    heads, *rows = sheet_of(content, openpyxl)
    assert [cell.value for cell in heads] == [
        "id", "labels", "confidence", "pear", "=fig", "tokens", "cut", "evidence", "error"
    ]  # fmt: skip
    for row in (heads, *rows):
        for cell in row:
            assert cell.data_type in ("s", "n")  # no formula, no error
            assert cell.quotePrefix == (isinstance(cell.value, str) and cell.value.startswith(spreadsheets._COMPUTED))
            assert len(str(cell.value).encode("utf-16-le")) / 2 <= 32_767
    values = [row[0].value for row in rows]
    assert values[:6] == HOSTILE[:6]
    assert values[6] == "a\ufffdb\ufffdc\ufffd"
    assert values[7] == "x" * 32_766 + "…"
    assert values[8] == "😀" * 16_383 + "…"
    assert values[9:] == [*HOSTILE[9:], "@bad"]
    assert rows[0][7].value == "=fig: [0.40 less without] =1+1"
    assert [cell.value for cell in rows[-1][1:]] == [None] * 7 + ["=error"]
    shares = rows[0][2:5]
    assert [cell.value for cell in shares] == [0.5, 0.256, 0.9]
    assert [cell.number_format for cell in shares] == ["0.00"] * 3
    assert [cell.font.bold for cell in rows[0][3:5]] == [False, True]  # what is given


def test_a_sheet_has_so_much_room(openpyxl, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MOST_ROWS", 5)
    with pytest.raises(ValueError, match="room for 4 documents; expected csv"):
        workbook(((row, None) for row in predictions()), MODEL, False)
    monkeypatch.setattr(spreadsheets, "MOST_COLUMNS", 5)
    with pytest.raises(ValueError, match="no room for 2 labels; expected csv"):
        workbook(iter([]), MODEL, False)


def test_a_wide_csv_computes_nothing():
    written = "".join(wide_csv(((row, None) for row in predictions()), MODEL, True))
    assert written.startswith("\ufeffid,labels,confidence,pear,'=fig,tokens,cut,evidence,error\r\n")
    rows = list(csv.reader(io.StringIO(written[1:], newline="")))
    assert [row[0] for row in rows[1:]] == [guarded(text) for text in HOSTILE] + ["'@bad"]
    assert not any(cell.startswith(("=", "+", "@", "\t")) for row in rows for cell in row)
    assert rows[1] == ["'=1+1", "'=fig", "0.50", "0.26", "0.90", "7", "no", "'=fig: [0.40 less without] =1+1", ""]
    assert rows[-1] == ["'@bad", *[""] * 7, "'=error"]


@pytest.mark.parametrize(
    ("text", "written"),
    [("-1", "-1"), ("+49.5", "+49.5"), ("-1,5", "-1,5"), ("-1-1", "'-1-1"), ("a=1", "a=1"), ("", ""), ("＠x", "'＠x")],
)
def test_numbers_are_no_formulas(text, written):
    assert guarded(text) == written
    assert next(csv.reader([csv_line([text])]), [""])[0] == written


@pytest.mark.parametrize("kind", ["wide-csv", "xlsx"])
def test_a_row_for_each_document_says_what_jsonl_says(label, kind, multi_label_run, planted_files, tmp_path, request):
    data = [planted_files["multi-label"], tmp_path / "bad.jsonl"]
    (tmp_path / "bad.jsonl").write_text('{"text": ""}\n{"text": "word1"}\n')
    expected = [json.loads(line) for line in label(multi_label_run, *data, "--evidence")[1].splitlines()]
    target = tmp_path / ("out.xlsx" if kind == "xlsx" else "out.csv")
    code, out, _ = label(multi_label_run, *data, "--evidence", "--output", target, "--format", kind)
    assert (code, out) == (1, "")
    if kind == "xlsx":
        cells = sheet_of(target.read_bytes(), request.getfixturevalue("openpyxl"))
        heads, *rows = [[cell.value for cell in row] for row in cells]
    else:
        heads, *rows = csv.reader(io.StringIO(target.read_text(encoding="utf-8-sig"), newline=""))
        assert target.read_bytes().startswith(b"\xef\xbb\xbfid,")
        assert label(multi_label_run, *data, "--evidence", "--format", kind)[1].encode() == target.read_bytes()
    assert len(rows) == len(expected) == 102
    for row, right in zip((dict(zip(heads, row, strict=True)) for row in rows), expected, strict=True):
        assert row["id"] == right["id"]
        if "error" in right:
            assert row["error"] == right["error"]
            continue
        assert row["labels"] == "; ".join(right["labels"]) or (row["labels"] or "") == ""
        for name, share in right["probabilities"].items():
            shown = f"{share:.2f}" if kind == "wide-csv" else pytest.approx(share)
            assert row[name] == shown
        assert float(row["confidence"]) == pytest.approx(right["confidence"], abs=0.005)
        for name, passages in right["evidence"].items():
            assert all(" ".join(passage["text"].split()) in row["evidence"] for passage in passages)
            assert not passages or f"{name}: [" in row["evidence"]


def test_top_k_leaves_the_other_cells_empty(label, multi_label_run, planted_files):
    out = label(multi_label_run, planted_files["multi-label"], "--format", "wide-csv", "--top-k", "1")[1]
    listed = [
        json.loads(line)
        for line in label(multi_label_run, planted_files["multi-label"], "--top-k", "1")[1].splitlines()
    ]
    names = json.loads((multi_label_run / "model" / "classifier.json").read_text())["labels"]
    for row, right in zip(csv.DictReader(io.StringIO(out[1:], newline="")), listed, strict=True):
        assert {name for name in names if row[name]} == right["probabilities"].keys()


def test_the_long_csv_has_evidence_too(label, multi_label_run, planted_files):
    data = planted_files["multi-label"]
    expected = [json.loads(line) for line in label(multi_label_run, data, "--evidence")[1].splitlines()]
    out = label(multi_label_run, data, "--evidence", "--format", "csv")[1]
    rows = {(row["id"], row["label"]): row for row in csv.DictReader(io.StringIO(out, newline=""))}
    told = 0
    for right in expected:
        for name in right["probabilities"]:
            cell = rows[right["id"], name]["evidence"]
            passages = right["evidence"].get(name, [])
            assert bool(cell) == bool(passages)
            assert all(" ".join(passage["text"].split()) in cell for passage in passages)
            told += len(passages)
    assert told > 100
    assert "evidence" not in label(multi_label_run, data, "--format", "csv")[1].splitlines()[0]


def test_a_workbook_needs_a_library(label, multi_label_run, planted_files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    code, out, err = label(multi_label_run, planted_files["multi-label"], "--output", tmp_path / "out.xlsx")
    assert (code, out) == (2, "")
    assert err == "error: openpyxl is not installed; expected pip install 'flash-sparse[documents]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_labelling_by_the_linear_model_alone(task, label, planted_files, request):
    """With its own thresholds it scores on the test what the report says of it."""
    run = request.getfixturevalue(f"{task.replace('-', '_')}_run")
    found = {}
    for line in label(run, planted_files[task], "--id-field", "name", "--linear")[1].splitlines():
        row = json.loads(line)
        found[row["id"]] = row
    metrics = json.loads((run / "metrics.json").read_text())
    tested = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    if task == "single-label":  # its ids are file name and line
        names = [json.loads(line)["name"] for line in planted_files[task].read_text().splitlines()]
        for row in tested:
            row["id"] = names[int(row["id"].rsplit(":", 1)[1]) - 1]
    right = sum(set(found[row["id"]]["labels"]) == set(row["labels"]) for row in tested)
    assert right / len(tested) == pytest.approx(metrics["linear_baseline"]["accuracy"])
    assert any(found[row["id"]]["probabilities"] != row["probabilities"] for row in tested)


def test_evidence_for_the_linear_model(label, multi_label_run, tmp_path):
    (tmp_path / "a.txt").write_text("word1 " * 40 + "keyword0 " + "word2 " * 40)
    row = json.loads(label(multi_label_run, tmp_path / "a.txt", "--linear", "--evidence")[1])
    assert row["evidence"].keys() == set(row["labels"])
    assert "keyword0" in row["evidence"]["apple"][0]["text"]


def test_a_linear_model_without_a_vote_is_kept_beside(label, planted_files, cache_folder, multi_label_run, tmp_path):
    data = ("--dataset", str(planted_files["multi-label"]), "--id-field", "name", "--no-blend", "--epochs", "1")
    files = ("--cache-dir", str(cache_folder), "--output", str(tmp_path / "run"))
    assert classify.main([*data, *TINY, *files, "--dense", "--examples", "0"]) == 0
    assert (tmp_path / "run" / "model" / "linear.safetensors").is_file()
    assert not (multi_label_run / "model" / "linear.safetensors").exists()  # there it is a part of the model
    alone, voting = (
        label(run, planted_files["multi-label"], "--linear")[1] for run in (tmp_path / "run", multi_label_run)
    )
    assert alone == voting  # of the same documents and seed

    (tmp_path / "run" / "model" / "linear.safetensors").write_bytes(b"no")
    code, out, err = label(tmp_path / "run", planted_files["multi-label"])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "linear.safetensors" in err


def test_a_run_without_a_linear_model(label, multi_label_run, tmp_path):
    shutil.copytree(multi_label_run / "model", tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    described = tmp_path / "model" / "classifier.json"
    content = json.loads(described.read_text())
    del content["linear"]  # as of an older version
    described.write_text(json.dumps(content))
    (tmp_path / "a.txt").write_text("word1")
    code, out, err = label(tmp_path, tmp_path / "a.txt", "--linear")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the run keeps no linear model for --linear; expected one of single texts" in err
