"""A disk that is full, or may not be written to, is named with the flag that chooses another."""

from __future__ import annotations

import errno
import os

import pytest

from flash_sparse_apps import classify, files
from flash_sparse_apps.tokens import token_store

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
