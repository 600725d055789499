"""What is compiled once is read from the disk afterwards, unless the code has changed or the files are no good."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numba import config

import flash_sparse
from flash_sparse.backends.cpu import kernels, threads
from flash_sparse.backends.cpu.vectors import integer_at, set_word, take, tuple_at

SAYS = "compiles its CPU kernels"


class Place(NamedTuple):
    width: int
    address: int


class Memory(NamedTuple):
    words: int

    @classmethod
    def sizes(cls, width, itemsize):
        return cls(4 * width)


def squares(fingerprint, zero, capped):
    """A kernel that is compiled at once: the squares of its tasks."""

    def squares_entry(address):
        _ = fingerprint
        call = tuple_at(kernels.Call, address, 0)
        memory = take(call.ticket)
        while True:
            task = take(call.counter)
            if task >= call.task_count:
                return
            number = integer_at(call.tasks, task)
            set_word(integer_at(call.memories, memory * call.fields), 0, number * number)
            set_word(integer_at(call.arguments, 1), task, number * number)

    return {"squares": squares_entry}


def use():
    """Call a kernel as a new process does; returns whether it was compiled."""
    kernel = kernels.Kernel("squares", (Memory,))
    kernels._said = False
    found = np.zeros(50, np.int32)
    place, tasks = Place(16, found.ctypes.data), np.arange(50).reshape(50, 1)
    threads.run(kernel, place, (), (np.float32(1),), tasks)
    assert found.tolist() == [i * i for i in range(50)]
    return kernels._said


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where Numba keeps its files in the test."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_said", False)
    monkeypatch.setattr(kernels, "_entries", squares)
    return tmp_path / "cache"


def files(folder, suffix):
    return sorted(folder.rglob(f"*.{suffix}"))


def test_compiled_once_and_said_once(folder, caplog):
    assert use()
    assert [record.getMessage().count(SAYS) for record in caplog.records] == [1]
    assert caplog.records[0].levelno == logging.WARNING
    assert (len(files(folder, "nbi")), len(files(folder, "nbc"))) == (1, 1)
    assert not use()
    assert len(caplog.records) == 1


def test_compiled_anew_for_other_code_and_other_vectors(folder, monkeypatch):
    assert use()
    for print_ in ("changed", "changed again"):
        monkeypatch.setattr(kernels, "_fingerprint", lambda print_=print_: print_)
        assert use()
        assert not use()


def test_the_fingerprint_is_of_every_file_and_of_the_vectors(tmp_path, monkeypatch):
    package = tmp_path / "cpu"
    shutil.copytree(Path(kernels.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernels, "__file__", str(package / "kernels.py"))
    seen = {kernels._fingerprint()}
    changed = list(package.glob("*.py"))
    for file in changed:
        file.write_bytes(file.read_bytes() + b"# changed\n")
        seen.add(kernels._fingerprint())
    monkeypatch.setattr(kernels, "VECTOR_BYTES", 16)
    seen.add(kernels._fingerprint())
    assert len(changed) >= 11
    assert len(seen) == len(changed) + 2


def test_works_where_nothing_can_be_written(folder, monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert use()
    assert use()  # nothing was kept


def test_works_where_the_disk_is_full(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert use()
    assert not files(folder, "nbc")


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [0, 1, 10, 0.3, 0.7, -1, "zeros", "text"])
def test_works_with_a_file_that_is_broken_and_mends_it(folder, suffix, damage):
    assert use()
    (file,) = files(folder, suffix)
    whole = file.read_bytes()
    if damage == "zeros":  # as a machine that lost its power leaves it
        file.write_bytes(bytes(len(whole)))
    elif damage == "text":
        file.write_bytes(b"<html>404</html>")
    else:
        file.write_bytes(whole[: int(damage * len(whole)) if isinstance(damage, float) else damage])
    assert use()
    assert not use()


def test_works_with_a_file_that_is_missing(folder):
    assert use()
    files(folder, "nbc")[0].unlink()
    assert use()
    assert not use()


CODE = """
import sys, torch, flash_sparse
assert flash_sparse.__file__.startswith(sys.argv[1]), flash_sparse.__file__
torch.manual_seed(0)
rows = torch.randn(1, 2, 150, 20, requires_grad=True)
output = flash_sparse.attention(rows, rows, rows, is_causal=True, dropout_p=0.1)
output.sum().backward()
exact = flash_sparse.attention(rows, rows, rows, is_causal=True, backend="reference")
found = flash_sparse.attention(rows, rows, rows, is_causal=True)
assert (found - exact).abs().max() < 1e-5
print(output.double().sum().item(), rows.grad.double().sum().item())
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with a copy of the package, and with a cache."""
    root = tmp_path_factory.mktemp("copy")
    source = Path(flash_sparse.__file__).parent
    shutil.copytree(source, root / "flash_sparse", ignore=shutil.ignore_patterns("__pycache__"))
    return root


class TestPackage:
    """The same with the real kernels, in processes of their own."""

    pytestmark = pytest.mark.slow

    def run(self, root, cache, **more):
        """What a process prints, and whether it says that it compiles."""
        environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache), **more}
        command = [sys.executable, "-c", CODE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(SAYS) == len(done.stderr.splitlines()), done.stderr
        return done.stdout, done.stderr.count(SAYS)

    def test_a_second_process_compiles_nothing_and_one_with_other_code_does(self, copy):
        first = self.run(copy, copy / "cache")
        assert first[1] == 1
        kept = {file: file.stat().st_mtime_ns for file in (copy / "cache").rglob("*.nb?")}
        assert self.run(copy, copy / "cache") == (first[0], 0)
        assert kept == {file: file.stat().st_mtime_ns for file in (copy / "cache").rglob("*.nb?")}

        with (copy / "flash_sparse" / "backends" / "cpu" / "passes.py").open("a") as file:
            file.write("# changed\n")
        assert self.run(copy, copy / "cache") == (first[0], 1)
        assert self.run(copy, copy / "cache") == (first[0], 0)

    def test_works_where_nothing_can_be_written(self, copy):
        (copy / "a file").write_text("")  # permissions would not stop root
        for _ in range(2):
            found = self.run(copy, copy / "a file" / "cache", NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
            assert found[1] == 1
