"""Masked self-pretraining: before its own training, the encoder learns to fill in masked tokens of the training split.

Its weights then begin the classifier's training; the head that predicts tokens is thrown away. It is a phase of the
run that it stands in, and resumes as the other phase does.

Source: Amos, Berant, Gupta 2023, "Never Train from Scratch", section 3. Unlike there, the optimizer and its schedule
are those of the classifier, and pixels are tokens, of which a masked one is the mask token.

Letters: B documents of a micro-batch, total tokens of all, M masked tokens, W width, V vocabulary.
"""

from __future__ import annotations

import json
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse.nn.packing import segments, without
from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.metrics import Pretraining
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.models.weights_file import encode_weights, load_weights
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.tokens.data_module import TextDataModule
from flash_sparse_apps.training import saved_state
from flash_sparse_apps.training.callbacks import History, KeepsState, Shown
from flash_sparse_apps.training.fitting import fit, make_trainer
from flash_sparse_datasets import Dataset
from flash_sparse_datasets.shared.exit_codes import UserError

SAMPLE = 1000  # documents whose tokens are counted


def mask_share(settings: Settings, dataset: Dataset) -> float:
    """The share of the tokens that is masked: what was asked for, or what Amos et al. have for this kind of data."""
    if settings.mask_share is not None:
        return settings.mask_share
    if dataset.grid is not None:
        return 0.5
    return 0.15 if dataset.vocabulary is None else 0.1


class MaskedTokens(Classifier):
    """Train an encoder to tell which tokens are behind the masked ones.

    All but the loss is as for a `Classifier`. A document's loss is the mean over its masked tokens.

    Args:
        encoder, layout, learning_rate, ...: as for `Classifier`.
        mask_id: the token that stands where one is masked.
        cls_id: the token that begins each document and tells nothing, so it is never masked; None if there is none.
        mask_share: of the tokens, each by itself. Which ones depends on the seed, the step and the document's place in
            the split.
    """

    def __init__(
        self,
        encoder: Any,
        layout: BlockLayout | None,
        *,
        mask_id: int,
        cls_id: int | None,
        mask_share: float,
        **recipe,
    ):
        super().__init__(encoder, layout, "single-label", **recipe)
        self.mask_id, self.cls_id, self.mask_share = mask_id, cls_id, mask_share
        self.head = nn.Linear(encoder.norm.normalized_shape[0], encoder.embedding.num_embeddings)
        encoder.head.requires_grad_(False)  # the classifier's, which has its turn afterwards

    def losses(self, batch: PackedBatch) -> Tensor:
        masked = self.draw(batch)  # (total,)
        tokens = batch.tokens.masked_fill(masked, self.mask_id)
        read, starts, longest, places = tokens, batch.cu_seqlens, batch.max_seqlen, None
        if self.encoder.skip_token is not None:  # what is masked stays, so that its place does not tell what it is
            read, starts, longest, places = without(tokens, starts, self.encoder.skip_token, self.encoder.skip_through)
        hidden = self.encoder.encode(read, starts, longest, self.layout, places)  # (read, W)
        logits = self.head(hidden[read == self.mask_id])  # (M, V)
        losses = F.cross_entropy(logits.float(), batch.tokens[masked], reduction="none")  # (M,)
        document = segments(_documents(batch), len(tokens))[masked]  # (M,)
        sums = losses.new_zeros(2, len(batch.indices))  # (2, B)
        sums = sums.index_add(1, document, torch.stack([losses, torch.ones_like(losses)]))
        return sums[0] / sums[1].clamp(min=1)  # (B,)

    def draw(self, batch: PackedBatch) -> Tensor:
        """Which tokens are masked in this step, (total,) bool."""
        lengths = _documents(batch).diff().tolist()
        draws = [
            np.random.default_rng([self.seed, self.global_step, index]).random(length, np.float32)
            for index, length in zip(batch.indices.tolist(), lengths, strict=True)
        ]
        masked = torch.from_numpy(np.concatenate(draws) < self.mask_share).to(batch.tokens.device)  # (total,)
        return masked if self.cls_id is None else masked & (batch.tokens != self.cls_id)


def _documents(batch: PackedBatch) -> Tensor:
    """(B + 1,): where each document begins, which may be several texts that are read each by itself."""
    texts = (len(batch.cu_seqlens) - 1) // len(batch.indices)
    return batch.cu_seqlens[::texts].contiguous()


