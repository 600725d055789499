"""Exact attention, dense or block-sparse, in transformers models: switched on and off, and longer positions.

Imported when it is first used, as `flash_sparse.huggingface`: it needs transformers, which `flash_sparse` does not.
"""

from flash_sparse.huggingface.positions import extend_positions
from flash_sparse.huggingface.switch import disable, enable

__all__ = ["disable", "enable", "extend_positions"]
