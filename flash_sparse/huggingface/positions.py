"""Longer inputs for pretrained models: learned positions repeated, rotary ones left alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flash_sparse.huggingface.configs import list_configs, own_configs

TABLES = ("position_embeddings", "wpe", "embed_positions")  # what transformers models call learned positions
UNCHANGED_ROPE = ("default", "linear", "llama3")  # rotary embeddings that do not depend on the maximal length


@torch.no_grad()
def extend_positions(
    model: PreTrainedModel, max_length: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedModel:
    """Let a model take inputs of up to `max_length` tokens, in place.

    Learned position embeddings are repeated from the beginning, the last copy cut off. Rows that belong to no position
    stay (RoBERTa keeps two in front, one of them for padding, so that its `max_position_embeddings` becomes
    `max_length + 2`). Rotary models have no such weights. The model gives the same as before on the inputs that it took
    before. Make optimizers afterwards: the table is a new parameter.

    Args:
        model: a text model with learned positions, such as BERT, RoBERTa, DistilBERT or ELECTRA, or with rotary ones,
            such as ModernBERT or Llama.
        max_length: tokens, special ones counted. Equal to the present length: nothing changes.
        tokenizer: its `model_max_length` becomes `max_length`.

    Returns:
        The model itself.

    Raises:
        ValueError: a length below the present one, or a model whose positions are neither learned for each token nor
            rotary, or rotary and scaled by the maximal length.

    Source: Beltagy et al. 2020, "Longformer", section 5, where copies of RoBERTa's positions were found crucial.
    """
    if isinstance(max_length, bool) or not isinstance(max_length, int):
        raise TypeError(f"max_length is {max_length!r}; expected an integer, in tokens")
    present, tables = count_positions(model), _find_tables(model)
    if not tables:
        _check_rotary(model)
    added = max_length - present
    if added < 0:
        raise ValueError(f"max_length is {max_length}; expected at least {present}, which the model takes already")

    if added > 0:
        buffers = model.config.max_position_embeddings
        for table in tables:
            _extend_table(table, added)
        own_configs(model)
        for config in list_configs(model):
            if getattr(config, "max_position_embeddings", None) == buffers:
                config.max_position_embeddings = buffers + added
        for part in model.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.shape[-1:] == (buffers,) and name in BUFFERS:
                    part._buffers[name] = BUFFERS[name](buffer, added)
    if tokenizer is not None:
        tokenizer.model_max_length = max_length
    return model


def count_positions(model: PreTrainedModel) -> int:
    """Tokens that a text model takes at most, special ones counted.

    Raises:
        ValueError: the model has no such limit, or several.
    """
    if hasattr(model.config, "patch_size"):
        raise ValueError(f"{type(model).__name__} has a position for each patch of an image; expected a text model")
    if getattr(model.config, "max_position_embeddings", None) is None:
        raise ValueError(f"{type(model.config).__name__} has no max_position_embeddings; expected a maximal length")
    lengths = {table.num_embeddings - _reserved(table) for table in _find_tables(model)}
    if len(lengths) > 1:
        raise ValueError(f"{type(model).__name__} has tables of {sorted(lengths)} positions; expected one length")
    return lengths.pop() if lengths else model.config.max_position_embeddings


def check_length(model: PreTrainedModel, arguments: tuple, keywords: dict) -> None:
    """Raise where a model is called with more tokens than it has learned positions for; called before its forward."""
    tokens = keywords.get("input_ids", arguments[0] if arguments else None)
    if torch.compiler.is_compiling() or not isinstance(tokens, Tensor) or tokens.dim() != 2:
        return
    lengths = [table.num_embeddings - _reserved(table) for table in _find_tables(model)]
    if lengths and tokens.shape[1] > max(lengths):
        raise ValueError(
            f"input_ids has {tokens.shape[1]} tokens; expected at most {max(lengths)}, the positions that the model "
            f"has learned: flash_sparse.huggingface.extend_positions(model, {tokens.shape[1]}) gives it more"
        )


def _find_tables(model: PreTrainedModel) -> list[nn.Embedding]:
    parts = model.named_modules()
    return [part for name, part in parts if name.split(".")[-1] in TABLES and isinstance(part, nn.Embedding)]


def _reserved(table: nn.Embedding) -> int:
    """Rows in front that belong to no position."""
    if table.padding_idx is not None:
        return table.padding_idx + 1
    return getattr(table, "offset", 0)


def _extend_table(table: nn.Embedding, added: int) -> None:
    """Go on after the last position with the first one, and so on, until there are `added` more."""
    weight, reserved = table.weight, _reserved(table)
    length = weight.shape[0] - reserved
    position = torch.arange(length, length + added, device=weight.device) % length  # (added,)
    rows = torch.cat([weight, weight[reserved + position]])  # (reserved + length + added, features)
    table.weight = nn.Parameter(rows, requires_grad=weight.requires_grad)
    table.num_embeddings += added


def _check_rotary(model: PreTrainedModel) -> None:
    """Raise unless positions are rotary and do not depend on the maximal length."""
    parameters = getattr(model.config, "rope_parameters", None)
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has neither a table of learned positions ({', '.join(TABLES)}) nor rotary ones"
        )
    for entry in [parameters, *parameters.values()]:  # one for all layers, or one for each type of layer
        kind = entry.get("rope_type", "default") if isinstance(entry, dict) else "default"
        if kind not in UNCHANGED_ROPE:
            raise ValueError(f"rope_type is {kind!r}, which depends on the maximal length; expected {UNCHANGED_ROPE}")


def _count_on(buffer: Tensor, added: int) -> Tensor:
    return torch.arange(buffer.shape[-1] + added, device=buffer.device, dtype=buffer.dtype).expand(
        *buffer.shape[:-1], -1
    )


def _zeros_on(buffer: Tensor, added: int) -> Tensor:
    return buffer.new_zeros(*buffer.shape[:-1], buffer.shape[-1] + added)


BUFFERS = {"position_ids": _count_on, "token_type_ids": _zeros_on}  # made once for the maximal length
