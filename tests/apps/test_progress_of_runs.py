"""Every phase of a run says how far it is: lines where there is no terminal, bars where there is, in cells too."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flash_sparse_apps import classify, predict
from flash_sparse_datasets.shared import progress

from .conftest import SPARSE, TINY

SCRIPT = Path(__file__).parents[2] / "apps" / "sweep.py"


def test_each_phase_says_how_far_it_is(planted_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    data = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(tmp_path / "cache"))
    flags = (*TINY, *SPARSE, "--epochs", "2", "--pretrain", "1", "--max-time", "600", "--metric", "macro-f1")
    assert classify.main([*data, *flags, "--output", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    for phase in (
        *("reading multi-label.jsonl", "reading for the tokenizer", "training the tokenizer", "tokenizing"),
        *("token vectors", "counting tokens", "fitting the linear model", "testing, validation", "testing, test"),
        *("the linear model's vote, test", "comparing with dense attention", "validating", "pretraining"),
        "looking for passages",
    ):
        assert re.search(rf"^{re.escape(phase)}: \d+.* left", err, re.MULTILINE), phase
    for phase in (
        *("opening multi-label.jsonl", "weighing tokens", "weighing the vote", "fitting temperature and thresholds"),
        *("scoring", "timing steps", "writing the report"),
    ):
        assert re.search(rf"^{phase}: \d\d:\d\d so far", err, re.MULTILINE), phase
    assert re.search(r"^training: 13 of 20 steps, \d\d:\d\d left, loss \d\.\d{4}, --max-time ends it in \d", err, re.M)
    assert re.search(r"epoch 1/2 .* micro-F1 \d\.\d{4}  macro-F1 \d\.\d{4}", out)
    (tmp_path / "new.txt").write_text("word1 keyword1")
    assert predict.main([str(tmp_path / "run"), str(tmp_path / "new.txt")]) == 0
    assert "predicting: 1 documents in" in capsys.readouterr().err


def test_short_phases_say_nothing_without_a_terminal(planted_files, cache_folder, tmp_path, capsys):
    data = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder))
    assert classify.main([*data, *TINY, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_cell_of_a_sweep_has_its_bars_in_the_terminal(planted_files, cache_folder, tmp_path):
    tiny = dict(zip(TINY[::2], TINY[1::2], strict=True))
    del tiny["--seq-len"]
    given = [word for pair in tiny.items() for word in pair]
    given += ["--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder), "--epochs", "3"]
    given += ["--seq-lens", "64", "--kinds", "dense", "--output", str(tmp_path / "sweep")]
    terminal, end = pty.openpty()
    process = subprocess.Popen([sys.executable, str(SCRIPT), *given], stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = b""
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        shown += read
    assert process.wait() == 0
    assert re.search(rb"training: +\d+%\|.*/30 \[.*loss \d\.\d{4}", shown), shown[-2000:]
    assert re.search(rb"validating: +\d+%", shown)
    assert re.search(rb"testing, test: +\d+%", shown)
