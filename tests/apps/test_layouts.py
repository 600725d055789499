"""What --sparse computes of texts that are shorter than its layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flash_sparse import BlockLayout, patterns
from flash_sparse_apps.models.layouts import share_computed

LENGTH = 1000


@pytest.mark.parametrize(
    "layout",
    [
        patterns.longformer(LENGTH, 32, window=64),
        patterns.random(LENGTH, 16, density=0.1, seed=1),
        BlockLayout.from_blocks(torch.zeros(16, 16, dtype=torch.bool), 64, LENGTH),
    ],
    ids=["longformer", "random", "empty"],
)
def test_the_share_is_that_of_the_upper_left_parts(layout):
    blocks = layout.to_blocks()[0, 0].numpy()
    lengths = np.array([1, 32, 33, 500, 999, 1000, 1000])
    parts = [blocks[:count, :count] for count in -(-lengths // layout.block_size)]
    expected = sum(part.sum() for part in parts) / sum(part.size for part in parts)
    assert share_computed(layout, lengths) == pytest.approx(expected)


def test_a_window_around_whole_texts_skips_nothing():
    layout = patterns.local(LENGTH, 32, window=128)
    assert layout.density < 0.4
    assert share_computed(layout, np.array([5, 64, 128])) == 1
