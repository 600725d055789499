"""Which epoch's weights are kept: the best validation score, then the lowest validation loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.training import callbacks
from flash_sparse_apps.training.callbacks import Checkpoints, History


@pytest.mark.parametrize(
    ("scores", "losses", "kept"),
    [
        ([0.5, 0.7, 0.6], [0.9, 0.8, 0.1], 1),  # the score comes first
        ([0.7, 0.7, 0.7], [0.9, 0.4, 0.5], 1),  # then the loss
        ([0.7, 0.7], [0.4, 0.4], 0),  # then the earlier one
    ],
)
def test_the_weights_that_are_kept(tmp_path, monkeypatch, scores, losses, kept):
    monkeypatch.setattr(callbacks, "save_state", lambda *unused: None)
    run, history = RunFolder(tmp_path), History()
    checkpoints = Checkpoints(run, 100, history, cast(Any, None))
    encoder = torch.nn.Linear(1, 1)
    for epoch, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        torch.nn.init.constant_(encoder.weight, epoch)
        history.epochs.append({"validation_micro_f1": score, "validation_loss": loss})
        trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True)
        checkpoints.on_validation_end(trainer, SimpleNamespace(encoder=encoder))
    assert load_file(run.best_weights)["weight"] == kept
