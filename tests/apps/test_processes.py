"""Several processes train what one does, however they are started, and end together: with one line, and nothing lost.

They run on a CPU and meet on this machine, those that stand for machines of their own too.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import distributed

from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.training import opening, processes
from flash_sparse_datasets.shared.exit_codes import UserError

SCRIPT = Path(__file__).parents[2] / "apps" / "classify.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
LIMIT = 500  # seconds for a training: two cores start four processes in a minute or two

# 41 training documents in steps of 8: in the last step of an epoch one process has a document, as in validation
FLAGS = (
    "--dataset train.jsonl --validation validation.jsonl --test test.jsonl --cache-dir cache --seq-len 64 "
    "--vocab-size 300 --width 16 --heads 2 --depth 2 --epochs 4 --patience 100 --batch-size 8 --tokens-per-batch 90 "
    "--learning-rate 3e-4 --dropout 0 --embeddings random --accelerator cpu --no-linear-baseline --no-compare "
    "--examples 0 --bootstrap-samples 20 --checkpoint-every 1 --class-weights balanced --start-timeout 5"
)
SETTINGS = FLAGS.split()
CLUSTER = ("SLURM_", "MASTER_", "WORLD_SIZE", "TORCHELASTIC_")  # what the tests' own process may have been started with
WORDS = {"fruit": "apple pear plum", "tools": "saw drill file"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all runs are, with their documents."""
    folder, draw = tmp_path_factory.mktemp("processes"), random.Random(0)
    for part, count in (("train", 41), ("validation", 1), ("test", 7)):
        rows = []
        for _ in range(count):
            label = draw.choice([*WORDS])
            words = draw.choices([*WORDS[label].split(), "nut", "oak"], k=draw.randrange(1, 50))
            rows.append({"text": " ".join(words), "label": label})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def begin(folder: Path, *flags: str, before: Sequence[str] = (sys.executable,), **environment: str) -> subprocess.Popen:
    """Start a command that trains; its output can be read."""
    kept = {name: value for name, value in os.environ.items() if "RANK" not in name and not name.startswith(CLUSTER)}
    return subprocess.Popen(
        [*before, str(SCRIPT), *flags],
        cwd=folder,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(*processes: subprocess.Popen) -> list[tuple[int, str, list[str]]]:
    """Of each its exit code, stdout, and the lines on stderr that say how it ended; none is left running."""
    ends = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=LIMIT)
            said = [line for line in err.splitlines() if line.startswith(("error", "terminated", "interrupted"))]
            assert "Traceback" not in err or process.args[1] == "-m", err  # torchrun has one of its own
            ends.append((process.returncode, out, said))
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return ends


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def figures(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    """The run of one process."""
    ends = finished(begin(folder, *SETTINGS, "--output", "alone"))
    assert ends[0][0] == 0, ends
    return folder / "alone"


@pytest.fixture(scope="module")
def together(folder) -> Path:
    """The run of two processes that Lightning starts."""
    ends = finished(begin(folder, *SETTINGS, "--devices", "2", "--output", "together"))
    assert ends[0][0] == 0, ends
    assert ends[0][1].count("run folder:") == 1  # the second process says nothing
    return folder / "together"


def same_training(run: Path, other: Path):
    """The same steps with the same losses and scores, and every test document once."""
    found, expected = figures(run), figures(other)
    assert found["training"]["steps"] == expected["training"]["steps"] == 24
    for part in ("curve", "history"):
        for now, before in zip(found["training"][part], expected["training"][part], strict=True):
            for name in now.keys() - {"seconds"}:
                assert now[name] == pytest.approx(before[name], rel=1e-5), (part, name)
    assert found["test"]["documents"] == 7
    assert (run / "predictions.jsonl").read_text().count("\n") == 7
    assert sorted(path.name for path in (run / "model").iterdir()) == sorted(
        path.name for path in (other / "model").iterdir()
    )
    sizes = [(each / "model" / "model.safetensors").stat().st_size for each in (run, other)]
    assert sizes[0] == sizes[1]  # the whole weights, from whichever process has written them


@pytest.mark.slow
def test_two_of_lightnings_own(alone, together):
    same_training(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "strategy"), [(2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")])
def test_torchrun(folder, alone, count, strategy):
    name = f"torchrun-{count}-{strategy}"
    before = [*TORCHRUN, "--standalone", "--nproc-per-node", str(count)]
    flags = (*SETTINGS, "--devices", str(count), "--strategy", strategy, "--output", name)
    ends = finished(begin(folder, *flags, before=before))
    assert ends[0][0] == 0, ends
    assert ends[0][1].count("run folder:") == 1
    same_training(folder / name, alone)


def on_two_nodes(folder: Path, how: str, *flags: str) -> list[subprocess.Popen]:
    """The same command as on two machines of one device each."""
    port, job = str(free_port()), str(random.randrange(1000, 9000))
    processes = []
    for node in ("0", "1"):
        before, environment = [sys.executable], {}
        if how == "torchrun":
            meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", job)
            before = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", node, *meeting]
        elif how == "lightning":
            environment = {"NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        else:
            environment = {
                "SLURM_JOB_ID": job,
                "SLURM_JOB_NAME": "train",
                "SLURM_NODELIST": "127.0.0.1",
                "SLURM_NNODES": "2",
                "SLURM_NTASKS": "2",
                "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_NODEID": node,
                "SLURM_PROCID": node,
                "SLURM_LOCALID": "0",
            }
        processes.append(begin(folder, *flags, "--num-nodes", "2", before=before, **environment))
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "lightning", "slurm"])
def test_two_nodes(folder, alone, how):
    ends = finished(*on_two_nodes(folder, how, *SETTINGS, "--output", f"nodes-{how}"))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sum(out.count("run folder:") for _, out, _ in ends) == 1
    same_training(folder / f"nodes-{how}", alone)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "lightning"])
