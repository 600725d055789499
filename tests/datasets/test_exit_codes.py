"""Every command ends with an exit code and one line, whatever stops it; errors in the program keep their traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.exit_codes import Stopped, UserError, ending, stop

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."


def command_that_raises(error: BaseException):
    @ending
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--a is 1;\nexpected 2"), 2, "error: --a is 1; expected 2"),
        (DataError("a.csv line 1: empty"), 2, "error: a.csv line 1: empty"),
        (FileNotFoundError(2, "No such file", "a"), 2, "error: [Errno 2] No such file: 'a'"),
        (OSError(24, "Too many open files", "a"), 2,
         "error: [Errno 24] Too many open files: 'a'; expected a higher limit of open files (ulimit -n)"),
        (FloatingPointError("the loss is nan"), 2, "error: the loss is nan"),
        (MemoryError("9 GiB"), 2, "error: too little memory (9 GiB); expected lower sizes"),
        (RuntimeError(ALLOCATOR), 2, f"error: too little memory ({ALLOCATOR[-90:]}); expected lower sizes"),
        (RuntimeError("CUDA error: out of memory"), 2,
         "error: too little memory (CUDA error: out of memory); expected lower sizes"),
        (ModuleNotFoundError(name="jsonargparse"), 2,
         "error: jsonargparse is not installed; expected pip install 'flash-sparse[apps]'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(143), 143, "terminated"),
        (Stopped("interrupted; to continue: again", 130), 130, "interrupted; to continue: again"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line(error, code, line, capsys):
    assert command_that_raises(error)([]) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), RuntimeError("a bug"), ModuleNotFoundError(name="flash_sparse_apps.typo"), SystemExit(0)],
)
def test_errors_of_the_program_are_not_hidden(error):
    with pytest.raises(type(error)) as raised:
        command_that_raises(error)([])
    assert raised.value is error


def test_what_would_take_less_memory_is_said():
    assert stop(MemoryError(), "a lower --seq-len").line.endswith("; expected a lower --seq-len")


def test_a_gpu_without_memory_is_told_from_other_errors():
    torch = pytest.importorskip("torch")
    assert stop(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")).code == 2


def test_arguments_are_those_of_the_process_unless_given(monkeypatch):
    given = []
    main = ending(lambda arguments: given.append(list(arguments)) or 0)
    monkeypatch.setattr(sys, "argv", ["command", "--own"])
    assert main() == main(("--other",)) == 0
    assert given == [["--own"], ["--other"]]


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "import sys\nfrom flash_sparse_datasets.shared.exit_codes import ending\n"
        "@ending\ndef main(arguments):\n    for _ in range(10**6):\n        print('line')\n    return 0\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def run_in_shell(body: str, redirections: str, folder: Path) -> subprocess.CompletedProcess:
    """A command whose `main` has this body, in a process of its own."""
    lines = [
        "import sys",
        "from flash_sparse_datasets.shared.exit_codes import ending",
        "@ending",
        "def main(arguments):",
        *(f"    {line}" for line in [*body.splitlines(), "return 0"]),
        "sys.exit(main())",
    ]
    (folder / "command.py").write_text("\n".join(lines))
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    line = f'"{sys.executable}" command.py {redirections}'
    return subprocess.run(line, shell=True, cwd=folder, env=buffered, capture_output=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_empty(closed, tmp_path):
    """What is opened next has the number of a closed stream: nothing may be printed into it."""
    body = (
        "file = open('made.txt', 'w')\n"
        "read = sys.stdin.buffer.read() if sys.argv[1:] == ['read'] else b''\n"
        "print('lost')\n"
        "print('lost', file=sys.stderr)\n"
        "file.write('kept' + repr(read))"
    )
    ended = run_in_shell(body, f"{'read' if '<' in closed else ''} {closed}", tmp_path)
    assert ended.returncode == 0
    assert b"Error" not in ended.stderr
    assert (tmp_path / "made.txt").read_text() == "keptb''"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_stdout_is_named(tmp_path):
    ended = run_in_shell("print('line')", ">/dev/full", tmp_path)
    assert ended.stderr == b"error: [Errno 28] No space left on device: 'standard output'\n"
    assert ended.returncode == 2


@pytest.mark.parametrize(("module", "extra"), [("docx", "documents"), ("openpyxl", "documents"), ("lightning", "apps")])
def test_a_library_that_is_missing_is_named_with_its_extra(module, extra):
    stopped = stop(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert stopped is not None
    assert stopped.line == f"error: {module} is not installed; expected pip install 'flash-sparse[{extra}]'"
    assert stopped.code == 2
