"""How long making a layout takes, beside FlexAttention's ways to make a block mask."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flash_sparse_apps.benchmarking.clock import in_turn, spread
from flash_sparse_apps.benchmarking.contenders import causal, layout_to_block_mask
from flash_sparse_apps.benchmarking.densities import PATTERNS, layout_of_density
from flash_sparse_apps.benchmarking.operator_cell import MEBIBYTE, Announce, free, raise_if_broken, reason

WINDOW = 256  # tokens on either side
REPEATS = 3


@dataclass(frozen=True)
class BuildingCell:
    """One length and number of heads. Times are of the wall clock, until the result lies on the device."""

    section: str
    length: int
    heads: int
    density: float
    block_size: int

    names = (*PATTERNS, "from_kv_blocks", "create_block_mask causal", "create_block_mask window")

    @property
    def key(self) -> str:
        return f"{self.section}: {self.length} tokens, {self.heads} heads, density {self.density:.5f}"

    def measure(
        self, names: Sequence[str], device: torch.device, budget_ms: float, announce: Announce
    ) -> Iterator[dict]:
        """A row for each of the names; raises as `OperatorCell.measure` does."""
        for name in names:
            announce(name)
            row = {"section": self.section, "cell": self.key, "contender": name, "length": self.length}
            failed = None
            try:
                row["build"] = spread([1e3 * own for own in in_turn([self._builder(name, device)], REPEATS)[0]])
                row["repeats"] = REPEATS
                if device.type == "cuda":
                    row["MiB"] = {"build": self._peak(name, device)}
            except Exception as error:
                failed = error
                row["failed"] = reason(error)
            yield row
            if failed is not None:
                raise_if_broken(device, failed)
            failed = None
            free(device)

    def _builder(self, name: str, device: torch.device) -> Callable[[], object]:
        make_layout = functools.partial(
            layout_of_density, length=self.length, block_size=self.block_size, density=self.density, heads=self.heads
        )
        if name in PATTERNS:
            build = lambda: make_layout(name).to(device)  # noqa: E731
        elif name == "from_kv_blocks":  # what FlexAttention needs when the blocks are known already
            build = functools.partial(layout_to_block_mask, make_layout("random").to(device))
        else:
            build = functools.partial(
                create_block_mask,
                causal if name.endswith("causal") else _near,
                None,
                None,
                self.length,
                self.length,
                device=device.type,
                BLOCK_SIZE=self.block_size,
            )

        def built() -> object:
            result = build()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return result

        return built

    def _peak(self, name: str, device: torch.device) -> float:
        """Device memory that one more build takes, in MiB."""
        build = self._builder(name, device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        build()
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE


def _near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The longformer pattern's window, as `create_block_mask` wants it."""
    return (query - key).abs() <= WINDOW
