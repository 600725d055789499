"""The pictures of the report, each as SVG text to put into a page."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from flash_sparse import BlockLayout
from flash_sparse_apps.files import write_atomically
from flash_sparse_apps.metrics import CalibrationBin, best_epoch, history_key
from flash_sparse_apps.reports.examples import ExampleImage

BLUE, ORANGE, GREY, GREEN, VIOLET, GOLD = "#2463a8", "#c4571b", "#6b7280", "#2f7d4f", "#7c4d9e", "#a8860b"
_LINES = {"dense": BLUE, "sparse": ORANGE, "linear model": GREY, "PyTorch's": GREEN, "textbook": VIOLET,
          "chunked": GOLD}  # fmt: skip
MAX_CELLS = 256  # blocks along a side of the layout's picture; more are drawn as shares

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "flash-sparse",  # the same data gives the same file
    "text.parse_math": False,  # a $ in a label is a dollar
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
}


@contextmanager
def _figure(title: str, width: float, height: float, png: Path | None = None) -> Iterator[tuple[Figure, list[str]]]:
    """A figure to draw on; on leaving, its SVG is the one entry of the list, and it is written to `png` too."""
    svg: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, svg
        text, image = io.StringIO(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that matplotlib's own font lacks: the browser draws them
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
            if png is not None:
                figure.savefig(image, format="png", dpi=160)
                write_atomically(png, image.getvalue())
    source = text.getvalue()
    source = source[source.index("<svg") :]
    # fill the page's column instead of a fixed size in points
    source = re.sub(r'<svg ([^>]*?)\s?(?:width|height)="[\d.]+pt"', r"<svg \1", source, count=1)
    source = re.sub(r'(<svg [^>]*?)(?:width|height)="[\d.]+pt"', r"\1", source, count=1)
    svg.append(source.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1))


def loss_curve(steps: Sequence[dict], epochs: Sequence[dict]) -> str:
    """Training and validation loss over the steps, as `callbacks.History` keeps them."""
    with _figure("training and validation loss", 4.6, 3.1) as (figure, svg):
        axes = figure.subplots()
        axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], color=BLUE, alpha=0.35, linewidth=1)
        seen = [e for e in epochs if e["train_loss"] is not None]
        _dotted(axes, seen, "train_loss", BLUE, "training")
        _dotted(axes, epochs, "validation_loss", ORANGE, "validation")
        axes.set(xlabel="optimizer step", ylabel="loss", xlim=(0, None), ylim=(0, None))
        _legend_above(axes)
    return svg[0]


def pretraining_curve(steps: Sequence[dict], epochs: Sequence[dict]) -> str:
    """The loss of masked tokens over the steps, as `pretraining.PretrainingHistory` keeps it."""
    with _figure("loss of masked tokens", 4.6, 3.1) as (figure, svg):
        axes = figure.subplots()
        axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], color=VIOLET, alpha=0.35, linewidth=1)
        _dotted(axes, epochs, "train_loss", VIOLET, "masked tokens, mean of an epoch")
        axes.set(xlabel="optimizer step", ylabel="loss", xlim=(0, None), ylim=(0, None))
        _legend_above(axes)
    return svg[0]


def score_curve(epochs: Sequence[dict], metric: str) -> str:
    """The validation score that weights are kept by (micro-F1 for the loss) over the steps, the tested ones marked."""
    shown = "micro-f1" if metric == "loss" else metric
    name, key = shown.replace("f1", "F1"), history_key(shown)
    with _figure(f"validation {name}", 4.6, 3.1) as (figure, svg):
        axes = figure.subplots()
        _dotted(axes, epochs, key, ORANGE, "validation")
        best = best_epoch(epochs, metric)
        marker: dict[str, Any] = {
            "markersize": 10,
            "markerfacecolor": "none",
            "markeredgecolor": ORANGE,
            "linestyle": "none",
        }
        axes.plot(best["step"], best[key], "o", label="tested weights", **marker)
        axes.set(xlabel="optimizer step", ylabel=name, xlim=(0, None), ylim=(0, 1.02))
        _legend_above(axes)
    return svg[0]


def _dotted(axes: Axes, epochs: Sequence[dict], key: str, color: str, label: str):
    steps, values = [e["step"] for e in epochs], [e[key] for e in epochs]
    axes.plot(steps, values, color=color, marker="o", markersize=3.5, label=label)


def _legend_above(axes: Axes):
    """Where it hides no data."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=4, fontsize=9, columnspacing=1.2)


