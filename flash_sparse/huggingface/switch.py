"""Switching transformers models to this package's attention and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from flash_sparse.huggingface.configs import list_configs, own_configs
from flash_sparse.huggingface.forward import dense_forward, sparse_forward
from flash_sparse.huggingface.layouts import Layouts, Pattern
from flash_sparse.huggingface.mask import dense_mask, sparse_mask
from flash_sparse.huggingface.own_attention import calls_interface, own_attention, shapes_scores
from flash_sparse.huggingface.positions import check_length

Model = TypeVar("Model", bound=nn.Module)

# transformers takes any name with "flash" in it for the library flash-attention. An attention function needs a mask
# function of the same name: without it, padding would be dropped silently.
DENSE = "exact_dense"
SPARSE = "exact_block_sparse"
for _name, _forward, _mask in ((DENSE, dense_forward, dense_mask), (SPARSE, sparse_forward, sparse_mask)):
    AttentionInterface.register(_name, _forward)
    AttentionMaskInterface.register(_name, _mask)


def enable(
    model: Model,
    pattern: Pattern | None = None,
    block_size: int = 128,
    global_tokens: Sequence[int] | None = None,
) -> Model:
    """Switch a transformers model to exact attention, dense or block-sparse, in training and inference.

    The weights stay as they are, and so do padding mask, dropout, causality, sliding windows, grouped heads, scale,
    caps on scores (Gemma 2) and sinks (GPT-OSS): a query sees the keys that both the pattern and the model's own masks
    let through. Dense attention gives what "sdpa" gives, or "eager" where a model has no other. The output at padding
    is finite and without meaning.

    Padding may be at either end of a sequence, whose blocks begin with its first token. A pattern's layout is made for
    the length of the padded batch: for "strided", "random" and "bigbird" the blocks of a text depend on that length,
    and a warning says so when a second length comes. A layout made for the longest text, given in the pattern's place,
    serves all shorter ones by its upper left part and needs no compiling anew for each length.

    Tokens that are global in one text alone are given to the model's call, as Longformer's users do:
    `model(input_ids, attention_mask, global_attention_mask=...)`, (B, N), 1 at them. A model with learned positions
    that gets more tokens than it has raises, and names `extend_positions`.

    The model gets a configuration of its own where it shared one with other models. What `save_pretrained` writes loads
    without this package and is dense: `enable` the loaded model again, with the same pattern.

    Args:
        model: any model that computes attention through transformers' attention interface, or a module that wraps one:
            compiled, with adapters, or with a head of its own.
        pattern: None for dense attention; a name in `flash_sparse.patterns`, with its defaults; a function
            `(length, block_size) -> BlockLayout`; or a BlockLayout for the longest sequence.
        block_size: tokens of a block, 16, 32, 64 or 128; a BlockLayout has its own.
        global_tokens: positions that see all others and are seen by all, with those in their blocks, those past the end
            ignored. None is the first token for a named pattern, where encoders have their [CLS], and none otherwise.

    Returns:
        The model itself.

    Raises:
        TypeError, ValueError: arguments out of range, or a model that cannot be switched, or not wholly with a pattern,
            as some layers compute attention by code of their own. The model's call raises
            ValueError for what cannot be honoured: attention weights asked for, finished or additive masks, padding
            inside a sequence unless attention is dense and bidirectional, biases, caches of fixed length, and caches or
            cross-attention with a pattern.
    """
    inner = _find_model(model)
    if pattern is None and global_tokens is not None:
        raise ValueError(
            f"global_tokens is {tuple(global_tokens)} with pattern None; expected None: all tokens see all"
        )
    layouts = None if pattern is None else Layouts(pattern, block_size, global_tokens)
    for part in inner.modules():
        if isinstance(part, PreTrainedModel) and not part._can_set_attn_implementation():
            raise ValueError(f"model has a {type(part).__name__}, which does not use transformers' attention interface")
    supported = any(part._supports_sdpa for part in inner.modules() if isinstance(part, PreTrainedModel))
    if not (supported or shapes_scores(inner)) or not calls_interface(inner):
        raise ValueError(f"model is a {type(inner).__name__}; expected one whose attention can be exchanged")
    if layouts is not None and own_attention(inner):
        raise ValueError(
            f"model has {', '.join(own_attention(inner))}, which a pattern cannot reach: code of its own computes the "
            "attention there; expected a part of the model without it, or pattern None"
        )
    for config in list_configs(inner):
        if getattr(config, "output_attentions", False):
            raise ValueError(
                f"{type(config).__name__}.output_attentions is True; expected False: they are never stored"
            )
        if layouts is not None and (config.is_encoder_decoder or getattr(config, "add_cross_attention", False)):
            raise ValueError(f"{type(config).__name__} has cross-attention; expected none with a pattern")

    disable(inner)
    own_configs(inner)
    vars(inner)["flash_sparse_before"] = [(config, config._attn_implementation) for config in list_configs(inner)]
    inner.set_attn_implementation(DENSE if layouts is None else SPARSE)
    for part in inner.modules():
        if layouts is not None:
            vars(part)["flash_sparse_layouts"] = layouts
    vars(inner)["flash_sparse_hook"] = inner.register_forward_pre_hook(check_length, with_kwargs=True)
    return model


def disable(model: Model) -> Model:
    """Switch a model back to the attention that it had before `enable`; leave one alone that is not enabled.

    Returns:
        The model itself.

    Raises:
        TypeError: there is not one transformers model.
    """
    inner = _find_model(model)
    if "flash_sparse_hook" in inner.__dict__:
        inner.__dict__.pop("flash_sparse_hook").remove()
    for config, implementation in inner.__dict__.pop("flash_sparse_before", ()):
        config._attn_implementation_internal = implementation
    for part in inner.modules():
        part.__dict__.pop("flash_sparse_layouts", None)
    return model


def _find_model(model: nn.Module) -> PreTrainedModel:
    """The model itself, or the one inside of what compiles or wraps it or has it as a part."""
    if isinstance(model, PreTrainedModel):
        return model
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    found: dict[str, PreTrainedModel] = {}
    for name, part in parts:  # outer ones come before inner ones
        if isinstance(part, PreTrainedModel) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = part
    if len(found) != 1:
        inside = f" with {', '.join(found)} inside" if found else ""
        raise TypeError(f"model is {type(model).__name__}{inside}; expected one transformers PreTrainedModel")
    return next(iter(found.values()))
