"""Rows that cannot be read, from the command line to the report."""

from __future__ import annotations

import json

import pytest

from flash_sparse_apps import classify


@pytest.mark.slow
def test_bad_rows_are_named_or_left_out_and_counted(planted_files, cache_folder, tmp_path, capsys):
    content = planted_files["single-label"].read_text(encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(content + '{"text": "", "labels": "apple"}\n{"text": "x"}\n', encoding="utf-8")
    tiny = ("--seq-len", "32", "--width", "16", "--vocab-size", "300", "--epochs", "1", "--accelerator", "cpu")
    files = ("--cache-dir", str(cache_folder), "--output", str(tmp_path / "run"))
    arguments = ["--dataset", str(tmp_path / "a.jsonl"), *tiny, *files, "--no-linear-baseline", "--examples", "0"]
    assert classify.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = (
        "a.jsonl: 2 documents cannot be read, expected them mended, or --bad-rows to be skip: line 101: 'text' is empty"
    )
    assert expected in line
    assert not (tmp_path / "run").exists()

    assert classify.main([*arguments, "--bad-rows", "skip"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    (note,) = [note for note in metrics["data"]["notes"] if "left out" in note]
    assert "2 documents left out that cannot be read: line 101" in note
    assert "2 documents left out that cannot be read" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
