"""What other processes run in the tests: importable, so that started processes find it."""

import sys

import torch

import flash_sparse


def attend(seed=0):
    """The sums of an output and of a gradient, in as many threads as it is given."""
    make = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, 2, 300, 16, generator=make, requires_grad=True)
    output = flash_sparse.attention(rows, rows, rows, is_causal=True)
    output.square().sum().backward()
    return output.double().sum().item(), rows.grad.double().sum().item()


def attend_in_two_threads(seed=0):
    torch.set_num_threads(2)
    return attend(seed)


class Sequences(torch.utils.data.Dataset):
    """Items that attention makes."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return attend(index)


if __name__ == "__main__":
    import atexit
    import threading

    torch.set_num_threads(2)
    mode = sys.argv[1]
    if mode == "after use":
        attend()
    atexit.register(lambda: print(attend(), flush=True))
    if mode == "in a thread that goes on":  # the interpreter waits for it before the handlers
        threading.Thread(target=lambda: print(attend(), flush=True)).start()
