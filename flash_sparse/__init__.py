"""Exact flash attention, dense and block-sparse, forward and backward. Importing it needs torch alone."""

import importlib

from flash_sparse import flops, nn, patterns  # noqa: F401 (the first says what attention costs to PyTorch's counter)
from flash_sparse.functional import attention, attention_varlen
from flash_sparse.layout import BlockLayout
from flash_sparse.padding import pad, unpad
from flash_sparse.weights import attention_weights, block_mass

__version__ = "0.1.0"

__all__ = [
    "BlockLayout",
    "attention",
    "attention_varlen",
    "attention_weights",
    "block_mass",
    "huggingface",
    "nn",
    "pad",
    "patterns",
    "unpad",
]


def __getattr__(name: str):
    """`huggingface` is imported when it is first used: it needs transformers."""
    if name == "huggingface":
        return importlib.import_module("flash_sparse.huggingface")
    raise AttributeError(f"module 'flash_sparse' has no attribute {name!r}")
