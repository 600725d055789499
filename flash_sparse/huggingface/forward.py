"""The attention function that transformers models call.

Letters: B batch, H query heads, Hkv key heads, Nq queries, Nk keys, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flash_sparse.functional import attention, attention_varlen
from flash_sparse.huggingface.layouts import Layouts, find_layout
from flash_sparse.huggingface.mask import Mask
from flash_sparse.layout import BlockLayout

# What a layer may ask for that the operator does not compute, as transformers names it
UNSUPPORTED = {
    "sinks": "sinks that differ from query to query",
    "position_bias": "a bias on the scores",
    "head_mask": "a mask over heads",
    "indices": "a choice of keys",
    "block_indices": "a choice of blocks",
    "cache": "a paged cache",
    "global_attention_mask": "global tokens, which belong to a pattern",
    "cu_seq_lens_q": "bounds of packed sequences, which position_ids that begin anew at each sequence say here",
}

# What models hand to every layer and the attention itself has no use for: the masks say it already, or it is for others
HARMLESS = {
    "cache_position", "cu_seq_lens_k", "deterministic", "max_length_k", "max_length_q", "num_items_in_batch",
    "output_hidden_states", "output_router_logits", "position_embeddings", "position_ids", "return_dict",
    "sliding_window", "use_cache",
}  # fmt: skip


def dense_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others,
) -> tuple[Tensor, None]:
    """Attention of one layer.

    Args:
        module: the layer.
        query: (B, H, Nq, D).
        key, value: (B, Hkv, Nk, D).
        attention_mask: what the mask functions of this package made, or None where the model makes no mask.
        dropout: share of probabilities dropped, 0 in evaluation.
        scaling: factor on the scores; D ** -0.5 if None.
        is_causal: what holds where there is no mask; the layer's own attribute if None.
        softcap: cap on the scores, as in Gemma 2.
        s_aux: (H,), sinks, as in GPT-OSS.

    Returns:
        (B, Nq, H, D), and None in place of the probabilities, which are never stored.

    Raises:
        ValueError: something is asked for that is not computed, by name.
    """
    mask = _check(module, query, key, attention_mask, is_causal, others)
    options = {"dropout_p": dropout, "scale": scaling, "softcap": softcap, "sinks": s_aux}
    return _attend(query, key, value, mask, None, options), None


def sparse_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    global_attention_mask: Tensor | None = None,
    **others,
) -> tuple[Tensor, None]:
    """`dense_forward` with the blocks of a pattern, whose layouts `enable` has left with the layer.

    Args:
        global_attention_mask: (B, N), not 0 at tokens that see all others of their text and are seen by all, as users
            of Longformer give it to the model; beside the positions that all texts share.
        The others: as in `dense_forward`.

    Raises:
        ValueError: also where `enable` was not called, and where queries and keys are not the same tokens.
    """
    layouts: Layouts | None = getattr(module, "flash_sparse_layouts", None)
    if layouts is None:
        raise ValueError(
            f"{type(module).__name__} has no pattern; expected flash_sparse.huggingface.enable(model, pattern), which "
            "the name of the attention implementation alone does not replace"
        )
    mask = _check(module, query, key, attention_mask, is_causal, others)
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            f"{query.shape[2]} queries meet {key.shape[2]} keys, by a cache or cross-attention; expected equal lengths "
            "with a block-sparse pattern: pass use_cache=False, or enable dense attention"
        )
    layout = find_layout(layouts, query.shape[2], query.device)
    if global_attention_mask is not None:
        layout = _with_global(layout, global_attention_mask, query, mask.cu_seqlens)
    options = {"dropout_p": dropout, "scale": scaling, "softcap": softcap, "sinks": s_aux}
    return _attend(query, key, value, mask, layout, options), None


def _with_global(
    layout: BlockLayout, global_attention_mask: Tensor, query: Tensor, cu_seqlens: Tensor | None
) -> BlockLayout:
    """The layout with the global tokens of each sequence added: one for each sequence of the flattened batch."""
    batch, _, length, _ = query.shape
    if global_attention_mask.shape != (batch, length):
        raise ValueError(
            f"global_attention_mask has shape {tuple(global_attention_mask.shape)}; expected {(batch, length)}"
        )
    if torch.compiler.is_compiling():
        raise ValueError("global_attention_mask in a compiled model; expected the model as it is, or global_tokens")
    bounds = _rows(query) if cu_seqlens is None else cu_seqlens
    token = global_attention_mask.flatten().nonzero()[:, 0]  # (n,)
    sequence = torch.bucketize(token, bounds[1:], right=True)  # (n,)
    block = (token - bounds[sequence]) // layout.block_size  # (n,)

    every = torch.arange(layout.num_query_blocks, device=token.device).repeat(token.shape[0])  # (n Qb,)
    sequence, block = (index.repeat_interleave(layout.num_query_blocks) for index in (sequence, block))  # (n Qb,)
    shared = torch.zeros_like(every)
    crosses = torch.stack([sequence, shared, block, every]), torch.stack([sequence, shared, every, block])
    size = layout.block_size, layout.query_length, layout.key_length
    return layout | BlockLayout.from_indices(torch.cat(crosses, dim=1), (bounds.shape[0] - 1, 1), *size)


def _rows(query: Tensor) -> Tensor:
    """Where the rows of a batch begin when it is flattened, (B + 1,)."""
    return torch.arange(query.shape[0] + 1, dtype=torch.int32, device=query.device) * query.shape[2]


def _check(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Mask | None, is_causal: bool | None, others: dict
) -> Mask:
    """The mask of a layer; raises for all that the layer asks for and that is not computed."""
    if others.get("output_attentions"):
        raise ValueError("output_attentions is True; expected False: attention weights are never stored")
    for name, value in others.items():
        if value is not None and value is not False and name not in HARMLESS:
            meaning = UNSUPPORTED.get(name, "which is not known here")
            raise ValueError(
                f"{type(module).__name__} passes {name}, {meaning}; expected None: it is not computed here"
            )
    if attention_mask is None:
        if others.get("sliding_window") is not None:
            raise ValueError(f"{type(module).__name__} has a sliding_window and no attention_mask; expected both")
        return _without_mask(module, query, key, is_causal)
    if not isinstance(attention_mask, Mask):
        shape = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask is a finished mask, {shape}; expected None or (batch, length), 1 at tokens and 0 at "
            "padding, in a model that makes its masks by transformers.masking_utils"
        )
    if attention_mask.key_count is not None and attention_mask.key_count != key.shape[2]:
        raise ValueError(
            f"{type(module).__name__} has {key.shape[2]} keys and a mask for {attention_mask.key_count}; expected as "
            "many: no mask says who sees the keys that a layer adds, as compressed ones"
        )
    return attention_mask


def _without_mask(module: nn.Module, query: Tensor, key: Tensor, is_causal: bool | None) -> Mask:
    """What a layer means that passes no mask: all keys, or those up to the query's own."""
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not is_causal or query.shape[2] == 1:
        return Mask()
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            f"{type(module).__name__} is causal with {query.shape[2]} queries, {key.shape[2]} keys and no mask; "
            "expected equal lengths"
        )
    return Mask((None, 0))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    layout: BlockLayout | None,
    options: dict,
) -> Tensor:
    """(B, Nq, H, D), by `attention` and its options."""
    batch, _, length, _ = query.shape
    options = {**options, "window": mask.window}
    if layout is not None or mask.cu_seqlens is not None:
        bounds = _rows(query) if mask.cu_seqlens is None else mask.cu_seqlens
        query, key, value = (rows.transpose(1, 2).flatten(0, 1) for rows in (query, key, value))  # (B N, H | Hkv, D)
        return attention_varlen(query, key, value, bounds, length, layout, **options).unflatten(0, (batch, length))
    if mask.starts is not None:
        rows = [
            attention(query[b : b + 1], key[b : b + 1, :, start:], value[b : b + 1, :, start:], **options)
            for b, start in enumerate(mask.starts)
        ]
        return torch.cat(rows).transpose(1, 2).contiguous()
    if mask.order is not None:
        order = mask.order[:, None, :, None].expand_as(key)  # (B, Hkv, Nk, D)
        key, value = key.gather(2, order), value.gather(2, order)
    return attention(query, key, value, key_lengths=mask.key_lengths, **options).transpose(1, 2).contiguous()
