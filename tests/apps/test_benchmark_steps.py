"""Training steps beside PyTorch's and the textbook's attention: what is timed, what is written, what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from flash_sparse_apps import benchmark
from flash_sparse_apps.benchmarking import steps
from flash_sparse_apps.benchmarking.stopwatch import WallClock

TOY = (
    *("--steps", "--lengths", "128", "64", "--tokens", "128", "--width", "16", "--depth", "2", "--heads", "2"),
    *("--block-size", "16", "--window", "8", "--repeats", "2"),
)


def test_a_row_for_each_attention_and_length(tmp_path, capsys):
    assert benchmark.main([*TOY, "--output", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "steps.json").read_text())
    rows = kept["rows"]
    assert [(row["length"], row["attention"]) for row in rows] == [
        (length, name) for length in (64, 128) for name in ("dense", "sparse", "PyTorch", "textbook")
    ]
    for row in rows:
        assert row["sequences"] * row["length"] == 128
        assert 0 < row["least"] <= row["ms"] <= row["most"]
        assert row["tokens/s"] == pytest.approx(128e3 / row["ms"])
        assert (row["density"] < 1) == (row["attention"] == "sparse")
        assert (row["over PyTorch"] == 1) == (row["attention"] == "PyTorch")
        assert row["MiB"] is None
    assert kept["machine"]["cores"] >= 1
    assert (tmp_path / "steps.md").read_text().count("\n| ") == len(rows) + 1
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert "textbook" in capsys.readouterr().out


def test_all_attentions_make_the_same_step(monkeypatch):
    """With every block kept, one step by each leaves the same weights."""
    weights, within = [], steps._within

    def once(calls, repeats):
        for call in calls:
            call()
        return [[1.0]] * len(calls)

    for name in steps.ATTENTIONS:
        kept = {}

        def remember(encoder, name, step, kept=kept):
            kept["encoder"] = encoder
            return within(encoder, name, step)

        monkeypatch.setattr(steps, "ATTENTIONS", {name: {"PyTorch": steps.sdpa, "textbook": steps.textbook}.get(name)})
        monkeypatch.setattr(steps, "_within", remember)
        monkeypatch.setattr(steps, "in_turn", once)
        options = Options(window=64)
        row = steps.measure(64, options, WallClock())[0]
        assert (row["attention"], row["density"]) == (name, 1.0)
        weights.append(torch.nn.utils.parameters_to_vector(kept["encoder"].parameters()).detach())
        monkeypatch.undo()
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-6)


class Options:
    """The flags, as the parser gives them."""

    def __init__(self, **changed):
        vars(self).update(tokens=128, width=16, depth=2, heads=2, block_size=16, window=8, repeats=1)
        vars(self).update(dtype="auto", device="cpu")
        vars(self).update(changed)


def test_what_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr(steps, "textbook_fits", lambda *unused: False)
    rows = steps.measure(32, Options(), WallClock())
    assert rows[-1] == {**rows[-1], "attention": "textbook", "result": "does not fit in memory"}
    assert "ms" not in rows[-1]
    assert all("over textbook" not in row and math.isfinite(row["ms"]) for row in rows[:-1])


def test_a_gpu_that_is_too_small_is_said(monkeypatch):
    def too_large(*unused, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setitem(steps.ATTENTIONS, "PyTorch", too_large)
    rows = {row["attention"]: row for row in steps.measure(32, Options(), WallClock())}
    assert rows["PyTorch"]["result"] == "does not fit in memory"
    assert all("over PyTorch" not in row for row in rows.values())
    assert rows["dense"]["result"] == rows["textbook"]["result"] == "ok"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--heads", "3"], "--heads is 3; expected a divisor of --width 16"),
        (["--lengths", "256"], "--tokens is 128; expected at least the longest of --lengths"),
        (["--lengths", "0"], "--lengths is 0; expected at least 1"),
        (["--block-size", "9"], "block_size is 9; expected one of"),
    ],
)
def test_wrong_arguments(capsys, flags, message):
    code = benchmark.main([*TOY, *flags])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys):
    assert benchmark.main([*TOY, "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: --device is cuda, but PyTorch finds no CUDA GPU here\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_on_a_gpu(tmp_path):
    assert benchmark.main([*TOY, "--device", "cuda", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert all(row["MiB"] > 0 and row["result"] == "ok" for row in rows)
