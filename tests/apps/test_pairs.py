"""Pairs of texts: stored, packed, classified by two towers, trained, predicted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps import classify, predict
from flash_sparse_apps.models.two_towers import TwoTowers
from flash_sparse_apps.tokens.batching import collate
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.token_store import TokenStore, truncation
from flash_sparse_datasets import Document

DOCUMENTS = [
    Document("first", b"abcdef", ("1",), b"xy"),
    Document("second", b"g", ("0",), b"hijklmno"),
    Document("third", b"pq", ("1",), b"rs"),
]
SMALL = (
    *("--dataset", "aan", "--width", "16", "--depth", "1", "--heads", "2", "--accelerator", "cpu", "--pooling", "mean"),
    *("--seq-len", "64", "--batch-size", "8", "--tokens-per-batch", "1024", "--bootstrap-samples", "20"),
)


def write_aan(folder: Path, count: int = 12) -> Path:
    """The official files: a pair is related where both papers are of the same one of two letters."""
    draw = random.Random(0)
    for name in ("train", "eval", "test"):
        lines = []
        for number in range(count):
            letters = draw.choice("ab"), draw.choice("ab")
            texts = ["b'" + letter * draw.randrange(4, 90) + " naïve'" for letter in letters]
            label = "1.0" if letters[0] == letters[1] else "0.0"
            lines.append("\t".join((label, f"P{number}", f"W{number}", *texts)))
        (folder / f"new_aan_pairs.{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(tmp_path, *flags):
    if not (tmp_path / "new_aan_pairs.test.tsv").is_file():
        write_aan(tmp_path)
    places = ("--root", str(tmp_path), "--output", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache"))
    return classify.main([*SMALL, *places, *flags]), tmp_path / "run"


def encoder(pooling: str = "mean") -> Encoder:
    torch.manual_seed(0)
    return Encoder(vocab_size=257, width=16, depth=1, heads=2, pooling=pooling, num_outputs=3)


@pytest.fixture
def store(tmp_path) -> TokenStore:
    return TokenStore.build_or_open(tmp_path, DOCUMENTS, ByteTokenizer(), ("0", "1"), "key", progress=False)


def test_a_store_keeps_both_texts_apart(store, tmp_path):
    assert store.pairs
    assert store.lengths.tolist() == [8, 9, 4]
    assert store.text_lengths.tolist() == [6, 8, 2]
    assert store.read_lengths(3).tolist() == [5, 4, 4]
    assert [bytes(text.tolist()) for text in store.texts(1, 3)] == [b"g", b"hij"]
    assert bytes(store.tokens(0, 3).tolist()) == b"abcxy"
    again = TokenStore.build_or_open(tmp_path, [], ByteTokenizer(), ("0", "1"), "key")
    assert [bytes(text.tolist()) for text in again.texts(0, 10)] == [b"abcdef", b"xy"]
    single = [Document("one", b"abc", ("0",))]
    single = TokenStore.build_or_open(tmp_path, single, ByteTokenizer(), ("0", "1"), "other", progress=False)
    assert not single.pairs
    assert [text.tolist() for text in single.texts(0, 2)] == [[97, 98]]


def test_each_text_is_cut_by_itself(store):
    cut = truncation(store, 4)
    assert (cut.documents, cut.documents_cut, cut.tokens, cut.tokens_cut) == (3, 2, 21, 2 + 4)
    assert (cut.median_length, cut.max_length) == (6, 8)


def test_a_batch_has_the_texts_of_each_pair_side_by_side(store):
    batch = collate(store, [1, 0], seq_len=3, num_labels=2, task="single-label")
    assert bytes(batch.tokens.tolist()) == b"g" + b"hij" + b"abc" + b"xy"
    assert batch.cu_seqlens.tolist() == [0, 1, 4, 7, 9]
    assert batch.max_seqlen == 3
    assert batch.targets.tolist() == [0, 1]
    assert batch.step_documents == 2


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_towers_see_one_text_each(pooling, store):
    towers = TwoTowers(encoder(pooling)).eval()
    batch = collate(store, [0, 1, 2], seq_len=5, num_labels=2, task="single-label")
    together = towers(batch.tokens, batch.cu_seqlens, batch.max_seqlen)  # (3, 3)
    assert together.shape == (3, 3)
    for row in range(3):
        vectors = [
            towers.encoder(torch.from_numpy(text), torch.tensor([0, len(text)], dtype=torch.int32), len(text))[0]
            for text in store.texts(row, 5)
        ]
        first, second = vectors  # (W,)
        expected = towers.head(torch.cat([first, second, first * second, first - second]))
        torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=1e-5)


def test_label_pooling_has_no_one_vector():
    with pytest.raises(ValueError, match="pooling is 'label'; expected mean, max or cls"):
        TwoTowers(encoder("label"))


def test_from_the_command_to_a_prediction(tmp_path, capsys):
    flags = ("--sparse", "--block-size", "16", "--window", "16", "--compare-peers", "--compare-documents", "4")
    code, folder = run(tmp_path, "--epochs", "2", *flags)
    assert code == 0
    assert "pairs of texts: each of the two is cut by itself" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["pairs"]
    rows = [line.split("\t") for line in (tmp_path / "new_aan_pairs.test.tsv").read_text().splitlines()]
    texts = [(row[3].encode(), row[4].encode()) for row in rows]
    cut = metrics["data"]["truncation"]["test"]
    assert cut["documents_cut"] == sum(max(map(len, pair)) > 64 for pair in texts) > 0
    assert cut["tokens_cut"] == sum(max(len(text) - 64, 0) for pair in texts for text in pair)
    assert metrics["compare"]["documents"] == 4
    assert all(metrics["peers"][f"{name}_seconds"] > 0 for name in ("own", "pytorch", "textbook"))
    assert "A document is a pair of texts" in (folder / "report.html").read_text()
    assert "PAIRS.jsonl" in (folder / "model" / "README.md").read_text()
    assert metrics["predict_command"].endswith("PAIRS.jsonl")

    new = tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps({"name": row[1], "text": row[3], "second": row[4]}) + "\n" for row in rows))
    capsys.readouterr()
    assert predict.main([str(folder), str(new), "--id-field", "name", "--tokens-per-batch", "200"]) == 0
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tested = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in predicted] == [row[1] for row in rows]
    for entry, before, pair in zip(predicted, tested, texts, strict=True):
        assert entry["labels"] == before["predicted"]
        assert entry["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
        assert entry["tokens"] == before["tokens"] == sum(map(len, pair))
        assert entry["truncated"] == (max(map(len, pair)) > 64)


def test_it_learns_what_neither_text_tells_alone(tmp_path):
    draw = random.Random(0)
    letters = [(draw.choice("ab"), draw.choice("ab")) for _ in range(32)]
    documents = [
        Document(str(i), draw.randrange(2, 9) * a.encode(), (str(int(a == b)),), draw.randrange(2, 9) * b.encode())
        for i, (a, b) in enumerate(letters)
    ]
    store = TokenStore.build_or_open(tmp_path, documents, ByteTokenizer(), ("0", "1"), "key", progress=False)
    batch = collate(store, range(32), seq_len=8, num_labels=2, task="single-label")
    towers = TwoTowers(encoder())
    optimizer = torch.optim.Adam(towers.parameters(), lr=0.01)
    for _ in range(40):
        logits = towers(batch.tokens, batch.cu_seqlens, batch.max_seqlen)  # (32, 3)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimizer.step()
    assert (logits.argmax(1) == batch.targets).float().mean() > 0.95


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--pooling", "label"), "--pooling is label; expected mean, max or cls for aan, a dataset of pairs"),
        (("--chunked",), "--chunked is given; it cannot be used with aan"),
    ],
)
def test_what_pairs_do_not_have_is_one_line(flags, said, tmp_path, capsys):
    assert run(tmp_path, *flags)[0] == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    code, folder = run(tmp_path_factory.mktemp("pairs"), "--epochs", "1", "--no-linear-baseline")
    assert code == 0
    return folder


class TestPredicting:
    @pytest.mark.parametrize(
        ("name", "content", "flags", "said"),
        [
            (
                "a.txt",
                "one text",
                (),
                "a single text, but the run is trained on pairs; expected a table with the fields 'text' and 'second'",
            ),
            ("a.jsonl", '{"text": "one"}\n', (), "no field 'second' (--second-field); its fields are: 'text'"),
            ("a.jsonl", '{"text": "one", "second": ""}\n', (), "line 1: 'second' is empty, expected a text"),
            ("a.csv", "text,second\none,two\n", ("--evidence",), "--evidence is given, but the run is on pairs"),
        ],
    )
    def test_wrong_input_is_one_line(self, finished, name, content, flags, said, tmp_path, capsys):
        (tmp_path / name).write_text(content)
        assert predict.main([str(finished), str(tmp_path / name), *flags]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert said in err

    def test_other_names_of_the_fields(self, finished, tmp_path, capsys):
        (tmp_path / "a.csv").write_text("mine,yours\naaaa,bbbb\n")
        fields = ("--text-field", "mine", "--second-field", "yours")
        assert predict.main([str(finished), str(tmp_path / "a.csv"), *fields]) == 0
        assert json.loads(capsys.readouterr().out)["tokens"] == 8


def test_pairs_are_pretrained_too(tmp_path):
    code, folder = run(tmp_path, "--pretrain", "1", "--epochs", "1", "--no-linear-baseline")
    assert code == 0
    assert json.loads((folder / "metrics.json").read_text())["pretraining"]["steps"] == 2


def test_strings_train_one_tokenizer_on_both_texts(tmp_path):
    code, folder = run(tmp_path, "--dataset-options", "{level: text}", "--vocab-size", "300", "--epochs", "1")
    assert code == 0
    assert json.loads((folder / "metrics.json").read_text())["model"]["encoder"]["vocab_size"] <= 300
    shares = [json.loads(line)["probabilities"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert np.isfinite([list(entry.values()) for entry in shares]).all()
