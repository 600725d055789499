"""A training step of an encoder over length: our attention, dense and block-sparse, PyTorch's, and the textbook's.

The weights are the same for all; a step is forward, backward and AdamW over as many sequences as make `--tokens`.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from tqdm import tqdm

from flash_sparse import BlockLayout
from flash_sparse.layout import count_blocks
from flash_sparse.nn import Encoder
from flash_sparse_apps.benchmarking.plots import draw_steps
from flash_sparse_apps.benchmarking.stopwatch import MEBIBYTE, GpuClock, WallClock, in_turn, spread
from flash_sparse_apps.benchmarking.tables import markdown_table, text_table
from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.machine import describe_machine, describe_versions
from flash_sparse_apps.models.layouts import describe, make_layout
from flash_sparse_apps.models.lightning_module import document_losses
from flash_sparse_apps.models.peers import attending, sdpa, textbook, textbook_fits
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.batching import PackedBatch
from flash_sparse_datasets.shared.exit_codes import UserError, is_too_little_memory

ATTENTIONS: dict[str, Callable[..., Tensor] | None] = {
    "dense": None,
    "sparse": None,
    "PyTorch": sdpa,
    "textbook": textbook,
}
VOCABULARY, CLASSES = 256, 16


def main(options: Namespace, command: Sequence[str]) -> int:
    """Exit code 0. UserError for a wrong argument."""
    try:
        _check(options)
        clock = GpuClock() if options.device == "cuda" else WallClock()
        rows = []
        for length in tqdm(sorted(options.lengths), desc="lengths", leave=False, disable=None):
            rows += measure(length, options, clock)
        title = f"training steps of {options.tokens:,} tokens"
        if options.output is not None:
            results = {
                "command": list(command),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "machine": describe_machine(clock.device),
                "versions": describe_versions(),
                "options": vars(options),
                "rows": rows,
            }
            folder = Path(options.output)
            write_atomically(folder / "steps.json", to_json(results))
            write_atomically(folder / "steps.md", markdown_table(title, rows).encode())
            write_atomically(folder / "steps.png", draw_steps(rows))
    except ValueError as error:
        raise UserError(str(error)) from error
    print(text_table(title, rows))
    return 0


def _check(options):
    for name in ("lengths", "tokens", "width", "depth", "heads", "window", "repeats"):
        values = options[name] if isinstance(options[name], list) else [options[name]]
        if min(values) < 1:
            raise ValueError(f"--{name} is {min(values)}; expected at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but PyTorch finds no CUDA GPU here")
    if options.width % options.heads or options.width // options.heads % 2:
        raise ValueError(
            f"--heads is {options.heads}; expected a divisor of --width {options.width} that leaves an even number"
        )
    if max(options.lengths) > options.tokens:
        raise ValueError(f"--tokens is {options.tokens}; expected at least the longest of --lengths")
    count_blocks(max(options.lengths), options.block_size)


def measure(length: int, options, clock: WallClock) -> list[dict]:
    """A row for each attention; where the memory is not enough, the row says so."""
    torch.manual_seed(0)
    encoder = Encoder(
        VOCABULARY, options.width, options.depth, options.heads, pooling="mean", num_outputs=CLASSES
    ).to(clock.device)  # fmt: skip
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4)
    batch = _random_batch(length, options.tokens // length).to(clock.device)
    settings = Settings(seq_len=length, sparse=True, block_size=options.block_size, window=options.window)
    layout = cast(BlockLayout, make_layout(length, describe(settings))).to(clock.device)
    usual = "bfloat16" if options.device == "cuda" else "float32"
    dtype = getattr(torch, usual if options.dtype == "auto" else options.dtype)

    steps, rows = {}, []
    for name in ATTENTIONS:
        own = layout if name == "sparse" else None
        step: Callable[[], None] = functools.partial(_step, encoder, optimizer, batch, own, dtype, clock)
        row = {"length": length, "sequences": options.tokens // length, "attention": name}
        row["density"] = own.density if own is not None else 1.0
        rows.append(row)
        if name == "textbook" and not textbook_fits(encoder, length, clock.device):
            row["result"] = "does not fit in memory"
            continue
        step = _within(encoder, name, step)
        try:
            row["MiB"] = _peak_memory(step, clock)
        except RuntimeError as error:
            if not is_too_little_memory(error):
                raise
            row["result"] = "does not fit in memory"
            optimizer.zero_grad()
            clock.free()
            continue
        steps[name] = step
    seconds = dict(zip(steps, in_turn(list(steps.values()), options.repeats), strict=True))
    for row in rows:
        if (measured := seconds.get(row["attention"])) is None:
            continue
        row |= spread([1e3 * second for second in measured])
        row["tokens/s"] = row["sequences"] * length / statistics.median(measured)
        for peer in ("PyTorch", "textbook"):
            if peer in seconds:
                row[f"over {peer}"] = statistics.median(
                    theirs / mine for theirs, mine in zip(seconds[peer], measured, strict=True)
                )
        row["result"] = "ok"
    return rows


def _random_batch(length: int, sequences: int) -> PackedBatch:
    tokens = torch.randint(VOCABULARY, (sequences * length,))  # (total,)
    bounds = torch.arange(sequences + 1, dtype=torch.int32) * length  # (B + 1,)
    return PackedBatch(tokens, bounds, length, torch.arange(sequences) % CLASSES, torch.arange(sequences), sequences)


def _step(
    encoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: PackedBatch,
    layout: BlockLayout | None,
    dtype: torch.dtype,
    clock: WallClock,
):
    lower = dtype != torch.float32
    with torch.autocast(clock.device.type, dtype) if lower else contextlib.nullcontext():
        logits = encoder(batch.tokens, batch.cu_seqlens, batch.max_seqlen, layout)  # (B, CLASSES)
    document_losses(logits, batch.targets, "single-label").mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    clock.wait()


def _within(encoder: nn.Module, name: str, step: Callable[[], None]) -> Callable[[], None]:
    """The step with the attention of this name."""
    attend = ATTENTIONS[name]
    if attend is None:
        return step

    def run():
        with attending(encoder, attend):
            step()

    return run


def _peak_memory(step: Callable[[], None], clock: WallClock) -> float | None:
    """What a step takes beside the weights, in MiB; None where nobody counts."""
    step()  # compiles, and makes the optimizer's state
    clock.free()
    before = clock.allocated()
    step()
    peak = clock.peak()
    return None if peak is None else (peak - before) / MEBIBYTE