class PretrainingHistory(History):
    """The losses of all steps and epochs; there are no validations. `epochs` has epoch, step, train_loss, seconds."""

    def on_train_epoch_end(self, trainer, module):
        if _whole_epoch(trainer):
            self._flush(trainer)
            losses, self._epoch_losses = self._epoch_losses, []
            self.epochs.append(
                {
                    "epoch": trainer.current_epoch + 1,
                    "step": trainer.global_step,
                    "train_loss": sum(losses) / len(losses),
                    "seconds": self.seconds,
                }
            )


class PretrainingShown(Shown):
    what = "pretraining"

    def on_train_epoch_end(self, trainer, module):
        if trainer.is_global_zero and _whole_epoch(trainer):
            entry = self.history.epochs[-1]
            line = f"  epoch {entry['epoch']}/{trainer.max_epochs}  step {entry['step']}  "
            self._print(trainer, module, f"{line}loss of masked tokens {entry['train_loss']:.4f}")


class PretrainingCheckpoints(KeepsState):
    """Keep the last whole state of pretraining after each epoch too."""

    def on_train_epoch_end(self, trainer, module):
        if _whole_epoch(trainer):
            self._save(trainer)


def _whole_epoch(trainer: L.Trainer) -> bool:
    """False where time ended an epoch before its last step."""
    return trainer.global_step % trainer.num_training_batches == 0


def frequency_loss(data: TextDataModule) -> float:
    """The loss, in nats, of who knows how frequent tokens are and nothing else; over the first training documents."""
    counts = np.zeros(data.tokenizer.vocab_size, np.int64)
    for index in range(min(SAMPLE, len(data.train_store))):
        counts += np.bincount(data.train_store.tokens(index, data.seq_len), minlength=len(counts))
    if data.tokenizer.cls_id is not None:
        counts[data.tokenizer.cls_id] = 0
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def pretrain(
    settings: Settings,
    data: TextDataModule,
    run: RunFolder,
    encoder: nn.Module,
    layout: BlockLayout | None,
) -> Pretraining:
    """Pretrain `encoder` in place, or go on with that, or take the weights of a pretraining that has ended.

    Returns:
        epochs, steps, seconds, mask_share, frequency_loss, lowered, history and curve, as they go to metrics.json.

    Raises:
        UserError: --max-time was over before the end; a file of the run is damaged.
    """
    encoder = getattr(encoder, "encoder", encoder)  # of a model for pairs, what reads each text
    if run.pretraining_weights.is_file():
        try:
            load_weights(encoder, run.pretraining_weights)
        except ValueError as error:
            raise UserError(str(error)) from error
        encoder.train()
        return read_summary(run)

    # train
    module = _make_module(settings, data, encoder, layout)
    history = PretrainingHistory()
    max_seconds = None if settings.max_time is None else 60 * settings.max_time
    checkpoints = PretrainingCheckpoints(run.pretraining_checkpoint, settings.checkpoint_every, history)
    callbacks = [history, PretrainingShown(history, max_seconds), checkpoints]
    trainer = make_trainer(settings, run, callbacks, settings.pretrain, max_seconds, limit_val_batches=0)
    if trainer.is_global_zero:
        print(f"pretraining: {module.mask_share:.0%} of the tokens are masked", flush=True)
    fit(trainer, module, data, checkpoints, run)
    if trainer.global_step < module.planned_steps:
        raise UserError(f"--max-time is {settings.max_time}, over before the end of --pretrain; expected more")
    encoder.head.requires_grad_(True)

    # keep
    summary: Pretraining = {
        "epochs": settings.pretrain,
        "steps": trainer.global_step,
        "seconds": history.seconds,
        "mask_share": module.mask_share,
        "frequency_loss": frequency_loss(data),
        "lowered": history.lowered,
        "history": history.epochs,
        "curve": history.steps,
    }
    if trainer.is_global_zero:
        write_atomically(run.pretraining, to_json(summary))
        write_atomically(run.pretraining_weights, encode_weights(encoder))
        saved_state.remove(run.pretraining_checkpoint)
        print("training", flush=True)
    return summary


def _make_module(
    settings: Settings, data: TextDataModule, encoder: nn.Module, layout: BlockLayout | None
) -> MaskedTokens:
    return MaskedTokens(
        encoder,
        layout,
        mask_id=cast(int, data.tokenizer.mask_id),  # `prepare` has looked whether there is one
        cls_id=data.tokenizer.cls_id,
        mask_share=mask_share(settings, data.dataset),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        gradient_clip=settings.gradient_clip,
        auto_batch=settings.auto_batch,
        seed=settings.seed,
    )


def read_summary(run: RunFolder) -> Pretraining:
    """What `pretrain` returned when it ended.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return cast(Pretraining, dict(json.loads(run.pretraining.read_text(encoding="utf-8"))))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{run.pretraining}: {' '.join(str(error).split())}") from error
