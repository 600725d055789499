"""`python -m flash_sparse.backends.triton.resources`: what it prints and writes."""

import json
import os
import subprocess
import sys

import pytest

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted in this process (TRITON_INTERPRET)", allow_module_level=True)


def call(*arguments):
    command = [sys.executable, "-m", "flash_sparse.backends.triton.resources", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_prints_and_writes_the_table_in_order_with_two_processes(tmp_path):
    path = tmp_path / "kernels.json"
    done = call("--quick", "--match", "sm_90 forward", "--workers", 2, "--output", path)
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    names = "variant own other warps stages descriptors registers stack shared problems"
    assert header.split() == names.split()
    rows = json.loads(path.read_text())["kernels"]
    names = [row["variant"] for row in rows]
    assert names == ["sm_90 forward bf16 d64 block 128 is_causal dropout", "sm_90 forward bf16 d128 dense"]
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row["variant"])
        assert str(row["shared"]) in line.split()
        assert 0 < row["registers"] <= 255
        assert (row["stack"], row["problems"]) == (0, "")


@pytest.mark.slow
def test_writes_markdown(tmp_path):
    path = tmp_path / "kernels.md"
    assert call("--quick", "--match", "sm_90 forward bf16 d128", "--output", path).returncode == 0
    header, rule, line = path.read_text().splitlines()
    assert header.startswith("| variant | own |")
    assert rule.count("---") == header.count("|") - 1
    assert line.startswith("| sm_90 forward bf16 d128 dense | ")


@pytest.mark.parametrize(
    "arguments", [("--workers", 0), ("--output", "kernels.txt"), ("--match", "sm_91")], ids=lambda pair: pair[0]
)
def test_wrong_arguments_are_named(arguments):
    done = call(*arguments)
    assert done.returncode == 2
    assert f"{arguments[0]} is" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
