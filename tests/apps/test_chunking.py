"""Documents read window by window."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from flash_sparse import patterns
from flash_sparse.nn import Encoder
from flash_sparse_apps import classify, predict
from flash_sparse_apps.models.chunking import Chunked, cut

from .conftest import TINY

LENGTHS = [1, 2, 3, 4, 5, 6, 7, 13, 40]


def documents(lengths: list[int]) -> list[torch.Tensor]:
    """Each begins with token 1."""
    draw = torch.Generator().manual_seed(0)
    return [torch.cat([torch.tensor([1]), torch.randint(2, 30, (n - 1,), generator=draw)]) for n in lengths]


def windows_of(document: torch.Tensor, window: int) -> list[torch.Tensor]:
    rest = document[1:].split(window - 1) or [document[1:]]
    return [torch.cat([document[:1], part]) for part in rest]


@pytest.mark.parametrize("window", [2, 3, 5, 12, 40, 512])
def test_windows_are_those_cut_one_by_one(window):
    texts = documents(LENGTHS)
    expected = [windows_of(text, window) for text in texts]
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    tokens, begins, owners = cut(torch.cat(texts), starts, window)
    flat = [part for parts in expected for part in parts]
    assert torch.equal(tokens, torch.cat(flat))
    assert begins.tolist() == torch.tensor([0, *map(len, flat)]).cumsum(0).tolist()
    assert owners.tolist() == torch.tensor([0, *(sum(map(len, parts)) for parts in expected)]).cumsum(0).tolist()
    assert begins.dtype == owners.dtype == torch.int32


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
def test_each_window_is_encoded_alone_and_all_are_pooled(pooling):
    torch.manual_seed(0)
    encoder = Encoder(30, 16, 1, 2, num_outputs=3, pooling=pooling).eval()
    texts = documents(LENGTHS)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    logits = Chunked(encoder, 5)(torch.cat(texts), starts, max(LENGTHS))
    for row, text in enumerate(texts):
        hidden = [
            encoder.encode(part, torch.tensor([0, len(part)], dtype=torch.int32), len(part))
            for part in windows_of(text, 5)
        ]
        if pooling == "cls":
            alone = encoder.head(torch.stack([part[0] for part in hidden]).mean(0))
        else:
            whole = torch.cat(hidden)
            alone = encoder.classify(whole, torch.tensor([0, len(whole)], dtype=torch.int32))[0]
        torch.testing.assert_close(logits[row], alone)


def test_documents_that_fit_a_window_are_read_as_without():
    torch.manual_seed(0)
    encoder = Encoder(30, 16, 1, 2, num_outputs=3, pooling="label").eval()
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    tokens = torch.cat(documents(LENGTHS))
    assert torch.equal(Chunked(encoder, 40)(tokens, starts, 40), encoder(tokens, starts, 40))


def test_layouts_are_refused():
    encoder = Chunked(Encoder(30, 16, 1, 2, num_outputs=3), 5)
    with pytest.raises(ValueError, match="expected None"):
        encoder(torch.ones(3, dtype=torch.int64), torch.tensor([0, 3], dtype=torch.int32), 3, patterns.local(3, 16))


@pytest.fixture(scope="module")
def chunked_run(planted_files, cache_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("chunked") / "run"
    data = ("--dataset", str(planted_files["multi-label"]), "--id-field", "name", "--cache-dir", str(cache_folder))
    flags = (*TINY, "--epochs", "1", "--chunked", "--chunk-tokens", "16", "--no-linear-baseline")
    assert classify.main([*data, *flags, "--output", str(run)]) == 0
    return run


def test_a_run_predicts_new_documents_as_it_tested(chunked_run, planted_files, capsys):
    capsys.readouterr()
    assert predict.main([str(chunked_run), str(planted_files["multi-label"]), "--id-field", "name"]) == 0
    found = {row["id"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    tested = [json.loads(line) for line in (chunked_run / "predictions.jsonl").read_text().splitlines()]
    for row in tested:
        assert found[row["id"]]["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)
    assert "dense within windows of 16 tokens" in (chunked_run / "report.html").read_text()


def test_a_damaged_window_is_one_line(chunked_run, tmp_path, capsys):
    shutil.copytree(chunked_run / "model", tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chunk_tokens": 1}))
    (tmp_path / "a.txt").write_text("word1")
    capsys.readouterr()
    assert predict.main([str(tmp_path), str(tmp_path / "a.txt")]) == 2
    assert "chunk_tokens is 1; expected an integer from 2 to 16,777,216" in capsys.readouterr().err


def test_passages_of_documents_in_windows(chunked_run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("word1 keyword2 " * 200)
    capsys.readouterr()
    assert predict.main([str(chunked_run), str(tmp_path / "a.txt"), "--evidence"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["truncated"]
    assert row["evidence"].keys() == set(row["labels"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--chunked", "--sparse"), "--sparse is given; it cannot be used with --chunked"),
        (("--chunked", "--rotary", "2d"), "--rotary is 2d; it cannot be used with --chunked"),
        (("--chunked", "--chunk-tokens", "1"), "--chunk-tokens is 1; expected at least 2"),
        (("--chunk-tokens", "64"), "--chunk-tokens is 64; it needs --chunked"),
    ],
)
def test_flags_that_do_not_go_together(flags, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        classify.main(list(flags))
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
