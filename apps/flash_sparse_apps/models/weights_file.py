"""An encoder's weights in a safetensors file, with their checksum in its header: a changed byte is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flash_sparse_datasets.shared.exit_codes import one_line

_SUM = "sha256"


def encode_weights(encoder: nn.Module) -> bytes:
    """The content of the file; where processes share out the weights, all of them must call this."""
    weights = {name: whole(value.detach()).cpu().contiguous() for name, value in encoder.state_dict().items()}
    return save(weights, {_SUM: _digest(weights)})


def whole(weight: Tensor) -> Tensor:
    """A weight of which this process may have a part only."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def load_weights(encoder: nn.Module, path: Path):
    """Put the weights of such a file into an encoder, and the encoder into evaluation mode.

    Raises:
        ValueError: the file is missing, damaged, or of another encoder.
    """
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            expected = (file.metadata() or {}).get(_SUM)  # none in files that others wrote
        encoder.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    if expected is not None and expected != _digest(weights):
        raise ValueError(f"{path}: damaged: its weights do not have the checksum that it gives")
    for name, value in encoder.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite; expected trained weights")
    encoder.eval()


def _digest(weights: dict[str, Tensor]) -> str:
    """Hex sha256 of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
