"""The Triton kernels in Triton's interpreter, against the float64 formula: no GPU needed."""

import pytest
import triton_checks as checks
from attention_cases import Case, cap_or_sink

DTYPES = ("float32", "float32", "float16")


@pytest.mark.parametrize("seed", range(5000, 5050))
def test_fuzz(interpreter, seed):
    interpreter(checks.check_case, checks.small_case(seed, DTYPES), "cpu", seed % 3 == 0)


@pytest.mark.parametrize("seed", range(6000, 6030))
def test_fuzz_with_capped_scores_and_sinks(interpreter, seed):
    interpreter(checks.check_case, cap_or_sink(checks.small_case(seed, DTYPES)), "cpu", seed % 2 == 0)


@pytest.mark.parametrize("head_dim", [1, 15, 16, 33, 64, 80, 96, 111, 128, 160, 256])
def test_head_dimensions(interpreter, head_dim):
    case = Case(seed=head_dim, dtype="float16", query_length=37, key_length=70, head_dim=head_dim, is_causal=True)
    interpreter(checks.check_case, case, "cpu", False)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_block_sizes_with_every_mask(interpreter, block_size):
    case = Case(
        seed=block_size, batch=2, heads=2, key_heads=1, query_length=150, key_length=170, block_size=block_size,
        density=0.6, leading=(2, 2), window=(60, 40), key_lengths=(170, 131),
    )  # fmt: skip
    interpreter(checks.check_case, case, "cpu", True)


@pytest.mark.parametrize("seed", range(14))
def test_packed_sequences(interpreter, seed):
    interpreter(checks.check_packed, seed, DTYPES[seed % 3], "cpu")


@pytest.mark.parametrize("seed", range(10))
def test_queries_and_keys_packed_differently(interpreter, seed):
    interpreter(checks.check_crossed, seed, "cpu")


@pytest.mark.parametrize(("block_size", "is_causal"), [(0, False), (16, True), (128, False)])
def test_dropout_in_both_directions(interpreter, block_size, is_causal):
    interpreter(checks.check_dropout, block_size, is_causal, "cpu")


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_share(interpreter, p):
    interpreter(checks.check_dropout_share, p, "cpu")


def test_dropout_repeats(interpreter):
    interpreter(checks.check_dropout_repeats, "cpu")


@pytest.mark.parametrize("name", checks.DROPPED)
def test_a_seed_drops_the_same_elements_as_on_a_cpu(interpreter, name):
    interpreter(checks.check_dropped_as_on_cpu, name)


@pytest.mark.parametrize("block_size", [16, 128])
def test_full_layout_is_dense(interpreter, block_size):
    interpreter(checks.check_full_layout, block_size, "cpu")


def test_wide_offsets(interpreter):
    interpreter(checks.check_wide_offsets, "cpu")


LONG = {"dtype": "float16", "heads": 2, "key_heads": 1, "query_length": 50, "key_length": 140, "head_dim": 32}


@pytest.mark.parametrize(
    ("options", "loads"),
    [
        ({"window": (40, 20), "key_lengths": (101,)}, True),
        ({"key_lengths": (0,)}, False),  # no tile at all
        ({"head_dim": 80}, True),  # in two parts
        ({"head_dim": 59, "strides": "fused"}, False),  # rows that begin anywhere
        ({"head_dim": 24, "strides": "transposed"}, True),  # zeros up to 32
        ({"strides": "fused", "is_causal": True}, True),
        ({"strides": "sliced"}, False),
        ({"dtype": "float32", "scale": -0.3}, True),
        ({"block_size": 128, "density": 0.8, "query_length": 150, "is_causal": True}, True),
        ({"block_size": 64, "density": 0.7, "query_length": 100, "leading": (2,), "head_dim": 80}, True),
        ({"softcap": 3.0, "sinks": True, "is_causal": True}, True),
        ({"block_size": 16, "query_length": 20, "key_length": 40}, False),  # tiles of several blocks
    ],
    ids=str,
)
def test_descriptors(interpreter, options, loads):
    interpreter(checks.check_descriptors, Case(seed=3, **(LONG | options)), loads)


def test_descriptors_end_with_their_sequence(interpreter):
    interpreter(checks.check_descriptor_packed, "cpu")


@pytest.mark.parametrize("is_causal", [False, True])
def test_heavy_lines(interpreter, is_causal):
    interpreter(checks.check_heavy_lines, is_causal, "cpu")


def test_operator(interpreter):
    interpreter(checks.check_operator)


def test_backward_operator(interpreter):
    interpreter(checks.check_backward_operator)


@pytest.mark.parametrize("packed", [False, True])
def test_compiled_once_for_all_lengths(interpreter, packed):
    interpreter(checks.check_compiled, packed)


def test_under_autocast(interpreter):
    interpreter(checks.check_autocast)
