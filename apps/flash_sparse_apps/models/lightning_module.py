"""The Lightning module: an encoder, its loss, AdamW with warm-up and cosine, and the validation scores.

One training batch is one optimizer step: a list of packed micro-batches whose gradients are added up, so that the
effective batch is a number of documents, whatever fits on the device at once.

Letters: B documents of a micro-batch, C labels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from flash_sparse import BlockLayout
from flash_sparse_apps.models.halving import Halving
from flash_sparse_apps.scores.evaluation import evaluate
from flash_sparse_apps.scores.thresholds import tune_thresholds
from flash_sparse_apps.tokens.batching import PackedBatch

METRICS = ("micro_f1", "macro_f1", "accuracy")  # logged after each validation, beside the loss


class Classifier(L.LightningModule):
    """Train an encoder by manual optimization.

    Args:
        encoder: a `flash_sparse.nn.Encoder`, or what is called like it.
        layout: the block layout for the longest document, or None for dense attention.
        task: "single-label" (cross-entropy) or "multi-label" (binary cross-entropy, the mean over labels).
        learning_rate: the peak, reached after `warmup_share` of the steps; from there a cosine falls to 0.
        layer_decay: of a pretrained encoder: the learning rate of a layer as a share of that of the one above it.
        weight_decay: of the weight matrices; norms, biases and embeddings have none.
        gradient_clip: largest norm of the gradient of a step.
        none_counts: whether validation counts documents without labels as one more label, as `evaluate` does.
        weights: of the classes in the loss, as `class_weights.balanced` gives them; None for all alike.
        anneal_share: the rate stays at its peak until this share of the steps is left, and then falls to 0 in a
            straight line; None for the cosine.
        auto_batch: whether a step may cut its micro-batches in halves where memory is too little for them.
        seed: of dropout, together with the step, so that a resumed run draws what one never stopped would.

    Attributes:
        rate_factor: what `learning_rate` is multiplied by, from the next `change_rate` on.
        planned_steps: optimizer steps of all epochs, known once training begins.
    """

    weights: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        layout: BlockLayout | None,
        task: str,
        *,
        learning_rate: float,
        layer_decay: float = 1.0,
        weight_decay: float,
        warmup_share: float,
        gradient_clip: float,
        none_counts: bool = False,
        weights: Tensor | None = None,
        anneal_share: float | None = None,
        auto_batch: bool = False,
        seed: int,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.encoder: Any = encoder
        self.layout = layout
        self.task = task
        self.learning_rate = learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup_share = warmup_share
        self.gradient_clip = gradient_clip
        self.none_counts = none_counts
        self.anneal_share = anneal_share
        self.halving = Halving(auto_batch)
        self.seed = seed
        self.register_buffer("weights", weights, persistent=False)
        self.rate_factor = 1.0
        self.planned_steps = 0
        self._scored: list[tuple[Tensor, Tensor, Tensor]] = []

    def configure_model(self):
        """Leave each device a part of the weights, where the strategy has a mesh of devices for that."""
        if self.device_mesh is None:
            return
        mesh = self.device_mesh["data_parallel"]
        for module in [*self.encoder.modules()]:
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    fully_shard(layer, mesh=mesh)
        fully_shard(self.encoder, mesh=mesh)

    def setup(self, stage: str):
        if self.layout is not None:
            self.layout = self.layout.to(self.device)

    def change_rate(self) -> bool:
        """Go on with `learning_rate` times `rate_factor` where the steps before had another rate; whether they had."""
        schedule: Any = self.lr_schedulers()
        # the first is the head's rate, which has no layer's share
        share = self.learning_rate * self.rate_factor / schedule.base_lrs[0]
        if math.isclose(share, 1):
            return False
        schedule.base_lrs = [rate * share for rate in schedule.base_lrs]
        for group in self.trainer.optimizers[0].param_groups:
            group["initial_lr"] *= share
            group["lr"] *= share
        return True

    def forward(self, batch: PackedBatch) -> Tensor:
        return self.encoder(batch.tokens, batch.cu_seqlens, batch.max_seqlen, self.layout)  # (B, C)

    def losses(self, batch: PackedBatch) -> Tensor:
        """The loss of each document, (B,); the loss of a step is the mean over its documents."""
        return document_losses(self(batch), batch.targets, self.task, self.weights)

    def training_step(self, batch: list[PackedBatch], batch_index: int) -> Tensor:
        optimizer: Any = self.optimizers()  # one, with one schedule, as `configure_optimizers` has it
        schedule: Any = self.lr_schedulers()
        total = self.halving.compute(self._add_gradients, batch)
        self.clip_gradients(optimizer, self.gradient_clip, "norm")
        optimizer.step()
        schedule.step()
        return self.trainer.strategy.reduce(total, reduce_op="mean")

    def _add_gradients(self, batch: Sequence[PackedBatch]) -> Tensor:
        """The loss of a step, (); its gradients take the place of those of the step before."""
        torch.manual_seed(_mix(self.seed, self.global_step, self.global_rank))
        self.zero_grad()
        total = torch.zeros((), device=self.device)
        for index, micro_batch in enumerate(batch):
            last = index == len(batch) - 1
            with contextlib.nullcontext() if last else self._unsynchronized():
                # the mean is taken over devices, and each has only its own documents
                share = self.trainer.world_size / micro_batch.step_documents if micro_batch.counts else 0.0
                loss = share * self.losses(micro_batch).sum()
                self.manual_backward(loss)
            total += loss.detach()
        return total

    def _unsynchronized(self):
        strategy = self.trainer.strategy
        block = getattr(strategy, "block_backward_sync", None)
        return block() if block is not None else contextlib.nullcontext()

    def validation_step(self, batch: PackedBatch, batch_index: int):
        logits = self(batch).float()
        counted = len(logits) if batch.counts else 0
        self._scored.append((batch.indices[:counted], logits[:counted], batch.targets[:counted]))

    def on_validation_epoch_end(self):
        indices, logits, targets = (torch.cat(parts).cpu() for parts in zip(*self._scored, strict=True))
        self._scored.clear()
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (indices, logits, targets))
            indices, logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        # every document once, in the data's order
        _, first = np.unique(indices.numpy(), return_index=True)
        logits, targets = logits[first], targets[first]
        probabilities = to_probabilities(logits, self.task).numpy()  # (N, C)
        thresholds = tune_thresholds(probabilities, targets.numpy()) if self.task == "multi-label" else None
        weights = None if self.weights is None else self.weights.cpu()
        self.log("validation/loss", document_losses(logits, targets, self.task, weights).mean())
        scores = evaluate(probabilities, targets.numpy(), thresholds, self.task, self.none_counts)
        for metric in METRICS:
            self.log(f"validation/{metric}", scores[metric])

    def configure_optimizers(self):
        embeddings = {id(m.weight) for m in self.encoder.modules() if isinstance(m, nn.Embedding)}
        rates = ((parameter, 1.0) for parameter in self.parameters() if parameter.requires_grad)
        if self.layer_decay != 1:
            rates = self.encoder.layer_rates(self.layer_decay)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter, share in rates:
            decayed = parameter.dim() > 1 and id(parameter) not in embeddings
            groups.setdefault((share, decayed), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": groups[share, decayed],
                    "lr": share * self.learning_rate,
                    "weight_decay": self.weight_decay if decayed else 0.0,
                }
                for share, decayed in sorted(groups, reverse=True)  # first the head's, whose rate the history has
            ],
            betas=(0.9, 0.98),
        )
        # not `trainer.estimated_stepping_batches`: it sets up the loader before the checkpoint is read, and Lightning
        # then forgets to put the loader where the checkpoint says, so that a resumed epoch would begin anew
        trainer: Any = self.trainer
        self.planned_steps = trainer.max_epochs * len(trainer.datamodule.train_dataloader())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: rate(step, self.planned_steps, self.warmup_share, self.anneal_share),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, steps: int, warmup_share: float, anneal_share: float | None = None) -> float:
    """The learning rate of a step (from 0) as a share of its peak: a straight rise, then a cosine that ends at 0, or
    the peak until `anneal_share` of the steps is left, and from there a straight fall to 0."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    if anneal_share is not None:
        return min(1.0, max(0, steps - step) / max(1.0, steps * anneal_share))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def document_losses(logits: Tensor, targets: Tensor, task: str, weights: Tensor | None = None) -> Tensor:
    """The loss of each document, (B,), float32: logits (B, C), targets (B, C) of 0 and 1 or (B,) class indices.

    Args:
        weights: (C,) of the classes, or (2, C) for multi-label: of not having a label, and of having it.
    """
    if task == "single-label":
        return F.cross_entropy(logits.float(), targets, weights, reduction="none")  # (B,)
    each = None if weights is None else torch.where(targets.bool(), weights[1], weights[0])  # (B, C)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), each, reduction="none")  # (B, C)
    return losses.mean(1)  # (B,)


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """(B, C): each label's probability; those of a single-label task add up to 1."""
    return logits.float().softmax(1) if task == "single-label" else logits.float().sigmoid()


@torch.no_grad()
def predict(
    encoder: nn.Module, batches: Iterable[PackedBatch], layout: BlockLayout | None, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) float32 of all documents, and their rows (N,) in the order that the batches gave them."""
    encoder.eval()
    logits, rows = [], []
    for batch in batches:
        batch = batch.to(device)
        logits.append(encoder(batch.tokens, batch.cu_seqlens, batch.max_seqlen, layout).float().cpu())
        rows.append(batch.indices.cpu())
    return torch.cat(logits).numpy(), torch.cat(rows).numpy()


def _mix(seed: int, step: int, rank: int) -> int:
    """One seed from three numbers; near inputs give unrelated ones."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
