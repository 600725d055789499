"""When the next length of snakes joins the training images, and what is done where training falls back to chance.

The running loss decides. Where it is below the threshold, the model has learnt what it has: its weights are kept, and
snakes of one more dash join. Where it returns to chance after that, training goes back to the weights that were kept,
with half the rate.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning as L

from flash_sparse_apps.tokens.growing import Growth
from flash_sparse_apps.training.callbacks import History

MEMORY = 50  # steps that the running loss is over, about
FALLEN = 0.97 * math.log(2)  # the loss of two classes at chance, nearly
SETTLED = 2 * MEMORY  # steps after a change before the running loss says anything
ANNEALED = 0.4  # share of the steps in which the rate falls to 0


class Growing(L.Callback):
    """Lets a `Growth` grow, and brings training back where it falls; its state is in the checkpoint.

    An entry of the history says whether snakes were still growing, since `best_epoch` leaves those out.

    Attributes:
        joined: dicts with step and level, of each length that joined after the first.
        falls: steps at which training went back to the weights that were kept.
    """

    def __init__(self, growth: Growth, below: float, history: History):
        self.growth = growth
        self.history = history
        self.below = below
        self.joined: list[dict] = []
        self.falls: list[int] = []
        self._running: float | None = None
        self._steps = 0  # since the last change
        self._kept: dict[str, Any] | None = None
        self._rate_factor = 1.0

    def state_dict(self) -> dict:
        return {
            "newest": self.growth.newest,
            "joined": self.joined,
            "falls": self.falls,
            "running": self._running,
            "steps": self._steps,
            "kept": self._kept,
            "rate_factor": self._rate_factor,
        }

    def load_state_dict(self, state: dict):
        self.growth.newest = state["newest"]
        self.joined, self.falls = list(state["joined"]), list(state["falls"])
        self._running, self._steps, self._kept = state["running"], state["steps"], state["kept"]
        self._rate_factor = state["rate_factor"]

    def on_load_checkpoint(self, trainer, module, checkpoint):
        # every strategy calls this before training starts, where the history compares the rate with that of the state
        module.rate_factor = checkpoint["callbacks"][self.state_key]["rate_factor"]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self._running = loss if self._running is None else self._running + (loss - self._running) / MEMORY
        self._steps += 1
        if self._steps < SETTLED:
            return
        if self._running < self.below:
            self._keep(trainer, module)
            if self.growth.newest < self.growth.last:
                self.growth.newest += 1
                self.joined.append({"step": trainer.global_step, "level": self.growth.newest})
                print(f"  step {trainer.global_step}: snakes of {self.growth.newest} dashes join", flush=True)
        elif self._running > FALLEN and self._kept is not None:
            self._fall_back(trainer, module)

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.history.epochs[-1]["growing"] = self.growth.newest < self.growth.last

    def _keep(self, trainer, module):
        self._kept = copy.deepcopy(
            {
                "newest": self.growth.newest,
                "encoder": module.encoder.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict()["state"],
            }
        )
        self._steps = 0

    def _fall_back(self, trainer, module):
        kept = copy.deepcopy(self._kept)
        assert kept is not None
        self.growth.newest = kept["newest"]
        module.encoder.load_state_dict(kept["encoder"])
        optimizer = trainer.optimizers[0]
        optimizer.load_state_dict(optimizer.state_dict() | {"state": kept["optimizer"]})
        self._rate_factor /= 2
        module.rate_factor = self._rate_factor
        module.change_rate()
        self.falls.append(trainer.global_step)
        self._running, self._steps = None, 0
        print(
            f"  step {trainer.global_step}: back at chance; goes on from when snakes of {self.growth.newest} dashes "
            f"were learnt, with {self._rate_factor:g} of the rate",
            flush=True,
        )
