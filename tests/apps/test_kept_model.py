"""A model that an earlier version wrote loads, and says what it said then, through each backend of a CPU."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flash_sparse import attention_varlen
from flash_sparse.nn import Attention
from flash_sparse_apps import predict
from flash_sparse_apps.models import saved_model

KEPT = Path(__file__).with_name("kept_model")
SCRIPT = Path(__file__).parents[2] / "apps" / "predict.py"
GIVEN = [str(KEPT / "model"), str(KEPT / "documents.jsonl"), "--id-field", "name"]


def same(written: str):
    """The labels, and the probabilities but for rounding: float32 in another order."""
    found, expected = (
        [json.loads(line) for line in text.splitlines()]
        for text in (written, (KEPT / "predictions.jsonl").read_text(encoding="utf-8"))
    )
    assert len(found) == len(expected) == 12
    assert len({tuple(entry["labels"]) for entry in expected}) > 3
    for now, then in zip(found, expected, strict=True):
        for name in ("id", "labels", "tokens", "truncated"):
            assert now[name] == then[name]
        assert now["probabilities"] == pytest.approx(then["probabilities"], rel=0, abs=2e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_same_predictions(backend, monkeypatch, capsys):
    monkeypatch.setattr(Attention, "attend", staticmethod(functools.partial(attention_varlen, backend=backend)))
    assert predict.main(GIVEN) == 0
    same(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [{"FLASH_SPARSE_CPU": "avx2"}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}]
)
def test_the_same_predictions_with_other_instructions(asked):
    command = [sys.executable, str(SCRIPT), *GIVEN]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked)
    assert ended.returncode == 0, ended.stderr
    same(ended.stdout)


def test_it_is_small():
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < 100_000


def test_a_model_of_a_newer_version_is_named(tmp_path, capsys):
    model = Path(shutil.copytree(KEPT / "model", tmp_path / "model"))
    (model / "SHA256SUMS").unlink()
    path = model / "classifier.json"
    described = json.loads(path.read_text())
    assert described["format"] == saved_model.FORMAT
    path.write_text(json.dumps({"format": saved_model.FORMAT + 1}))
    assert predict.main([str(model), *GIVEN[1:]]) == 2
    assert capsys.readouterr().err == (
        f"error: {path}: of format {saved_model.FORMAT + 1}, which a newer version of flash-sparse wrote; "
        f"expected {saved_model.FORMAT}, or pip install --upgrade flash-sparse\n"
    )
