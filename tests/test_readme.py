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


def test_ci_runs_the_test_command():
    (command,) = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


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
    done = run([*shlex.split(command, comments=True)[1:], "--print-config"])
    assert done.returncode == 0, done.stderr
    assert "seq-len" in done.stdout


@pytest.mark.parametrize(
    "command", [command for command in APP_COMMANDS if "predict.py" in command or "serve.py" in command]
)
def test_predict_and_serve_commands_reach_the_missing_run(command: str):
    done = run(shlex.split(command, comments=True)[1:])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


def test_every_command_is_named():
    for door in (ROOT / "apps").glob("*.py"):
        assert door.stem in README, door
