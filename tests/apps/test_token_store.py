"""The token store: what is read back, and what is left behind by kills, races and full disks."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flash_sparse_apps.tokens import token_store
from flash_sparse_apps.tokens.token_store import TokenStore, store_key, truncation
from flash_sparse_datasets import Document

LABELS = ("a", "b", "c")


class Words:
    """One token for each word: the word itself, a number."""

    vocab_size = 1 << 16
    cls_id = 0

    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]


class ManyWords(Words):
    vocab_size = (1 << 16) + 1


DOCUMENTS = [
    Document("one", "1 2 3", ("b",)),
    Document("zwei/ä", "", ()),
    Document("three\udcff", "65535 4 5 6 7 8", ("c", "a")),
]


def build(folder, documents=DOCUMENTS, tokenizer=None, key="key"):
    return TokenStore.build_or_open(folder, documents, tokenizer or Words(), LABELS, key, progress=False)


def broken():
    raise AssertionError("an opened store must not read the documents")
    yield


def check(store):
    assert len(store) == 3
    assert store.lengths.tolist() == [4, 1, 7]
    assert [store.tokens(i, 100).tolist() for i in range(3)] == [[0, 1, 2, 3], [0], [0, 65535, 4, 5, 6, 7, 8]]
    assert [store.label_indices(i).tolist() for i in range(3)] == [[1], [], [0, 2]]
    assert [store.ids(i) for i in range(3)] == ["one", "zwei/ä", "three\udcff"]
    assert store.label_matrix().toarray().tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_what_was_written_is_read(tmp_path):
    check(build(tmp_path / "made" / "folder"))
    check(build(tmp_path / "made" / "folder", broken()))
    store = build(tmp_path / "made" / "folder", broken())
    assert store.tokens(2, 3).tolist() == [0, 65535, 4]
    assert store.tokens(2, 3).dtype == np.int64
    assert store.lengths.dtype == np.int64
    assert store.num_labels == 3


def test_two_bytes_a_token_while_the_vocabulary_allows_it(tmp_path):
    documents = [Document("x", " ".join(["65535"] * 10_000), ())]
    build(tmp_path, documents, Words(), "small")
    build(tmp_path, documents, ManyWords(), "large")
    sizes = [(tmp_path / f"{key}.tokens").stat().st_size for key in ("small", "large")]
    assert sizes[1] - sizes[0] == pytest.approx(2 * 10_001, abs=16)
    large = build(tmp_path, [Document("x", "65536", ())], ManyWords(), "last")
    assert large.tokens(0, 9).tolist() == [0, 65536]


def test_no_documents(tmp_path):
    store = build(tmp_path, [])
    assert len(store) == 0
    assert store.label_matrix().shape == (0, 3)
    assert truncation(store, 5).documents_cut_share == 0


def test_batches_do_not_show(tmp_path, monkeypatch):
    rng = random.Random(0)
    documents = [Document(str(i), " ".join(str(rng.randrange(9)) for _ in range(i)), ()) for i in range(50)]
    whole = build(tmp_path, documents, key="whole")
    monkeypatch.setattr(token_store, "_BATCH_CHARACTERS", 100)
    build(tmp_path, documents, key="parts")
    assert (tmp_path / "whole.tokens").read_bytes() == (tmp_path / "parts.tokens").read_bytes()
    assert whole.lengths.tolist() == [i + 1 for i in range(50)]


def test_a_label_that_is_not_in_labels_is_refused_and_nothing_left(tmp_path):
    with pytest.raises(ValueError, match="document 'x' has the label 'd'; expected one of the 3 labels"):
        build(tmp_path, [*DOCUMENTS, Document("x", "1", ("d",))])
    assert list(tmp_path.iterdir()) == []


def test_keys_differ_by_each_part():
    keys = {store_key(*parts) for parts in (("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"))}
    assert len(keys) == 4
    assert store_key("a", "b", "c") == store_key("a", "b", "c")
    assert store_key("ab", "", "c") != store_key("a", "b", "c")


def test_truncation_counts_whole_documents(tmp_path):
    cut = truncation(build(tmp_path), 4)
    assert (cut.documents, cut.documents_cut, cut.tokens, cut.tokens_cut) == (3, 1, 12, 3)
    assert cut.documents_cut_share == pytest.approx(1 / 3)
    assert cut.tokens_cut_share == pytest.approx(3 / 12)
    assert (cut.median_length, cut.max_length) == (4, 7)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: data[8:],  # the end is whole, the beginning is not
        lambda data: data[:-24] + b"\xff" * 8 + data[-16:],
        lambda data: data[:-16] + b"\xff" * 8 + data[-8:],
        lambda data: data.replace(b'"labels"', b'"lebals"'),
    ],
)
def test_a_damaged_store_is_built_again(tmp_path, damage):
    build(tmp_path)
    path = tmp_path / "key.tokens"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged token store"):
        TokenStore(path)
    check(build(tmp_path))
    check(build(tmp_path, broken()))


def test_any_changed_byte_is_noticed_and_the_store_made_anew(tmp_path, capfd):
    build(tmp_path)
    path = tmp_path / "key.tokens"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged token store"):
            TokenStore(path)
    check(build(tmp_path))
    assert path.read_bytes() == whole
    assert capfd.readouterr().err == f"note: {path}: damaged token store: no end mark; it is made anew\n"


KILLED = """
import os, signal, sys
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_apps.tokens import token_store
from flash_sparse_datasets import Document
class Words:
    vocab_size = 65536
    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]
def documents():
    for i in range(1000):
        if i == 500 and sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 500 and sys.argv[2] == "wait":
            print("half", flush=True)
            sys.stdin.readline()
        yield Document(str(i), " ".join(["7"] * 3000), ("a",))
token_store._BATCH_CHARACTERS = 20_000
try:
    store = TokenStore.build_or_open(sys.argv[1], documents(), Words(), ("a",), "key", progress=False)
    print(len(store), int(store.lengths.sum()))
except OSError as error:
    print("OSError", error.errno)
"""


def start(folder, what, **options):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_killed_build_leaves_no_store_and_is_cleaned_up(tmp_path):
    killed = start(tmp_path, "kill")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    leftovers = list(tmp_path.iterdir())
    assert len(leftovers) == 1
    assert leftovers[0].stat().st_size > 1 << 20
    assert not (tmp_path / "key.tokens").exists()
    check(build(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["key.tokens"]


def test_killed_at_any_moment(tmp_path):
    rng = random.Random(1)
    for _ in range(4):
        process = start(tmp_path, "run")
        time.sleep(rng.uniform(0.5, 3))
        process.kill()
        process.communicate()
    process = start(tmp_path, "run")
    assert process.communicate()[0].split() == ["1000", "3001000"]
    assert [path.name for path in tmp_path.iterdir()] == ["key.tokens"]


def test_two_processes_build_the_same_store(tmp_path):
    first = start(tmp_path, "wait")
    assert first.stdout.readline() == "half\n"
    second = start(tmp_path, "run")  # must not take the living one's file for a leftover
    assert second.communicate()[0].split() == ["1000", "3001000"]
    assert first.communicate("\n")[0].split() == ["1000", "3001000"]
    assert [path.name for path in tmp_path.iterdir()] == ["key.tokens"]


def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))  # noqa: E731
    process = start(tmp_path, "run", preexec_fn=limit)
    assert process.communicate()[0].split() == ["OSError", str(errno.EFBIG)]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_last_moment(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
