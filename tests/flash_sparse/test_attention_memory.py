"""Memory grows linearly with length, forward and backward, with a layout, without, and with dropout.

Measured as the peak of what PyTorch's allocator hands out, so that a second process or a page more changes nothing.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from attention_cases import generator
from torch.profiler import ProfilerActivity, profile

import flash_sparse
from flash_sparse import patterns
from flash_sparse.backends.cpu import threads

OPTIONS = {
    "dense": {},
    "causal": {"is_causal": True},
    "window": {"window": (100, 0)},
    "layout": {"layout": True},
    "dropout": {"layout": True, "dropout_p": 0.1},
    "dense with dropout": {"dropout_p": 0.1},
    "packed": {"packed": True, "layout": True},
}


def peak(call, device):
    """Bytes that `call` has allocated at most at one time."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    held = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def step(length, kernel, device, options):
    """One forward and backward pass; everything that it needs is made before."""
    options = dict(options)
    packed = options.pop("packed", False)
    if options.pop("layout", False):
        options["layout"] = patterns.local(length, 64, window=1).to(device)
    shape = (length, 1, 8) if packed else (1, 1, length, 8)
    rows = [torch.randn(shape, generator=generator(i)).to(device).requires_grad_() for i in range(3)]
    upstream = torch.randn(shape, generator=generator(3)).to(device)
    if packed:
        bounds = torch.tensor([0, length // 2, length], dtype=torch.int32, device=device)
        options.update(cu_seqlens=bounds, max_seqlen=length)
    function = flash_sparse.attention_varlen if packed else flash_sparse.attention

    def call():
        torch.autograd.grad(function(*rows, backend=kernel, **options), rows, upstream)

    return call


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_linear_in_length(kernel, device, options):
    """Four times the length takes at most five times the memory; the matrix itself would take sixteen times."""
    lengths = (2048, 8192)
    step(lengths[1], kernel, device, options)()  # buffers of fixed size are kept from call to call
    small, large = (peak(step(length, kernel, device, options), device) for length in lengths)
    assert small > 0
    assert large <= 5 * small
    assert large < lengths[1] ** 2  # a byte for each pair of query and key, for comparison


def test_the_measure_sees_a_matrix_that_is_stored(device):
    small, large = (peak(step(length, "reference", "cpu", {}), "cpu") for length in (512, 2048))
    assert large > 12 * small


class TestKeptFromCallToCall:
    """The CPU's kernels keep the memory of their tiles: a few MiB for each thread, whatever the call."""

    @pytest.fixture(autouse=True)
    def afresh(self, monkeypatch):
        monkeypatch.setattr(threads, "_free", [])
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    def kept(self):
        return sorted(memory.nbytes for memory in threads._free)

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_does_not_grow_with_length(self, options):
        sizes = []
        for length in (256, 8192):
            threads._free.clear()
            step(length, "cpu", "cpu", options)()
            sizes.append(self.kept())
        assert sizes[0] == sizes[1]
        assert len(sizes[0]) == torch.get_num_threads()

    @pytest.mark.parametrize("number", [1, 2, 7])
    def test_one_part_for_each_thread(self, number):
        torch.set_num_threads(number)
        for _ in range(3):
            step(1024, "cpu", "cpu", {})()
            assert len(threads._free) <= number

    def test_few_parts_after_many_threads(self):
        for number in (7, 1):
            torch.set_num_threads(number)
            for _ in range(8):
                step(1024, "cpu", "cpu", {})()
        assert len(threads._free) <= 7

    def test_at_most_a_few_mebibytes_for_a_thread(self):
        rows = [torch.randn(1, 1, 300, 256, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        flash_sparse.attention(*rows).sum().backward()  # the widest rows, of the widest numbers
        assert 0 < sum(self.kept()) <= 4 * 2**20 * torch.get_num_threads()

    def test_python_threads_that_call_at_once_leave_little(self):
        torch.set_num_threads(2)
        call = step(512, "cpu", "cpu", {})
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(call) for _ in range(40)]:
                done.result()
        # The limit is PyTorch's number of threads, which a new Python thread may have of its own.
        assert len(threads._free) <= max(2, os.cpu_count()) + 8


def test_nothing_but_output_and_logsumexp_is_kept_for_the_backward_pass(kernel, device):
    rows = [torch.randn(1, 2, 1024, 16, device=device, requires_grad=True) for _ in range(3)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: saved.append(part) or part, lambda part: part):
        output = flash_sparse.attention(*rows, dropout_p=0.1, backend=kernel)
    large = [part for part in saved if part.numel() > 1]
    assert sum(part.nbytes for part in large) == 4 * output.nbytes + 2 * 1024 * 4
