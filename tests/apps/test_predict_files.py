"""New documents in the forms that training takes: read as the run's own were, from pipes, PDF, Excel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flash_sparse_apps import classify, predict

SCRIPT = Path(__file__).parents[2] / "apps" / "predict.py"


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def label(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = predict.main([*map(str, arguments), "--accelerator", "cpu"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def odd_run(planted_files, cache_folder, tmp_path_factory) -> Path:
    """A run on a file without header, separated by semicolons, in another encoding."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [json.loads(line) for line in planted_files["single-label"].read_text().splitlines()]
    labels = sorted({row["labels"] for row in rows})
    lines = [f"café;{row['text']};{labels.index(row['labels'])}\n" for row in rows]
    (folder / "a.csv").write_bytes("".join(lines).encode("cp1252"))
    reading = ("--columns", "title", "body", "topic", "--encoding", "cp1252", "--delimiter", ";", "--no-quotes")
    fields = ("--text-field", "title", "body", "--label-field", "topic")
    tiny = ("--seq-len", "64", "--vocab-size", "300", "--width", "16", "--epochs", "1", "--examples", "0")
    files = ("--cache-dir", str(cache_folder), "--output", str(folder / "run"))
    data = ("--dataset", str(folder / "a.csv"))
    assert classify.main([*data, *reading, *fields, *tiny, *files, "--accelerator", "cpu", "--no-linear-baseline"]) == 0
    return folder / "run"


def test_a_run_remembers_how_its_files_were_read(label, odd_run, tmp_path):
    (tmp_path / "new.csv").write_bytes('caf\xe9;he said "no";0\n'.encode("latin-1"))
    code, out, err = label(odd_run, tmp_path / "new.csv")
    assert (code, err) == (0, "")
    (row,) = objects(out)
    assert row["id"] == f"{tmp_path / 'new.csv'}:1"
    (tmp_path / "other.csv").write_text("body,title\nword1,x\n")
    code, out, err = label(odd_run, tmp_path / "other.csv", "--delimiter", ",", "--columns", "null")
    assert code == 2
    code, out, err = label(
        odd_run, tmp_path / "other.csv", "--delimiter", ",", "--columns", '["body", "title"]', "--text-field", "body"
    )
    assert (code, err, len(objects(out))) == (0, "", 1)
    code, out, err = label(odd_run, tmp_path / "other.csv", "--encoding", "utf-9")
    assert (code, out) == (2, "")
    assert err.startswith("error: --encoding is 'utf-9', expected an encoding")


@pytest.mark.parametrize("typed", ["#ids", "~", "NULL"])
def test_names_are_taken_as_they_are_typed(label, multi_label_run, tmp_path, typed):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "word1", typed: "mine"}) + "\n")
    _, out, _ = label(multi_label_run, tmp_path / "a.jsonl", "--id-field", typed)
    assert objects(out)[0]["id"] == "mine"


def piped(run: Path, content: bytes, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), str(run), "-", "--accelerator", "cpu", *arguments]
    return subprocess.run(command, input=content, capture_output=True)


@pytest.mark.slow
def test_json_lines_on_standard_input(multi_label_run):
    content = b'\n{"text": "word1 keyword0", "name": "one"}\n{"text": "word2", "name": "two"}\n'
    done = piped(multi_label_run, content, "--id-field", "name")
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in objects(done.stdout.decode())] == ["one", "two"]
    done = piped(multi_label_run, content.replace(b'"word2"', b"2"))
    assert done.returncode == 1
    assert [row.get("error") for row in objects(done.stdout.decode())] == [
        None, "standard input line 3: 'text' is 2, expected a string or a list of paragraphs"
    ]  # fmt: skip
    done = piped(multi_label_run, b"{this is} a text\nof two lines\n")
    assert [row["id"] for row in objects(done.stdout.decode())] == ["-"]


def test_pdf_and_excel(label, multi_label_run, tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra [documents]")
    pytest.importorskip("bs4", reason="needs the extra [documents]")
    book = openpyxl.Workbook()
    for row in (("text", "id"), ("word1 keyword0", 7.0), ("word2", 8)):
        book.active.append(row)
    book.save(tmp_path / "new.xlsx")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.html").write_text("<p>word1 <b>keyword0</b></p><p>word2</p>")
    (tmp_path / "folder" / "b.txt").write_text("word1 keyword0\n\nword2")
    code, out, err = label(
        multi_label_run, tmp_path / "new.xlsx", tmp_path / "folder", "--id-field", "id", "--evidence"
    )
    assert (code, err) == (0, "")
    rows = objects(out)
    assert [row["id"] for row in rows[:2]] == ["7", "8"]
    assert rows[2]["probabilities"] == rows[3]["probabilities"]  # HTML and plain text of the same words
    assert rows[2]["text"] == "word1 keyword0\n\nword2"  # what its passages refer to
    assert "text" not in rows[3]


def test_fasttext_lines_are_documents_without_their_labels(label, multi_label_run, tmp_path):
    (tmp_path / "new.txt").write_text("__label__a word1 word2\n__label__a, __label__b keyword1\n")
    (tmp_path / "plain.jsonl").write_text('{"text": "word1 word2"}\n{"text": "keyword1"}\n')
    rows, plain = (objects(label(multi_label_run, tmp_path / name)[1]) for name in ("new.txt", "plain.jsonl"))
    assert [row["id"] for row in rows] == [f"{tmp_path / 'new.txt'}:{number}" for number in (1, 2)]
    assert [row["probabilities"] for row in rows] == [row["probabilities"] for row in plain]


def test_hidden_files_of_a_folder_are_no_documents(label, multi_label_run, tmp_path):
    for name in ("a.txt", "._a.txt", "__MACOSX/._a.txt", ".git/a.txt", "deep/b.txt"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_text("word1")
    code, out, err = label(multi_label_run, tmp_path / "new")
    assert (code, err) == (0, "")
    assert [row["id"] for row in objects(out)] == [f"{tmp_path / 'new' / name}" for name in ("a.txt", "deep/b.txt")]


def test_what_is_no_text_is_an_error(label, multi_label_run, tmp_path):
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + bytes(600))
    code, _, err = label(multi_label_run, tmp_path / "a.db")
    assert (code, err) == (2, f"error: {tmp_path / 'a.db'}: holds NUL characters, which no text has, expected a text\n")
