"""Standard streams that are closed, full, or that nobody reads any more."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flash_sparse_apps import classify, curriculum, predict, sweep
from flash_sparse_apps.tokens.token_store import TokenStore

TRAINING = """
import sys
from flash_sparse_apps.console import outlive_readers, print_anything
from flash_sparse_datasets.shared.exit_codes import ending

@ending
def main(arguments):
    print_anything()
    outlive_readers()
    for step in range(20_000):
        print("step", step, flush=True)
        print("step", step, file=sys.stderr)
    with open("trained", "w") as file:
        file.write("done")
    return 0

sys.exit(main())
"""


def test_training_goes_on_when_its_reader_has_enough(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout.readline() == b"step 0\n"
    process.stdout.close()
    assert process.wait(120) == 0
    assert (tmp_path / "trained").read_text() == "done"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_stdout_is_named(tmp_path):
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", TRAINING], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.stderr == "error: [Errno 28] No space left on device: 'standard output'\n"
    assert ended.returncode == 2
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize("command", [classify, sweep, curriculum])
def test_every_command_that_trains_goes_on(command, monkeypatch):
    class Asked(Exception):
        pass

    def outlive():
        raise Asked

    monkeypatch.setattr(command, "outlive_readers", outlive)
    with pytest.raises(Asked):
        command.main([])


def test_predictions_need_somewhere_to_go(multi_label_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "new.txt").write_text("word1 keyword1")
    given = [str(multi_label_run), str(tmp_path / "new.txt")]
    monkeypatch.setattr(sys, "__stdout__", None)  # as Python has it where it was started with `>&-`
    assert predict.main(given) == 2
    assert capsys.readouterr().err == "error: standard output is closed; expected it open, or --output\n"
    assert predict.main([*given, "--output", str(tmp_path / "out.jsonl")]) == 0


def test_a_store_that_cannot_be_mapped_is_named(multi_label_run, cache_folder, monkeypatch):
    path = next(cache_folder.rglob("*.tokens"))

    def no_more(*unused):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(np, "memmap", no_more)
    with pytest.raises(OSError, match="Too many open files") as caught:
        TokenStore(path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("form", ["flag", "flag=value", "file"])
def test_a_number_that_no_float_holds_is_named(form, tmp_path, capsys):
    huge = "9" * 309
    given = {"flag": ["--gradient-clip", huge], "flag=value": [f"--gradient-clip={huge}"]}.get(form)
    if given is None:
        (tmp_path / "a.yaml").write_text(f"seed: 3\ngradient-clip: {huge}\n")
        given = ["--config", str(tmp_path / "a.yaml")]
    with pytest.raises(SystemExit) as ended:
        classify.main([*given, "--dataset", str(tmp_path / "missing.csv")])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.endswith("--gradient-clip is 9999999999..., of 309 digits; expected less than 1.8e308\n")
    assert err.count("\n") == 1
