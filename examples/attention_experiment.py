"""Textbook attention, PyTorch's and ours side by side, forward and backward: times, memory and how far results differ.

`python examples/attention_experiment.py` takes queries, keys and values of (32, 8, 2048, 64) with dropout 0.2 on a GPU,
where there is one. On a CPU it takes (2, 8, 1024, 64). The results are compared without dropout, which draws other
numbers in each of the three.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import flash_sparse


def textbook(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Softmax(query @ key^T / sqrt(D)) @ value, with the whole attention matrix in memory."""
    scores = query @ key.mT * query.shape[-1] ** -0.5  # (B, H, N, N)
    return torch.nn.functional.dropout(scores.softmax(-1), dropout) @ value  # (B, H, N, D)


def pytorch(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def ours(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    return flash_sparse.attention(query, key, value, dropout_p=dropout)


def measure(attend: Callable[..., Tensor], rows: list[Tensor], dropout: float, repeats: int) -> tuple[float, float]:
    """Seconds of a forward and backward pass, the median, and on a GPU the memory that it takes, GiB."""
    gpu, seconds = rows[0].is_cuda, []
    for _ in range(repeats + 1):  # the first one compiles and warms up
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        torch.autograd.grad(attend(*rows, dropout).sum(), rows)
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    memory = (torch.cuda.max_memory_allocated() - before) / 2**30 if gpu else float("nan")
    return statistics.median(seconds[1:]), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--shape", type=int, nargs=4, default=[32, 8, 2048, 64] if gpu else [2, 8, 1024, 64])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=10 if gpu else 3)
    options = parser.parse_args()

    torch.manual_seed(0)
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    rows = [torch.randn(options.shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    part = [tensor[:1].detach() for tensor in rows]  # one batch entry, in twice the digits
    exact = textbook(*(tensor.double() for tensor in part), 0.0)

    print(f"{tuple(options.shape)}, {dtype}, dropout {options.dropout}, on {device}; forward and backward")
    for attend in (textbook, pytorch, ours):
        try:
            seconds, memory = measure(attend, rows, options.dropout, options.repeats)
        except torch.OutOfMemoryError:
            print(f"{attend.__name__:10} does not fit into memory")
            continue
        taken = f", {memory:.2f} GiB" if gpu else ""
        error = (attend(*part, 0.0).double() - exact).abs().max()
        print(f"{attend.__name__:10} {1000 * seconds:9.1f} ms{taken}, differs by at most {error:.1e} from float64")


if __name__ == "__main__":
    main()
