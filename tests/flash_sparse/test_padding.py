"""Padded batches to packed ones and back."""

import pytest
import torch

import flash_sparse
from flash_sparse import pad, unpad

MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])  # padding at the end, everywhere, inside


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("features", [(), (4,), (2, 3)])
def test_there_and_back(dtype, features):
    x = torch.randn(3, 5, *features)
    packed, cu_seqlens, longest, indices = unpad(x, MASK.to(dtype))
    assert torch.equal(packed, torch.stack([x[b, n] for b, n in MASK.nonzero().tolist()]))
    assert (cu_seqlens.tolist(), cu_seqlens.dtype, longest) == ([0, 3, 3, 6], torch.int32, 3)
    assert indices.tolist() == [0, 1, 2, 11, 13, 14]
    back = pad(packed, indices, 3, 5)
    assert torch.equal(back, x * MASK.view(3, 5, *(1 for _ in features)))


def test_gradients_flow():
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    kept = MASK.bool()
    torch.autograd.gradcheck(lambda x: unpad(x, kept)[0], x)
    indices = unpad(x, kept)[3]
    torch.autograd.gradcheck(
        lambda rows: pad(rows, indices, 3, 5), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    )


def test_packed_attention_is_padded_attention(backend, device):
    query, key, value = (torch.randn(3, 30, 4, 8, device=device) for _ in range(3))  # (B, N, H, D)
    lengths = torch.tensor([30, 1, 17], device=device)
    mask = torch.arange(30, device=device) < lengths[:, None]
    query_rows, cu_seqlens, longest, indices = unpad(query, mask)
    rows = query_rows, unpad(key, mask)[0], unpad(value, mask)[0]
    packed = flash_sparse.attention_varlen(*rows, cu_seqlens, longest, backend=backend)
    rows = (part.transpose(1, 2) for part in (query, key, value))
    padded = flash_sparse.attention(*rows, key_lengths=lengths, backend=backend).transpose(1, 2)
    torch.testing.assert_close(pad(packed, indices, 3, 30), padded * mask[:, :, None, None])


def test_no_sequences():
    packed, cu_seqlens, longest, indices = unpad(torch.randn(0, 5, 2), torch.ones(0, 5))
    assert (packed.shape, cu_seqlens.tolist(), longest) == ((0, 2), [0], 0)
    assert pad(packed, indices, 0, 5).shape == (0, 5, 2)


def test_errors():
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4\); expected \(B, N\), \(3, 5\), as x begins"):
        unpad(torch.randn(3, 5), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"indices has shape \(2,\); expected \(6,\), one for each token"):
        pad(torch.randn(6, 4), torch.tensor([1, 2]), 3, 5)
