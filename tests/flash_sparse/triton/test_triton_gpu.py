"""The Triton kernels on a GPU: what the interpreter cannot show, and all that it shows once more."""

import subprocess
import sys

import pytest
import torch
import triton_checks as checks
from attention_cases import Case, cap_or_sink, error, run, run_exactly

import flash_sparse

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch reaches"),
]
DTYPES = ("float32", "float16", "bfloat16", "bfloat16")


@pytest.fixture(autouse=True)
def exact_float32():
    """TensorFloat-32 stays off unless a test asks for it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("seed", range(7000, 7300))
def test_fuzz(seed):
    checks.check_case(checks.draw_case(seed, DTYPES), "cuda", seed % 3 == 0)


@pytest.mark.parametrize("seed", range(7300, 7400))
def test_fuzz_with_capped_scores_and_sinks(seed):
    checks.check_case(cap_or_sink(checks.draw_case(seed, DTYPES)), "cuda", seed % 3 == 0)


@pytest.mark.parametrize("seed", range(20))
def test_queries_and_keys_packed_differently(seed):
    checks.check_crossed(seed, "cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("head_dim", [1, 15, 16, 33, 64, 80, 96, 111, 128, 160, 256])
def test_head_dimensions(head_dim, dtype):
    case = Case(
        seed=head_dim, dtype=dtype, heads=4, key_heads=2, query_length=500, key_length=777, head_dim=head_dim,
        is_causal=True,
    )  # fmt: skip
    checks.check_case(case, "cuda", False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("seed", range(20))
def test_packed_sequences(seed, dtype):
    checks.check_packed(seed, dtype, "cuda")


@pytest.mark.parametrize(("block_size", "is_causal"), [(0, False), (16, True), (64, True), (128, False)])
def test_dropout_in_both_directions(block_size, is_causal):
    checks.check_dropout(block_size, is_causal, "cuda")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_share(p):
    checks.check_dropout_share(p, "cuda")


def test_dropout_repeats():
    checks.check_dropout_repeats("cuda")


@pytest.mark.parametrize("block_size", [16, 128])
def test_full_layout_is_dense(block_size):
    checks.check_full_layout(block_size, "cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [59, 64, 80, 128, 256])
@pytest.mark.parametrize("block_size", [0, 64, 128])
def test_descriptors(dtype, head_dim, block_size):
    """From sm_90 on, these are copies by the chip's own unit."""
    case = Case(
        seed=head_dim, dtype=dtype, batch=2, heads=4, key_heads=2, query_length=1000, key_length=1100,
        head_dim=head_dim, block_size=block_size, density=0.5 if block_size else 1.0, is_causal=True,
        key_lengths=(1100, 713), strides="transposed",
    )  # fmt: skip
    checks.check_descriptors_on_gpu(case)


def test_descriptors_end_with_their_sequence():
    checks.check_descriptor_packed("cuda")


@pytest.mark.parametrize("is_causal", [False, True])
def test_heavy_lines(is_causal):
    checks.check_heavy_lines(is_causal, "cuda")


def test_wide_offsets():
    checks.check_wide_offsets("cuda")


@pytest.mark.parametrize("block_size", [0, 16, 64, 128])
def test_the_same_bits_twenty_times(block_size):
    case = Case(
        seed=1, dtype="bfloat16", batch=2, heads=8, key_heads=2, query_length=1000, key_length=1000, head_dim=64,
        block_size=block_size, density=0.4, leading=(2, 8), is_causal=True,
    )  # fmt: skip
    *rows, grad_output = case.tensors("cuda")
    results = []
    for _ in range(20):
        torch.manual_seed(0)
        results.append(run(rows, grad_output, "triton", case.options("cuda"), dropout_p=0.2))
    for result in results[1:]:
        for name, first in results[0].items():
            assert torch.equal(result[name], first), name


