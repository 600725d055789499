"""The passages that carry a label, in documents where it is known which they are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps import predict
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction import evidence
from flash_sparse_apps.prediction.evidence import find_evidence, find_passages
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import word_tokenizer

LABELS = ("apple", "fig", "pear")
WORDS = 400  # of a document; the words that give its labels away stand among the last
WIDTH = 8


def document(draw: random.Random) -> tuple[str, dict[str, int]]:
    """A text, and for each of its labels the character at which the keyword begins."""
    words = [f"word{draw.randrange(40)}" for _ in range(WORDS)]
    labels = [label for label in LABELS if draw.random() < 0.5]
    places = dict(zip(labels, draw.sample(range(WORDS - 30, WORDS), len(labels)), strict=True))
    for label, place in places.items():
        words[place] = f"key{label}"
    return " ".join(words), {label: len(" ".join(words[:place])) + 1 for label, place in places.items()}


@pytest.fixture
def run(tmp_path) -> Path:
    """A model made by hand that gives a label exactly where its keyword stands in the text."""
    tokenizer = word_tokenizer([*(f"word{number}" for number in range(40)), *(f"key{label}" for label in LABELS)])
    arguments = {"vocab_size": tokenizer.vocab_size, "width": WIDTH, "depth": 0, "heads": 1}
    arguments |= {"num_outputs": len(LABELS), "pooling": "max"}
    encoder = Encoder(**arguments).eval()
    with torch.no_grad():
        encoder.embedding.weight.copy_(torch.eye(WIDTH)[torch.zeros(tokenizer.vocab_size, dtype=torch.int64)])
        encoder.head.weight.zero_()
        encoder.head.bias.fill_(-4.5)
        for feature, label in enumerate(LABELS, 1):
            (_, keyword) = tokenizer.encode_batch([f"key{label}"])[0]
            encoder.embedding.weight[keyword] = torch.eye(WIDTH)[feature]
            encoder.head.weight[feature - 1, feature] = 4.0
    saved = SavedModel(
        encoder=encoder,
        encoder_arguments=arguments,
        attention={"sparse": False},
        tokenizer=tokenizer,
        labels=LABELS,
        task="multi-label",
        thresholds=np.full(len(LABELS), 0.5),
        seq_len=1024,
        dataset="by hand",
    )
    saved.save(tmp_path / "run" / "model", "")
    return tmp_path / "run"


def test_planted_evidence_at_the_far_end_is_found(run, tmp_path, capsys):
    draw = random.Random(2)
    texts, places = tmp_path / "texts", {}
    texts.mkdir()
    for number in range(9):
        text, places[f"{number}.txt"] = document(draw)
        (texts / f"{number}.txt").write_text(text)
    capsys.readouterr()
    assert predict.main([str(run), str(texts), "--evidence"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 9
    for row in rows:
        name = row["id"].rsplit("/", 1)[1]
        text = (texts / name).read_text()
        assert row["evidence"].keys() == set(row["labels"]) == places[name].keys()
        for label, (first, *others) in row["evidence"].items():
            assert first["start"] <= places[name][label] < first["end"]
            assert f"key{label}" in first["text"] == text[first["start"] : first["end"]]
            assert first["drop"] > 0.9
            assert others == []
            assert len(first["text"]) < len(text) / 5

    assert predict.main([str(run), str(texts), "--evidence", "--format", "table"]) == 0
    table = capsys.readouterr().out
    assert table.count(" without ") >= sum(map(len, places.values())) > 9


def test_a_drop_is_what_taking_the_passage_out_does(monkeypatch):
    monkeypatch.setattr(evidence, "LEAST_DROP", 1e-6)
    torch.manual_seed(3)
    encoder = Encoder(50, 16, 1, 2, num_outputs=4, pooling="mean").eval()
    tokens = torch.randint(50, (200,))
    probabilities = encoder(tokens, torch.tensor([0, 200], dtype=torch.int32), 200)[0].sigmoid().detach()
    found = find_evidence(encoder, tokens, range(4), None, "multi-label", 400, borders=range(1, 201))
    for label, passages in found.items():
        for start, stop, drop in passages:
            assert 1 <= start < stop <= 200
            rest = torch.cat([tokens[:start], tokens[stop:]])
            starts = torch.tensor([0, len(rest)], dtype=torch.int32)
            after = encoder(rest, starts, len(rest))[0].sigmoid().detach()
            assert drop == pytest.approx(float(probabilities[label] - after[label]), abs=1e-6)
            assert drop > 0
            assert stop - start <= 200 / 8 * 1.5
        assert all(a[1] <= b[0] or b[1] <= a[0] for a in passages for b in passages if a != b)
    assert sum(map(len, found.values())) > 0


def test_labels_share_what_is_read_for_each(monkeypatch):
    read, compute = [], evidence.compute_logits
    monkeypatch.setattr(evidence, "compute_logits", lambda *given: read.extend(given[1]) or compute(*given))
    torch.manual_seed(3)
    encoder = Encoder(50, 16, 1, 2, num_outputs=4, pooling="mean").eval()
    tokens = torch.randint(50, (600,))
    arguments = (None, "multi-label", 10_000, range(601))
    together = find_evidence(encoder, tokens, range(4), *arguments)
    texts = {tuple(text.tolist()) for (text,) in read}
    assert len(read) == len(texts)  # none twice
    assert find_evidence(encoder, tokens, [], *arguments) == {}
    assert len(read) == len(texts)
    alone = {}
    for label in range(4):
        alone |= find_evidence(encoder, tokens, [label], *arguments)
    assert len(read) > len(texts) + 4 * 5  # the whole text and its quarters, for each label anew
    for label, passages in together.items():
        assert [passage[:2] for passage in passages] == [passage[:2] for passage in alone[label]]


def test_a_character_of_several_tokens_is_never_cut(monkeypatch):
    monkeypatch.setattr(evidence, "LEAST_DROP", -1.0)
    torch.manual_seed(0)
    encoder = Encoder(257, 16, 1, 2, num_outputs=1, pooling="mean").eval()
    for text in ("\U0001f600", "日\U0001f600本é" * 5):
        found = find_passages(encoder, ByteTokenizer(), text, [0], None, "multi-label", 1024, 4096)[0]
        characters = [place for start, stop, _ in found for place in range(start, stop)]
        assert len(characters) == len(set(characters))
    assert len(found) == 3


def test_offsets_are_those_of_the_text_in_the_file(run, tmp_path, capsys):
    content = "word1 \U0001f600 e\u0301\r\n" * 30 + "keyfig\r\n\r\n日本 word2\r\n" + "word3 " * 50
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert predict.main([str(run), str(tmp_path / "a.txt"), "--evidence"]) == 0
    row = json.loads(capsys.readouterr().out)
    (passage,) = row["evidence"]["fig"]
    assert passage["text"] == content[passage["start"] : passage["end"]]
    assert "keyfig" in passage["text"]


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_the_shortest_texts(length):
    encoder = Encoder(50, 16, 1, 2, num_outputs=2).eval()
    for first in (0, 1):
        tokens = torch.randint(50, (length,))
        (found,) = find_evidence(encoder, tokens, [1], None, "single-label", 16, range(first, length + 1)).values()
        assert all(first <= start < stop <= length and stop - start < length for start, stop, _ in found)


def test_spans_of_bytes_are_characters():
    values, spans = ByteTokenizer().encode_with_spans("aé\U0001f600b")
    assert len(values) == len(spans) == 8
    assert spans == [(0, 1), (1, 2), (1, 2), *[(2, 3)] * 4, (3, 4)]


def test_evidence_has_no_place_in_csv(multi_label_run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("word1")
    assert predict.main([str(multi_label_run), str(tmp_path / "a.txt"), "--evidence", "--format", "csv"]) == 2
    assert "--evidence is given, but the format is csv" in capsys.readouterr().err
