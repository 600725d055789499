"""A training step of an encoder: forward, loss, backward and AdamW, with four kinds of attention in the same weights.

Letters: B sequences, N tokens of each, total = B N, W width, H heads, D = W / H.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flash_sparse import BlockLayout, patterns
from flash_sparse.nn import Attention, Encoder
from flash_sparse.nn.rotary import rotate
from flash_sparse_apps.benchmarking.check import WrongResultError
from flash_sparse_apps.benchmarking.clock import Clock, spread
from flash_sparse_apps.benchmarking.operator_cell import (
    LEAST_REPEATS,
    MEBIBYTE,
    MOST_REPEATS,
    Announce,
    free,
    raise_if_broken,
    reason,
)

VOCABULARY, OUTPUTS = 8192, 16
WINDOW = 256  # tokens that the sparse encoder's tokens see on either side: Longformer's
TOLERANCE = {"bfloat16": 0.05, "float32": 1e-3}  # of a gradient behind all layers, as a share of its length


@dataclass(frozen=True)
class StepCell:
    """One length; as many sequences as make `tokens`. In bfloat16 it runs under autocast, weights in float32."""

    section: str
    length: int
    tokens: int
    width: int
    depth: int
    heads: int
    dtype: str
    block_size: int

    names = ("flash_sparse dense", "flash_sparse sparse", "sdpa", "textbook")

    @property
    def key(self) -> str:
        return (
            f"{self.section}: {self.length} tokens, {self.batch} sequences, encoder {self.width}x{self.depth}, "
            f"{self.heads} heads, {self.dtype}"
        )

    @property
    def batch(self) -> int:
        return max(1, self.tokens // self.length)

    def measure(
        self, names: Sequence[str], device: torch.device, budget_ms: float, announce: Announce
    ) -> Iterator[dict]:
        """A row for each of the names, the failed ones first; raises as `OperatorCell.measure` does."""
        trainer = Trainer(self, device)
        row = {"section": self.section, "cell": self.key, **dataclasses.asdict(self), "batch": self.batch}
        row["computed_density"] = trainer.layout.density
        found = {name: {**row, "contender": name} for name in names}
        repeats = {}
        for name in names:
            announce(name)
            failed = None
            try:
                found[name] |= trainer.prepare(name)
                repeats[name] = max(LEAST_REPEATS, min(MOST_REPEATS, round(budget_ms / trainer.once_ms)))
            except Exception as error:
                failed = error
            if failed is not None:
                yield {**found[name], "failed": reason(failed)}
                raise_if_broken(device, failed)
            failed = None
            trainer.optimizer.zero_grad(set_to_none=True)
            free(device)
        for repeat in range(1 + max(repeats.values(), default=0)):
            for name in [name for name, count in repeats.items() if repeat <= count]:
                announce(name)
                trainer.time(name)
        for name, count in repeats.items():
            yield found[name] | {"step": spread(trainer.milliseconds(name)[1:]), "repeats": count}
        del trainer
        free(device)


class Trainer:
    """One encoder and its optimizer, whose attention is exchanged from step to step."""

    def __init__(self, cell: StepCell, device: torch.device):
        self.cell, self.device = cell, device
        torch.manual_seed(0)
        self.encoder = Encoder(VOCABULARY, cell.width, cell.depth, cell.heads, num_outputs=OUTPUTS).to(device)
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=1e-5)
        self.own = [layer.attention for layer in self.encoder.layers]
        self.layout = patterns.longformer(cell.length, cell.block_size, window=WINDOW).to(device)
        total = cell.batch * cell.length
        self.tokens = torch.randint(VOCABULARY, (total,), device=device)
        self.cu_seqlens = torch.arange(0, total + 1, cell.length, dtype=torch.int32, device=device)  # (B + 1,)
        self.targets = torch.randint(OUTPUTS, (cell.batch,), device=device)
        self.clock = Clock(device)
        self.once_ms = 0.0  # of the kind prepared last
        self.marks: dict[str, list[tuple]] = {}

    def prepare(self, name: str) -> dict:
        """Compare the gradient with PyTorch's own attention's, then a step for its memory and one for its time."""
        error = self._check(name)
        free(self.device)
        found = {"error": error}
        if self.clock.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        self.time(name)
        self.clock.wait()
        if self.clock.is_gpu:
            found["MiB"] = {"step": torch.cuda.max_memory_allocated() / MEBIBYTE}
        self.time(name)
        self.clock.wait()
        self.once_ms = self.milliseconds(name)[-1]
        self.marks[name] = []
        return found

    def time(self, name: str):
        start = self.clock.start(0)
        self._gradients(name)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.marks.setdefault(name, []).append((start, self.clock.mark()))

    def milliseconds(self, name: str) -> list[float]:
        self.clock.wait()
        return [self.clock.milliseconds(start, stop) for start, stop in self.marks[name]]

    def _check(self, name: str) -> float:
        """How far a gradient behind all layers is from that with PyTorch's own attention and the same mask."""
        if name == "sdpa":
            return 0.0
        mask = self.layout.to_mask() if name == "flash_sparse sparse" else None  # (1, 1, N, N)
        exact = self._gradients("sdpa", mask)
        error = float((self._gradients(name) - exact).norm() / exact.norm())
        self.optimizer.zero_grad(set_to_none=True)
        if not error < TOLERANCE[self.cell.dtype]:
            raise WrongResultError(
                f"wrong: the first layer's gradient differs from that with PyTorch's attention by {error:.3g} of its "
                f"length, more than {TOLERANCE[self.cell.dtype]}"
            )
        return error

    def _gradients(self, name: str, mask: Tensor | None = None) -> Tensor:
        """Forward and backward; the gradient of the first layer's query, key and value weights, (3 W, W)."""
        self.optimizer.zero_grad(set_to_none=True)
        layout = self.layout if name == "flash_sparse sparse" else None
        peer = {"sdpa": functools.partial(scaled_dot_product_attention, attn_mask=mask), "textbook": _textbook}.get(name)
        for layer, own in zip(self.encoder.layers, self.own, strict=True):
            layer.attention = own if peer is None else PeerAttention(own, peer)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cell.dtype == "bfloat16"):
            logits = self.encoder(self.tokens, self.cu_seqlens, self.cell.length, layout)  # (B, OUTPUTS)
        F.cross_entropy(logits.float(), self.targets).backward()
        return self.own[0].qkv.weight.grad


class PeerAttention(nn.Module):
    """The weights of an `Attention` around somebody else's attention, for packed sequences of one length."""

    def __init__(self, own: Attention, compute: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.own, self.compute = own, compute

    def forward(
        self, x: Tensor, *, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None, turns: Tensor
    ) -> Tensor:
        rows = self.own.qkv(x).unflatten(-1, (-1, self.own.head_dim))  # (total, 3 H, D)
        query, key, value = rows.chunk(3, dim=1)
        query, key = rotate(query, turns), rotate(key, turns)
        query, key, value = (
            tensor.unflatten(0, (-1, max_seqlen)).transpose(1, 2) for tensor in (query, key, value)
        )  # (B, H, N, D)
        attended = self.compute(query, key, value)  # (B, H, N, D)
        return self.own.output(attended.transpose(1, 2).flatten(2).flatten(0, 1))  # (total, W)


def _textbook(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)  # (B, H, N, N)
    return weights.to(value.dtype) @ value
