"""IMDB, AAN and CIFAR-10: small files of exactly the official form, and what can be wrong with them."""

import pickle
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.cifar10 import CLASSES, to_gray

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
SPLITS = ("train", "validation", "test")


def rows(dataset):
    return {s: [(d.id, d.text, d.labels, d.second) for d in getattr(dataset, s)] for s in SPLITS}


def sizes(dataset):
    return [len(getattr(dataset, split)) for split in SPLITS]


def write_imdb(root):
    for part in ("train", "test"):
        for label, rating in (("pos", 8), ("neg", 3)):
            folder = root / "aclImdb" / part / label
            folder.mkdir(parents=True)
            for i in range(10):
                text = f"{part} {label} {i}: a naïve film<br /><br />\x85\u2028 as they say"
                (folder / f"{i}_{rating}.txt").write_bytes(text.encode())
    unlabelled = root / "aclImdb" / "train" / "unsup"
    unlabelled.mkdir()
    (unlabelled / "0_0.txt").write_bytes(b"not to be read \xff")
    (root / "aclImdb" / "train" / "urls_pos.txt").write_text("http://www.imdb.com/title/tt0453418/usercomments\n")
    (root / "aclImdb" / "train" / "labeledBow.feat").write_text("9 0:9 1:1\n")
    (root / "aclImdb" / "train" / "pos" / "._0_8.txt").write_bytes(b"\x00\x05\x16\x07 of some archivers")


# The second pair begins with quotation marks, as a reader of CSV would take them, the third holds a lone CR and more.
PAIRS = [
    ("1.0", "P98-1001", "W03-0203", "b'a paper'", "b'another\\nline \\xe2\\x80\\x99'"),
    ("0.0", "P98-1002", "W03-0204", '"quoted', 'and "not closed'),
    ("1.0", "P98-1003", "W03-0205", "naïve \r \u2028 \x85 text", "plain"),
    ("0.0", "P98-1004", "W03-0206", 'closed" here', "x" * 200_000),
]


def write_aan(folder, pairs=PAIRS, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join("\t".join(pair) + end for pair in pairs).encode()
    for name in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{name}.tsv").write_bytes(content)


def write_cifar10(root, images=4):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (images, 3073), np.uint8)
        records[:, 0] = random.integers(0, 10, images)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    (folder / "readme.html").write_text('<meta HTTP-EQUIV="REFRESH" content="0; url=http://www.cs.toronto.edu">\n')


# IMDB


def test_imdb(tmp_path):
    write_imdb(tmp_path)
    dataset = load("imdb", tmp_path)
    assert (dataset.task, dataset.labels, sizes(dataset)) == ("single-label", ("neg", "pos"), [18, 2, 20])
    everything = rows(dataset)
    train = everything["train"] + everything["validation"]
    assert {id for id, *_ in train} == {
        *(f"train/pos/{i}_8.txt" for i in range(10)),
        *(f"train/neg/{i}_3.txt" for i in range(10)),
    }
    for part, documents in (("train", train), ("test", everything["test"])):
        for id, text, (label,), second in documents:
            number = id.split("/")[2].split("_")[0]
            assert id.startswith(f"{part}/{label}/")
            assert text == f"{part} {label} {number}: a naïve film<br /><br />\x85\u2028 as they say".encode()
            assert second is None
    assert dataset.notes == (
        "train: 20 documents, the release has 25,000",
        "test: 20 documents, the release has 25,000",
    )
    assert "no model is chosen by the test documents" in dataset.description

    inside = load("imdb", tmp_path / "aclImdb")
    assert (inside.fingerprint, rows(inside)) == (dataset.fingerprint, everything)
    assert rows(pickle.loads(pickle.dumps(dataset))) == everything
    assert rows(dataset) == everything


def test_imdb_options(tmp_path):
    write_imdb(tmp_path)
    dataset = load("imdb", tmp_path)
    other = load("imdb", tmp_path, split_seed=1)
    assert rows(other)["validation"] != rows(dataset)["validation"]
    assert rows(other)["test"] == rows(dataset)["test"]
    assert sizes(load("imdb", tmp_path, validation_share=0.25)) == [15, 5, 20]
    text = load("imdb", tmp_path, level="text")
    assert [d.text.encode() for d in text.train] == [d.text for d in dataset.train]
    assert len({dataset.fingerprint, other.fingerprint, text.fingerprint}) == 3
    with pytest.raises(ValueError, match="level is 'word', expected 'bytes' or 'text'"):
        load("imdb", tmp_path, level="word")
    with pytest.raises(ValueError, match="validation_share is 1, expected a share between 0 and 1"):
        load("imdb", tmp_path, validation_share=1)


