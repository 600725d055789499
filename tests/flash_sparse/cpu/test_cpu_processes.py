"""Attention in other processes: forked after its threads have run here, started afresh, and when Python ends."""

import concurrent.futures
import multiprocessing
import subprocess
import sys
from pathlib import Path

import cpu_process
import pytest
import torch

METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


@pytest.fixture
def expected():
    """The results for each seed, by this process's own two threads."""
    before = torch.get_num_threads()
    yield [cpu_process.attend_in_two_threads(seed) for seed in range(6)]
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_loader(expected, method):
    loader = torch.utils.data.DataLoader(
        cpu_process.Sequences(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=300
    )
    assert list(map(tuple, loader)) == expected
    assert [cpu_process.attend(seed) for seed in range(6)] == expected  # nor has the parent lost its threads


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_processes_with_several_threads_each(expected, method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        assert list(pool.map(cpu_process.attend_in_two_threads, range(6), timeout=300)) == expected


@pytest.mark.parametrize("mode", ["after use", "never used", "in a thread that goes on"])
def test_when_the_interpreter_ends(expected, mode):
    command = [sys.executable, str(Path(cpu_process.__file__)), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(expected[0])] * (2 if "thread" in mode else 1)
