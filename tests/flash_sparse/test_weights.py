"""Attention's probabilities of chosen rows, and the sum of them in each block: against the textbook softmax."""

import pytest
import torch
from attention_cases import Case, draw_case, error, generator
from test_attention_memory import peak

import flash_sparse
from flash_sparse import BlockLayout, attention_weights, block_mass, patterns

DTYPES = ("float32", "float32", "float16", "bfloat16", "float64")


def textbook(case, rows, dtype):
    """All probabilities, (B, H, Nq, Nk), by PyTorch's softmax in the dtype."""
    query, key = (part.detach().cpu().to(dtype) for part in rows[:2])
    key = key.repeat_interleave(case.heads // case.key_heads, 1)
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    hidden = ~case.mask()
    return (query @ key.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0)


def sums_of_blocks(weights, block_size):
    """(B, H, Nq, Nk) to (B, H, Qb, Kb)."""
    rows, columns = (-length % block_size for length in weights.shape[2:])
    padded = torch.nn.functional.pad(weights, (0, columns, 0, rows))
    return padded.unflatten(3, (-1, block_size)).sum(4).unflatten(2, (-1, block_size)).sum(3)


def prepared(case, kernel, device):
    """Query, key, the log-sum-exp, and the masks."""
    query, key, value, _ = case.tensors(device)
    options = case.options(device)
    _, logsumexp = flash_sparse.attention(query, key, value, **options, return_lse=True, backend=kernel)
    del options["sinks"]  # they are in the log-sum-exp
    return query, key, logsumexp, options


def allowed(found, baseline, exact, rows=1):
    """At most twice the error of the same formula in float32, plus 1e-5 for each row that is summed over."""
    return error(found, exact) <= 2 * error(baseline, exact) + 1e-5 * rows


@pytest.mark.parametrize("seed", range(5000, 5120))
def test_weights_of_random_rows(kernel, device, seed):
    case = draw_case(seed, DTYPES if device == "cpu" else DTYPES[:-1])
    query, key, logsumexp, options = prepared(case, kernel, device)
    rows = torch.randint(case.query_length, (5,), generator=generator(seed))
    found = attention_weights(query, key, logsumexp, rows.to(device), **options)
    exact = textbook(case, (query, key), torch.float64)[:, :, rows]
    assert found.dtype == logsumexp.dtype
    assert not found.requires_grad
    assert not found.cpu()[exact == 0].any(), case
    assert allowed(found, textbook(case, (query, key), torch.float32)[:, :, rows], exact), case


@pytest.mark.parametrize("seed", range(6000, 6120))
def test_mass_of_random_layouts(kernel, device, seed, monkeypatch):
    monkeypatch.setattr(flash_sparse.weights, "SCORES_AT_ONCE", 2**14)  # blocks of 128 one by one, of 16 by 64
    case = draw_case(seed, DTYPES if device == "cpu" else DTYPES[:-1])
    case = Case(**{**vars(case), "block_size": case.block_size or 64, "leading": case.leading})
    query, key, logsumexp, options = prepared(case, kernel, device)
    found = block_mass(query, key, logsumexp, **options)
    exact, baseline = (
        sums_of_blocks(textbook(case, (query, key), dtype), case.block_size) for dtype in (torch.float64, torch.float32)
    )
    assert found.is_coalesced()
    kept = options["layout"].to_blocks().expand(case.batch, case.heads, -1, -1)
    assert torch.equal(found.indices(), kept.nonzero().T)
    assert allowed(found.to_dense(), baseline, exact, case.block_size), case


def test_rows_may_be_a_list_in_any_order(kernel, device):
    query, key, logsumexp, _ = prepared(Case(0), kernel, device)
    found = attention_weights(query, key, logsumexp, [9, 0, 9])
    assert torch.equal(found[:, :, 0], found[:, :, 2])
    assert torch.equal(found[:, :, [1, 0]], attention_weights(query, key, logsumexp, torch.tensor([0, 9]).to(device)))
    assert attention_weights(query, key, logsumexp, []).shape == (1, 1, 0, 64)


def test_a_packed_sequence_by_its_own_part(kernel, device):
    bounds = torch.tensor([0, 30, 100, 140], dtype=torch.int32, device=device)
    query, key, value = (torch.randn(140, 2, 16, generator=generator(i)).to(device) for i in range(3))
    layout = patterns.local(128, 16, window=16).to(device)
    options = {"layout": layout, "is_causal": True}
    _, logsumexp = flash_sparse.attention_varlen(
        query, key, value, bounds, 70, **options, return_lse=True, backend=kernel
    )
    part = query[30:100].transpose(0, 1)[None], key[30:100].transpose(0, 1)[None], logsumexp[None, :, 30:100]
    weights = attention_weights(*part, torch.arange(70).to(device), **options)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 70, device=device))
    mass = block_mass(*part, **options).to_dense()
    torch.testing.assert_close(mass, sums_of_blocks(weights, 16))


