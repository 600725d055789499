"""Whole calls of the CPU's benchmark at toy sizes, and that nothing which it starts outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from flash_sparse import attention
from flash_sparse_apps import benchmark
from flash_sparse_apps.benchmarking import contests, cpu, footprint
from flash_sparse_apps.benchmarking.check import _sample
from flash_sparse_apps.benchmarking.contests import Contest, compete, packed
from flash_sparse_apps.benchmarking.problem import Case, Problem
from flash_sparse_apps.benchmarking.spinning import spinning
from flash_sparse_apps.command_line import OneLineParser
from flash_sparse_apps.machine import describe_machine

from .test_benchmark import code_of

TOY = (
    *("--device", "cpu", "--lengths", "32", "75", "--head-dims", "8", "16", "--densities", "1/2", "1/4"),
    *("--heads", "2", "--block-size", "16", "--threads", "1", "2", "--repeats", "2"),
)
PASSES = ("forward", "backward", "both")
CORES = describe_machine(torch.device("cpu"))["cores"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No compiler, no processes that import torch, and a pack of three documents."""

    def flex(query, key, value, block_mask):
        size = block_mask.BLOCK_SIZE[0]
        mask = block_mask.to_dense().bool().repeat_interleave(size, 2).repeat_interleave(size, 3)  # (1, H, >= N, >= N)
        length = query.shape[2]
        return scaled_dot_product_attention(query, key, value, mask[:, :, :length, :length])

    monkeypatch.setattr(contests, "compiled_flex", lambda: flex)
    monkeypatch.setattr(footprint, "peak_memory", lambda problem, dropout_p: 1.0 + dropout_p)
    monkeypatch.setattr(cpu, "PACKS", ((3, 4, 9, 2, 8),))


