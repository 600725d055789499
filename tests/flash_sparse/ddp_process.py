"""One process of a DistributedDataParallel pair: `ddp_process.py RANK FOLDER` writes its gradients to FOLDER."""

import datetime
import gc
import sys

import torch
from torch import nn

import flash_sparse
from flash_sparse import patterns


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.project = nn.Linear(16, 48)
        self.head = nn.Linear(16, 1)
        self.layout = patterns.local(40, 16)

    def forward(self, tokens):  # (B, N, 8)
        rows = self.project(self.embed(tokens)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, D)
        mixed = flash_sparse.attention(*rows, self.layout, is_causal=True).transpose(1, 2).flatten(2)  # (B, N, 16)
        return self.head(mixed).mean()


def batch():
    return torch.randn(4, 40, 8, generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name.removeprefix("module."): part.grad for name, part in model.named_parameters()}


def main(rank, folder):
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    model = nn.parallel.DistributedDataParallel(Model())
    model(batch()[2 * rank : 2 * rank + 2]).backward()
    torch.save(gradients(model), f"{folder}/{rank}.pt")

    # while the wrapper lives, so do gloo's threads; what they hold can crash the end of Python
    del model
    gc.collect()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