def test_a_longer_layout_is_cropped(kernel, device):
    query, key, logsumexp, _ = prepared(Case(0, query_length=70, key_length=70), kernel, device)
    layout = BlockLayout.from_blocks(torch.ones(9, 9, dtype=torch.bool), 16, 140).to(device)
    mass = block_mass(query, key, logsumexp, layout)
    assert mass.shape == (1, 1, 5, 5)
    torch.testing.assert_close(mass.to_dense().sum(-1), torch.tensor([[[16.0, 16, 16, 16, 6]]], device=device))


def test_under_autocast(kernel, device):
    """The log-sum-exp is of rounded queries and keys, and so are the weights."""
    query, key, value, _ = Case(0, amplitude=20.0).tensors(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        _, logsumexp = flash_sparse.attention(query, key, value, return_lse=True, backend=kernel)
        weights = attention_weights(query, key, logsumexp, [0, 5])
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 2, device=device), rtol=1e-5, atol=1e-5)


def test_memory_is_linear(kernel, device):
    peaks = []
    for length in (4096, 8192, 16384):
        layout = patterns.local(length, 64, window=64).to(device)
        rows = torch.randn(1, 1, length, 8, generator=generator(0)).to(device)
        logsumexp = torch.zeros(1, 1, length, device=device)
        peaks.append(
            (
                peak(lambda: attention_weights(rows, rows, logsumexp, [7, length - 1], layout), device),  # noqa: B023
                peak(lambda: block_mass(rows, rows, logsumexp, layout), device),  # noqa: B023
            )
        )
    for short, middle, long in zip(*peaks, strict=True):
        assert long - middle <= 2.5 * max(middle - short, 2**20), peaks
        assert long < 16384**2, peaks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logsumexp": torch.zeros(1, 2, 63)}, r"logsumexp is torch.float32 \(1, 2, 63\) on cpu; expected"),
        ({"logsumexp": torch.zeros(1, 2, 64).double()}, r"expected torch.float32 \(1, 2, 64\)"),
        ({"logsumexp": None}, "logsumexp is NoneType"),
        ({"rows": [64]}, r"rows is \[64\]; expected 0 to 63"),
        ({"rows": [-1]}, r"rows is \[-1\]; expected 0 to 63"),
        ({"rows": [0.5]}, "rows is torch.float32; expected a tensor of torch.int32"),
        ({"rows": [[1]]}, r"rows has shape \(1, 1\); expected one dimension"),
        ({"key": torch.zeros(1, 2, 64, 7)}, "expected batch 1 and head dimension 8"),
        ({"layout": patterns.local(32, 16)}, "layout is made for 32 x 32 tokens"),
        ({"layout": torch.ones(4, 4)}, "layout is Tensor; expected a BlockLayout"),
        ({"key_lengths": torch.tensor([1, 2])}, "key_lengths has shape"),
        ({"window": 3}, "window is 3"),
    ],
)
def test_wrong_arguments(change, message):
    rows = torch.zeros(1, 2, 64, 8)
    arguments = {"query": rows, "key": rows, "logsumexp": torch.zeros(1, 2, 64), "rows": [1], **change}
    with pytest.raises((TypeError, ValueError), match=message):
        attention_weights(**arguments)
    arguments = {"layout": patterns.local(64, 16), **arguments}
    if "rows" not in change:
        del arguments["rows"]
        with pytest.raises((TypeError, ValueError), match=message):
            block_mass(**arguments)


def test_mass_needs_a_layout():
    rows = torch.zeros(1, 2, 64, 8)
    with pytest.raises(TypeError, match="layout is None"):
        block_mass(rows, rows, torch.zeros(1, 2, 64), None)
