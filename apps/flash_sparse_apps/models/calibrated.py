"""An encoder whose logits are divided by a temperature, so that its probabilities are as good as they say."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flash_sparse import BlockLayout


class Calibrated(nn.Module):
    """Called like the encoder that it holds. The order of the labels stays what it was.

    Args:
        encoder: a `flash_sparse.nn.Encoder`, or what is called like it, such as a `Blend`.
        temperature: above 0, as `scores.calibration.fit_temperature` finds it.
    """

    def __init__(self, encoder: nn.Module, temperature: float):
        super().__init__()
        self.encoder: Any = encoder
        self.temperature = temperature

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None) -> Tensor:
        """Logits (B, L); arguments as in `flash_sparse.nn.Encoder.forward`."""
        return self.encoder(tokens, cu_seqlens, max_seqlen, layout).float() / self.temperature
