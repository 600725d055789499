"""Too little memory for a step: what is said, and going on with smaller micro-batches (--auto-batch)."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from flash_sparse_apps import classify
from flash_sparse_apps.models.halving import Halving
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.tokens.batching import PackedBatch

from .conftest import TINY

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."


def packed(lengths: list[list[int]]) -> PackedBatch:
    """Documents of one text each, or of two."""
    each = [length for texts in lengths for length in texts]
    return PackedBatch(
        tokens=torch.arange(sum(each)),
        cu_seqlens=torch.tensor([0, *each]).cumsum(0).int(),
        max_seqlen=max(each),
        targets=torch.arange(len(lengths)),
        indices=torch.arange(10, 10 + len(lengths)),
        step_documents=99,
    )


@pytest.mark.parametrize(
    ("lengths", "halves"),
    [
        ([[4], [4], [4], [4]], [[[4], [4]], [[4], [4]]]),
        ([[9], [1], [1]], [[[9]], [[1], [1]]]),
        ([[1], [9]], [[[1]], [[9]]]),
        ([[2, 3], [5, 1], [4, 0]], [[[2, 3], [5, 1]], [[4, 0]]]),
    ],
)
def test_halves_have_the_same_documents(lengths, halves):
    whole = packed(lengths)
    found = whole.halves()
    assert [half.cu_seqlens.diff().tolist() for half in found] == [
        [length for texts in half for length in texts] for half in halves
    ]
    assert [half.max_seqlen for half in found] == [max(map(max, half)) for half in halves]
    for name in ("tokens", "targets", "indices"):
        assert torch.equal(torch.cat([getattr(half, name) for half in found]), getattr(whole, name))
    assert {half.step_documents for half in found} == {99}
    assert packed([[3, 2]]).halves()[0].tokens.tolist() == [0, 1, 2, 3, 4]


def test_gradients_are_those_of_the_whole_step():
    """And smaller micro-batches stay for the steps that follow."""
    torch.manual_seed(0)
    embedding = nn.Embedding(40, 3, dtype=torch.float64)
    batch = [packed([[8], [7], [6], [5]]), packed([[8], [2], [1]])]
    most, seen = 1000, []

    def add_gradients(parts):
        embedding.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for part in parts:
            seen.append(len(part.tokens))
            if len(part.tokens) > most:
                raise RuntimeError(ALLOCATOR)
            loss = embedding(part.tokens).sin().sum() / part.step_documents
            loss.backward()
            total += loss.detach()
        return total

    halving = Halving(allowed=True)
    loss = halving.compute(add_gradients, batch)
    gradient = embedding.weight.grad.clone()
    assert (halving.times, seen) == (0, [26, 11])

    most, seen = 10, []
    torch.testing.assert_close(halving.compute(add_gradients, batch), loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(embedding.weight.grad, gradient, rtol=1e-13, atol=1e-16)
    assert halving.times == 2
    seen.clear()
    halving.compute(add_gradients, batch)
    assert seen == [8, 7, 6, 5, 8, 2, 1]


@pytest.mark.parametrize(
    ("allowed", "error"),
    [(False, RuntimeError(ALLOCATOR)), (True, RuntimeError("a bug")), (True, MemoryError("one document alone"))],
)
def test_other_errors_are_raised(allowed, error):
    def step(parts):
        raise error

    halving = Halving(allowed)
    with pytest.raises(type(error)) as raised:
        halving.compute(step, [packed([[3], [3]] if "alone" not in str(error) else [[3]])])
    assert raised.value is error
    assert halving.times == 0


@pytest.fixture
def little(monkeypatch) -> dict[str, int]:
    """From `step` on, memory is too little for training on more than `tokens` at once."""
    losses, limits = Classifier.losses, {"step": 0, "tokens": 200}

    def losing(self, batch):
        if self.global_step >= limits["step"] and len(batch.tokens) > limits["tokens"]:
            raise RuntimeError(ALLOCATOR)
        return losses(self, batch)

    monkeypatch.setattr(Classifier, "losses", losing)
    return limits


def test_what_is_advised_works(little, planted_files, cache_folder, tmp_path, capsys):
    run = tmp_path / "run"
    data = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder), "--output", str(run))
    flags = (*TINY, "--epochs", "2", "--no-linear-baseline", "--examples", "0")
    little["step"] = 12
    assert classify.main([*data, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: too little memory (")
    assert "; expected --auto-batch, a lower --tokens-per-batch 256, a lower --seq-len 96, or --checkpoint-" in err
    assert err.endswith(f"; to continue: flash-sparse classify --resume {run}\n")

    assert classify.main(["--resume", str(run), "--auto-batch"]) == 0
    assert "too little memory: going on with half of --tokens-per-batch" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["speed"]["tokens_per_batch"] == 128
    assert metrics["training"]["steps"] == 20
    said = "Memory was too little for --tokens-per-batch 256: it was enough for 128 (--auto-batch)."
    assert said in (run / "report.html").read_text()


def test_a_document_that_is_too_long_alone(little, planted_files, cache_folder, tmp_path, capsys):
    little["tokens"] = 40
    data = ("--dataset", str(planted_files["multi-label"]), "--cache-dir", str(cache_folder))
    assert classify.main([*data, *TINY, "--auto-batch", "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith("); expected a lower --seq-len 96, or --checkpoint-activations\n")
