"""Measurements as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_sparse_apps.benchmarking.contenders import CONTENDERS
from flash_sparse_apps.benchmarking.densities import PATTERNS
from flash_sparse_apps.benchmarking.grid import BLOCKWISE
from flash_sparse_apps.benchmarking.summary import is_timed, own_times, without_mask


def draw(rows: Sequence[dict]) -> dict[str, bytes]:
    """File name to PNG, for each picture that there is something to show in."""
    timed = [row for row in rows if is_timed(row) and not row["dropout_p"]]
    ours = own_times(timed)
    dense = [row for row in timed if row["mask"] == "dense"]
    sparse = [
        {**row, "speedup": ours[without_mask(row)] / row["both"]["ms"]}
        for row in timed
        if row["mask"] in PATTERNS and row["contender"] in BLOCKWISE and without_mask(row) in ours
    ]
    pictures = {}
    if dense:
        pictures["speed_over_length.png"] = _speed_over_length(dense)
    if sparse:
        pictures["speedup_over_density.png"] = _speedup_over_density(sparse)
    return pictures


def draw_cpu(rows: Sequence[dict]) -> bytes | None:
    """How many times faster than dense SDPA, over length: a row for each pass, a column for each head dimension.

    With the most threads, and nothing spinning beside; None where dense SDPA was not timed.
    """
    threads = max((row["threads"] for row in rows), default=None)
    rows = [row for row in rows if row["threads"] == threads and is_timed(row) and not row["spinning"]]
    rows = [row for row in rows if row["contender"] != "SDPA" and "times SDPA" in row["forward"]]
    if not rows:
        return None
    head_dims = sorted({row["head_dim"] for row in rows})
    labels = {_kind(row): None for row in rows}
    figure = Figure(figsize=(5.5 * len(head_dims), 8), layout="constrained")
    for column, head_dim in zip(figure.subplots(2, len(head_dims), squeeze=False).T, head_dims, strict=True):
        for axes, what in zip(column, ("forward", "both"), strict=True):
            for number, label in enumerate(labels):
                chosen = [row for row in rows if row["head_dim"] == head_dim and _kind(row) == label and what in row]
                points = [(row["length"], row[what]["times SDPA"]) for row in chosen]
                _line(axes, points, color=f"C{number}", label=label)
            axes.axhline(1, color="black", linestyle=":", label="SDPA, dense")
            axes.set(title=f"{what}, head_dim {head_dim}, {threads} threads", xlabel="tokens")
            axes.set_ylabel("times faster than dense SDPA")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.legend(fontsize=8)
    return _png(figure)


def _kind(row: dict) -> str:
    return f"{row['contender']}, " + ("dense" if row["density"] == 1 else f"density {row['density']:.3g}")


def draw_steps(rows: Sequence[dict]) -> bytes:
    """Time and memory of a training step over length, a line for each attention."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("ms", "MiB"), strict=True):
        for name in dict.fromkeys(row["attention"] for row in rows):
            points = [(row["length"], row[key]) for row in rows if row["attention"] == name and row.get(key)]
            _line(axes, points, label=name)
        axes.set(title="a training step", xlabel="tokens of a sequence", ylabel=key)
        axes.set_xscale("log", base=2)
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(fontsize=8)
    return _png(figure)


def _speed_over_length(rows: Sequence[dict]) -> bytes:
    """TFLOP/s of dense attention: a row for each pass, a column for each head dimension."""
    head_dims = sorted({row["head_dim"] for row in rows})
    figure = Figure(figsize=(5.5 * len(head_dims), 8), layout="constrained")
    grid = figure.subplots(2, len(head_dims), squeeze=False)
    for column, head_dim in zip(grid.T, head_dims, strict=True):
        for axes, what in zip(column, ("forward", "backward"), strict=True):
            for number, name in enumerate(CONTENDERS):
                chosen = [row for row in rows if row["contender"] == name and row["head_dim"] == head_dim]
                points = [(row["length"], row[what]["TFLOP/s"]) for row in chosen]
                _line(axes, points, color=f"C{number}", label=name)
            axes.set(title=f"dense, {what}, head_dim {head_dim}", xlabel="tokens", ylabel="TFLOP/s", ylim=(0, None))
            axes.set_xscale("log", base=2)
            axes.legend(fontsize=8)
    return _png(figure)


def _speedup_over_density(rows: Sequence[dict]) -> bytes:
    """How many times faster than our own dense attention: a line style for each contender, a color for each pattern."""
    lengths = [row["length"] for row in rows]
    length = max(set(lengths), key=lengths.count)  # the one at which densities vary
    head_dims = sorted({row["head_dim"] for row in rows})
    figure = Figure(figsize=(5.5 * len(head_dims), 5), layout="constrained")
    for axes, head_dim in zip(figure.subplots(1, len(head_dims), squeeze=False)[0], head_dims, strict=True):
        chosen = [row for row in rows if row["head_dim"] == head_dim and row["length"] == length]
        for name, style in zip(BLOCKWISE, ("-", "--"), strict=True):
            for number, pattern in enumerate(PATTERNS):
                own = [row for row in chosen if row["contender"] == name and row["mask"] == pattern]
                points = [(row["counted_density"], row["speedup"]) for row in own]
                _line(axes, points, color=f"C{number}", linestyle=style, label=f"{name}, {pattern}")
        ends = [min([row["counted_density"] for row in chosen], default=1.0), 1.0]
        axes.plot(ends, [1 / end for end in ends], color="black", linestyle=":", label="ideal")
        axes.set(title=f"forward and backward, {length} tokens, head_dim {head_dim}", xlabel="share of pairs computed")
        axes.set_ylabel("times faster than flash_sparse dense")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.legend(fontsize=8)
    return _png(figure)


def _line(axes: Axes, points: Sequence[tuple[float, float]], **style):
    if points:
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, **style)
        axes.grid(alpha=0.3)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
