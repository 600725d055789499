"""Padded batches for tests of transformers models, and what a model makes of one."""

import torch

BATCH, LENGTH = 3, 50


def inputs(side="none", length=LENGTH):
    ids = torch.randint(3, 60, (BATCH, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(BATCH, length, dtype=torch.int64)
    if side == "right":
        mask[0, length // 2 :], mask[1, 1:] = 0, 0
    elif side == "left":
        mask[0, : length // 2], mask[1, :-1] = 0, 0
    elif side == "holes":
        mask[0, 20:30], mask[1, ::2] = 0, 0
    return {"input_ids": ids} if side == "none" else {"input_ids": ids, "attention_mask": mask}


def seen(batch):
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def run(model, batch):
    """Output at tokens, and the gradients of all weights."""
    model.zero_grad()
    output = model(**batch)[0]
    assert output.isfinite().all()
    output = output[seen(batch)] if "input_ids" in batch else output
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    (output * weights).sum().backward()
    return output.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
