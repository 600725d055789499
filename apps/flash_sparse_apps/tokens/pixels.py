"""What may be done to images beside reading all their pixels: turning them for training, and leaving black ones out."""

from __future__ import annotations

import math

import numpy as np
import torch

from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Dataset
from flash_sparse_datasets.shared.exit_codes import UserError

BLACK = 0
SAMPLE = 1000  # images whose black pixels are counted


def check_images(settings: Settings, dataset: Dataset):
    """Raise UserError where the flags for images do not fit the data."""
    asked = {
        "--augment is dihedral": settings.augment == "dihedral",
        "--fresh-images is given": settings.fresh_images,
        "--skip-black is given": settings.skip_black,
        f"--grow-from is {settings.grow_from}": settings.grow_from is not None,
    }
    for what in (what for what, given in asked.items() if given):
        if dataset.grid is None:
            raise UserError(f"{what}, which needs images; {dataset.name} has none")
    if settings.fresh_images and dataset.fresh is None:
        raise UserError(f"--fresh-images is given, which needs generated images; those of {dataset.name} are files")
    if settings.grow_from is not None:
        if dataset.fresh is None or dataset.fresh.levels is None:
            raise UserError(
                f"--grow-from is {settings.grow_from}, which needs generated images; those of {dataset.name} are files"
            )
        least, own = dataset.fresh.levels
        if not least <= settings.grow_from <= own:
            raise UserError(f"--grow-from is {settings.grow_from}; expected {least} to {own}, the dataset's own level")
    height, width = dataset.grid or (0, 0)
    if settings.augment == "dihedral" and height != width:
        raise UserError(f"--augment is dihedral; expected square images, {dataset.name} has {height} x {width}")
    pixels = math.prod(dataset.grid or ())
    for flag, given in (
        ("--augment", settings.augment == "dihedral"),
        ("--fresh-images", settings.fresh_images),
        ("--grow-from", settings.grow_from is not None),
    ):
        if given and settings.seq_len < pixels:
            raise UserError(f"--seq-len is {settings.seq_len}; expected at least {pixels}, whole images, for {flag}")


def turn_images(batch: PackedBatch, side: int, seed: int, epoch: int):
    """Turn and mirror each image of a batch, in place: one of eight ways, by seed, epoch and its place in the split."""
    images = batch.tokens.view(-1, side, side)  # (B, side, side)
    for image, index in zip(images, batch.indices.tolist(), strict=True):
        way = int(np.random.default_rng([seed, epoch, index]).integers(8))
        turned = torch.rot90(image, way % 4)  # (side, side)
        image.copy_(turned.flip(0) if way >= 4 else turned.clone())


def count_read(store: TokenStore, seq_len: int, black: int) -> np.ndarray:
    """Pixels brighter than `black`, (n,), of a split's first images; one where none is, which the encoder keeps."""
    counts = [(store.tokens(index, seq_len) > black).sum() for index in range(min(SAMPLE, len(store)))]
    return np.maximum(counts, 1)
