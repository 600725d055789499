"""Arguments that nobody meant: each is a layout whose parts agree, or a TypeError or ValueError that names it."""

from __future__ import annotations

import inspect

import hypothesis
import pytest
import torch
from hostile import slowly
from hypothesis import strategies as st

from flash_sparse import BlockLayout, patterns

pytestmark = pytest.mark.slow

numbers = st.one_of(
    st.integers(-3, 200), st.sampled_from([16, 32, 64, 128, 300, 2**31, 2**31 - 16, 2**62, 2**64, -(2**63), 10**40])
)
others = st.sampled_from([
    *(None, True, False, 0.5, 1.0, float("nan"), float("inf"), -0.0, 1j, "16", "", b"16", [], (), [1], {}, object()),
    *(torch.tensor(16), torch.tensor(2.5), torch.tensor([1, 2]), torch.empty(0), torch.tensor(True), range(3)),
])  # fmt: skip
arguments = st.one_of(numbers, numbers, others, st.lists(numbers | others, max_size=3))
dtypes = st.sampled_from([torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32])
shapes = st.lists(st.integers(0, 5), max_size=5)

NAMES = (
    "local",
    "global_tokens",
    "strided",
    "random",
    "butterfly",
    "longformer",
    "bigbird",
    "axial",
    "neighborhood_2d",
)


def check(make, **named):
    """Whatever comes of it is a layout, or one sentence that names an argument."""
    try:
        layout = make(**named)
    except (TypeError, ValueError) as error:
        message = str(error)
        refused = True
    else:
        refused = False
    if refused:
        assert len(message.splitlines()) == 1
        assert any(name in message for name in (*inspect.signature(make).parameters, "a layout of", "crop to")), message
        assert "expected" in message or "outside" in message or "missing" in message, message
        return
    assert isinstance(layout, BlockLayout)
    batch, head, row, column = layout.indices()
    for index, size in ((row, layout.num_query_blocks), (column, layout.num_key_blocks)):
        assert not index.numel() or 0 <= int(index.min()) <= int(index.max()) < size
    again = BlockLayout.from_indices(
        torch.stack([batch, head, row, column]),
        layout.leading,
        layout.block_size,
        layout.query_length,
        layout.key_length,
    )
    assert torch.equal(again.row_blocks, layout.row_blocks)
    assert torch.equal(again.column_offsets, layout.column_offsets)


@pytest.mark.parametrize("name", NAMES)
@slowly(60)
@hypothesis.given(data=st.data())
def test_patterns(name, data):
    pattern = getattr(patterns, name)
    given = {"length": data.draw(arguments), "block_size": data.draw(st.sampled_from([16, 32, 128]) | arguments)}
    for argument, about in inspect.signature(pattern).parameters.items():
        if argument not in given and (about.default is inspect.Parameter.empty or data.draw(st.booleans())):
            given[argument] = data.draw(arguments)
    length = given["length"]
    hypothesis.assume(not (isinstance(length, int) and 2**20 < length < 2**32))  # a layout of gigabytes, rightly
    check(pattern, **given)


@st.composite
def tensors(draw):
    shape = draw(st.just([4, draw(st.integers(0, 6))]) | shapes)
    return torch.randint(-1 if draw(st.booleans()) else 0, 9, shape).to(draw(dtypes))


@slowly(150)
@hypothesis.given(
    indices=tensors() | others, leading=st.tuples(numbers, numbers) | arguments, block_size=st.just(16) | arguments,
    query_length=numbers | arguments, key_length=numbers | arguments,
)  # fmt: skip
def test_indices(**given):
    hypothesis.assume(not any(isinstance(n, int) and 2**20 < n < 2**32 for n in given.values()))
    hypothesis.assume(not isinstance(given["leading"], tuple) or all(n < 2**20 or n > 2**32 for n in given["leading"]))
    check(BlockLayout.from_indices, **given)


@slowly(150)
@hypothesis.given(
    blocks=tensors() | others, block_size=st.just(16) | arguments, query_length=numbers | arguments,
    key_length=st.none() | arguments,
)  # fmt: skip
def test_blocks(**given):
    hypothesis.assume(not any(isinstance(n, int) and 2**20 < n < 2**32 for n in given.values()))
    check(BlockLayout.from_blocks, **given)


@slowly(100)
@hypothesis.given(query_length=arguments, key_length=arguments)
def test_crops(query_length, key_length):
    check(patterns.local(100, 16, 20).crop, query_length=query_length, key_length=key_length)
