"""The launcher, with kernels that do nothing: what it asks of the tensors on its way to the GPU."""

import concurrent.futures
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import _allocation

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted in this process (TRITON_INTERPRET)", allow_module_level=True)

from attention_cases import generator, plain_options

import flash_sparse
from flash_sparse.backends.triton import launch, tiles


class Recorder(TorchDispatchMode):
    """Which operations ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*arguments, **(keywords or {}))


class Kernel:
    """Counts its launches."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *arguments, **constants: None


@pytest.fixture
def kernels(monkeypatch):
    stubs = {name: Kernel() for name in ("forward_kernel", "delta_kernel", "query_kernel", "keys_kernel")}
    for name, stub in stubs.items():
        monkeypatch.setattr(launch, name, stub)
    return stubs


def launched(packed, sparse, capped=False, dropout_p=0.1):
    """What runs in both passes around the kernels."""
    query, key, value, grad_output = (torch.randn(1, 4, 300, 64, generator=generator(i)) for i in range(4))
    layout = flash_sparse.patterns.longformer(300, 64) if sparse else None
    bounds = torch.tensor([0, 100, 300], dtype=torch.int32) if packed else None
    lengths = None if packed else torch.tensor([290])
    options = plain_options(
        layout, cu_seqlens=bounds, max_seqlen=200, max_seqlen_k=200, key_lengths=lengths, right=0, dropout_p=dropout_p,
        seed=torch.tensor(3), softcap=30.0 * capped, sinks=torch.randn(4) if capped else None,
    )  # fmt: skip
    with Recorder() as recorder:
        output, logsumexp = launch.forward(query, key, value, options)
        wanted = [True, True, True, capped]
        launch.backward(grad_output, logsumexp, query, key, value, output, logsumexp, options, wanted)
    return recorder.names


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_allocates_and_launches_and_reads_nothing_back(kernels, packed, sparse):
    """Neither a value nor a copy comes back from the device, so that a CUDA graph can record the launches."""
    assert launched(packed, sparse) <= {"empty", "empty_like", "new_empty", "empty_strided"}
    assert all(len(kernel.grids) == 1 for kernel in kernels.values())


def test_reads_nothing_back_for_the_gradient_of_the_sinks_either(kernels):
    arithmetic = {"unsqueeze", "sub", "exp", "neg", "mul", "eq", "where", "sum"}
    assert launched(True, False, capped=True) - arithmetic <= {
        "empty", "empty_like", "new_empty", "empty_strided", "randn", "scalar_tensor",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda rows: rows, True),
        (lambda rows: rows[..., :59], True),  # the chip puts zeros behind the end of a row
        (lambda rows: rows[..., :59].contiguous(), False),
        (lambda rows: rows[..., 1:], False),
        (lambda rows: rows[..., 8:], True),
        (lambda rows: rows[:, :, 3:], True),
        (lambda rows: rows.transpose(1, 2).contiguous().transpose(1, 2), True),
        (lambda rows: rows[:1].expand(2, -1, -1, -1), True),
        (lambda rows: rows[:, :, :1].expand(-1, -1, 20, -1), False),
        (lambda rows: rows.as_strided((1, 1, 20, 64), (1, 1, 64, 1)), True),  # the only entry and the only head
        (lambda rows: rows.as_strided((2, 1, 20, 64), (1, 1, 64, 1)), False),
        (lambda rows: rows.as_strided((1, 1, 20, 64), (1, 1, 8, 1)), False),
        (lambda rows: rows.float()[..., :20].contiguous(), True),
        (lambda rows: rows[..., :20].contiguous(), False),
    ],
)
def test_what_a_descriptor_can_stand_for(change, fits):
    assert launch.fits_descriptor(change(torch.zeros(2, 3, 20, 64, dtype=torch.bfloat16))) == fits


@pytest.mark.parametrize("own_thread", [False, True])
def test_kernels_get_scratch_memory_and_the_caller_keeps_its_allocator(kernels, own_thread):
    seen = []

    class Launch(Kernel):
        def __getitem__(self, grid):
            return lambda *arguments, **constants: seen.append(_allocation._allocator.get())

    def call():
        launch.launch(
            Launch(), tiles.Tile(64, 64, 4, 2), 8, 0, 1, (rows, rows, rows), (), options.rows, options,
        )  # fmt: skip
        return _allocation._allocator.get()

    rows, options = torch.zeros(1, 1, 8, 16), plain_options()
    before = _allocation._allocator.get()
    if own_thread:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(call).result()
    else:
        assert call() is before
    assert seen == [launch.scratch]


def test_the_recorder_sees_what_would_wait():
    with Recorder() as recorder:
        torch.tensor([3]).sum().item()
    assert "_local_scalar_dense" in recorder.names