def call(tmp_path, *flags: str) -> dict:
    assert benchmark.main([*TOY, *flags, "--output", str(tmp_path)]) == 0
    return json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def cpu_ticks(pid: int) -> int:
    """User time so far, in the kernel's ticks."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[11])


def test_a_whole_call(tmp_path, capsys):
    threads = torch.get_num_threads()
    found = call(tmp_path)
    assert torch.get_num_threads() == threads
    rows = found["attention"]
    for head_dim in (8, 16):
        for count in (1, 2):
            for length, densities in ((32, 1), (75, 2)):  # a quarter of two blocks is none
                chosen = [
                    row for row in rows if (row["head_dim"], row["threads"], row["length"]) == (head_dim, count, length)
                ]
                names = ["SDPA", "flash_sparse", *["flash_sparse", "FlexAttention"] * densities]
                assert [row["contender"] for row in chosen] == names
                assert [row["density"] < 1 for row in chosen] == [number > 1 for number in range(len(names))]
    for row in (*rows, *found["packs"]):
        assert row["status"] == "timed", row
        for what in PASSES[: 1 if row["contender"] == "FlexAttention" else 3]:
            figures = row[what]
            assert 0 < figures["least"] <= figures["ms"] <= figures["most"]
            assert (figures["times SDPA"] == 1) == (row["contender"] == "SDPA")
            assert "slow-down" not in figures
        assert ("backward" in row) == (row["contender"] != "FlexAttention")
    dense = next(row for row in rows if row["contender"] == "flash_sparse")
    assert dense["both"]["GFLOP/s"] == pytest.approx(7 * 2 * 8 * 2 * 32**2 / dense["both"]["ms"] / 1e6)
    assert [row["MiB"] for row in found["footprint"]] == [1.0, 1.0]
    assert found["footprint"][0]["create_block_mask ms"] > 0

    assert found["command"][:3] == ["benchmark.py", "--device", "cpu"]
    assert found["machine"]["instruction set"] == torch.backends.cpu.get_cpu_capability()
    assert found["machine"]["capabilities"]["architecture"]
    assert {"torch", "numba", "llvmlite"} <= set(found["versions"])
    said, kept = capsys.readouterr().out, (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    for title in (
        "2 heads of 8, float32, 1 thread",
        "2 heads of 16, float32, 2 threads",
        "3 sequences of 4 to 9 tokens",
    ):
        assert title in said
        assert f"## {title}" in kept
    assert "has no backward on CPUs" in said
    assert (tmp_path / "times_faster_over_length.png").read_bytes().startswith(b"\x89PNG")


def test_busy(tmp_path, monkeypatch, capsys):
    seen = []

    @contextlib.contextmanager
    def watched(count):
        with spinning(count) as pids:
            assert len(pids) == count
            seen.extend(pids)
            yield pids

    monkeypatch.setattr(contests, "spinning", watched)
    found = call(tmp_path, "--busy", "--lengths", "32", "--head-dims", "8", "--threads", "1")
    for section in ("attention", "packs"):
        rows = found[section]
        quiet, busy = rows[::2], rows[1::2]
        assert [row["contender"] for row in quiet] == [row["contender"] for row in busy]
        assert {row["spinning"] for row in quiet} == {0}
        assert {row["spinning"] for row in busy} == {CORES}
        assert all("slow-down" not in row["forward"] for row in quiet)
        assert all(row["forward"]["slow-down"] > 0 for row in busy)
        assert busy[0]["both"]["times SDPA"] == 1  # of SDPA beside the same processes
    assert len(seen) == 2 * 2 * CORES  # rounds, sections
    assert not any(map(is_running, seen))
    assert "both slow-down" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(tmp_path, dtype):
    found = call(tmp_path, "--dtype", dtype, "--lengths", "160", "--threads", "1")
    for row in (*found["attention"], *found["packs"]):
        assert row["dtype"] == dtype
        assert row["status"] == "timed", row


class TestSpinning:
    def test_the_lowest_priority(self):
        with spinning(2) as pids:
            for pid in pids:
                assert is_running(pid)
                idle = hasattr(os, "SCHED_IDLE") and os.sched_getscheduler(pid) == os.SCHED_IDLE
                assert idle or os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert not any(map(is_running, pids))

    @pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc")
    def test_they_spin(self):
        with spinning(1) as (pid,):
            before, deadline = cpu_ticks(pid), time.monotonic() + 60
            while cpu_ticks(pid) < before + 5 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert cpu_ticks(pid) >= before + 5

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_gone_after_an_error(self, error):
        with contextlib.suppress(error), spinning(2) as pids:
            assert all(map(is_running, pids))
            raise error
        assert not any(map(is_running, pids))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_gone_with_the_process(self, how):
        """Killed, it can end nothing itself."""
        script = (
            "import time\nfrom flash_sparse_apps.benchmarking.spinning import spinning\n"
            "with spinning(2) as pids:\n    print(*pids, flush=True)\n    time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as own:
            pids = [int(word) for word in own.stdout.readline().split()]
            assert len(pids) == 2
            assert all(map(is_running, pids))
            own.send_signal(how)
        deadline = time.monotonic() + 60
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, pids))

    def test_one_that_does_not_start_is_told(self, monkeypatch):
        monkeypatch.setattr("flash_sparse_apps.benchmarking.spinning.SPIN", "raise SystemExit")
        with pytest.raises(OSError, match="a spinning process ended at once"), spinning(1):
            pass


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, capsys):
    seen = []

    @contextlib.contextmanager
    def interrupted(count):
        with spinning(count) as pids:
            seen.extend(pids)
            if count:
                raise KeyboardInterrupt
            yield pids

    monkeypatch.setattr(contests, "spinning", interrupted)
    assert benchmark.main([*TOY, "--busy", "--output", str(tmp_path)]) == 130
    assert len(seen) == CORES
    assert not any(map(is_running, seen))
    assert capsys.readouterr().err == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


class TestCompete:
    CASE = Case(Problem(1, 2, 200, 8, "float32"), torch.device("cpu"))

    def test_wrong_results_are_not_timed(self):
        wrong = Contest("flash_sparse", self.CASE, lambda *inputs: attention(*inputs) * 1.01)
        first, second = compete([Contest("SDPA", self.CASE, scaled_dot_product_attention), wrong], 1, (0,))
        assert first["status"] == "wrong" or second["status"] == "wrong"
        row = first if first["status"] == "wrong" else second
        assert row["contender"] == "flash_sparse"
        assert row["reason"].startswith("the output differs from the textbook formula")
        assert "both" not in row

    @pytest.mark.parametrize("what", ["output", "query's gradient"])
    def test_others_see_rows_that_the_sample_leaves_out(self, what):
        def attend(query, key, value):
            output = attention(query, key, value)
            kept = torch.ones(200, 1).index_fill(0, torch.tensor([unsampled]), 0.0)
            if what == "output":
                return output - ((1 - kept) * output).detach()  # the same gradient
            return output.detach() + kept * (output - output.detach())

        _, sampled = _sample(self.CASE)
        unsampled = min(set(range(200)) - set(sampled.tolist()))
        contest = Contest("flash_sparse", self.CASE, attend)
        rows = compete([Contest("SDPA", self.CASE, scaled_dot_product_attention), contest], 1, (0,))
        assert {row["contender"]: row["status"] for row in rows} == {"SDPA": "timed", "flash_sparse": "wrong"}
        assert any(row.get("reason", "").startswith(f"the {what} differs from SDPA") for row in rows)

    def test_a_failure_does_not_stop_the_rest(self):
        def attend(*inputs):
            raise RuntimeError("no C++ compiler\nat all")

        contest = Contest("FlexAttention", self.CASE, attend, has_backward=False)
        rows = compete([Contest("SDPA", self.CASE, scaled_dot_product_attention), contest], 1, (0,))
        status = {row["contender"]: row.get("reason", row["status"]) for row in rows}
        assert status == {"SDPA": "timed", "FlexAttention": "RuntimeError: no C++ compiler"}

    def test_ratios_are_of_the_same_round(self, monkeypatch):
        speeds = {"SDPA": iter([8.0, 80.0, 8.0]), "flash_sparse": iter([2.0, 20.0, 4.0])}

        def milliseconds(contest):
            return dict.fromkeys(PASSES, next(speeds[contest.contender]))

        monkeypatch.setattr(Contest, "milliseconds", milliseconds)
        two = [Contest("SDPA", self.CASE, scaled_dot_product_attention), Contest("flash_sparse", self.CASE, attention)]
        rows = compete(two, 3, (0,))
        assert [row["both"]["ms"] for row in rows] == [8.0, 4.0]
        assert [row["both"]["times SDPA"] for row in rows] == [1.0, 4.0]

    def test_who_is_slower_when_busy(self, monkeypatch):
        speeds = {"SDPA": iter([8.0, 16.0]), "flash_sparse": iter([2.0, 6.0])}
        monkeypatch.setattr(
            Contest, "milliseconds", lambda contest: dict.fromkeys(PASSES, next(speeds[contest.contender]))
        )
        two = [Contest("SDPA", self.CASE, scaled_dot_product_attention), Contest("flash_sparse", self.CASE, attention)]
        busy = [row for row in compete(two, 1, (0, 1)) if row["spinning"]]
        assert [row["both"]["slow-down"] for row in busy] == [2.0, 3.0]
        assert busy[1]["both"]["times SDPA"] == pytest.approx(16 / 6)


def test_packs_have_the_given_lengths():
    lengths = [5, 1, 9]
    case = Case(Problem(1, 2, 15, 8, "float32", mask="packed", document_length=5), torch.device("cpu")).cut_at(lengths)
    assert case.pairs == 2 * (25 + 1 + 81)
    padded, ours = (contest.check() for contest in packed(case))
    for theirs, own in zip(padded, ours, strict=True):
        assert theirs.shape == own.shape == (1, 2, 15, 8)
        torch.testing.assert_close(own, theirs)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")
def test_memory_is_the_processs_own(monkeypatch):
    """However much this process has taken before."""
    monkeypatch.undo()
    np.ones(1 << 27)  # 1 GiB, for a moment
    problem = Problem(1, 2, 4096, 64, "float32", mask="random", density=1 / 8)
    tensor = 2 * 4096 * 64 * 4 / (1 << 20)  # MiB
    assert footprint.peak_memory(problem, dropout_p=0.0) > 3 * tensor  # the gradients at least


def test_a_wrong_result_is_told_by_the_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contests, "attention", lambda *inputs, layout=None: attention(*inputs, is_causal=True))
    assert benchmark.main([*TOY, "--head-dims", "8", "--threads", "1", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "wrong: flash_sparse, 32 tokens, head_dim 8, 1 thread: the output differs" in said.err
    assert "wrong: the output differs" in said.out
    rows = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))["attention"]
    assert {row["contender"] for row in rows if row["status"] == "timed"} == {"SDPA", "FlexAttention"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threads", "0"], "--threads is 0; expected at least 1"),
        (["--head-dims", "8", "300"], "--head-dims is 300; expected at most 256"),
        (["--lengths", "64", "0"], "--lengths is 0; expected at least 1"),
        (["--repeats", "0"], "--repeats is 0; expected at least 1"),
        (["--densities", "2"], "--densities is 2; expected a share"),
        (["--block-size", "48"], "block_size is 48"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, flags, message):
    code = code_of([*TOY, *flags, "--output", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "none").exists()


def test_an_output_that_cannot_be_is_told_before_measuring(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu.Benchmark, "run", lambda self: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    code = benchmark.main([*TOY, "--output", str(tmp_path / "file")])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert "file" in error


def test_flags_are_read_once(tmp_path, monkeypatch):
    read = []
    parse = OneLineParser.parse_args
    monkeypatch.setattr(OneLineParser, "parse_args", lambda self, *given: read.append(given) or parse(self, *given))
    (tmp_path / "file").write_text("")
    assert benchmark.main([*TOY, "--output", str(tmp_path / "file")]) == 2
    assert len(read) == 1
