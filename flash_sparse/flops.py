"""How many floating-point operations attention takes, for `torch.utils.flop_counter.FlopCounterMode`.

As for PyTorch's own attention, these are the products with query, key, value and gradients, a multiplication and an
addition being two, and pairs that a causal mask, a window or key lengths hide are counted. Blocks that a layout leaves
out are not, nor what a pack saves.

Letters: B batch, H heads, Nq queries, Nk keys, D head dimension, Bl and Hl the layout's own batch entries and heads, Qb
query blocks, nnz blocks kept.
"""

from __future__ import annotations

import importlib.util
import sys

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from flash_sparse import dispatch
from flash_sparse.backends.options import Options

COUNTER = "torch.utils.flop_counter"


def forward_flops(query: Tensor, key: Tensor, value: Tensor, *options, out_val=None) -> int:
    """Of `flash_sparse::forward`: two products over all pairs that are computed."""
    return 2 * _product_flops(query, key, Options(*options))


def backward_flops(
    grad_output: Tensor, grad_logsumexp: Tensor | None, query: Tensor, key: Tensor, value: Tensor,
    output: Tensor, logsumexp: Tensor, *options_and_wanted, out_val=None,
) -> int:  # fmt: skip
    """Of `flash_sparse::backward`: the scores once more, and what each wanted gradient needs."""
    *options, (for_query, for_key, for_value, _) = options_and_wanted
    products = 1 + (for_query or for_key) + for_query + for_key + for_value
    return products * _product_flops(query, key, Options(*options))


def _product_flops(query: Tensor, key: Tensor, options: Options) -> int:
    """Of one product of D numbers for each pair, of query (B, H, Nq, D) and key (B, Hkv, Nk, D)."""
    batch, heads, query_length, head_dim = query.shape
    known = not (isinstance(query, FakeTensor) or query.is_meta)
    if options.cu_seqlens is None:
        lengths = [(query_length, key.shape[2])] * batch
    elif known:
        bounds = options.cu_seqlens if options.cu_seqlens_k is None else options.cu_seqlens_k
        lengths = list(zip(options.cu_seqlens.diff().tolist(), bounds.diff().tolist(), strict=True))
    else:  # no more than this
        lengths = [(options.max_seqlen, options.max_seqlen_k)] * (options.cu_seqlens.shape[0] - 1)
    offsets, blocks, _ = options.rows
    if offsets is None or blocks is None:
        pairs = heads * sum(rows * columns for rows, columns in lengths)
    elif known:
        pairs = _pairs_in_blocks(offsets, blocks, options.block_size, lengths, heads)
    else:
        copies = len(lengths) // offsets.shape[0] * (heads // offsets.shape[1])
        pairs = copies * blocks.numel() * options.block_size**2
    return 2 * pairs * head_dim


def _pairs_in_blocks(
    offsets: Tensor, blocks: Tensor, block_size: int, lengths: list[tuple[int, int]], heads: int
) -> int:
    """Pairs of query and key in the kept blocks of all heads and entries, each of so many queries and keys.

    Args:
        offsets, blocks: the layout by rows, (Bl, Hl, Qb + 1) and (nnz,).
    """
    own_entries, own_heads, lines = offsets.shape
    counts = offsets.diff(dim=-1).flatten().long()  # (Bl Hl Qb,)
    line = torch.arange(counts.numel(), device=counts.device).repeat_interleave(counts)  # (nnz,)
    entry, row = line // (lines - 1) // own_heads, line % (lines - 1)  # (nnz,)
    pairs = 0
    for number, (query_length, key_length) in enumerate(lengths):
        inside = (query_length - row * block_size).clamp(0, block_size)  # (nnz,)
        inside = inside * (key_length - blocks.long() * block_size).clamp(0, block_size)
        pairs += int(inside[entry == (number if own_entries > 1 else 0)].sum())
    return pairs * (heads // own_heads)


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for forward in filter(None, (dispatch.forward, dispatch.interpreted_forward)):
        backward = getattr(torch.ops.flash_sparse, forward.__name__.replace("forward", "backward"))
        register_flop_formula(forward, get_raw=True)(forward_flops)
        register_flop_formula(backward, get_raw=True)(backward_flops)


class _WhenImported:
    """An import hook that registers the formulas as soon as PyTorch's counter is imported.

    To import it here would add half a second to the import of this package: it imports Triton.
    """

    def find_spec(self, name: str, path, target=None):
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module):
            run(module)
            _register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]  # of this one loader
        return spec


if COUNTER in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WhenImported())
