"""The passages that carry a label, in documents where it is known which they are."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps import predict
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction import evidence
from flash_sparse_apps.prediction.borders import Borders
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
    found = find_evidence(encoder, tokens, range(4), None, "multi-label", 400, borders=Borders(range(1, 201)))
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
    arguments = (None, "multi-label", 10_000, Borders(range(601)))
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
        (found,) = find_evidence(
            encoder, tokens, [1], None, "single-label", 16, Borders(range(first, length + 1))
        ).values()
        assert all(first <= start < stop <= length and stop - start < length for start, stop, _ in found)


def test_spans_of_bytes_are_characters():
    values, spans = ByteTokenizer().encode_with_spans("aé\U0001f600b")
    assert len(values) == len(spans) == 8
    assert spans == [(0, 1), (1, 2), (1, 2), *[(2, 3)] * 4, (3, 4)]


def spans_of(text: str) -> list[tuple[int, int]]:
    """As a byte-level BPE has them, of words with the space before them and of punctuation; [CLS] first."""
    return [(0, 0), *(match.span() for match in re.finditer(r" ?\w+|\s|[^\w\s]", text))]


def test_cuts_are_made_at_sentences_then_lines_then_words():
    text = "One two three. Four (five)! six seven\neight nine 日本。語"
    spans = spans_of(text)
    borders = Borders.of_text(text, spans, 1)
    sentences, lines, words = ([text[spans[at][0] :].lstrip() for at in kind] for kind in borders.better)
    assert sentences == ["Four (five)! six seven\neight nine 日本。語", "語"]  # `six` goes on
    assert lines == ["eight nine 日本。語"] * len(lines)
    assert lines
    assert not any(word.startswith(("wo", ".", "(five"[1:], "本")) for word in words)
    assert {"two three. Four (five)! six seven\neight nine 日本。語", text[text.index("nine") :]} <= set(words)
    assert borders.places[0] == 1
    assert borders.places[-1] == len(spans)


def test_much_white_space_takes_no_time():
    text = "a. " + " \n" * 50_000 + "b"
    spans = [(0, 0), *((at, at + 1) for at in range(len(text)))]
    sentences, lines, words = Borders.of_text(text, spans, 1).better
    assert len(sentences) == len(lines) == len(words) > 100_000


def test_a_cut_is_made_at_the_nearest_of_the_best_kind_within_reach():
    borders = Borders(range(101), [10, 55, 99], [24, 48, 80])
    assert borders.cut(0, 100, 2) == [(0, 55), (55, 100)]
    assert borders.cut(0, 100, 4) == [(0, 24), (24, 55), (55, 80), (80, 100)]
    assert borders.cut(0, 8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]  # nothing better is near
    assert borders.cut(55, 57, 1) == [(55, 57)]
    assert Borders([0, 40, 100]).cut(0, 100, 4) == [(0, 40), (40, 100)]


def test_passages_are_whole_sentences(run, tmp_path, capsys):
    draw = random.Random(4)
    sentences = [" ".join(f"word{draw.randrange(40)}" for _ in range(12)).capitalize() + " ." for _ in range(40)]
    sentences[33] = "Word1 word2 keyfig word3 word4 word5 word6 word7 word8 word9 word1 word2 ."
    text = "  ".join(sentences)
    (tmp_path / "a.txt").write_text(text)
    assert predict.main([str(run), str(tmp_path / "a.txt"), "--evidence"]) == 0
    (passage,) = json.loads(capsys.readouterr().out)["evidence"]["fig"]
    assert passage["text"] == text[passage["start"] : passage["end"]]
    assert "keyfig" in passage["text"]
    assert passage["text"].startswith("Word")
    assert passage["text"].endswith(" .")


def test_where_no_passage_carries_a_label_the_best_is_named(run, tmp_path, capsys):
    """One keyword is enough, and it stands everywhere: to take a passage out changes nothing."""
    text = "word1 keyfig word2 word3 keyfig word4 " * 60
    (tmp_path / "a.txt").write_text(text)
    assert predict.main([str(run), str(tmp_path / "a.txt"), "--evidence"]) == 0
    (passage,) = json.loads(capsys.readouterr().out)["evidence"]["fig"]
    assert passage["drop"] < evidence.LEAST_DROP
    assert passage["text"] == text[passage["start"] : passage["end"]].strip()
    assert 0 < len(passage["text"]) < len(text) / 4