def length_histogram(lengths: dict[str, np.ndarray], seq_len: int) -> str:
    """Documents over their length in tokens (whole documents, by split), logarithmic, with the cut marked."""
    with _figure("document lengths", 6.6, 2.8) as (figure, svg):
        axes = figure.subplots()
        every = np.concatenate([np.asarray(values) for values in lengths.values()])
        low, high = max(1, min(every.min(), seq_len / 1.15)), max(2, every.max(), seq_len * 1.15)
        edges = np.geomspace(low * 0.95, high * 1.05, 45)
        colors = (BLUE, ORANGE, GREY)
        axes.hist(
            list(lengths.values()), bins=edges.tolist(), stacked=True, color=colors[: len(lengths)], label=list(lengths)
        )
        axes.axvspan(seq_len, edges[-1], color="#b91c1c", alpha=0.08, linewidth=0)
        axes.axvline(seq_len, color="#b91c1c", linewidth=1.5, label=f"cut at {seq_len:,}")
        axes.set_xscale("log", base=2)
        first, last = int(np.floor(np.log2(edges[0]))), int(np.ceil(np.log2(edges[-1])))
        ticks = [2**power for power in range(first, last + 1) if edges[0] <= 2**power <= edges[-1]]
        axes.set_xticks(ticks, [f"{tick:,}" if tick < 1024 else f"{tick // 1024:,}k" for tick in ticks])
        axes.minorticks_off()
        unit = "tokens (k = 1,024)" if ticks and ticks[-1] >= 1024 else "tokens"
        axes.set(xlabel=unit, ylabel="documents", xlim=(edges[0], edges[-1]))
        cast(MaxNLocator, axes.yaxis.get_major_locator()).set_params(integer=True)
        _legend_above(axes)
    return svg[0]


def layout_picture(layout: BlockLayout) -> str:
    """Which key blocks each query block sees: first head; dark is kept."""
    _, _, rows, columns = layout.indices()[:, : int(layout.row_offsets[0, 0, -1])].cpu().numpy()
    size = max(layout.num_query_blocks, layout.num_key_blocks)
    step = -(-size // MAX_CELLS)
    cells = -(-size // step)
    kept = np.zeros((cells, cells))
    np.add.at(kept, (rows // step, columns // step), 1 / step**2)
    with _figure("block layout", 4.2, 4.2) as (figure, svg):
        axes = figure.subplots()
        extent = (0, size * layout.block_size, size * layout.block_size, 0)
        shades = LinearSegmentedColormap.from_list("kept", ["#eef2f7", BLUE])
        axes.imshow(np.sqrt(kept.clip(0, 1)), extent=extent, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
        axes.grid(False)
        axes.set(xlabel="key token", ylabel="query token")
        axes.locator_params(nbins=5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return svg[0]


def images(examples: Sequence[ExampleImage]) -> str:
    """Images side by side, those answered right above those answered wrong, each under its label and its answer."""
    rows = [row for right in (True, False) if (row := [one for one in examples if one.right == right])]
    columns = max(map(len, rows))
    with _figure("test images", 2.2 * columns, 2.5 * len(rows)) as (figure, svg):
        for places, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            for axes, example in zip_longest(places, row):
                axes.set_axis_off()
                if example is not None:
                    axes.imshow(example.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                    axes.set_title(f"{example.label}; given {example.given}, {example.probability:.2f}", fontsize=9)
    return svg[0]


def confusion_matrix(counts: np.ndarray, labels: Sequence[str]) -> str:
    """How many documents have the label of the row and were given that of the column, (L, L); shades are shares of the
    row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(3.2, 0.3 * len(labels))
    with _figure("confusion matrix", side + 2.4, side + 1.2) as (figure, svg):
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shares", ["#ffffff", BLUE])
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
        axes.grid(False)
        names = [textwrap.shorten(label, 28, placeholder="...") or label[:28] for label in labels]
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), names)
        axes.set(xlabel="label given", ylabel="label in the data")
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "#1f2937"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=color)
    return svg[0]


def reliability(bins: Sequence[CalibrationBin]) -> str:
    """The share of labels that is right over their mean probability, as `scores.calibration.reliability` has both."""
    with _figure("reliability", 4.2, 3.9) as (figure, svg):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as they say")
        said, right = ([each[key] for each in bins] for key in ("probability", "right"))
        most = max(each["decisions"] for each in bins)
        areas = [15 + 150 * each["decisions"] / most for each in bins]
        axes.plot(said, right, color=BLUE, linewidth=1.5)
        axes.scatter(said, right, s=areas, color=BLUE, zorder=3, clip_on=False, label="labels given")
        axes.set(xlabel="mean probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        _legend_above(axes)
    return svg[0]


def over_lengths(
    title: str, label: str, lines: dict[str, list[tuple[int, float, float, float]]], png: Path, zero: bool
) -> str:
    """One line for each name over sequence length, from (length, value, low, high), and the picture as a file.

    Args:
        label: of the vertical axis.
        zero: whether that axis begins at 0; else it is logarithmic.
    """
    with _figure(title, 4.6, 3.3, png) as (figure, svg):
        axes = figure.subplots()
        spare = itertools.cycle((BLUE, ORANGE, GREEN, VIOLET, GOLD))  # for names of models
        for name, points in lines.items():
            color = _LINES.get(name) or next(spare)
            lengths, values, low, high = np.array(points).T
            axes.plot(lengths, values, color=color, marker="o", markersize=3.5, label=name)
            axes.fill_between(lengths, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({length for points in lines.values() for length, *_ in points})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30 if len(ticks) > 5 else 0)
        axes.minorticks_off()
        axes.set(xlabel="tokens read of a document", ylabel=label)
        if zero:
            axes.set_ylim(0, None)
        else:
            axes.set_yscale("log")
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, fontsize=9)
    return svg[0]
