"""Which layers of a model call transformers' attention interface, and which compute attention by code of their own.

transformers says of a whole file whether it uses the interface. A file may hold layers of both kinds, and those with
their own code (SAM's images, Gemma 3n's sounds) never come here: a pattern would do nothing there, without a word. What
a layer calls stands in the names of its compiled methods.
"""

from __future__ import annotations

import inspect

from torch import nn
from transformers import PreTrainedModel

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
OWN = {"softmax", "scaled_dot_product_attention"}
SHAPED = {"softcap", "s_aux"}  # what layers hand to the interface that cap their scores or have sinks


def calls_interface(model: PreTrainedModel) -> bool:
    """Whether any layer calls the attention interface."""
    return any(INTERFACE in _names(kind) for kind in {type(part) for part in model.modules()})


def shapes_scores(model: PreTrainedModel) -> bool:
    """Whether any layer hands a cap or sinks to the interface: reasons why a model has no "sdpa" that are none here."""
    return any(SHAPED & _names(kind) for kind in {type(part) for part in model.modules()})


def own_attention(model: PreTrainedModel) -> list[str]:
    """Classes of the layers that compute attention without the interface."""
    kinds = {type(part) for part in model.modules() if "Attention" in type(part).__name__}
    return sorted(kind.__name__ for kind in kinds if _names(kind) & OWN and INTERFACE not in _names(kind))


def _names(kind: type[nn.Module]) -> set[str]:
    """What the methods of a class and of its parents, up to PyTorch's own, name: functions, attributes, globals, and
    the keywords that they pass."""
    names: set[str] = set()
    for parent in kind.__mro__:
        if parent.__module__.split(".")[0] in ("torch", "builtins") or parent is PreTrainedModel:
            continue
        for method in vars(parent).values():
            code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
            if code is not None:
                names.update(code.co_names, *(part for part in code.co_consts if isinstance(part, tuple)))
    return names
