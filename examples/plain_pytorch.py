"""Exact attention in a plain PyTorch model: padded sentences packed, so that nothing is spent on padding.

The task is made up: is token 2 anywhere in the sequence? `python examples/plain_pytorch.py` trains on it, on a GPU
where there is one.
"""

import argparse

import torch
from torch import Tensor, nn

import flash_sparse


class Block(nn.Module):
    """Attention and an MLP around `flash_sparse.attention_varlen`, in the place of `nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, cu_seqlens: Tensor, longest: int, layout: flash_sparse.BlockLayout) -> Tensor:
        rows = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))  # (total, 3, H, D)
        attended = flash_sparse.attention_varlen(*rows.unbind(1), cu_seqlens, longest, layout)  # (total, H, D)
        x = x + self.output(attended.flatten(1))
        return x + self.mlp(self.norms[1](x))  # (total, W)


class Classifier(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int = 64, heads: int = 4):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.head = nn.Linear(width, 2)
        self.layout = flash_sparse.patterns.longformer(length, 16, window=32)  # serves every shorter sequence

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Padded token numbers and which of them are tokens, (B, N) each, to logits (B, 2)."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]  # (B, N, W)
        x, cu_seqlens, longest, _ = flash_sparse.unpad(x, mask)  # (total, W)
        layout = self.layout.to(x.device)
        for block in self.blocks:
            x = block(x, cu_seqlens, longest, layout)
        return self.head(x[cu_seqlens[:-1]])  # (B, 2), read at each first token


def make_batch(size: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token numbers and mask, (B, N) each, and answers (B,): whether token 2 is anywhere."""
    lengths = torch.randint(length // 2, length + 1, (size, 1))
    mask = torch.arange(length) < lengths  # (B, N)
    ids = torch.randint(3, vocabulary, (size, length))
    answers = torch.arange(size) % 2
    place = (torch.rand(size) * (lengths[:, 0] - 1)).long() + 1
    ids[torch.arange(size), place] = torch.where(answers == 1, 2, 3)
    ids[:, 0] = 1  # where the answer is read
    return ids * mask, mask, answers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Classifier(vocabulary=50, length=options.length).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(options.steps):
        ids, mask, answers = (part.to(device) for part in make_batch(16, options.length, 50))
        logits = model(ids, mask)
        loss = nn.functional.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            right = (logits.argmax(1) == answers).float().mean()
            print(f"step {step}: loss {loss:.3f}, {right:.0%} right")


if __name__ == "__main__":
    main()
