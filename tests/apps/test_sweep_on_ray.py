"""Sweeps on Ray: what cells ask for, and a real cluster of two nodes, one of which dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clusters import needs_ray, two_nodes

from flash_sparse_apps import sweep
from flash_sparse_apps.cluster import Machine
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping import on_ray
from flash_sparse_datasets.shared.exit_codes import UserError

from .conftest import TINY

SCRIPT = Path(__file__).parents[2] / "apps" / "sweep.py"
SMALL, LARGE = Machine(4, 0, 8 * 2**30), Machine(16, 2, 64 * 2**30)


@pytest.mark.parametrize(
    ("asked", "there", "cpus", "gpus"),
    [
        ({}, [SMALL], 2, 0),
        ({}, [Machine(1, 0, 2**33)], 1, 0),  # there is no pair
        ({}, [SMALL, LARGE], 2, 1),
        ({"devices": 2}, [SMALL, LARGE], 4, 2),
        ({"accelerator": "cpu"}, [SMALL, LARGE], 2, 0),
        ({"accelerator": "gpu"}, [LARGE], 2, 1),
    ],
)
def test_a_cell_asks_for_cores_and_gpus(asked, there, cpus, gpus):
    needed = on_ray._needed([Settings(**asked)], there)
    assert (needed["num_cpus"], needed["num_gpus"]) == (cpus, gpus)


def test_a_cell_asks_for_the_memory_of_the_largest():
    small, large = Settings(seq_len=1024), Settings(seq_len=2**18, width=256, heads=4, depth=4)
    alone = [on_ray._needed([each], [Machine(4, 0, 2**40)])["memory"] for each in (small, large)]
    assert 2**30 < alone[0] < alone[1] / 4
    assert on_ray._needed([small, large], [Machine(4, 0, 2**40)])["memory"] == alone[1]
    assert on_ray._needed([small, large], [SMALL])["memory"] == SMALL.memory  # or it would wait for ever
    assert on_ray._needed([large], [LARGE])["memory"] == on_ray.BASE  # the step is in the GPU's own memory


@pytest.mark.parametrize(
    ("asked", "there", "said"),
    [
        ({"accelerator": "gpu"}, [SMALL], "--accelerator is gpu; expected cpu or auto, since the cluster has no GPU"),
        ({"devices": 4}, [SMALL, LARGE], "--devices is 4; expected at most 2, the GPUs of a machine of the cluster"),
    ],
)
def test_what_no_machine_has_is_said(asked, there, said):
    with pytest.raises(UserError, match=said):
        on_ray._needed([Settings(**asked)], there)


@pytest.fixture
def flags(planted_files, cache_folder, tmp_path):
    given = dict(zip(TINY[::2], TINY[1::2], strict=True))
    del given["--seq-len"]
    given |= {"--dataset": str(planted_files["multi-label"]), "--cache-dir": str(cache_folder)}
    return [word for pair in given.items() for word in pair]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--parallel", "2"), "--parallel is 2; it cannot be used with --ray"),
        (("--num-nodes", "2"), "--num-nodes is 2; expected 1 with --ray"),
    ],
)
def test_wrong_flags_are_one_line(flags, more, said, capsys):
    with pytest.raises(SystemExit) as end:
        sweep.main([*flags, "--ray", "local", *more])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_without_the_extra_a_line_says_what_to_install(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep.main([*flags, "--ray", "local", "--output", str(tmp_path / "sweep")]) == 2
    assert capsys.readouterr().err == "error: ray is not installed; expected pip install 'flash-sparse[ray]'\n"
    assert not (tmp_path / "sweep").exists()


# on a cluster


def test_a_process_ends_with_its_worker():
    """However the worker ends, so that its cell can be taken up elsewhere."""
    told = "import subprocess, sys; from flash_sparse_apps.sweeping.on_ray import _end_with_worker as end; "
    told += "process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, preexec_fn=end); "
    told += "print(process.pid, flush=True); input()"
    worker = subprocess.Popen([sys.executable, "-c", told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = int(worker.stdout.readline())
    os.kill(process, 0)
    worker.kill()
    worker.communicate()
    wait_until(lambda: not Path(f"/proc/{process}").exists(), 60)


def wait_until(happened, seconds: float):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(3600)  # of a busy machine
def test_a_sweep_is_whole_though_its_driver_and_a_node_die(flags, tmp_path, capsys):
    """Cells go on from their checkpoints, and end as they do without Ray."""
    flags = [*flags, "--epochs", "12", "--patience", "12", "--checkpoint-every", "1", "--kinds", "dense"]
    flags += ["--seq-lens", "16", "32"]
    folder = tmp_path / "sweep"
    checkpoints = [folder / "cells" / f"{length}-dense-0" / "checkpoints" / "last.ckpt" for length in (16, 32)]
    logs = [folder / "cells" / f"{length}-dense-0.log" for length in (16, 32)]

    with two_nodes() as (cluster, second):
        given = [*flags, "--output", str(folder), "--ray", cluster.address]
        driver = subprocess.Popen([sys.executable, str(SCRIPT), *given])
        wait_until(lambda: all(path.exists() for path in checkpoints), 1200)
        driver.send_signal(signal.SIGKILL)
        driver.wait()

        def kill():
            wait_until(lambda: all("continuing after step" in log.read_text() for log in logs), 1200)
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        assert sweep.main(given) == 0
        killer.join()
    assert sum(log.read_text().count("continuing after step") for log in logs) == 3
    assert (folder / "report.html").is_file()

    assert sweep.main([*flags, "--output", str(tmp_path / "plain")]) == 0
    for length in (16, 32):
        found, expected = (
            (root / "cells" / f"{length}-dense-0" / "predictions.jsonl").read_bytes()
            for root in (folder, tmp_path / "plain")
        )
        assert found == expected
    tables = [json.loads((root / "sweep.json").read_text())["rows"] for root in (folder, tmp_path / "plain")]
    assert [row["micro_f1"] for row in tables[0]] == [row["micro_f1"] for row in tables[1]]
