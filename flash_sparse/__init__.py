"""Exact flash attention, dense and block-sparse, forward and backward. Importing it needs torch alone."""

from flash_sparse import nn, patterns
from flash_sparse.attention import attention, attention_varlen
from flash_sparse.layout import BlockLayout

__version__ = "0.1.0"

__all__ = ["BlockLayout", "attention", "attention_varlen", "nn", "patterns"]
