"""Whole calls of the GPU's benchmark, with a wall clock in place of a GPU's: results, resuming, failures, time."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from flash_sparse import attention
from flash_sparse_apps import benchmark
from flash_sparse_apps.benchmarking import cell as cells
from flash_sparse_apps.benchmarking import gpu
from flash_sparse_apps.benchmarking.cell import GridCell
from flash_sparse_apps.benchmarking.contenders import CONTENDERS, Contender, UnsupportedError
from flash_sparse_apps.benchmarking.flags import gpu_parser
from flash_sparse_apps.benchmarking.problem import Problem
from flash_sparse_apps.benchmarking.records import Records
from flash_sparse_apps.benchmarking.stopwatch import GpuClock, WallClock
from flash_sparse_datasets.shared.exit_codes import UserError

TOY = (
    *("--length", "64", "--lengths", "32", "--head-dims", "8", "--width", "16", "--tokens", "64"),
    *("--densities", "1/2", "--block-size", "16", "--dtype", "float32"),
)
PROBLEM = Problem(1, 2, 32, 8, "float32")
SETTING = {"gpu": None, "versions": {}}


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch):
    monkeypatch.setattr(cells, "LEAST_REPEATS", 2)
    monkeypatch.setattr(cells, "REPEATS_MS", 0.0)


@pytest.fixture
def contender(monkeypatch):
    """Set what a contender computes: a function of query, key and value."""

    def set_contender(name, attend):
        monkeypatch.setitem(CONTENDERS, name, Contender(lambda case: None, lambda case, mask: attend))

    return set_contender


def call(*flags, contenders=("flash_sparse",), clock=None) -> int:
    options = gpu_parser().parse_args([*TOY, "--contenders", *contenders, *map(str, flags)])
    return gpu.main(options, ["benchmark.py"], clock or WallClock())


def kept(folder) -> dict:
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


def raising(error: Exception):
    def attend(*inputs):
        raise error

    return attend


def test_a_whole_call(tmp_path, capsys):
    code = call("--output", tmp_path, contenders=("flash_sparse", "SDPA cuDNN", "SDPA math"))
    assert code == 0
    found = kept(tmp_path)
    assert found["running"] is None
    assert found["calls"][0]["command"][0] == "benchmark.py"
    assert found["calls"][0]["options"]["densities"] == ["1/2"]
    assert set(found["calls"][0]) == {"command", "date", "machine", "options"}
    assert "torch" in found["versions"]
    by_status = {row["status"] for row in found["cells"] if row["contender"] == "SDPA cuDNN"}
    assert by_status == {"refused"}  # on a CPU
    for row in found["cells"]:
        if row["contender"] != "SDPA cuDNN":
            assert row["status"] == "timed"
            both, parts = row["both"]["ms"], row["forward"]["ms"] + row["backward"]["ms"]
            assert both == pytest.approx(parts, rel=0.5)
            assert row["repeats"] == 2
            assert row["error"] < 32 or row["dropout_p"]
        if row["contender"] == "flash_sparse" and row["mask"] == "random":
            assert row["mask_ms"] > 0
    (row,) = [row for row in found["cells"] if row["key"] == "flash_sparse: causal 2x2x32x8 float32"]
    pairs = 2 * 2 * 32 * 33 / 2
    assert row["forward"]["TFLOP/s"] == pytest.approx(4 * 8 * pairs / row["forward"]["ms"] / 1e9)
    table = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    for mask in ("dense", "causal", "padded", "packed", "random", "longformer", "bigbird", "butterfly"):
        assert f"## {mask}\n" in table
    assert (tmp_path / "speed_over_length.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speedup_over_density.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "flash_sparse: causal 2x2x32x8 float32: " in said
    assert said.rstrip().endswith(", 0 to go")


def test_another_call_goes_on(tmp_path, capsys, monkeypatch):
    assert call("--output", tmp_path, "--max-time", 0) == 0
    assert "the time is up" in capsys.readouterr().out
    assert call("--output", tmp_path) == 0
    first = kept(tmp_path)
    assert len(first["cells"]) > 10
    with monkeypatch.context() as patched:  # nothing is measured again
        patched.setattr(GridCell, "measure", lambda *_: pytest.fail("measured again"))
        assert call("--output", tmp_path) == 0
    assert kept(tmp_path)["cells"] == first["cells"]
    assert call("--output", tmp_path, contenders=("textbook",)) == 0  # others are added
    assert {row["contender"] for row in kept(tmp_path)["cells"]} == {"flash_sparse", "textbook"}


class TestOneCell:
    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (RuntimeError("first line\nsecond"), "failed", "RuntimeError: first line"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has"), "out of memory",
             "8.00 GiB more were wanted"),
            (UnsupportedError("has no dropout"), "refused", "has no dropout"),
            (RuntimeError("No available kernel. Aborting execution."), "refused", "does not run here"),
            (NotImplementedError(), "failed", "NotImplementedError: no reason given"),
        ],
    )  # fmt: skip
    def test_failures(self, contender, error, status, reason):
        contender("textbook", raising(error))
        row = GridCell(PROBLEM, "textbook").measure(WallClock())
        assert (row["status"], row["reason"]) == (status, reason)
        assert "both" not in row

    def test_wrong_results_are_not_timed(self, contender):
        contender("textbook", lambda *inputs: attention(*inputs) * 1.01)
        row = GridCell(PROBLEM, "textbook").measure(WallClock())
        assert row["status"] == "wrong"
        assert row["reason"].startswith("the output differs from the textbook formula")
        assert "both" not in row

    def test_memory(self):
        """Peaks are beside what was allocated before; what a mask takes is told apart."""

        class Counting(WallClock):
            bytes = 0

            def allocated(self):
                return self.bytes

            def peak(self):
                self.bytes += 1 << 20
                return self.bytes

        row = GridCell(PROBLEM, "textbook").measure(Counting())
        assert row["MiB"] == {"forward": 1.0, "both": 2.0}


@pytest.mark.slow
def test_a_failure_does_not_stop_the_rest(tmp_path, contender):
    contender("textbook", raising(RuntimeError("the compiler is missing")))
    assert call("--output", tmp_path, contenders=("textbook", "SDPA math")) == 0
    status = {row["contender"]: row["status"] for row in kept(tmp_path)["cells"]}
    assert status == {"textbook": "failed", "SDPA math": "timed"}
    assert "failed: RuntimeError: the compiler is missing" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")


def test_a_wrong_cell_is_told_by_the_exit_code(tmp_path, contender, capsys):
    contender("textbook", lambda *inputs: attention(*inputs, is_causal=True))
    assert call("--output", tmp_path, contenders=("textbook",)) == 1
    assert "wrong: textbook: dense 1x2x64x8 float32: the output differs" in capsys.readouterr().err
    status = {row["mask"]: row["status"] for row in kept(tmp_path)["cells"] if not row["dropout_p"]}
    assert status["causal"] == "timed"
    assert status["dense"] == "wrong"
    assert "wrong: the output differs" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")


def test_a_broken_gpu_ends_the_call_and_not_the_next(tmp_path, contender, capsys):
    class Broken(WallClock):
        def wait(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    contender("textbook", raising(RuntimeError("CUDA error: an illegal memory access was encountered")))
    assert call("--output", tmp_path, contenders=("textbook",), clock=Broken()) == 1
    assert "the GPU refuses all further work" in capsys.readouterr().out
    (row,) = kept(tmp_path)["cells"]
    assert row["status"] == "failed"
    contender("textbook", attention)
    call("--output", tmp_path, contenders=("textbook",))
    assert kept(tmp_path)["cells"][0] == row
    assert len(kept(tmp_path)["cells"]) > 1


class TestTime:
    @pytest.fixture
    def minutes(self, monkeypatch):
        """A clock on which each cell takes as many minutes as it has heads."""
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def measure(cell, clock):
            now[0] += 60 * cell.problem.heads
            return {**cell.row(), "status": "refused", "reason": "too slow"}

        monkeypatch.setattr(GridCell, "measure", measure)

    @pytest.mark.parametrize(("deadline", "measured"), [(0.5, 1), (6, 2), (7, 3), (math.inf, 4)])
    def test_no_cell_is_begun_that_may_not_end(self, minutes, deadline, measured):
        """Of 1, 3, 1 and 1 minutes: the third is begun if there is time for another of 3."""
        chosen = [
            GridCell(Problem(1, heads, 16 + number, 8, "float32"), "textbook")
            for number, heads in enumerate((1, 3, 1, 1))
        ]
        kept = Records(None, {}, SETTING)
        stopped = gpu.run(chosen, kept, WallClock(), 60 * deadline)
        assert len(kept.rows) == measured
        assert stopped == (None if measured == 4 else gpu.TIME_IS_UP)

    def test_none_without_any_time(self, minutes):
        kept = Records(None, {}, SETTING)
        assert gpu.run([GridCell(PROBLEM, "textbook")], kept, WallClock(), -1.0) == gpu.TIME_IS_UP
        assert kept.rows == []


class TestRecords:
    def test_a_cell_that_ended_the_process_is_not_begun_again(self, tmp_path):
        before = Records(tmp_path, {}, SETTING)
        before.begin(GridCell(PROBLEM, "textbook").row())  # and no more is heard
        after = Records(tmp_path, {}, SETTING)
        assert after.keys == {"textbook: dense 1x2x32x8 float32"}
        assert after.rows[0]["reason"] == "the process ended while this cell ran"

    def test_an_interrupted_cell_is_measured_again(self, tmp_path, contender):
        contender("textbook", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            call("--output", tmp_path, contenders=("textbook",))
        assert Records(tmp_path, {}, kept(tmp_path)).keys == set()

    def test_written_after_each_cell(self, tmp_path):
        own = Records(tmp_path, {}, SETTING)
        for number in range(3):
            own.begin({"key": str(number)})
            assert kept(tmp_path)["running"] == {"key": str(number)}
            own.end({"key": str(number)})
            assert [row["key"] for row in kept(tmp_path)["cells"]] == [str(done) for done in range(number + 1)]

    @pytest.mark.parametrize("content", ['{"side_by_side": []}', "[]", "", '{"cells": "'])
    def test_another_file_is_left_alone(self, tmp_path, content):
        (tmp_path / "benchmark.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="is no benchmark of a GPU"):
            call("--output", tmp_path)
        assert (tmp_path / "benchmark.json").read_text(encoding="utf-8") == content

    def test_figures_of_different_settings_do_not_mix(self, tmp_path, monkeypatch):
        Records(tmp_path, {}, SETTING).write()
        with pytest.raises(ValueError, match="was measured with another gpu"):
            Records(tmp_path, {}, {**SETTING, "gpu": "NVIDIA H200"})
        (tmp_path / "tiles.json").write_text("[]", encoding="utf-8")
        monkeypatch.setenv("FLASH_SPARSE_TILES", str(tmp_path / "tiles.json"))
        with pytest.raises(ValueError, match="was measured with another flash_sparse_source"):
            Records(tmp_path, {}, SETTING)


class TestGpuClock:
    """With stand-ins for the device: a queue of work whose time stands still but for flushes of 2 ms."""

    @pytest.fixture
    def clock(self, monkeypatch):
        queue = []

        class Buffer:
            def zero_(self):
                queue.append(2.0)

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = sum(queue)

            def elapsed_time(self, other):
                return other.at - self.at

        monkeypatch.setattr(torch, "empty", lambda *_, **__: Buffer())
        monkeypatch.setattr(torch.cuda, "Event", Event)
        for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
        return GpuClock(), queue

    @pytest.mark.parametrize(("host_ms", "flushes"), [(0.0, 1), (0.5, 2), (7.0, 5), (1e9, 101)])
    def test_the_device_is_busy_while_the_host_launches(self, clock, host_ms, flushes):
        own, queue = clock
        queue.clear()
        start = own.start(host_ms)
        assert len(queue) == flushes
        queue.append(30.0)
        assert own.milliseconds(start, own.mark()) == 30.0

    def test_memory(self, clock):
        own, _ = clock
        assert (own.allocated(), own.peak()) == (3, 5)
        own.wait()
        own.free()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_on_a_gpu(tmp_path):
    small = ("--length", "512", "--lengths", "256", "--head-dims", "64", "--width", "128", "--tokens", "512")
    names = ("flash_sparse", "SDPA flash", "SDPA math")
    densities = ("--densities", "1/2", "--block-size", "64")
    to = ("--contenders", *names, "--output", str(tmp_path))
    assert benchmark.main(["--device", "cuda", *small, *densities, *to]) == 0
    rows = kept(tmp_path)["cells"]
    assert all(row["status"] == "timed" for row in rows if row["contender"] == "flash_sparse"), rows
    for row in rows:
        if row["status"] == "timed":
            assert row["both"]["ms"] > 0
            assert row["MiB"]["both"] >= row["MiB"]["forward"] > 0
