"""The configurations of a transformers model and its parts."""

from __future__ import annotations

import copy

from transformers import PreTrainedConfig, PreTrainedModel


def list_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every configuration that the model or a part of it holds, each once."""
    held, found = [getattr(part, "config", None) for part in model.modules()], {}
    while held:
        config = held.pop(0)
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            held += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def own_configs(model: PreTrainedModel) -> None:
    """Give the model copies of its configurations, so that a change to them reaches no model made from the same.

    What `enable` keeps for `disable` then speaks of the copies.
    """
    memo: dict = {}
    if "flash_sparse_before" in model.__dict__:
        model.flash_sparse_before = copy.deepcopy(model.flash_sparse_before, memo)
    for part in model.modules():
        if isinstance(getattr(part, "config", None), PreTrainedConfig):
            part.config = copy.deepcopy(part.config, memo)
