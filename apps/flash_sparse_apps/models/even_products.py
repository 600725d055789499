"""Matrix products whose rows have the same bits whatever other rows there are.

A library of matrix products takes another path, and adds in another order, for one row than for two or for a thousand.
So a document's logits would depend, in their last digits, on the documents that share its batch. Here rows are
multiplied in tiles of one height, the last one filled up: every row takes the same path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

TILE = 96  # rows; a multiple of the heights in which processors multiply
NARROWEST = 16  # columns: for a single one there is another path again


class EvenProducts(TorchFunctionMode):
    """While this context is open, in this thread, `torch.nn.functional.linear` multiplies tile by tile."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (_linear if func is F.linear else func)(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., I) and (O, I) to (..., O), as `torch.nn.functional.linear`."""
    rows = x.reshape(-1, x.shape[-1])  # (n, I)
    tiles = F.pad(rows, (0, 0, 0, -len(rows) % TILE)).view(-1, TILE, x.shape[-1])  # (tiles, 96, I)
    wide = F.pad(weight, (0, 0, 0, max(0, NARROWEST - len(weight))))  # (O or 16, I)
    product = torch.matmul(tiles, wide.t().expand(len(tiles), -1, -1))  # (tiles, 96, O or 16)
    product = product.flatten(0, 1)[: len(rows), : len(weight)].view(*x.shape[:-1], len(weight))  # (..., O)
    return product if bias is None else product + bias
