"""Calls from several Python threads at once, and settings that are global to the process."""

import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attention_cases import Case, draw_case, run

import flash_sparse
from flash_sparse.backends.cpu import threads

CASES = [
    Case(0, heads=2, key_heads=2, query_length=203, key_length=203, head_dim=16, block_size=32, density=0.5),
    Case(1, "bfloat16", heads=2, key_heads=2, query_length=203, key_length=300, head_dim=40),
    Case(2, heads=4, key_heads=1, query_length=128, key_length=128, head_dim=64, is_causal=True),
    draw_case(3, ["float32"]),
]


def results(case, device, kernel):
    *rows, grad_output = case.tensors(device)
    return run(rows, grad_output, kernel, case.options(device))


def test_several_python_threads_at_once_change_no_bit(kernel, device):
    expected = [results(case, device, kernel) for case in CASES]
    together = threading.Barrier(len(CASES))

    def work(index):
        together.wait()
        return [results(CASES[index], device, kernel) for _ in range(10)]

    with ThreadPoolExecutor(len(CASES)) as pool:
        for index, found in enumerate(pool.map(work, range(len(CASES)))):
            for result in found:
                for name, value in expected[index].items():
                    assert torch.equal(result[name], value), (name, CASES[index])


def test_forward_in_one_thread_and_backward_in_another(kernel, device):
    case = CASES[0]
    *rows, grad_output = case.tensors(device)
    output = flash_sparse.attention(*rows, **case.options(device), dropout_p=0.2)
    expected = torch.autograd.grad(output, rows, grad_output, retain_graph=True)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(torch.autograd.grad, output, rows, grad_output).result()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture
def set_threads():
    """`torch.set_num_threads`, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_several_python_threads_at_once_that_each_use_several(set_threads):
    set_threads(2)
    test_several_python_threads_at_once_change_no_bit("cpu", "cpu")


SETTINGS = {
    "products of float32": torch.get_float32_matmul_precision,
    "products by oneDNN": lambda: torch.backends.mkldnn.matmul.fp32_precision,
    "threads": torch.get_num_threads,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "default dtype": torch.get_default_dtype,
    "random numbers": lambda: torch.get_rng_state().tolist(),
}


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_setting_of_the_process_changes(dtype, precision, monkeypatch):
    before = torch.get_float32_matmul_precision()
    seen = []
    real = threads.run
    monkeypatch.setattr("flash_sparse.backends.cpu.launch.run", lambda *parts: (seen.append(values()), real(*parts)))

    def values():
        return {name: read() for name, read in SETTINGS.items()}

    try:
        torch.set_float32_matmul_precision(precision)
        expected = values()
        rows = torch.randn(1, 1, 20, 8, generator=torch.Generator(), dtype=dtype).requires_grad_()
        flash_sparse.attention(rows, rows, rows).sum().backward()
        assert len(seen) == 3  # forward, delta, backward
        assert [*seen, values()] == [expected] * 4
    finally:
        torch.set_float32_matmul_precision(before)


class SlowKernel:
    """In the place of a `Kernel`: the calling thread is interrupted while a helper still writes."""

    memory = ()

    def __init__(self):
        self.caller = threading.current_thread()
        self.began, self.interrupted = threading.Event(), threading.Event()
        self.ended = 0

    def ready(self, dtype):
        return SimpleNamespace(ctypes=self.call)

    def call(self, address):
        if threading.current_thread() is self.caller:
            assert self.began.wait(60)
            self.interrupted.set()
            raise KeyboardInterrupt
        self.began.set()
        assert self.interrupted.wait(60)
        time.sleep(0.2)
        self.ended += 1


def test_an_interrupted_call_waits_for_its_helpers(set_threads, monkeypatch):
    """They write to tensors that the caller is about to give back."""
    set_threads(2)
    monkeypatch.setattr(threads, "_openmp", None)  # whose call nothing interrupts
    kernel = SlowKernel()
    problem, numbers = namedtuple("Problem", "width")(16), (np.float32(1),)
    with pytest.raises(KeyboardInterrupt):
        threads.run(kernel, problem, (), numbers, np.zeros((2, 3), np.int64))
    assert kernel.ended == 1
