"""Each command has two doors, a file in a checkout and a word of `flash-sparse`: both lead to the same place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from flash_sparse_apps import console
from flash_sparse_apps.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOORS = {command: ROOT / ("datasets" if command == "prepare" else "apps") / f"{command}.py" for command in COMMANDS}


def run(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120)


def test_the_folders_show_the_doors_alone():
    for folder in ("apps", "datasets"):
        assert sorted((ROOT / folder).glob("*.py")) == sorted(door for door in DOORS.values() if folder in door.parts)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_door_is_a_docstring_and_a_call(command):
    module = ast.parse(DOORS[command].read_text())
    assert f"`python {DOORS[command].relative_to(ROOT)}" in ast.get_docstring(module)
    _, *imports, call = module.body
    assert all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in imports)
    assert ast.unparse(call.body[0]) == "sys.exit(main())"


@pytest.mark.parametrize("command", ["classify", "benchmark", "prepare"])
def test_both_doors_show_the_same_help_and_name_themselves(command):
    script = Path(sys.executable).with_name("flash-sparse")
    if not script.is_file():
        pytest.skip("flash-sparse is not installed beside this Python")
    file, word = run(DOORS[command], "--help"), run(script, command, "--help")
    assert (file.returncode, word.returncode) == (0, 0), file.stderr + word.stderr
    path = "datasets/prepare.py" if command == "prepare" else DOORS[command]
    names = [f"python {path}", f"flash-sparse {command}"]
    assert f"usage: {names[0]}" in file.stdout
    assert f"usage: {names[1]}" in word.stdout

    def words(text, name):
        return text.replace(name, "").split()

    assert words(file.stdout, names[0]) == words(word.stdout, names[1])


def test_one_name_for_all_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flash-sparse ")
    assert main(["train"]) == 2
    assert capsys.readouterr().err == f"error: 'train' is no command; expected one of {', '.join(COMMANDS)}\n"


def test_a_command_starts_another_in_its_own_form(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/flash-sparse", "sweep"])
    assert console.start("classify") == [sys.executable, "/usr/bin/flash-sparse", "classify"]
    assert console.spoken("classify") == "flash-sparse classify"

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["apps/sweep.py", "--help"])
    assert console.start("classify") == [sys.executable, "apps/classify.py"]
    assert console.spoken("classify") == "python apps/classify.py"

    monkeypatch.setattr(sys, "argv", ["/somebody/elses/program.py"])
    assert console.spoken("classify") == "flash-sparse classify"
    done = subprocess.run([*console.start("classify"), "--nothing"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, "error: unrecognized arguments: --nothing\n")


@pytest.mark.parametrize("command", ["classify", "predict", "serve", "sweep", "curriculum"])
def test_without_the_extra_a_line_says_what_to_install(command, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("flash_sparse_apps.")]:
        if name.split(".")[1] in ("command_line", command, "sweeping", "lra"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main([command, "RUN", "a.txt"]) == 2
    assert (
        capsys.readouterr().err == "error: jsonargparse is not installed; expected pip install 'flash-sparse[apps]'\n"
    )
