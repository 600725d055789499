"""Masked self-pretraining: what is masked, what it learns, what becomes of it, and that it resumes to the bit."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from flash_sparse.nn import Encoder
from flash_sparse_apps import classify
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.training.callbacks import Checkpoints
from flash_sparse_apps.training.pretraining import MaskedTokens, PretrainingCheckpoints, frequency_loss, mask_share

from .conftest import SPARSE, TINY
from .test_resume import SCRIPT, Killed, kill_at, same_results
from .test_settings import one_error_line

# 10 steps an epoch, a checkpoint after steps 6, 10, 12, 18, 20 of either phase
PLAIN = (*TINY, *SPARSE, "--epochs", "2", "--no-compare", "--no-linear-baseline", "--examples", "0")
FLAGS = (*PLAIN, "--pretrain", "2", "--checkpoint-every", "6")
MASK, CLS = 29, 28


@pytest.fixture(scope="module")
def data(planted_files, cache_folder) -> list[str]:
    return ["--dataset", str(planted_files["single-label"]), "--cache-dir", str(cache_folder)]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert classify.main([*data, *FLAGS, "--output", str(run)]) == 0
    return run


def module(share: float = 0.5, cls_id: int | None = CLS, step: int = 0, seed: int = 0) -> MaskedTokens:
    torch.manual_seed(0)
    encoder = Encoder(30, width=16, depth=1, heads=2, num_outputs=3)
    recipe = {"learning_rate": 0.1, "weight_decay": 0.5, "warmup_share": 0.1, "gradient_clip": 1.0, "seed": seed}
    made = MaskedTokens(encoder, None, mask_id=MASK, cls_id=cls_id, mask_share=share, **recipe)
    made.trainer = SimpleNamespace(global_step=step)
    return made


def packed(lengths: list[int], indices: list[int]) -> PackedBatch:
    """Documents that begin with CLS and whose other tokens depend on their index alone."""
    tokens = [torch.arange(length) * (index + 3) % 28 for length, index in zip(lengths, indices, strict=True)]
    for document in tokens:
        document[0] = CLS
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    targets = torch.zeros(len(lengths), dtype=torch.int64)
    return PackedBatch(torch.cat(tokens), starts, max(lengths), targets, torch.tensor(indices), len(lengths))


class TestMasks:
    def test_the_share_is_kept_and_the_first_token_is_never_masked(self):
        batch = packed([20_001], [0])
        for share in (0.1, 0.5):
            masked = module(share).draw(batch)
            assert not masked[0]
            assert masked[1:].float().mean().item() == pytest.approx(share, abs=0.02)
        assert module(0.999, cls_id=None).draw(batch)[0]

    def test_they_depend_on_seed_step_and_document_and_on_nothing_else(self):
        together = module().draw(packed([40, 30], [5, 2]))
        assert torch.equal(together[:40], module().draw(packed([40], [5])))
        assert torch.equal(together[40:], module().draw(packed([30], [2])))
        for other in (module(step=1), module(seed=1)):
            assert not torch.equal(together, other.draw(packed([40, 30], [5, 2])))
        assert not torch.equal(together[:40], module().draw(packed([40], [6])))

    @pytest.mark.parametrize(
        ("grid", "vocabulary", "share"), [((4, 4), None, 0.5), (None, None, 0.15), (None, ("a",), 0.1)]
    )
    def test_the_default_share_goes_by_the_kind_of_data(self, grid, vocabulary, share):
        kind = SimpleNamespace(grid=grid, vocabulary=vocabulary)
        assert mask_share(Settings(pretrain=1), kind) == share
        assert mask_share(Settings(pretrain=1, mask_share=0.3), kind) == 0.3


class TestLosses:
    def test_a_document_has_the_mean_over_its_masked_tokens(self):
        masker, batch = module(), packed([9, 21, 5], [0, 1, 2])
        masked = masker.draw(batch)
        hidden = masker.encoder.encode(batch.tokens.masked_fill(masked, MASK), batch.cu_seqlens, 21)
        each = -masker.head(hidden).log_softmax(1).gather(1, batch.tokens[:, None])[:, 0]  # (total,)
        expected = [each[a:b][masked[a:b]].mean() for a, b in ((0, 9), (9, 30), (30, 35))]
        torch.testing.assert_close(masker.losses(batch), torch.stack(expected))

    def test_two_texts_of_a_pair_are_one_document_and_are_read_each_by_itself(self):
        masker, batch = module(), packed([9, 21, 5, 7], [0, 1, 2, 3])
        pairs = dataclasses.replace(batch, indices=torch.tensor([4, 6]), step_documents=2)
        masked = masker.draw(pairs)
        assert torch.equal(masked[:30], masker.draw(packed([30], [4])) & (batch.tokens[:30] != CLS))
        hidden = masker.encoder.encode(batch.tokens.masked_fill(masked, MASK), batch.cu_seqlens, 21)
        each = -masker.head(hidden).log_softmax(1).gather(1, batch.tokens[:, None])[:, 0]  # (total,)
        expected = [each[a:b][masked[a:b]].mean() for a, b in ((0, 30), (30, 42))]
        torch.testing.assert_close(masker.losses(pairs), torch.stack(expected))

    def test_other_tokens_tell_through_attention_and_masked_ones_do_not(self):
        masker, batch = module(), packed([30], [0])
        masked = masker.draw(batch)
        seen, hidden = int((~masked).nonzero()[5]), int(masked.nonzero()[5])
        inputs = []
        masker.encoder.embedding.register_forward_hook(lambda module, given, output: inputs.append(given[0].clone()))
        masker.losses(batch)
        batch.tokens[hidden] = (batch.tokens[hidden] + 1) % 28
        masker.losses(batch)
        assert torch.equal(inputs[0], inputs[1])  # what is behind the mask never reaches the encoder
        batch.tokens[seen] = (batch.tokens[seen] + 1) % 28
        masker.losses(batch)
        assert not torch.equal(inputs[1], inputs[2])

    def test_a_document_without_a_masked_token_has_loss_zero_and_gradients(self):
        masker = module(share=1e-9)
        losses = masker.losses(packed([9, 5], [0, 1]))
        assert losses.tolist() == [0, 0]
        losses.sum().backward()
        assert all(p.grad is not None for name, p in masker.named_parameters() if p.requires_grad)

    def test_the_classifiers_head_is_left_alone(self):
        masker = module()
        masker.trainer.max_epochs, masker.trainer.datamodule = 1, SimpleNamespace(train_dataloader=lambda: range(3))
        optimizer = masker.configure_optimizers()["optimizer"]
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert not trained & {id(p) for p in masker.encoder.head.parameters()}
        assert {id(p) for p in masker.head.parameters()} <= trained


def test_the_figures_and_the_page_tell_of_it(uninterrupted):
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    before = metrics["pretraining"]
    assert (before["epochs"], before["steps"], before["mask_share"]) == (2, 20, 0.15)
    first, last = (entry["train_loss"] for entry in before["history"])
    assert last < first
    assert metrics["training"]["steps"] == 20
    assert metrics["training"]["seconds"] > before["seconds"] > 0
    page = (uninterrupted / "report.html").read_text()
    assert "<h2>Pretraining</h2>" in page
    assert f"{last:.4f}" in page
    assert f"nothing else, would give {before['frequency_loss']:.4f}" in page
    assert "loss of masked tokens" in page


def test_frequencies_alone():
    """Of the tokens after the first, half are 1, a quarter 2 and a quarter 3: 1.5 bits."""
    texts = [[0, 1, 2, 1], [0, 3], [0]]

    class Store:
        def __len__(self):
            return len(texts)

        def tokens(self, index, seq_len):
            return np.array(texts[index][:seq_len])

    data = SimpleNamespace(train_store=Store(), seq_len=9, tokenizer=SimpleNamespace(vocab_size=5, cls_id=0))
    assert frequency_loss(data) == pytest.approx(1.5 * math.log(2))
    data.seq_len = 2
    assert frequency_loss(data) == pytest.approx(math.log(2))


def test_a_tokenizer_without_a_mask_is_one_line(data, tmp_path, capsys):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[CLS]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $0", special_tokens=[("[CLS]", 0)])
    (tmp_path / "words").mkdir()
    backend.save(str(tmp_path / "words" / "tokenizer.json"))
    flags = [*data, "--tokenizer", str(tmp_path / "words"), "--output", str(tmp_path / "run")]
    assert classify.main([*flags, "--pretrain", "1"]) == 2
    err = capsys.readouterr().err
    assert f"--tokenizer is {tmp_path / 'words'}, which has no mask token; expected one for --pretrain" in err
    assert err.count("\n") == 1


def test_the_weights_pass_on_and_the_files_are_as_without(uninterrupted, data, tmp_path):
    plain = tmp_path / "plain"
    assert classify.main([*data, *PLAIN, "--output", str(plain)]) == 0
    with_it, without = (load_file(run / "model" / "model.safetensors") for run in (uninterrupted, plain))
    assert {name: value.shape for name, value in with_it.items()} == {n: v.shape for n, v in without.items()}
    assert any(not torch.equal(with_it[name], without[name]) for name in with_it)
    assert "<h2>Pretraining</h2>" not in (plain / "report.html").read_text()
    pretrained = load_file(uninterrupted / "checkpoints" / "pretraining.safetensors")
    assert pretrained.keys() == with_it.keys()
    assert not (uninterrupted / "checkpoints" / "pretraining.ckpt").exists()


@pytest.mark.parametrize(
    ("phase", "checkpoint"), [*((PretrainingCheckpoints, number) for number in (1, 2, 3, 5)), (Checkpoints, 1)]
)
def test_killed_in_either_phase(phase, checkpoint, data, uninterrupted, tmp_path, monkeypatch):
    """In the middle of an epoch (1), at its end (2), in the next one (3), and after the last (5)."""
    saved = kill_at(monkeypatch, phase, checkpoint)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        classify.main([*data, *FLAGS, "--output", str(run)])
    assert saved[-1] == [6, 10, 12, 18, 20][checkpoint - 1]
    monkeypatch.undo()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)
    same_pretraining(run, uninterrupted)


def test_killed_between_the_phases(data, uninterrupted, tmp_path, monkeypatch):
    def die(*unused):
        raise Killed

    monkeypatch.setattr(Checkpoints, "on_train_start", die)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        classify.main([*data, *FLAGS, "--output", str(run)])
    monkeypatch.undo()
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert classify.main(["--resume", str(run)]) == 0
    same_results(run, uninterrupted)


def same_pretraining(run: Path, other: Path):
    summaries = [json.loads((folder / "metrics.json").read_text())["pretraining"] for folder in (run, other)]
    for summary in summaries:
        for timed in (summary, *summary["history"]):
            timed.pop("seconds")
    assert summaries[0] == summaries[1]


def test_time_that_ends_before_it_ends_is_one_line_and_goes_on(data, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    flags = (*PLAIN, "--pretrain", "2", "--checkpoint-every", "1", "--max-time", "0.0001")
    assert classify.main([*data, *flags, "--output", str(run)]) == 2
    err = capsys.readouterr().err
    assert "--max-time is 0.0001, over before the end of --pretrain; expected more" in err
    assert "--resume" in err
    assert err.count("\n") == 1
    assert classify.main(["--resume", str(run), "--max-time", "10"]) == 0
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, uninterrupted)]
    assert weights[0] == weights[1]
    same_pretraining(run, uninterrupted)


@pytest.mark.parametrize("name", ["pretraining.json", "pretraining.safetensors"])
def test_damaged_files_are_one_line(name, data, tmp_path, monkeypatch, capsys):
    kill_at(monkeypatch, Checkpoints, 1)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        classify.main([*data, *FLAGS, "--output", str(run)])
    monkeypatch.undo()
    (damaged,) = run.rglob(name)
    damaged.write_bytes(b"{")
    capsys.readouterr()
    assert classify.main(["--resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert str(damaged) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pretrain", "-1"], "--pretrain is -1; expected at least 0"),
        (["--pretrain", "1", "--mask-share", "0"], "--mask-share is 0.0; expected more than 0 and less than 1"),
        (["--pretrain", "1", "--mask-share", "1"], "--mask-share is 1.0; expected more than 0 and less than 1"),
        (["--mask-share", "0.2"], "--mask-share is 0.2; it needs --pretrain"),
        (["--pretrain", "1", "--chunked"], "--pretrain is 1; it cannot be used with --chunked"),
        (["--pretrain", "1", "--pretrained", "name"], "--pretrain is 1; it cannot be used with --pretrained"),
    ],
)
def test_wrong_flags_are_one_line(capsys, flags, said):
    assert said in one_error_line(capsys, flags)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["pretraining.ckpt", "last.ckpt"])
def test_sigkill_in_either_phase(file, data, uninterrupted, tmp_path):
    """The real thing, in processes of its own."""
    run = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), *data, *FLAGS, "--output", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / file).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "metrics.json").exists()
    resumed = subprocess.run([sys.executable, str(SCRIPT), "--resume", str(run)], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    same_results(run, uninterrupted)
    same_pretraining(run, uninterrupted)
