"""Every wrong argument raises at the call, in one line that names it, its value and what was expected.

Nothing is launched: the operators are replaced by ones that fail.
"""

import numpy as np
import pytest
import torch

import flash_sparse
from flash_sparse import BlockLayout, dispatch
from flash_sparse.backends import reference

QUERY = torch.zeros(2, 4, 40, 8)
KEY = torch.zeros(2, 2, 40, 8)
PACKED, PACKED_KEY = torch.zeros(40, 4, 8), torch.zeros(40, 2, 8)
BOUNDS = torch.tensor([0, 10, 40], dtype=torch.int32)


def layout(query_length=40, key_length=None, leading=()):
    sizes = [-(-length // 16) for length in (query_length, key_length or query_length)]
    return BlockLayout.from_blocks(torch.ones(*leading, *sizes, dtype=torch.bool), 16, query_length, key_length)


@pytest.fixture(autouse=True)
def nothing_is_launched(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("launched")

    monkeypatch.setattr(dispatch, "forward", fail)
    monkeypatch.setattr(reference, "attention", fail)
    monkeypatch.setattr(reference, "attention_varlen", fail)


# Arguments that differ from a good call, the error, and pieces of its message: the name, the value, what was expected.
BOTH = {
    "window that is a number": ({"window": 5}, TypeError, "window is 5", "(left, right)"),
    "window of three": ({"window": (1, 2, 3)}, TypeError, "window is (1, 2, 3)", "(left, right)"),
    "negative window": ({"window": (-1, 0)}, ValueError, "window's left side is -1", "at least 0"),
    "fractional window": ({"window": (0, 1.5)}, ValueError, "window's right side is 1.5", "integer"),
    "scale past all floats": ({"scale": 10**400}, ValueError, "scale is 1000", "finite"),
    "boolean window": ({"window": (True, 0)}, ValueError, "window's left side is True", "integer"),
    "dropout of 1": ({"dropout_p": 1.0}, ValueError, "dropout_p is 1.0", "0 <= dropout_p < 1"),
    "negative dropout": ({"dropout_p": -0.1}, ValueError, "dropout_p is -0.1", "0 <= dropout_p < 1"),
    "dropout of NaN": ({"dropout_p": float("nan")}, ValueError, "dropout_p is nan", "0 <= dropout_p < 1"),
    "dropout as text": ({"dropout_p": "0.1"}, TypeError, "dropout_p is '0.1'", "number"),
    "dropout of None": ({"dropout_p": None}, TypeError, "dropout_p is None", "number"),
    "dropout as a tensor": ({"dropout_p": torch.tensor(0.1)}, TypeError, "dropout_p is tensor", "number"),
    "softcap of 0": ({"softcap": 0}, ValueError, "softcap is 0", "a number from 1e-30"),
    "negative softcap": ({"softcap": -3.0}, ValueError, "softcap is -3.0", "a number from 1e-30"),
    "softcap of NaN": ({"softcap": float("nan")}, ValueError, "softcap is nan", "a number from 1e-30"),
    "infinite softcap": ({"softcap": float("inf")}, ValueError, "softcap is inf", "to 1e30"),
    "softcap as text": ({"softcap": "50"}, TypeError, "softcap is '50'", "None or a number"),
    "sinks as a list": ({"sinks": [0.0] * 4}, TypeError, "sinks is list", "tensor of floating point"),
    "integer sinks": ({"sinks": torch.zeros(4, dtype=torch.int64)}, TypeError, "sinks is torch.int64", "floating"),
    "sinks of the key's heads": ({"sinks": torch.zeros(2)}, ValueError, "sinks has shape (2,)", "(4,)"),
    "sinks for each query": ({"sinks": torch.zeros(4, 40)}, ValueError, "sinks has shape (4, 40)", "(4,)"),
    "sinks elsewhere": ({"sinks": torch.zeros(4, device="meta")}, ValueError, "sinks is on meta", "cpu"),
    "sparse sinks": ({"sinks": torch.zeros(4).to_sparse()}, TypeError, "sinks is torch.sparse_coo", "dense"),
    "log-sum-exp as a tensor": ({"return_lse": torch.tensor(True)}, TypeError, "return_lse is tensor", "True or False"),
    "log-sum-exp as a number": ({"return_lse": 1}, TypeError, "return_lse is 1", "True or False"),
    "infinite scale": ({"scale": float("inf")}, ValueError, "scale is inf", "finite"),
    "scale of NaN": ({"scale": float("nan")}, ValueError, "scale is nan", "finite"),
    "scale as text": ({"scale": "1"}, TypeError, "scale is '1'", "number"),
    "scale as a tensor": ({"scale": torch.tensor(1.0)}, TypeError, "scale is tensor", "number"),
    "is_causal as text": ({"is_causal": "no"}, TypeError, "is_causal is 'no'", "True or False"),
    "is_causal of None": ({"is_causal": None}, TypeError, "is_causal is None", "True or False"),
    "unknown backend": ({"backend": "cudnn"}, ValueError, "backend is 'cudnn'", "'reference'"),
    "backend of another device": ({"backend": "triton"}, ValueError, "backend is 'triton'", "cuda", "cpu"),
    "layout as a mask": (
        {"layout": torch.ones(3, 3).bool()},
        TypeError,
        "layout is Tensor",
        "BlockLayout.from_blocks",
        "key_lengths",
    ),
    "PyTorch's mask": ({"attn_mask": None}, TypeError, "attn_mask is no argument", "key_lengths", "layout"),
    "PyTorch's grouped heads": ({"enable_gqa": True}, TypeError, "enable_gqa is no argument", "nothing"),
    "an unknown argument": ({"droput_p": 0.1}, TypeError, "droput_p is no argument", "signature"),
    "layout of other heads": ({"layout": layout(leading=(3,))}, ValueError, "layout has 3 heads", "1 or 4"),
    "layout of the key's heads": ({"layout": layout(leading=(2,))}, ValueError, "layout has 2 heads", "1 or 4"),
    "layout of another batch": ({"layout": layout(leading=(3, 1))}, ValueError, "layout has 3 batch entries", "1 or 2"),
    "layout on another device": ({"layout": layout().to("meta")}, ValueError, "layout is on meta", "layout.to('cpu')"),
}

ATTENTION = {
    "query that is a list": ({"query": [1.0]}, TypeError, "query is list", "tensor"),
    "key of None": ({"key": None}, TypeError, "key is NoneType", "tensor"),
    "value that is sparse": ({"value": KEY.to_sparse()}, TypeError, "value is torch.sparse_coo", "dense"),
    "query of 3 dimensions": ({"query": QUERY[0]}, ValueError, "query has shape (4, 40, 8)", "(B, H, N, D)"),
    "key of 5 dimensions": ({"key": KEY[None]}, ValueError, "key has shape (1, 2, 2, 40, 8)", "4 dimensions"),
    "integers": (
        {"query": QUERY.int(), "key": KEY.int(), "value": KEY.int()},
        TypeError,
        "query is torch.int32",
        "torch.float16",
    ),
    "complex numbers": (
        {"query": QUERY + 0j, "key": KEY + 0j, "value": KEY + 0j},
        TypeError,
        "query is torch.complex64",
        "torch.float32",
    ),
    "key of another dtype": ({"key": KEY.half()}, TypeError, "key is torch.float16", "torch.float32"),
    "value of another dtype": ({"value": KEY.double()}, TypeError, "value is torch.float64", "torch.float32"),
    "key on another device": ({"key": KEY.to("meta")}, ValueError, "key is on meta", "cpu"),
    "value on another device": ({"value": KEY.to("meta")}, ValueError, "value is on meta", "cpu"),
    "all on a device without a backend": (
        {"query": QUERY.to("meta"), "key": KEY.to("meta"), "value": KEY.to("meta")},
        ValueError,
        "query is on meta",
        "cpu",
    ),
    "a backend that cannot run there": (
        {"query": QUERY.to("meta"), "key": KEY.to("meta"), "value": KEY.to("meta"), "backend": "cpu"},
        ValueError,
        "query is on meta",
        "'cpu'",
    ),
    "head dimension 0": (
        {"query": QUERY[..., :0], "key": KEY[..., :0], "value": KEY[..., :0]},
        ValueError,
        "head dimension 0",
        "1 to 256",
    ),
    "head dimension 257": (
        {
            "query": QUERY.new_zeros(2, 4, 40, 257),
            "key": KEY.new_zeros(2, 2, 40, 257),
            "value": KEY.new_zeros(2, 2, 40, 257),
        },
        ValueError,
        "query has head dimension 257",
        "1 to 256",
    ),
    "key of another head dimension": (
        {"key": KEY[..., :4], "value": KEY[..., :4]},
        ValueError,
        "key has shape (2, 2, 40, 4)",
        "head dimension 8",
    ),
    "value of another head dimension": (
        {"value": KEY[..., :4]},
        ValueError,
        "value has shape (2, 2, 40, 4)",
        "(2, 2, 40, 8)",
    ),
    "value of another length": (
        {"value": KEY[:, :, :20]},
        ValueError,
        "value has shape (2, 2, 20, 8)",
        "(2, 2, 40, 8)",
    ),
    "value of other heads": ({"value": KEY[:, :1]}, ValueError, "value has shape (2, 1, 40, 8)", "(2, 2, 40, 8)"),
    "key of another batch": ({"key": KEY[:1], "value": KEY[:1]}, ValueError, "key has shape (1, 2, 40, 8)", "batch 2"),
    "heads that do not divide": (
        {"key": QUERY[:, :3], "value": QUERY[:, :3]},
        ValueError,
        "key has 3 heads",
        "4 heads",
    ),
    "more key heads than query heads": (
        {"query": KEY, "key": QUERY, "value": QUERY},
        ValueError,
        "key has 4 heads",
        "2 heads",
    ),
    "no key heads": ({"key": KEY[:, :0], "value": KEY[:, :0]}, ValueError, "key has 0 heads", "4 heads"),
    "no heads": (
        {"query": QUERY[:, :0], "key": KEY[:, :0], "value": KEY[:, :0]},
        ValueError,
        "key has 0 heads",
        "0 heads",
    ),
    "layout of other queries": (
        {"layout": layout(39, 40)},
        ValueError,
        "layout is made for 39 x 40 tokens",
        "at least 40 x 40",
    ),
    "layout of other keys": (
        {"layout": layout(40, 39)},
        ValueError,
        "layout is made for 40 x 39 tokens",
        "at least 40 x 40",
    ),
    "key_lengths as a list": ({"key_lengths": [40, 40]}, TypeError, "key_lengths is list", "torch.int32"),
    "fractional key_lengths": (
        {"key_lengths": torch.ones(2)},
        TypeError,
        "key_lengths is torch.float32",
        "torch.int64",
    ),
    "key_lengths as a mask": (
        {"key_lengths": torch.ones(2, 40).bool()},
        TypeError,
        "key_lengths is torch.bool",
        "torch.int64",
    ),
    "too few key_lengths": ({"key_lengths": torch.tensor([40])}, ValueError, "key_lengths has shape (1,)", "(2,)"),
    "key_lengths of 2 dimensions": (
        {"key_lengths": torch.tensor([[40], [40]])},
        ValueError,
        "key_lengths has shape (2, 1)",
        "(2,)",
    ),
    "key_lengths past the end": (
        {"key_lengths": torch.tensor([1, 41])},
        ValueError,
        "key_lengths is [1, 41]",
        "0 to 40",
    ),
    "negative key_lengths": ({"key_lengths": torch.tensor([-1, 4])}, ValueError, "key_lengths is [-1, 4]", "0 to 40"),
    "key_lengths on another device": (
        {"key_lengths": torch.tensor([4, 4], device="meta")},
        ValueError,
        "key_lengths is on meta",
        "cpu",
    ),
}

VARLEN = {
    "query that is a list": ({"query": [1.0]}, TypeError, "query is list", "tensor"),
    "query of 4 dimensions": ({"query": QUERY}, ValueError, "query has shape (2, 4, 40, 8)", "(total, H, D)"),
    "key of other tokens": (
        {"key": PACKED_KEY[:39], "value": PACKED_KEY[:39]},
        ValueError,
        "key has shape (39, 2, 8)",
        "40 tokens",
    ),
    "key of another dtype": ({"key": PACKED_KEY.half()}, TypeError, "key is torch.float16", "torch.float32"),
    "value of another shape": ({"value": PACKED_KEY[..., :1]}, ValueError, "value has shape (40, 2, 1)", "(40, 2, 8)"),
    "heads that do not divide": (
        {"key": PACKED[:, :3], "value": PACKED[:, :3]},
        ValueError,
        "key has 3 heads",
        "4 heads",
    ),
    "cu_seqlens as a list": ({"cu_seqlens": [0, 40]}, TypeError, "cu_seqlens is list", "torch.int32"),
    "sparse cu_seqlens": ({"cu_seqlens": BOUNDS.to_sparse()}, TypeError, "cu_seqlens is torch.sparse_coo", "dense"),
    "cu_seqlens in 64 bits": ({"cu_seqlens": BOUNDS.long()}, TypeError, "cu_seqlens is torch.int64", "torch.int32"),
    "cu_seqlens of 2 dimensions": (
        {"cu_seqlens": BOUNDS[None]},
        ValueError,
        "cu_seqlens has shape (1, 3)",
        "one dimension",
    ),
    "cu_seqlens on another device": ({"cu_seqlens": BOUNDS.to("meta")}, ValueError, "cu_seqlens is on meta", "cpu"),
    "empty cu_seqlens": ({"cu_seqlens": BOUNDS[:0]}, ValueError, "cu_seqlens is []", "from 0 to 40"),
    "cu_seqlens from 1": ({"cu_seqlens": BOUNDS + 1}, ValueError, "cu_seqlens is [1, 11, 41]", "from 0 to 40"),
    "cu_seqlens that end early": ({"cu_seqlens": BOUNDS[:2]}, ValueError, "cu_seqlens is [0, 10]", "from 0 to 40"),
    "cu_seqlens that fall": (
        {"cu_seqlens": torch.tensor([0, 30, 10, 40], dtype=torch.int32)},
        ValueError,
        "cu_seqlens is [0, 30, 10, 40]",
        "rise",
    ),
    "many cu_seqlens": (
        {"cu_seqlens": torch.arange(40, dtype=torch.int32)},
        ValueError,
        "cu_seqlens is [0, 1, 2, 3, ..., 39]",
        "to 40",
    ),
    "max_seqlen too short": ({"max_seqlen": 29}, ValueError, "max_seqlen is 29", "at least 30"),
    "keys' bounds without their longest": (
        {"cu_seqlens_k": BOUNDS},
        TypeError,
        "max_seqlen_k is None with cu_seqlens_k",
        "expected both",
    ),
    "the keys' longest without bounds": ({"max_seqlen_k": 30}, TypeError, "cu_seqlens_k is None", "expected both"),
    "keys' bounds in 64 bits": (
        {"cu_seqlens_k": BOUNDS.long(), "max_seqlen_k": 30},
        TypeError,
        "cu_seqlens_k is",
        "32",
    ),
    "keys' bounds of more sequences": (
        {"cu_seqlens_k": torch.tensor([0, 10, 20, 40], dtype=torch.int32), "max_seqlen_k": 30},
        ValueError,
        "cu_seqlens_k has shape (4,)",
        "(3,)",
    ),
    "keys' bounds that end early": (
        {"cu_seqlens_k": torch.tensor([0, 10, 39], dtype=torch.int32), "max_seqlen_k": 30},
        ValueError,
        "cu_seqlens_k is [0, 10, 39]",
        "to 40, the key's tokens",
    ),
    "max_seqlen_k too short": (
        {"cu_seqlens_k": BOUNDS, "max_seqlen_k": 29},
        ValueError,
        "max_seqlen_k is 29",
        "at least 30, the longest sequence in cu_seqlens_k",
    ),
    "layout with too few keys": (
        {"cu_seqlens_k": BOUNDS, "max_seqlen_k": 60, "layout": layout(30, 50)},
        ValueError,
        "layout is made for 30 x 50 tokens",
        "30 x 60, from max_seqlen and max_seqlen_k",
    ),
    "negative max_seqlen": ({"max_seqlen": -1}, ValueError, "max_seqlen is -1", "longest"),
    "max_seqlen as text": ({"max_seqlen": "30"}, TypeError, "max_seqlen is '30'", "integer"),
    "boolean max_seqlen": ({"max_seqlen": True}, TypeError, "max_seqlen is True", "integer"),
    "max_seqlen past 64 bits": ({"max_seqlen": 2**70}, ValueError, f"max_seqlen is {2**70}", "longest"),
    "fractional max_seqlen": ({"max_seqlen": 30.5}, TypeError, "max_seqlen is 30.5", "integer"),
    "max_seqlen of None": ({"max_seqlen": None}, TypeError, "max_seqlen is None", "integer"),
    "layout that is too short": (
        {"layout": layout(29)},
        ValueError,
        "layout is made for 29 x 29 tokens",
        "at least 30 x 30",
    ),
    "layout of too few keys": (
        {"layout": layout(64, 29)},
        ValueError,
        "layout is made for 64 x 29 tokens",
        "at least 30 x 30",
    ),
}


def check(function, arguments, changed, kind, *pieces):
    with pytest.raises(kind) as caught:
        function(**{**arguments, **changed})
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for piece in pieces:
        assert piece in message


@pytest.mark.parametrize("wrong", [*BOTH.values(), *ATTENTION.values()], ids=[*BOTH, *ATTENTION])
def test_attention(wrong):
    check(flash_sparse.attention, {"query": QUERY, "key": KEY, "value": KEY}, *wrong)


@pytest.mark.parametrize("wrong", [*BOTH.values(), *VARLEN.values()], ids=[*BOTH, *VARLEN])
def test_attention_varlen(wrong):
    arguments = {"query": PACKED, "key": PACKED_KEY, "value": PACKED_KEY, "cu_seqlens": BOUNDS, "max_seqlen": 30}
    check(flash_sparse.attention_varlen, arguments, *wrong)


def test_the_good_calls_are_launched():
    """Else the tests above might pass for the wrong reason."""
    for backend in ("auto", "cpu", "reference"):
        with pytest.raises(AssertionError, match="launched"):
            flash_sparse.attention(QUERY, KEY, KEY, layout(), backend=backend)
        with pytest.raises(AssertionError, match="launched"):
            flash_sparse.attention_varlen(PACKED, PACKED_KEY, PACKED_KEY, BOUNDS, 30, layout(30), backend=backend)


def test_options_are_keywords():
    """A mask in the place of PyTorch's `attn_mask` is not taken for something else."""
    with pytest.raises(TypeError):
        flash_sparse.attention(QUERY, KEY, KEY, None, True)
    with pytest.raises(TypeError, match="layout is Tensor"):
        flash_sparse.attention(QUERY, KEY, KEY, torch.ones(40, 40).bool())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors():
    nested = torch.nested.nested_tensor([torch.zeros(4, 40, 8)] * 2)
    with pytest.raises(TypeError, match="query is nested; expected a dense tensor"):
        flash_sparse.attention(nested, nested, nested)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_numbers_of_numpy_are_numbers(backend, monkeypatch):
    monkeypatch.undo()  # the calls below are launched
    query, key = torch.randn(2, 4, 40, 8), torch.randn(2, 2, 40, 8)
    packed = query[0].transpose(0, 1), key[0].transpose(0, 1), key[0].transpose(0, 1)
    for number in (int, np.int32, np.int64):
        options = {"window": (number(4), number(0)), "backend": backend}
        output = flash_sparse.attention(query, key, key, scale=np.float32(0.5), dropout_p=np.float32(0), **options)
        expected = flash_sparse.attention(query, key, key, scale=0.5, window=(4, 0), backend=backend)
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
        rows = flash_sparse.attention_varlen(*packed, BOUNDS, number(30), **options)
        torch.testing.assert_close(
            rows, flash_sparse.attention_varlen(*packed, BOUNDS, 30, window=(4, 0), backend=backend)
        )
    assert flash_sparse.attention(query, key, key, dropout_p=np.float64(0.5), backend=backend).isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_tracing_says_what_works():
    def attend(rows):
        return flash_sparse.attention(rows, rows, rows)

    with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace.* expected torch\.export"):
        torch.jit.trace(attend, (QUERY,))


@pytest.mark.filterwarnings("ignore")  # of PyTorch's, that tracing is on its way out, and takes sizes for constants
def test_the_reference_can_be_traced(monkeypatch):
    monkeypatch.undo()
    rows = torch.randn(2, 4, 40, 8)

    def attend(rows):
        return flash_sparse.attention(rows, rows, rows, is_causal=True, backend="reference")

    torch.testing.assert_close(torch.jit.trace(attend, (rows,))(rows + 1), attend(rows + 1))