def test_an_output_that_exists_is_the_same_line_on_every_node(folder, how):
    (folder / "there").mkdir(exist_ok=True)
    (folder / "there" / "letter.txt").touch()
    ends = finished(*on_two_nodes(folder, how, *SETTINGS, "--output", "there"))
    for code, _, said in ends:
        assert code != 0
        assert said == [
            "error: --output is there, which exists; expected a new folder (--resume there continues a run)"
        ]
    assert [path.name for path in (folder / "there").iterdir()] == ["letter.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("node", ["0", "1"])
def test_a_node_that_stays_alone_says_so_in_time(folder, node):
    meeting = {"NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    flags = (*SETTINGS, "--num-nodes", "2", "--start-timeout", "0.05", "--output", f"lonely-{node}")
    [(code, _, said)] = finished(begin(folder, *flags, **meeting))
    assert code == 2
    assert len(said) == 1
    assert f"not all 2 processes came to 127.0.0.1:{meeting['MASTER_PORT']} within 0.05 minutes" in said[0]
    assert not (folder / f"lonely-{node}").exists()


@pytest.mark.slow
def test_another_number_than_torchrun_has_started_is_one_line(folder):
    before = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    [(code, _, said)] = finished(begin(folder, *SETTINGS, "--output", "one", before=before))
    assert code != 0
    assert said == [
        "error: --devices is 1 and --num-nodes 1, but torchrun has started 2 processes here and 2 in all; "
        "expected one for each device"
    ]


def test_other_documents_on_another_machine_are_one_line(monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda value: [value, "other"])
    with pytest.raises(UserError, match="process 1 of the run has other documents than process 0; expected the same"):
        processes.check_same("these", "documents")


def test_a_folder_that_another_machine_does_not_see_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "SEEN", 0.0)
    with pytest.raises(UserError, match=r"does not see; expected a folder that all machines share"):
        opening._check_shared(RunFolder(tmp_path / "not-here"))


class SlowStream(io.StringIO):
    """A stream that takes its time."""

    def write(self, text: str) -> int:
        time.sleep(0.2)
        return super().write(text)


def test_who_has_nothing_to_say_waits_until_the_line_is_out(monkeypatch):
    """It would kill who says it, at its own end."""
    store, stream = distributed.HashStore(), SlowStream()
    monkeypatch.setattr(processes, "_group", processes._Group(0, 2, 0, 0, None, store))
    monkeypatch.setattr(sys, "stderr", stream)
    speaker = threading.Thread(target=processes._say_once, args=("terminated", False))
    speaker.start()
    store.wait([f"{processes.WHY}/0"])
    processes._say_once("terminated", False)
    assert stream.getvalue() == "terminated\n"
    speaker.join()


def test_before_they_have_met_the_first_of_torchruns_processes_speaks(monkeypatch, capsys):
    """Whichever it is: torchrun ends the others when one has ended."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    for rank in ("1", "0"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        processes._say_once(f"said by {rank}", False)
    assert capsys.readouterr().err == "said by 1\n"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    processes._say_once("said by the next attempt", False)
    assert capsys.readouterr().err == "said by the next attempt\n"


def ranks(process: subprocess.Popen, torchrun: bool) -> list[int]:
    """The process ids of a training, by rank."""
    listed = subprocess.run(["pgrep", "-f", "-P", str(process.pid), SCRIPT.name], capture_output=True, text=True)
    children = sorted(int(number) for number in listed.stdout.split())
    return children if torchrun else [process.pid, *children]


def begin_to_train(folder: Path, name: str, torchrun: bool, strategy: str = "ddp") -> subprocess.Popen:
    """Two processes that have a state on disk."""
    before = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"] if torchrun else [sys.executable]
    flags = (*SETTINGS, "--devices", "2", "--strategy", strategy, "--output", name)
    process = begin(folder, *flags, before=before)
    deadline = time.monotonic() + LIMIT
    while not (folder / name / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def go_on(folder: Path, name: str, devices: int) -> Path:
    ends = finished(begin(folder, "--resume", name, "--devices", str(devices)))
    assert ends[0][0] == 0, ends
    assert "continuing after step" in ends[0][1]
    return folder / name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "torchrun", "strategy", "devices"),
    [
        ("0", False, "ddp", 1),
        ("1", False, "ddp", 2),
        ("all", True, "ddp", 4),
        ("0", False, "fsdp", 1),
        ("all", False, "fsdp", 4),
    ],
)
def test_sigterm_to_any_process_ends_all_and_loses_nothing(folder, alone, together, to, torchrun, strategy, devices):
    name = f"terminated-{to}-{strategy}"
    process = begin_to_train(folder, name, torchrun, strategy)
    for rank, number in enumerate(ranks(process, torchrun)):
        if to in (str(rank), "all"):
            os.kill(number, signal.SIGTERM)
    sent = time.monotonic()
    [(code, _, said)] = finished(process)
    assert time.monotonic() - sent < 60
    assert code == (1 if torchrun else 143)  # torchrun's own code, where its processes have another than 0
    assert said == [f"terminated; to continue: python {SCRIPT} --resume {name}"]
    assert not (folder / name / "metrics.json").exists()

    run = go_on(folder, name, devices)
    same_training(run, alone)
    if devices == 2:  # to the bit
        assert (run / "model" / "model.safetensors").read_bytes() == (
            together / "model" / "model.safetensors"
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_what_is_left_after_sigkill_says_how_to_go_on(folder, alone, together, killed):
    name = f"killed-{killed}"
    process = begin_to_train(folder, name, torchrun=False)
    os.kill(ranks(process, torchrun=False)[killed], signal.SIGKILL)
    sent = time.monotonic()
    [(code, _, said)] = finished(process)
    assert time.monotonic() - sent < 60
    assert code == (2 if killed else -signal.SIGKILL)
    assert said == [
        "error: another process of the run has ended, or its machine cannot be reached; "
        f"to continue: python {SCRIPT} --resume {name}"
    ]
    run = go_on(folder, name, 2)
    same_training(run, alone)
    assert (run / "model" / "model.safetensors").read_bytes() == (together / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_error_in_one_process_is_the_line_of_all(folder):
    """Of the second, which alone cannot read the documents."""
    port, ends = str(free_port()), []
    for node, flags in (("0", SETTINGS), ("1", [*SETTINGS, "--test", "none.jsonl"])):
        meeting = {"NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ends.append(begin(folder, *flags, "--num-nodes", "2", "--output", "unread", **meeting))
    for code, _, said in finished(*ends):
        assert code == 2
        assert len(said) == 1
        assert "none.jsonl" in said[0]
    assert not (folder / "unread").exists()
