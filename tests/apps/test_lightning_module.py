"""The loss, the learning rate, the accumulated step."""

from __future__ import annotations

import math
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch

from flash_sparse import patterns
from flash_sparse.nn import Encoder
from flash_sparse_apps.models.lightning_module import Classifier, document_losses, predict, rate, to_probabilities
from flash_sparse_apps.tokens.batching import PackedBatch

ENCODER = {"vocab_size": 30, "width": 16, "depth": 1, "heads": 2, "rotary": "1d", "pooling": "label", "num_outputs": 3}


def packed(lengths: list[int], indices: list[int], step_documents: int) -> PackedBatch:
    """Documents whose tokens and targets depend on their index alone."""
    tokens = [torch.arange(length) * (index + 3) % 30 for length, index in zip(lengths, indices, strict=True)]
    return PackedBatch(
        tokens=torch.cat(tokens),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        max_seqlen=max(lengths),
        targets=torch.stack([torch.tensor([index % 2, 1, index % 3 == 0]).float() for index in indices]),
        indices=torch.tensor(indices),
        step_documents=step_documents,
    )


def module(**changes) -> Classifier:
    torch.manual_seed(0)
    options = {"learning_rate": 0.1, "weight_decay": 0.5, "warmup_share": 0.1, "gradient_clip": 1.0, "seed": 0}
    return Classifier(Encoder(**ENCODER), None, "multi-label", **(options | changes))


def test_the_rate_rises_straight_and_falls_as_a_cosine_to_zero():
    rates = [rate(step, 100, 0.1) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[32] == pytest.approx(0.5 * (1 + math.cos(math.pi * 22 / 90)))
    assert rates[100] == pytest.approx(0)
    assert rate(0, 1, 0.1) == 1
    assert rate(0, 5, 0.0) == 1


def test_losses_are_those_of_the_textbook():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    shares = 1 / (1 + (-logits).exp())
    expected = -(targets * shares.log() + (1 - targets) * (1 - shares).log()).mean(1)
    torch.testing.assert_close(document_losses(logits, targets, "multi-label"), expected)
    torch.testing.assert_close(to_probabilities(logits, "multi-label"), shares)

    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -shares[[0, 1], [2, 0]].log()
    torch.testing.assert_close(document_losses(logits, torch.tensor([2, 0]), "single-label"), expected)
    torch.testing.assert_close(to_probabilities(logits, "single-label"), shares)


def test_micro_batches_add_up_to_the_gradient_of_the_whole_step():
    """The effective batch is a number of documents, however they are cut into micro-batches."""

    def gradient(batch: list[PackedBatch]) -> torch.Tensor:
        classifier = module()
        for micro_batch in batch:
            losses = document_losses(classifier(micro_batch), micro_batch.targets, "multi-label")
            (losses.sum() / micro_batch.step_documents).backward()
        return torch.cat([parameter.grad.flatten() for parameter in classifier.encoder.parameters()])

    whole = gradient([packed([9, 5, 21, 3], [0, 1, 2, 3], 4)])
    parts = gradient([packed([21, 9], [2, 0], 4), packed([5], [1], 4), packed([3], [3], 4)])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(parts, whole)


class Loader:
    """What Lightning takes for a loader; a list it would take for several."""

    def __init__(self, batches: list):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Data(L.LightningDataModule):
    def __init__(self, steps: list[list[PackedBatch]], validation: list[PackedBatch]):
        super().__init__()
        self.steps, self.validation = steps, validation

    def train_dataloader(self):
        return Loader(self.steps)

    def val_dataloader(self):
        return Loader(self.validation)


def trained(steps: list[list[PackedBatch]], validation: list[PackedBatch]) -> tuple[torch.Tensor, dict]:
    """The weights after these steps, and what validation logs."""
    classifier = module()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(classifier, datamodule=Data(steps, validation))
    weights = torch.cat([parameter.detach().flatten() for parameter in classifier.encoder.parameters()])
    return weights, dict(trainer.callback_metrics)


def test_a_repeat_that_keeps_ranks_in_step_changes_nothing():
    """Neither the step nor the scores."""
    step, scored = [packed([9, 5], [0, 1], 2)], [packed([8, 4, 7], [0, 1, 2], 3)]
    repeat = replace(packed([5], [1], 2), counts=False)
    weights, logged = trained([step, step], scored)
    with_repeats, logged_too = trained([[*step, repeat], step], [*scored, repeat])
    assert not torch.equal(weights, torch.cat([part.flatten() for part in module().encoder.parameters()]))
    torch.testing.assert_close(with_repeats, weights, rtol=0, atol=0)
    assert logged_too == logged


def test_a_rank_may_have_nothing_to_score():
    classifier = module()
    classifier.validation_step(replace(packed([5], [1], 1), counts=False), 0)
    [(indices, logits, targets)] = classifier._scored
    assert (indices.shape, logits.shape, targets.shape) == ((0,), (0, 3), (0, 3))


def test_only_weight_matrices_decay():
    classifier = module()
    classifier.trainer = type("Trainer", (), {"max_epochs": 2, "datamodule": None})()
    classifier.trainer.datamodule = type("Data", (), {"train_dataloader": lambda self: range(7)})()
    decayed, free = classifier.configure_optimizers()["optimizer"].param_groups
    names = {id(parameter): name for name, parameter in classifier.encoder.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0)
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    for parameter in free["params"]:
        assert parameter.dim() == 1 or "embedding" in names[id(parameter)]
    for parameter in decayed["params"]:
        assert parameter.dim() > 1
        assert "embedding" not in names[id(parameter)]
    assert classifier.planned_steps == 14


@pytest.mark.parametrize("layout", [None, patterns.local(32, 16, window=8)], ids=["dense", "sparse"])
def test_predicting_gives_each_document_its_own_logits(layout):
    encoder = module().encoder
    batches = [packed([21, 9], [2, 0], 2), packed([5, 30], [1, 3], 2)]
    logits, indices = predict(encoder, batches, layout, torch.device("cpu"))
    assert indices.tolist() == [2, 0, 1, 3]
    assert logits.dtype == np.float32
    for length, index, row in zip([21, 9, 5, 30], [2, 0, 1, 3], logits, strict=True):
        alone, _ = predict(encoder, [packed([length], [index], 1)], layout, torch.device("cpu"))
        np.testing.assert_allclose(row, alone[0], atol=1e-6)
