"""Bars in a terminal, a line now and then elsewhere."""

import io
import random
import sys
import time

import pytest
from tqdm import tqdm

from flash_sparse_datasets import load
from flash_sparse_datasets.shared import progress
from flash_sparse_datasets.shared.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_without_a_terminal_say_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    for _ in Progress(range(3), "tokenizing"):
        time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tokenizing: 0 of 3 documents, ? left"
    assert lines[-1] == "tokenizing: 3 of 3 documents, 00:00 left"
    with Progress(None, "reading", unit=" rows") as bar:
        bar.set_postfix_str("loss 0.5, " + "long" * 20, refresh=False)
        bar.update(2)
    assert capsys.readouterr().err.splitlines()[-1] == "reading: 2 rows in 00:00, loss 0.5, " + "long" * 20


def test_there_is_half_a_minute_between_two_lines(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Progress(None, "training", 1000, " steps")
    monkeypatch.setattr(bar, "mininterval", 0)
    told = []
    for second in range(100):
        now[0] = float(second)
        bar.update()
        if capsys.readouterr().err:
            told.append(second)
    with tqdm.external_write_mode():
        print("a line of results")
    bar.close()
    assert told == [30, 60, 90]
    assert capsys.readouterr() == ("a line of results\n", "")


def test_lines_come_while_a_step_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    monkeypatch.setattr(progress, "BEAT", 0.02)
    for _ in Progress(range(2), "fitting", unit=" labels"):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 4
    assert lines[1].startswith("fitting: 0 of 2 labels, ")
    with Progress(None, "opening a.xlsx", unit=""):
        time.sleep(0.5)
    assert capsys.readouterr().err.splitlines()[-1] == "opening a.xlsx: 00:00 so far"
    time.sleep(0.3)
    assert capsys.readouterr().err == ""  # it has ended


def test_a_bar_that_nobody_has_any_longer_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    monkeypatch.setattr(progress, "BEAT", 0.02)
    bar = Progress(None, "training", 10)
    time.sleep(0.3)
    assert capsys.readouterr().err
    del bar
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_short_phases_say_nothing(capsys):
    for _ in Progress(range(3), "tokenizing"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_bar_in_a_terminal_which_goes_away(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(None, "training", 10, " steps", mininterval=0) as bar:
        bar.update(4)
        shown = sys.stderr.getvalue()
    assert "training:  40%" in shown
    assert "4/10" in shown
    after = sys.stderr.getvalue()[len(shown) :]
    assert " " * 20 in after  # over what was there
    assert "training" not in after


def test_a_phase_without_steps_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(None, "opening a.xlsx", unit=""):
        assert sys.stderr.getvalue().strip() == "opening a.xlsx ..."
    assert sys.stderr.getvalue().endswith("\r" + " " * 18)  # over what was there


def test_other_processes_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    for _ in Progress(range(3), "tokenizing", shown=False):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet", "a.txt", "a.xlsx", "folder"])
def test_reading_says_how_far_it_is(tmp_path, monkeypatch, capsys, name):
    from .test_own_files import write_class_folders, write_rows

    draw = random.Random(0)
    rows = [(f"{number} {draw.randbytes(8000).hex()}", "ab"[number % 2]) for number in range(200)]
    path, kind = tmp_path / name, "%"
    if name == "folder":
        write_class_folders(path, rows)
    elif name == "a.txt":
        path.write_text("".join(f"__label__{label} {text}\n" for text, label in rows))
    elif name == "a.xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in [("text", "label"), *rows]:
            book.active.append(row)
        book.save(path)
        kind = " documents in"
    else:
        write_rows(path, rows)
    monkeypatch.setattr(progress, "INTERVAL", 0)
    load(path)
    opening, *lines = capsys.readouterr().err.splitlines()
    assert opening == f"opening {name}: 00:00 so far"
    assert lines, name
    assert all(line.startswith(f"reading {name}: ") for line in lines)
    if kind == "%":
        told = [int(line.split(": ")[1].split(" of 100%")[0]) for line in lines]
        assert told == sorted(told)
        assert any(10 < share < 90 for share in told)
        assert told[-1] >= 90
    else:
        assert any(kind in line for line in lines)
