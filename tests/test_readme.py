"""The README's commands and its Python run as they are printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
APP_COMMANDS = [
    command
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    for command in line.split(" && ")
    if command.startswith("python apps/")
]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_first_screen_shows_the_main_job():
    first = README.split("\n## ")[0]
    assert "python apps/classify.py --seq-len 16384 --sparse" in first
    assert "pip install" in first
    assert "pytest" in first


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_python_runs(block: str):
    done = run(["-W", "error", "-c", block])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        command
        for command in APP_COMMANDS
        if any(app in command for app in ("classify.py", "sweep.py", "curriculum.py"))
    ],
)
def test_training_commands_are_understood(command: str):
    done = run([*shlex.split(command)[1:], "--print-config"])
    assert done.returncode == 0, done.stderr
    assert "seq-len" in done.stdout


@pytest.mark.parametrize(
    "command", [command for command in APP_COMMANDS if "predict.py" in command or "serve.py" in command]
)
def test_predict_and_serve_commands_reach_the_missing_run(command: str):
    done = run(shlex.split(command)[1:])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


def test_benchmark_command_runs_small():
    (command,) = [command for command in APP_COMMANDS if "benchmark.py --device cpu" in command]
    small = "--lengths 256 --densities 1/2 --heads 1 --head-dims 16 --threads 1 --repeats 1 --busy"
    done = run([*shlex.split(command)[1:], *small.split()])
    assert done.returncode == 0, done.stderr
    assert "1 head of 16, float32, 1 thread" in done.stdout
    assert "FlexAttention" in done.stdout
    assert "64 sequences of 130 to 198 tokens" in done.stdout
    assert "peak memory" in done.stdout


def test_every_app_is_named():
    for app in ("classify.py", "predict.py", "serve.py", "sweep.py", "curriculum.py", "benchmark.py"):
        assert any(app in command for command in APP_COMMANDS)
