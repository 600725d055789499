"""What accompanies training: the history behind the curve, the checkpoints, the progress bar."""

from __future__ import annotations

import csv
import io
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from tqdm import tqdm

from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.metrics import best_epoch
from flash_sparse_apps.models.lightning_module import METRICS
from flash_sparse_apps.models.weights_file import encode_weights
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.training.saved_state import save_state

CURVE_POINTS = 400  # training losses kept for the curve, about


class History(L.Callback):
    """The losses and scores of all epochs and the speed, also over resumed parts: its state is in the checkpoint.

    Attributes:
        steps: dicts with step, loss (the mean since the entry before) and learning_rate.
        epochs: dicts with epoch, step, train_loss, validation_loss, validation_micro_f1, validation_macro_f1,
            validation_accuracy and seconds of training so far.
        step_seconds, tokens, num_steps: sums over the training steps, without validation.
        planned_steps: optimizer steps of all epochs.

    Args:
        seconds_before: what was spent before this training began, and counts as a part of it.
    """

    def __init__(self, seconds_before: float = 0.0):
        self.steps: list[dict] = []
        self.epochs: list[dict] = []
        self.step_seconds = 0.0
        self.tokens = 0
        self.num_steps = 0
        self.planned_steps = 0
        self._losses: list[torch.Tensor] = []
        self._epoch_losses: list[float] = []
        self._step_began = 0.0
        self._began: float | None = None
        self._seconds_before = seconds_before

    @property
    def seconds(self) -> float:
        """Wall clock of training, validation included, over all parts."""
        return self._seconds_before + (0.0 if self._began is None else time.monotonic() - self._began)

    def state_dict(self) -> dict:
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "step_seconds": self.step_seconds,
            "tokens": self.tokens,
            "num_steps": self.num_steps,
            "planned_steps": self.planned_steps,
            "losses": [float(loss) for loss in self._losses],
            "epoch_losses": self._epoch_losses,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict):
        self.steps, self.epochs = list(state["steps"]), list(state["epochs"])
        self.step_seconds, self.tokens, self.num_steps = state["step_seconds"], state["tokens"], state["num_steps"]
        self.planned_steps = state["planned_steps"]
        self._losses = [torch.tensor(loss) for loss in state["losses"]]
        self._epoch_losses = list(state["epoch_losses"])
        self._seconds_before = state["seconds"]

    def on_train_start(self, trainer, module):
        self._began = time.monotonic()
        self.planned_steps = module.planned_steps

    def on_train_end(self, trainer, module):
        self._seconds_before, self._began = self.seconds, None

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer, module, loss, batch, batch_index):
        self._losses.append(loss["loss"] if isinstance(loss, dict) else loss)
        step = trainer.global_step
        if step % max(1, self.planned_steps // CURVE_POINTS) == 0:
            self._flush(trainer)
        self.step_seconds += time.monotonic() - self._step_began
        self.tokens += trainer.world_size * sum(micro_batch.tokens.numel() for micro_batch in batch)
        self.num_steps += 1

    def _flush(self, trainer):
        """Take the losses since the last time from the device; that waits for it, so not after every step."""
        if not self._losses:
            return
        losses = torch.stack([loss.cpu() for loss in self._losses])
        self._losses.clear()
        if not torch.isfinite(losses).all():
            raise FloatingPointError(
                f"the loss is {losses[~torch.isfinite(losses)][0]:g} by step {trainer.global_step}; "
                "try a lower --learning-rate"
            )
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append({"step": trainer.global_step, "loss": float(losses.mean()), "learning_rate": rate})
        self._epoch_losses += losses.tolist()

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking:
            return
        self._flush(trainer)
        losses, self._epoch_losses = self._epoch_losses, []
        self.epochs.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "train_loss": sum(losses) / len(losses) if losses else None,
                "validation_loss": float(trainer.callback_metrics["validation/loss"]),
                **{f"validation_{name}": float(trainer.callback_metrics[f"validation/{name}"]) for name in METRICS},
                "seconds": self.seconds,
            }
        )

    def write_csv(self, path: Path):
        """Write `epochs` as a table."""
        if self.epochs:
            text = io.StringIO()
            # the first epochs of a resumed run may be of a version that wrote less
            writer = csv.DictWriter(text, self.epochs[-1].keys())
            writer.writeheader()
            writer.writerows(self.epochs)
            write_atomically(path, text.getvalue().encode())


class Checkpoints(Checkpoint):
    """Keep the weights that did best on validation (safetensors) and the last whole state of training.

    Lightning calls callbacks of this kind after all others, so the state holds what they know of the validation. It is
    written every `every` steps and after each validation; each file is complete or not there.
    """

    def __init__(self, run: RunFolder, every: int, history: History, stopping: EarlyStopping, metric: str):
        self.run = run
        self.every = every
        self.history = history
        self.stopping = stopping
        self.metric = metric

    def on_train_start(self, trainer, module):
        # a run killed between its last validation and its report has nothing left to train
        if self.stopping.wait_count >= self.stopping.patience:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        # after the last step of an epoch validation follows at once, and its checkpoint
        if trainer.global_step % self.every == 0 and batch_index + 1 < trainer.num_training_batches:
            self._save(trainer)

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking:
            return
        if best_epoch(self.history.epochs, self.metric) is self.history.epochs[-1] and trainer.is_global_zero:
            write_atomically(self.run.best_weights, encode_weights(module.encoder))
        if trainer.is_global_zero:
            self.history.write_csv(self.run.history)
        self._save(trainer)

    def _save(self, trainer):
        save_state(trainer, self.run.last_checkpoint)


class Progress(L.Callback):
    """A bar with the time left where stderr is a terminal, and one line for each validation everywhere."""

    what = "training"

    def __init__(self, history: History, max_seconds: float | None):
        self.history = history
        self.max_seconds = max_seconds
        self._bar: Any = None  # made when training begins

    def on_train_start(self, trainer, module):
        self._bar = tqdm(
            desc=self.what,
            total=module.planned_steps,
            initial=trainer.global_step,
            unit=" steps",
            smoothing=0.05,
            disable=not (trainer.is_global_zero and sys.stderr.isatty()),
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
        )
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_batch_start(self, trainer, module, batch, batch_index, dataloader_index=0):
        if self._bar is not None:
            self._bar.set_description(f"validating, batch {batch_index + 1}")

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._bar.set_description(self.what)
        entry = self.history.epochs[-1]
        loss = "" if entry["train_loss"] is None else f"loss {entry['train_loss']:.4f}  "
        self._print(
            trainer,
            module,
            f"  epoch {entry['epoch']}/{trainer.max_epochs}  step {entry['step']}  {loss}"
            f"validation loss {entry['validation_loss']:.4f}  micro-F1 {entry['validation_micro_f1']:.4f}",
        )

    def _print(self, trainer, module, line: str):
        """A line of results, with the time left behind it."""
        left = module.planned_steps - trainer.global_step
        done = trainer.global_step - self._first_step
        if left and done and not trainer.should_stop:
            seconds = left * (time.monotonic() - self._began) / done
            if self.max_seconds is not None:
                seconds = max(0.0, min(seconds, self.max_seconds - self.history.seconds))
            line += f"  at most {timedelta(seconds=round(seconds))} left"
        with tqdm.external_write_mode():
            print(line, flush=True)

    def _close(self, *unused):
        if self._bar is not None:
            self._bar.close()

    on_train_end = on_exception = _close