@pytest.mark.parametrize("axis", ["rows", "heads", "packed"])
def test_offsets_past_31_bits(axis):
    """Rows, heads or sequences that lie more than 2 ** 31 elements apart: 13 GiB for each of query, key and value."""
    if torch.cuda.mem_get_info()[0] < 60 << 30:
        pytest.skip("needs 60 GiB of free GPU memory")
    heads, length, dim = 2, 96, 64
    stride = {"rows": (2**31 + 2**29) // length, "heads": 2**31 + 2**20, "packed": (2**31 + 2**29) // length}[axis]
    size = (heads, length, dim)
    strides = (stride, dim, 1) if axis == "heads" else (dim, stride // 16 * 16, 1)
    needed = sum((count - 1) * step for count, step in zip(size, strides, strict=True)) + 1
    wide, near = [], []
    for _ in range(3):
        part = torch.empty(needed, dtype=torch.float16, device="cuda").as_strided(size, strides)
        part.copy_(torch.randn(size))
        wide.append(part)
        near.append(part.contiguous())
    if axis == "packed":
        bounds = torch.tensor([0, 40, length], dtype=torch.int32, device="cuda")

        def call(query, key, value):
            rows = [part.transpose(0, 1) for part in (query, key, value)]
            return flash_sparse.attention_varlen(*rows, bounds, length, is_causal=True)
    else:

        def call(query, key, value):
            return flash_sparse.attention(query[None], key[None], value[None], is_causal=True)

    results = []
    for parts in (near, wide):
        leaves = [part.detach().requires_grad_() for part in parts]
        output = call(*leaves)
        results.append([output, *torch.autograd.grad(output.float().square().sum(), leaves)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_memory_grows_with_length_alone():
    """Twice the length takes at most a little more than twice the memory, forward and backward, with dropout."""

    def peak(length):
        rows = [
            torch.randn(1, 4, length, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3)
        ]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flash_sparse.attention(*rows, is_causal=True, dropout_p=0.1).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    peak(1024)
    assert peak(32768) < 2.2 * peak(16384)


def test_tensorfloat32_only_if_asked_for():
    case = Case(seed=2, heads=2, key_heads=2, query_length=256, key_length=256, head_dim=128, amplitude=4.0)
    *rows, grad_output = case.tensors("cuda")
    exact = run(rows, grad_output, "triton", {})
    torch.set_float32_matmul_precision("high")
    rounded = run(rows, grad_output, "triton", {})
    if torch.cuda.get_device_capability() >= (8, 0):
        assert not torch.equal(exact["output"], rounded["output"])
    exactly = run_exactly(rows, grad_output, {})
    for name, result in rounded.items():
        assert error(result, exactly[name]) < 0.05 * float(exactly[name].abs().max()), name


def test_compiled_without_recompiling_for_each_length():
    torch.compiler.reset()
    counts = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda *rows: flash_sparse.attention(*rows, is_causal=True), backend=counts, fullgraph=True, dynamic=True
    )
    for length in (127, 193, 256, 1000):
        rows = [torch.randn(1, 2, length, 64, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
        assert torch.equal(compiled(*rows), flash_sparse.attention(*rows, is_causal=True))
    assert counts.frame_count == 1


def test_cuda_graph():
    rows = [torch.randn(1, 2, 300, 64, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
    layout = flash_sparse.patterns.local(300, 64, window=64).to("cuda")
    expected = flash_sparse.attention(*rows, layout)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = flash_sparse.attention(*rows, layout)
    output.zero_()
    graph.replay()
    assert torch.equal(output, expected)


@pytest.mark.parametrize("arguments", ["[0, 9], 10", "[0, 3, 10], 6"])
def test_packs_that_do_not_fit_stop_the_device(arguments):
    """In a process of its own, whose device is lost."""
    code = f"""
import torch, flash_sparse
def call(bounds, longest):
    rows = torch.randn(10, 2, 16, device="cuda")
    return flash_sparse.attention_varlen(rows, rows, rows, torch.tensor(bounds, device="cuda").int(), longest)
call([0, 4, 10], 6).sum().item()
print("right", flush=True)
call({arguments}).sum().item()
print("wrong")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["right"]
    assert "max_seqlen" in done.stderr
