"""What accompanies training: the history behind the curve, the checkpoints, how far it is."""

from __future__ import annotations

import csv
import io
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from tqdm import tqdm

from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.metrics import Lowered, best_epoch, history_key
from flash_sparse_apps.models.lightning_module import METRICS
from flash_sparse_apps.models.weights_file import encode_weights
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.training.processes import any_says
from flash_sparse_apps.training.saved_state import save_state
from flash_sparse_datasets.shared.progress import Progress

CURVE_POINTS = 400  # training losses kept for the curve, about
NAMED_DOCUMENTS = 10  # of a step whose loss is not finite, at most


class History(L.Callback):
    """The losses and scores of all epochs and the speed, also over resumed parts: its state is in the checkpoint.

    Attributes:
        steps: dicts with step, loss (the mean since the entry before) and learning_rate.
        epochs: dicts with epoch, step, train_loss, validation_loss, validation_micro_f1, validation_macro_f1,
            validation_accuracy and seconds of training so far.
        lowered: dicts with step and learning_rate, where training went on with a lower one than before.
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
        self.lowered: list[Lowered] = []
        self._losses: list[torch.Tensor] = []  # since the last entry of `steps`
        self._documents: list[list[torch.Tensor]] = []  # of each of these, as positions in the split
        self._last: list[torch.Tensor] = []  # of the last step
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
            "lowered": self.lowered,
            "losses": [float(loss) for loss in self._losses],
            "epoch_losses": self._epoch_losses,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict):
        self.steps, self.epochs = list(state["steps"]), list(state["epochs"])
        self.step_seconds, self.tokens, self.num_steps = state["step_seconds"], state["tokens"], state["num_steps"]
        self.planned_steps = state["planned_steps"]
        self.lowered = list(state.get("lowered", []))
        self._losses = [torch.tensor(loss) for loss in state["losses"]]
        self._documents = [[] for _ in self._losses]  # nobody asks: a state has finite losses alone
        self._epoch_losses = list(state["epoch_losses"])
        self._seconds_before = state["seconds"]

    def on_train_start(self, trainer, module):
        self._began = time.monotonic()
        self.planned_steps = module.planned_steps
        if module.change_rate():
            self.lowered.append({"step": trainer.global_step, "learning_rate": module.learning_rate})

    def on_train_end(self, trainer, module):
        self._seconds_before, self._began = self.seconds, None

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer, module, loss, batch, batch_index):
        self._losses.append(loss["loss"] if isinstance(loss, dict) else loss)
        self._last = [micro_batch.indices for micro_batch in batch]
        self._documents.append(self._last)
        step = trainer.global_step
        if step % max(1, self.planned_steps // CURVE_POINTS) == 0:
            self._flush(trainer)
        self.step_seconds += time.monotonic() - self._step_began
        self.tokens += trainer.world_size * sum(part.tokens.numel() for part in batch if part.counts)
        self.num_steps += 1

    def _flush(self, trainer):
        """Take the losses since the last time from the device; that waits for it, so not after every step."""
        if not self._losses:
            return
        losses = self._finite_losses(trainer)
        self._losses.clear()
        self._documents.clear()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append({"step": trainer.global_step, "loss": float(losses.mean()), "learning_rate": rate})
        for logger in trainer.loggers:
            logger.log_metrics(
                {"training/loss": float(losses.mean()), "training/learning_rate": rate}, trainer.global_step
            )
        self._epoch_losses += losses.tolist()

    def _finite_losses(self, trainer) -> torch.Tensor:
        losses = torch.stack([loss.cpu() for loss in self._losses])
        for place, loss in enumerate(losses.tolist()):
            if not math.isfinite(loss):
                step = trainer.global_step - len(losses) + place + 1
                raise FloatingPointError(f"the loss is {loss:g} at step {step}{_read(trainer, self._documents[place])}")
        return losses

    def check(self, trainer):
        """Raise FloatingPointError where a loss or a weight is not finite: nothing can be scored or kept then."""
        if self._losses:
            self._finite_losses(trainer)
        weights = [parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()]
        if not torch.stack(weights).all():
            raise FloatingPointError(
                f"weights are no longer finite after step {trainer.global_step}{_read(trainer, self._last)}"
            )

    def on_validation_start(self, trainer, module):
        self.check(trainer)

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


def _read(trainer, documents: list[torch.Tensor]) -> str:
    """The ids of the documents of a step, given by their positions in the split, as an error has them."""
    rows = [row for indices in documents for row in indices.tolist()]
    ids = [repr(trainer.datamodule.train_store.ids(row)) for row in rows[:NAMED_DOCUMENTS]]
    more = f" and {len(rows) - len(ids)} more" if len(rows) > len(ids) else ""
    return f", which read {', '.join(ids)}{more}"


class KeepsState(Checkpoint):
    """Keep the last whole state of training, written every `every` steps, and end training after SIGTERM.

    Lightning calls callbacks of this kind after all others, so the state holds what they know. SIGTERM sets a flag,
    which is read between steps, and all processes agree on it: a signal may reach one of them alone, or all at
    different steps, and an exception in the middle of a step would leave the others waiting.

    Attributes:
        path: of the state.
        terminated: whether SIGTERM has come.
    """

    def __init__(self, path: Path, every: int, history: History):
        self.path = path
        self.every = every
        self.history = history
        self.terminated = False

    def terminate(self):
        """What SIGTERM calls."""
        self.terminated = True

    def end_if_terminated(self):
        """Raise SystemExit in all processes if SIGTERM has come to one."""
        if any_says(self.terminated):
            raise SystemExit(143)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if batch_index + 1 == trainer.num_training_batches:
            return  # validation follows at once, and its checkpoint
        terminated = any_says(self.terminated)
        if terminated or trainer.global_step % self.every == 0:
            self._save(trainer)
        if terminated:
            raise SystemExit(143)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_index, dataloader_index=0):
        self.end_if_terminated()  # without a checkpoint: no state is whole until the validation is

    def _save(self, trainer):
        self.history.check(trainer)
        save_state(trainer, self.path)


class Checkpoints(KeepsState):
    """Keep the weights that did best on validation (safetensors), and the last whole state after validations too."""

    def __init__(self, run: RunFolder, every: int, history: History, stopping: EarlyStopping, metric: str):
        super().__init__(run.last_checkpoint, every, history)
        self.run = run
        self.stopping = stopping
        self.metric = metric

    def on_train_start(self, trainer, module):
        # a run killed between its last validation and its report has nothing left to train
        if self.stopping.wait_count >= self.stopping.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking:
            return
        if best_epoch(self.history.epochs, self.metric) is self.history.epochs[-1]:
            weights = encode_weights(module.encoder)
            if trainer.is_global_zero:
                write_atomically(self.run.best_weights, weights)
        if trainer.is_global_zero:
            self.history.write_csv(self.run.history)
        self._save(trainer)


class Shown(L.Callback):
    """How far training and each validation are, by `Progress`, and one line of results for each validation."""

    what = "training"

    def __init__(self, history: History, max_seconds: float | None, metric: str = "micro-f1"):
        self.history = history
        self.max_seconds = max_seconds
        self.metric = metric
        self._bar: Any = None  # made when training begins
        self._validation: Any = None

    def on_train_start(self, trainer, module):
        self._bar = Progress(
            None,
            self.what,
            module.planned_steps,
            " steps",
            initial=trainer.global_step,
            shown=trainer.is_global_zero,
        )
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if self.history.steps:
            self._bar.set_postfix_str(self._beside(), refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def _beside(self) -> str:
        """The latest loss, and what --max-time leaves."""
        beside = f"loss {self.history.steps[-1]['loss']:.4f}"
        if self.max_seconds is not None:
            left = max(0.0, self.max_seconds - self.history.seconds)
            beside += f", --max-time ends it in {timedelta(seconds=round(left))}"
        return beside

    def on_validation_start(self, trainer, module):
        batches = sum(trainer.num_val_batches)
        self._validation = Progress(None, "validating", batches, " batches", shown=trainer.is_global_zero)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_index, dataloader_index=0):
        self._validation.update()

    def on_validation_end(self, trainer, module):
        self._validation.close()
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        entry = self.history.epochs[-1]
        loss = "" if entry["train_loss"] is None else f"loss {entry['train_loss']:.4f}  "
        self._print(
            trainer,
            module,
            f"  epoch {entry['epoch']}/{trainer.max_epochs}  step {entry['step']}  {loss}"
            f"validation loss {entry['validation_loss']:.4f}  micro-F1 {entry['validation_micro_f1']:.4f}"
            f"{self._chosen(entry)}",
        )

    def _chosen(self, entry: dict) -> str:
        """The score that --metric names, where it does not stand there already."""
        if self.metric not in ("macro-f1", "accuracy"):
            return ""
        return f"  {self.metric.replace('f1', 'F1')} {entry[history_key(self.metric)]:.4f}"

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
        for bar in (self._validation, self._bar):
            if bar is not None:
                bar.close()

    on_train_end = on_exception = _close
