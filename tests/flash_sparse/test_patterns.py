"""Every pattern against its definition, written out pair by pair."""

import inspect
import math

import pytest
import torch

from flash_sparse import BlockLayout, patterns

PATTERNS = [
    patterns.local,
    patterns.global_tokens,
    patterns.strided,
    patterns.random,
    patterns.butterfly,
    patterns.longformer,
    patterns.bigbird,
    patterns.axial,
    patterns.neighborhood_2d,
]
LENGTHS = [1, 16, 17, 100, 256, 500, 1000]


def blocks_where(length, block_size, sees):
    """(Q, Q) bool: blocks with at least one pair of tokens (query, key) for which `sees`, from (N, 1) and (1, N)."""
    token = torch.arange(length)
    pairs = sees(token[:, None], token[None]).expand(length, length)
    num_blocks = -(-length // block_size)
    block = token // block_size
    picture = torch.zeros(num_blocks, num_blocks, dtype=torch.bool)
    query, key = pairs.nonzero().T
    picture[block[query], block[key]] = True
    return picture


def block_numbers(length, block_size):
    block = torch.arange(-(-length // block_size))
    return block[:, None], block[None]


def picture(layout):
    assert layout.leading == (1, 1)
    return layout.to_blocks()[0, 0]


def in_first(count, *tokens):
    return sum((token < count).int() for token in tokens) > 0


def steps_to_reach_all(kept):
    """The number of steps in which every block reaches every other."""
    reached, steps = torch.eye(kept.shape[0], dtype=torch.bool), 0
    while not reached.all():
        reached, before = (reached.float() @ kept.float() > 0) | reached, reached
        assert not torch.equal(reached, before), "some blocks are never reached"
        steps += 1
    return steps


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [0, 1, 15, 16, 17, 300])
def test_local_is_every_block_with_a_pair_in_the_window(length, window):
    layout = patterns.local(length, 16, window)
    assert torch.equal(picture(layout), blocks_where(length, 16, lambda q, k: (q - k).abs() <= window))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("positions", [(), (0,), range(40), (3, 99, 98)])
def test_global_tokens_is_every_block_with_a_global_token(length, positions):
    positions = [position for position in positions if position < length]
    chosen = torch.zeros(length, dtype=torch.bool)
    chosen[positions] = True
    layout = patterns.global_tokens(length, 16, positions)
    assert torch.equal(picture(layout), blocks_where(length, 16, lambda q, k: chosen[q] | chosen[k]))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("stride", [None, 1, 3, 8, 1000])
def test_strided_is_a_band_and_every_stride_th_block(length, stride):
    row, column = block_numbers(length, 16)
    step = math.ceil(math.sqrt(len(row))) if stride is None else stride
    kept = picture(patterns.strided(length, 16, stride))
    assert torch.equal(kept, ((row - column).abs() < step) | ((row - column) % step == 0))
    assert steps_to_reach_all(kept) <= 2


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("density", [0.001, 0.05, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("heads", [None, 3])
def test_random_has_the_diagonal_and_equal_rows(length, density, heads):
    layout = patterns.random(length, 16, density, seed=5, heads=heads)
    assert layout.leading == (1, heads or 1)
    num_blocks = -(-length // 16)
    kept = layout.to_blocks()[0]
    assert kept.diagonal(dim1=1, dim2=2).all()
    assert (kept.sum(-1) == max(1, round(density * num_blocks))).all()


def test_random_repeats_with_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (patterns.random(4096, 16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert first != other
    heads = patterns.random(1024, 16, heads=2).to_blocks()[0]
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("density", [0.03, 0.3], ids=["few of many", "many"])
def test_random_favours_no_block(density):
    heads, num_blocks = 400, 64
    layout = patterns.random(num_blocks * 16, 16, density, heads=heads)
    others = round(density * num_blocks) - 1
    share = others / (num_blocks - 1)
    kept = layout.to_blocks()[0].sum(0)[~torch.eye(num_blocks, dtype=torch.bool)]  # how often each was drawn
    deviation = (kept - heads * share) / math.sqrt(heads * share * (1 - share))
    assert deviation.abs().max() < 6
    assert 0.9 < deviation.std() < 1.1


@pytest.mark.parametrize("length", [*LENGTHS, 16 * 63, 16 * 64, 16 * 65])
@pytest.mark.parametrize("factors", [None, 0, 2])
def test_butterfly_is_powers_of_two_apart(length, factors):
    row, column = block_numbers(length, 16)
    most = math.ceil(math.log2(len(row)))
    if factors is not None and factors > most:
        with pytest.raises(ValueError, match=f"factors is {factors}; expected 0 to {most}"):
            patterns.butterfly(length, 16, factors)
        return
    expected = row == column
    for power in range(most if factors is None else factors):
        expected = expected | ((row ^ column) == 2**power)
    kept = picture(patterns.butterfly(length, 16, factors))
    assert torch.equal(kept, expected)
    if factors is None:
        assert steps_to_reach_all(kept) <= most


def test_butterfly_global_blocks():
    row, column = block_numbers(800, 32)
    plain = picture(patterns.butterfly(800, 32, factors=2))
    layout = patterns.butterfly(800, 32, factors=2, global_blocks=3)
    assert torch.equal(picture(layout), plain | in_first(3, row, column))


@pytest.mark.parametrize(
    ("length", "block_size", "density"),
    [
        (2048, 64, 0.188),
        (2048, 128, 0.312),
        (4096, 64, 0.109),
        (8192, 128, 0.109),
        (16384, 64, 0.035),
        (16384, 128, 0.0625),
    ],
)
def test_butterfly_densities(length, block_size, density):
    assert patterns.butterfly(length, block_size).density == pytest.approx(density, abs=6e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_longformer_is_a_band_and_global_tokens(length):
    def sees(q, k):
        return ((q - k).abs() <= 40) | (q == 0) | (k == 0)

    kept = picture(patterns.longformer(length, 16, window=40))
    assert torch.equal(kept, blocks_where(length, 16, sees))
    assert steps_to_reach_all(kept) <= 2


@pytest.mark.parametrize("length", [n for n in LENGTHS if n > 16])
def test_bigbird_is_a_band_global_blocks_and_random_blocks(length):
    row, column = block_numbers(length, 16)
    layout = patterns.bigbird(length, 16, window_blocks=5, global_blocks=2, random_blocks=1, seed=3)
    kept = picture(layout)
    fixed = ((row - column).abs() <= 2) | in_first(2, row, column)
    assert (kept | ~fixed).all()
    extra = kept & ~fixed
    assert (extra.sum(-1) <= 1).all()
    if length == 1000:
        assert 0.5 < extra[2:].sum(-1).float().mean() < 1  # some draws fall on the band
        per_head = patterns.bigbird(length, 16, heads=4).to_blocks()[0]
        assert not torch.equal(per_head[0], per_head[1])
    assert steps_to_reach_all(kept) <= 2


@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize(
    ("height", "width", "cut"), [(16, 16, 0), (5, 64, 0), (20, 24, 0), (40, 7, 3), (3, 100, 40), (1, 9, 0)]
)
def test_axial_is_every_block_with_pixels_of_one_row_or_column(height, width, cut, block_size):
    length = height * width - cut

    def sees(q, k):
        return (q // width == k // width) | (q % width == k % width)

    kept = picture(patterns.axial(length, block_size, width))
    assert torch.equal(kept, blocks_where(length, block_size, sees))
    if cut == 0:
        assert steps_to_reach_all(kept) <= 2


@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("window", [0, 1, 5, 30])
@pytest.mark.parametrize(("height", "width", "cut"), [(16, 16, 0), (5, 64, 0), (20, 24, 0), (40, 7, 3), (3, 100, 40)])
def test_neighborhood_2d_is_every_block_with_near_pixels(height, width, cut, window, block_size):
    length = height * width - cut

    def sees(q, k):
        return ((q // width - k // width).abs() <= window) & ((q % width - k % width).abs() <= window)

    layout = patterns.neighborhood_2d(length, block_size, width, window)
    assert torch.equal(picture(layout), blocks_where(length, block_size, sees))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_defaults_serve_short_and_long(pattern, block_size):
    for length in (1024, 65536):  # squares
        layout = pattern(length, block_size)
        assert isinstance(layout, BlockLayout)
        assert (layout.block_size, layout.query_length, layout.key_length) == (block_size, length, length)
        assert (layout.row_offsets.diff(dim=-1) > 0).all(), "a query block sees nothing"
        if length == 65536 and block_size < 256 and pattern is not patterns.axial:
            assert layout.density < 0.13


@pytest.mark.parametrize("pattern", PATTERNS)
def test_public_functions_are_documented(pattern):
    for name in inspect.signature(pattern).parameters:
        assert f"{name}:" in pattern.__doc__


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bad_sizes(pattern):
    with pytest.raises(ValueError, match="block_size is 48; expected one of"):
        pattern(1024, 48)
    with pytest.raises(ValueError, match="length is 0; expected at least 1"):
        pattern(0, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: patterns.local(100, 16, window=-1), "window is -1; expected at least 0"),
        (lambda: patterns.global_tokens(100, 16, [100]), "positions holds 100; expected 0 to 99"),
        (lambda: patterns.global_tokens(100, 16, [-1]), "positions is -1; expected at least 0"),
        (lambda: patterns.local(2**31, 16), "length is 2147483648; expected at most 2147483647"),
        (lambda: patterns.random(100, 16, seed=2**63), "expected a 64-bit integer"),
        (lambda: patterns.strided(100, 16, 0), "stride_blocks is 0; expected at least 1"),
        (lambda: patterns.random(100, 16, 0.0), "density is 0.0; expected 0 < density <= 1"),
        (lambda: patterns.random(100, 16, heads=0), "heads is 0; expected at least 1"),
        (lambda: patterns.random(100, 16, heads=2**40), "heads is 1099511627776: .* expected at most 2147483647"),
        (lambda: patterns.butterfly(100, 16, global_blocks=8), "global_blocks is 8; expected 0 to 7"),
        (lambda: patterns.bigbird(100, 16, window_blocks=2), "window_blocks is 2; expected an odd number"),
        (lambda: patterns.bigbird(100, 16, random_blocks=-1), "random_blocks is -1; expected at least 0"),
        (lambda: patterns.axial(99, 16), "width is None and length 99 is no square"),
        (lambda: patterns.neighborhood_2d(100, 16, width=0), "width is 0; expected at least 1"),
        (lambda: patterns.neighborhood_2d(100, 16, window=-2), "window is -2; expected at least 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_numbers_that_are_no_integers(pattern):
    """2.5 blocks are not rounded in silence."""
    for name in inspect.signature(pattern).parameters:
        if name == "density":
            continue
        for value in (2.5, 64.0, True, "3"):
            wrong = [value] if name.endswith("positions") else value
            with pytest.raises(TypeError, match=f"^{name} is {value!r}; expected an integer"):
                pattern(**{"length": 64, "block_size": 16, name: wrong})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: patterns.random(64, 16, density="half"), "density is 'half'; expected a number"),
        (lambda: patterns.global_tokens(64, 16, 5), "positions is 5; expected integers"),
        (lambda: patterns.global_tokens(64, 16, torch.tensor(5)), r"positions is tensor\(5\); expected integers"),
        (lambda: patterns.longformer(64, 16, global_positions=5), "^global_positions is 5; expected integers"),
    ],
)
def test_values_of_another_kind(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_an_image_row_may_be_longer_than_the_image():
    for pattern in (patterns.axial, patterns.neighborhood_2d):
        assert pattern(100, 16, width=2**62) == pattern(100, 16, width=100)


def test_a_window_may_be_wider_than_memory():
    everything = torch.ones(7, 7, dtype=torch.bool)
    for layout in (
        patterns.local(100, 16, window=10**30),
        patterns.bigbird(100, 16, window_blocks=10**12 + 1, random_blocks=10**30),
        patterns.neighborhood_2d(100, 16, window=10**12),
    ):
        assert torch.equal(picture(layout), everything)


@pytest.mark.parametrize("name", ["random", "bigbird", "longformer", "strided", "axial"])
def test_the_default_device_changes_no_blocks(name):
    expected = getattr(patterns, name)(1024, 16)
    with torch.device("meta"):  # where a layout would hold no numbers
        assert getattr(patterns, name)(1024, 16) == expected
        assert expected.draw()
    if torch.cuda.is_available():
        with torch.device("cuda"):
            layout = getattr(patterns, name)(1024, 16)
        assert layout.device.type == "cuda"
        assert layout.cpu() == expected