def test_imdb_reviews_that_are_there_twice(tmp_path):
    write_imdb(tmp_path)
    for part, label, name in (("train", "pos", "0_8"), ("train", "pos", "1_8"), ("test", "neg", "0_3")):
        (tmp_path / "aclImdb" / part / label / f"{name}.txt").write_text("the same review")
    for seed in range(8):
        dataset = load("imdb", tmp_path, split_seed=seed)
        assert sum(b"the same review" in {d.text for d in split} for split in (dataset.train, dataset.validation)) == 1
    assert dataset.notes[-1] == "test: 1 documents have a text that is also in the release's training documents"


def remove_folder(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/pos/3_8.txt").write_text(" \n"), "train/pos/3_8.txt: the text is empty, expected"),
        (
            lambda root: (root / "test/neg/3_3.txt").write_bytes(b"one\ntw\xff"),
            "test/neg/3_3.txt line 2: 0xff at its byte 3 is not UTF-8 (as cp1252 it reads 'twÿ'), expected UTF-8 text",
        ),
        (lambda root: remove_folder(root / "test" / "pos"), "test/pos: cannot be read (No such file or directory)"),
        (
            lambda root: [file.unlink() for file in (root / "test" / "pos").iterdir()],
            "test/pos: no .txt files, expected the reviews of https://ai.stanford.edu/",
        ),
    ],
)
def test_bad_imdb(tmp_path, spoil, message):
    write_imdb(tmp_path)
    spoil(tmp_path / "aclImdb")
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path / 'aclImdb'}/{message}")) as caught:
        load("imdb", tmp_path)
    assert "\n" not in str(caught.value)


# AAN


@pytest.mark.parametrize(
    ("place", "root"),
    [
        ("", ""),
        ("aan", ""),
        ("lra_release/tsv_data", "lra_release"),
        ("lra_release/lra_release/tsv_data", ""),
        ("lra_release/lra_release/tsv_data", "lra_release"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_aan(tmp_path, place, root, end):
    write_aan(tmp_path / place, end=end)
    dataset = load("aan", tmp_path / root)
    assert (dataset.task, dataset.labels, sizes(dataset)) == ("single-label", ("0", "1"), [4, 4, 4])
    for name, documents in zip(("train", "eval", "test"), rows(dataset).values(), strict=True):
        assert documents == [
            (f"new_aan_pairs.{name}.tsv:{number}", first.encode(), (label[0],), second.encode())
            for number, (label, _, _, first, second) in enumerate(PAIRS, 1)
        ]
    assert dataset.notes[1] == "validation: 4 pairs, the release has 18,090"
    text = load("aan", tmp_path / root, level="text")
    assert [(d.text, d.second) for d in text.test] == [pair[3:] for pair in PAIRS]
    assert text.fingerprint != dataset.fingerprint
    assert rows(pickle.loads(pickle.dumps(dataset))) == rows(dataset)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2.0\ta\tb\tone\tother\n", "line 5: the label is '2.0', expected 0.0 or 1.0"),
        ("label\ta\tb\tone\tother\n", "line 5: the label is 'label', expected 0.0 or 1.0"),
        ("\ta\tb\tone\tother\n", "line 5: the label is '', expected 0.0 or 1.0"),
        ("1.0\ta\tb\tone\n", "line 5: the line has 4 cells, expected 5: label, two ids, two texts"),
        ("1.0\ta\tb\tone\tother\tmore\n", "line 5: the line has 6 cells, expected 5"),
        ("\n", "line 5: the line has 1 cells, expected 5"),
        ("1.0\ta\tb\t\tother\n", "line 5: the first text is empty, expected a paper"),
        ("1.0\ta\tb\tone\t\n", "line 5: the second text is empty, expected a paper"),
    ],
)
def test_bad_aan_lines(tmp_path, line, message):
    write_aan(tmp_path)
    path = tmp_path / "new_aan_pairs.eval.tsv"
    path.write_bytes(path.read_bytes() + line.encode() + path.read_bytes())
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} {re.escape(message)}") as caught:
        load("aan", tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_aan_files(tmp_path):
    write_aan(tmp_path)
    path = tmp_path / "new_aan_pairs.test.tsv"
    path.write_bytes(b"1.0\ta\tb\tone\tother\n1.0\ta\tb\ton\xff\tother\n")
    with pytest.raises(DataError, match=r"test.tsv line 2: 0xff at its byte 11 is not UTF-8"):
        load("aan", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"test.tsv: the file is empty"):
        load("aan", tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"test.tsv: missing, expected all of .*lra_release.gz"):
        load("aan", tmp_path)
    write_aan(tmp_path)
    dataset = load("aan", tmp_path)
    write_aan(tmp_path, PAIRS[:2])
    with pytest.raises(DataError, match="changed since it was first read"):
        list(dataset.train)


# CIFAR-10


def test_cifar10(tmp_path):
    write_cifar10(tmp_path)
    dataset = load("cifar10", tmp_path)
    assert (dataset.task, dataset.labels, dataset.grid) == ("single-label", CLASSES, (32, 32))
    assert tuple(sorted(CLASSES)) == CLASSES
    assert sizes(dataset) == [18, 2, 4]
    everything = rows(dataset)
    folder = tmp_path / "cifar-10-batches-bin"
    read = everything["train"] + everything["validation"]
    for files, documents in (([f"data_batch_{i}" for i in range(1, 6)], read), (["test_batch"], everything["test"])):
        records = np.concatenate([np.fromfile(folder / f"{file}.bin", np.uint8).reshape(-1, 3073) for file in files])
        assert [id for id, *_ in documents] == [f"{file}.bin:{i}" for file in files for i in range(1, 5)]
        for record, (_, text, (label,), second) in zip(records, documents, strict=True):
            assert label == CLASSES[record[0]]
            assert second is None
            pixels = np.frombuffer(text, np.uint8).reshape(32, 32)
            red, green, blue = record[1:].reshape(3, 32, 32).astype(float)
            # Rounded to the nearest: a gray value differs from the weighted sum by less than one.
            assert np.abs(pixels - (0.2989 * red + 0.587 * green + 0.114 * blue)).max() < 1
    assert dataset.notes[-1] == "test_batch.bin: 4 images, the release has 10,000"
    assert rows(load("cifar10", folder)) == everything
    assert rows(pickle.loads(pickle.dumps(dataset))) == everything


def test_gray():
    """By hand: 255.5 / 255 times the weighted sum, cut off."""
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (100, 100, 100), (1, 1, 1)]
    images = np.array(colours, np.uint8).T  # (3, colours)
    assert to_gray(images).tolist() == [0, 255, 76, 149, 29, 100, 1]


