"""What type checkers make of the public functions: `mypy` reads this file, nothing runs it."""

import torch
from torch import Tensor, nn
from transformers import BertModel
from typing_extensions import assert_type

import flash_sparse
import flash_sparse.huggingface


def returns(query: Tensor, bounds: Tensor, layout: flash_sparse.BlockLayout, wanted: bool) -> None:
    """`return_lse` decides between a tensor and two."""
    assert_type(flash_sparse.attention(query, query, query), Tensor)
    assert_type(flash_sparse.attention(query, query, query, layout, window=(3, None), return_lse=False), Tensor)
    assert_type(flash_sparse.attention(query, query, query, return_lse=True), tuple[Tensor, Tensor])
    assert_type(flash_sparse.attention(query, query, query, return_lse=wanted), Tensor | tuple[Tensor, Tensor])
    assert_type(flash_sparse.attention_varlen(query, query, query, bounds, 5), Tensor)
    assert_type(
        flash_sparse.attention_varlen(query, query, query, bounds, 5, layout, return_lse=True), tuple[Tensor, Tensor]
    )


def refused(query: Tensor) -> None:
    """What is no argument, or of another type, is an error for the checker too; without one `mypy` fails here."""
    flash_sparse.attention(query, query, query, attn_mask=query)  # type: ignore[call-overload]
    flash_sparse.attention(query, query, query, backend="cuda")  # type: ignore[call-overload]
    flash_sparse.attention_varlen(query, query, query)  # type: ignore[call-overload]


def modules(model: BertModel, tokens: Tensor) -> None:
    assert_type(flash_sparse.nn.Encoder(50, 32, 2, 4, num_outputs=2).forward(tokens), Tensor)
    assert_type(flash_sparse.nn.Attention(32, 4).forward(torch.zeros(1, 3, 32)), Tensor)
    assert_type(flash_sparse.huggingface.enable(model, "local"), BertModel)
    assert_type(flash_sparse.huggingface.disable(nn.Sequential(model)), nn.Sequential)
