"""`--devices 2`: two processes on a CPU train what one process trains."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "--seq-len 64 --vocab-size 300 --width 16 --epochs 2 --batch-size 8 --dropout 0 --embeddings random "
    "--accelerator cpu --no-linear-baseline --examples 0"
)


def train(folder: Path, devices: int) -> tuple[list[dict], dict]:
    """The history and the metrics of a run."""
    run = folder / f"run-{devices}"
    arguments = [*SETTINGS.split(), "--devices", str(devices), "--cache-dir", "cache", "--output", run]
    command = [sys.executable, ROOT / "apps" / "classify.py", "--dataset", "data.jsonl", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1  # the second process says nothing
    with open(run / "logs" / "history.csv", newline="") as file:
        return list(csv.DictReader(file)), json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    words = {"fruit": "apple pear plum", "tools": "saw drill file"}
    rows = [
        {"text": " ".join(words[label].split()[i % 3] for i in range(1 + n % 40)), "label": label}
        for n in range(77)
        for label in words
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    one, alone = train(tmp_path, 1)
    two, together = train(tmp_path, 2)
    assert together["training"]["steps"] == alone["training"]["steps"]
    assert len(one) == len(two) == 2
    for before, after in zip(one, two, strict=True):
        for name in before:
            if "loss" in name:
                assert float(after[name]) == pytest.approx(float(before[name]), rel=1e-3)