def test_the_fingerprint_is_of_the_content(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    fingerprint = load("cifar10", tmp_path).fingerprint
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert load("cifar10", tmp_path).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3073 + 5), "data_batch_2.bin: 3,078 bytes, expected 3073 for each of 10,000 images"),
        (bytes(3073) + b"\x0a" + bytes(3072), "data_batch_2.bin image 2: the class is 10, expected 0 to 9"),
        (b"", "data_batch_2.bin: the file is empty"),
        (None, "data_batch_2.bin: missing, expected all of data_batch_1.bin"),
    ],
)
def test_bad_cifar10(tmp_path, content, message):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path.parent / message))):
        load("cifar10", tmp_path)


def test_the_pickled_cifar10_is_not_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": [], b"labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"no data_batch_1.bin .*the binary version; the Python version is not read"):
        load("cifar10", tmp_path)


# All of them


@pytest.mark.parametrize(
    ("name", "source", "write"),
    [
        ("imdb", "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", write_imdb),
        ("aan", "https://huggingface.co/datasets/OpenNLPLab/lra", write_aan),
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", write_cifar10),
    ],
)
def test_where_to_get_it_and_the_script(tmp_path, name, source, write):
    with pytest.raises(DataError, match=f"{name}: no root, expected the folder that holds .*{re.escape(source)}"):
        load(name)
    with pytest.raises(DataError, match=f"expected the folder .*{re.escape(source)}"):
        load(name, tmp_path)

    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=120)
    write(tmp_path)
    done = run([sys.executable, DOOR, name, "--root", tmp_path])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: single-label, ")
    assert "documents        values" in done.stdout
    totals = re.search(r"^test +\d+ +([\d,]+)", done.stdout, re.MULTILINE)[1]
    counted = sum(len(d.text) + len(d.second or b"") for d in load(name, tmp_path).test)
    assert int(totals.replace(",", "")) == counted
    done = run([sys.executable, DOOR, name, "--root", tmp_path / "nowhere"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
