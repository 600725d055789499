"""Each example runs as its file says, made small."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
# name -> (what it needs beside the package, flags that make it small, what it prints)
EXAMPLES = {
    "plain_pytorch.py": ((), ("--length", "64", "--steps", "3"), "step 2: loss"),
    "lightning_classifier.py": (
        ("lightning",),
        ("--length", "64", "--documents", "32", "--epochs", "1", "--precision", "bf16-true"),
        "loaded again with BlockLayout(64 x 64 tokens",
    ),
    "huggingface_trainer.py": (
        ("transformers", "accelerate"),
        ("--length", "160", "--texts", "32", "--epochs", "1"),
        "BlockLayout(160 x 160 tokens",
    ),
    "sentence_transformer.py": (("sentence_transformers",), ("--length", "600"), "differ by at most"),
    "attention_experiment.py": ((), ("--shape", "1", "2", "64", "16", "--repeats", "1"), "ours"),
}


def test_every_example_is_here():
    assert sorted(EXAMPLES) == sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str):
    needed, flags, expected = EXAMPLES[name]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(FOLDER / name), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=quiet)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
