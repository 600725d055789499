"""Small data with planted words, and finished runs on it, made once for all tests."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from flash_sparse_apps import classify

sys.path.append(str(Path(__file__).parent))  # for the helper modules: pytest's importlib mode leaves it out

# labels that would break a page, a formula or a terminal if they were not treated as text
LABELS = ("apple", "<script>alert(1)</script>", "$x_1^2$ & co", "日本")
TINY = (
    *("--seq-len", "96", "--vocab-size", "400"),
    *("--width", "16", "--heads", "2", "--depth", "1", "--dropout", "0.1", "--attention-dropout", "0.1"),
    *("--batch-size", "8", "--tokens-per-batch", "256", "--learning-rate", "0.02", "--accelerator", "cpu"),
    *("--bootstrap-samples", "50", "--compare-documents", "4"),
)
SPARSE = ("--sparse", "--block-size", "16", "--window", "16")


def write_planted(path: Path, task: str, count: int = 100) -> Path:
    """A JSONL file whose labels are given away by one word each: keyword0 for the first label and so on."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            words = [f"word{draw.randrange(40)}" for _ in range(draw.choice([8, 15, 30, 60]))]
            if task == "multi-label":
                labels = [label for label in LABELS if draw.random() < 0.4]
            else:
                labels = [draw.choice(LABELS)]
            for label, place in zip(labels, draw.sample(range(8), len(labels)), strict=True):
                words[place] = f"keyword{LABELS.index(label)}"
            row = {"name": f"document {number}", "text": " ".join(words)}
            row["labels"] = labels if task == "multi-label" else labels[0]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def planted_files(tmp_path_factory) -> dict[str, Path]:
    """Task -> file."""
    folder = tmp_path_factory.mktemp("planted")
    return {task: write_planted(folder / f"{task}.jsonl", task) for task in ("multi-label", "single-label")}


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def multi_label_run(planted_files, cache_folder, tmp_path_factory) -> Path:
    """The folder of a finished multi-label, sparse run."""
    run = tmp_path_factory.mktemp("runs") / "multi"
    data = ("--dataset", str(planted_files["multi-label"]), "--id-field", "name")
    files = ("--cache-dir", str(cache_folder), "--output", str(run))
    assert classify.main([*data, *TINY, *files, *SPARSE, "--epochs", "3"]) == 0
    return run


@pytest.fixture(scope="session")
def single_label_run(planted_files, cache_folder, tmp_path_factory) -> Path:
    """The folder of a finished single-label, dense run."""
    run = tmp_path_factory.mktemp("runs") / "single"
    data = ("--dataset", str(planted_files["single-label"]))
    files = ("--cache-dir", str(cache_folder), "--output", str(run))
    assert classify.main([*data, *TINY, *files, "--dense", "--epochs", "2", "--pooling", "max", "--examples", "0"]) == 0
    return run
