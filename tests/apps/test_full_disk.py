"""A disk that is full, or may not be written to, is named with the flag that chooses another; SIGTERM at any time."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest

from flash_sparse_apps import classify, files, predict, sweep
from flash_sparse_apps.console import ended_by_sigterm
from flash_sparse_apps.sweeping import sweep_report
from flash_sparse_apps.tokens import token_store
from flash_sparse_apps.tokens.tokenization import Tokenizer
from flash_sparse_apps.training import training_run

from .conftest import TINY

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_writing_names_the_file(tmp_path, monkeypatch):
    def full(*unused):
        raise FULL

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_atomically(tmp_path / "a.json", b"{}")
    assert caught.value.filename == str(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "flag"), [(token_store, "--cache-dir"), (files, "--output")])
def test_a_full_disk_is_one_line_with_path_and_flag(planted_files, tmp_path, monkeypatch, capsys, module, flag):
    write = files._write

    def full(*unused):
        raise FULL

    def full_for_runs(path, content):
        if path.is_relative_to(tmp_path / "run"):
            raise FULL
        write(path, content)

    if module is token_store:
        monkeypatch.setattr(token_store, "_write_store", full)
    else:
        monkeypatch.setattr(files, "_write", full_for_runs)
    folders = ("--cache-dir", str(tmp_path / "cache"), "--output", str(tmp_path / "run"))
    tiny = ("--seq-len", "32", "--width", "16", "--vocab-size", "300", "--accelerator", "cpu")
    assert classify.main(["--dataset", str(planted_files["single-label"]), *folders, *tiny]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: [Errno 28] No space left on device: '" + str(tmp_path))
    assert line.endswith(f"; expected room and permission to write, or another {flag}")


def test_what_names_no_file_names_the_places(tmp_path):
    said = files.room_to_write(FULL, {"--cache-dir": "/c", "--output": "/o"})
    assert said == "; expected room and permission to write in --cache-dir /c and --output /o"
    assert files.room_to_write(FileNotFoundError(2, "no", "/c/a"), {"--cache-dir": "/c"}) == ""
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS), "/elsewhere/a")
    assert files.room_to_write(read_only, {"--cache-dir": "/c"}) == ""


def test_the_tokenizers_library_is_understood(tmp_path, single_label_run):
    tokenizer = Tokenizer.from_folder(single_label_run / "model")
    (tmp_path / "tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        tokenizer.save(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "tokenizer.json"))


def test_predictions_and_tables_name_their_flag(tmp_path, monkeypatch, capsys, single_label_run, planted_files):
    def full(*unused):
        raise FULL

    (tmp_path / "new.txt").write_text("word1 keyword1")
    monkeypatch.setattr(files.os, "fsync", full)
    output = tmp_path / "out.jsonl"
    assert predict.main([str(single_label_run), str(tmp_path / "new.txt"), "--output", str(output)]) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"No space left on device: '{output}'; expected room and permission to write, or another "
                        "--output\n")  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]

    monkeypatch.setattr(sweep, "_plan", lambda *unused: ([], lambda command: sweep_report.write_atomically(table, b"")))
    monkeypatch.setattr("flash_sparse_apps.sweeping.cells.run_cells", lambda cells, parallel, after_each: after_each())
    table = tmp_path / "sweep" / "sweep.json"
    given = ["--dataset", str(planted_files["single-label"]), "--output", str(tmp_path / "sweep")]
    assert sweep.main(given) == 2
    err = capsys.readouterr().err
    assert f"No space left on device: '{table}'; expected room and permission to write, or another --output" in err
    assert f"; to continue: flash-sparse sweep --dataset {planted_files['single-label']}" in err


@pytest.mark.parametrize("phase", ["answer", "score", "assemble"])
def test_sigterm_while_testing_says_how_to_go_on(phase, planted_files, cache_folder, tmp_path, monkeypatch, capsys):
    def terminated(*unused, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(training_run, phase, terminated)
    run, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    data = ("--dataset", str(planted_files["single-label"]), "--cache-dir", str(cache_folder))
    flags = (*TINY, "--epochs", "1", "--no-linear-baseline", "--examples", "0", "--output", str(run))
    assert classify.main([*data, *flags]) == 143
    assert capsys.readouterr().err == f"terminated; to continue: flash-sparse classify --resume {run}\n"
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0


def test_only_the_main_thread_asks_for_signals():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def elsewhere():
        with ended_by_sigterm():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert inside == [before]
