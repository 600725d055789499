"""Lightning's Trainer as every phase of a run uses it: made from the settings, and run from the last checkpoint on."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

from flash_sparse_apps.console import on_sigterm
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.data_module import TextDataModule
from flash_sparse_apps.training.callbacks import KeepsState
from flash_sparse_apps.training.freed_memory import GiveBack
from flash_sparse_apps.training.main_process import is_main_process
from flash_sparse_apps.training.saved_state import WritesInPlace, newest_whole
from flash_sparse_datasets.shared.exit_codes import UserError, one_line


def make_trainer(
    settings: Settings,
    run: RunFolder,
    callbacks: Sequence[L.Callback],
    epochs: int,
    max_seconds: float | None,
    logger: Logger | None = None,
    **more,
) -> L.Trainer:
    """A Trainer for so many epochs, which time may end earlier; `more` goes to Lightning."""
    if max_seconds is not None:
        callbacks = [*callbacks, Timer(timedelta(seconds=max(0.0, max_seconds)), verbose=False)]
    strategy: Strategy | str = settings.strategy
    if strategy == "fsdp":  # one file for the whole state, as with ddp
        size = settings.devices * settings.num_nodes
        strategy = ModelParallelStrategy(size, tensor_parallel_size=1, save_distributed_checkpoint=False)
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy,
        precision=settings.precision,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module shares the documents out
        callbacks=[*callbacks, GiveBack()],
        plugins=[WritesInPlace()],
        logger=logger or False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
        **more,
    )
    # Lightning's handler of SIGTERM talks to the other processes wherever this one is, and both then wait for ever
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    return trainer


def fit(trainer: L.Trainer, module: L.LightningModule, data: TextDataModule, checkpoints: KeepsState, run: RunFolder):
    """Train to the end, from the last whole state that `checkpoints` kept if there is one.

    Raises:
        UserError: all that is there is damaged, or it is of another model.
        SystemExit: 143 after SIGTERM.
        KeyboardInterrupt: Ctrl-C.
    """
    start = _start(module, checkpoints, run)
    try:
        with on_sigterm(checkpoints.terminate):
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        checkpoints.end_if_terminated()
    except SystemExit as end:
        if end.code == 1:  # Lightning's answer to Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        raise


def _start(module: L.LightningModule, checkpoints: KeepsState, run: RunFolder) -> Path | None:
    """The file that training goes on from, whose weights fit the model; None for a new training.

    Lightning reads it again, each strategy in its own way. What is read here is not kept: it is as large as the weights
    and the optimizer's two moments of each.
    """
    found = newest_whole(checkpoints.path)
    if found is None:
        return None
    start, state = found
    try:
        module.load_state_dict(state["state_dict"])
        step = state["global_step"]
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{start}: damaged, or {run.config} is no longer what it was when the run began: {one_line(error)}"
        ) from error
    if is_main_process():
        print(f"continuing after step {step:,}", flush=True)
    return start
