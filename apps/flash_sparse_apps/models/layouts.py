"""The block layout that the flags describe."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import torch

from flash_sparse import BlockLayout, patterns
from flash_sparse_apps.settings import Settings

PATTERNS = get_args(get_type_hints(Settings)["pattern"])


def describe(settings: Settings, grid: tuple[int, int] | None = None) -> dict:
    """What decides the layout, as plain values: `make_layout` takes it, and the saved model keeps it.

    Args:
        grid: rows and columns of the images, for the patterns that need them.
    """
    if not settings.sparse:
        return {"sparse": False}
    window, block_size = settings.window, settings.block_size
    global_blocks = settings.global_blocks
    options = {
        "longformer": {"window": window, "global_positions": [0, global_blocks * block_size]},
        "bigbird": {
            "window_blocks": 2 * -(-window // block_size) + 1,
            "global_blocks": global_blocks,
            "random_blocks": settings.random_blocks,
            "seed": settings.seed,
        },
        "local": {"window": window},
        "strided": {"stride_blocks": settings.stride_blocks},
        "random": {"density": settings.density, "seed": settings.seed},
        "butterfly": {"global_blocks": global_blocks},
        "axial": {"width": grid and grid[1]},
        "neighborhood_2d": {"width": grid and grid[1], "window": window},
    }
    description = {
        "sparse": True,
        "pattern": settings.pattern,
        "block_size": block_size,
        "options": options[settings.pattern],
    }
    if settings.pretrained is not None:  # its first token was trained to see all
        description["global_tokens"] = 1
    return description


def share_computed(layout: BlockLayout, lengths: np.ndarray) -> float:
    """The share of all blocks that a layout computes over texts of these lengths (N,): more than its density, which is
    that of the longest, since short texts lie inside its window."""
    _, _, rows, columns = layout.indices()  # (nnz,) each
    reach = torch.bincount(torch.maximum(rows, columns), minlength=layout.num_query_blocks)  # (Qb,)
    kept = reach.cumsum(0).numpy()  # (Qb,), of a text of 1, 2, ... blocks
    blocks = -(-lengths // layout.block_size)  # (N,)
    return float(kept[blocks - 1].sum() / (blocks**2).sum())


def make_layout(seq_len: int, attention: dict) -> BlockLayout | None:
    """The layout for documents of up to `seq_len` tokens; None for dense attention.

    Raises:
        ValueError: an argument that this pattern cannot take at this length.
    """
    if not attention["sparse"]:
        return None
    options = dict(attention["options"])
    if "global_positions" in options:  # the first and one past the last
        options["global_positions"] = range(*options["global_positions"])
    layout = getattr(patterns, attention["pattern"])(seq_len, attention["block_size"], **options)
    if attention.get("global_tokens"):
        layout = layout | patterns.global_tokens(seq_len, attention["block_size"], range(attention["global_tokens"]))
    return layout
