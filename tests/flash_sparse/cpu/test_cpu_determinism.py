"""The number of threads changes no bit: the work is cut by shapes alone, and what adds to the same gradient waits."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attention_cases import Case, generator, run

import flash_sparse
from flash_sparse.backends.cpu import launch, threads
from flash_sparse.backends.cpu.walk import COLUMNS, DIAGONAL, KEYS, QUERIES, QUERY_TILE

THREADS = (1, 2, 3, 7)

CASES = {
    "dense": Case(0, batch=2, heads=4, key_heads=2, query_length=300, key_length=512, head_dim=40),
    "causal": Case(1, heads=2, key_heads=1, query_length=512, key_length=512, head_dim=64, is_causal=True),
    "window": Case(2, heads=3, key_heads=3, query_length=700, key_length=650, head_dim=33, window=(90, 14)),
    "layout": Case(3, heads=4, key_heads=1, query_length=512, key_length=512, block_size=16, density=0.3),
    "per head": Case(4, batch=2, heads=4, key_heads=2, query_length=450, key_length=530, block_size=32, density=0.4,
                     leading=(2, 4)),
    "lengths": Case(5, batch=3, heads=2, query_length=400, key_length=300, key_lengths=(300, 0, 131)),
    "bfloat16": Case(6, "bfloat16", heads=4, key_heads=2, query_length=300, key_length=300, block_size=64, density=0.5),
    "float64": Case(7, "float64", heads=2, key_heads=1, query_length=400, key_length=400, strides="transposed"),
    # Parts of 1,024 tokens, in two phases, and of more, in four.
    "long": Case(8, query_length=1900, key_length=2048, head_dim=8),
    "long layout": Case(9, heads=2, key_heads=1, query_length=4100, key_length=4000, head_dim=8, block_size=128,
                        density=0.2, is_causal=True),
}  # fmt: skip


@pytest.fixture(params=["OpenMP", "Python"])
def set_threads(request, monkeypatch):
    """`torch.set_num_threads`, undone after the test; with as many helpers on any machine."""
    before = torch.get_num_threads()
    if request.param == "OpenMP" and threads._openmp is None:
        pytest.skip("PyTorch has no OpenMP here that can be found")
    with ThreadPoolExecutor(max(THREADS) - 1) as pool:
        monkeypatch.setattr(threads, "_pool", pool)
        if request.param == "Python":
            monkeypatch.setattr(threads, "_openmp", None)
        yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=[False, True], ids=["parts as they are", "many small parts"])
def turns(request, monkeypatch):
    """How many tasks of each backward pass came one after the other, at most."""
    counts = []
    part_pairs = launch.part_pairs

    def counted(*arguments):
        tasks, parts = part_pairs(*arguments)
        counts.append(1 + int(tasks[:, 8:].max(initial=0)))
        return tasks, parts

    monkeypatch.setattr(launch, "part_pairs", counted)
    if request.param:
        monkeypatch.setattr(launch, "PARALLEL_TASKS", 256)
        monkeypatch.setattr(launch, "LEAST_PART", 32)
    return counts


def check_bits(once, set_threads):
    """The same bits for every number of threads, each time anew."""
    expected = None
    for number in (*THREADS, *THREADS):
        set_threads(number)
        torch.manual_seed(0)
        found = once()
        expected = expected or found
        for name, value in expected.items():
            assert not value.isnan().any(), name
            assert torch.equal(value, found[name]), (name, number)


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_number_of_threads_changes_no_bit(case, dropout_p, set_threads, turns):
    *rows, grad_output = case.tensors()
    options = case.options()
    check_bits(lambda: run(rows, grad_output, "cpu", options, dropout_p=dropout_p), set_threads)
    assert max(turns) >= (2 if case.query_length > 1000 else 1)


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
@pytest.mark.parametrize("block_size", [0, 16])
def test_nor_in_packs(block_size, dropout_p, set_threads, turns):
    lengths = [0, 700, 1, 90, 513, 0, 40]
    make = generator(0)
    *rows, grad_output = (torch.randn(sum(lengths), heads, 20, generator=make) for heads in (4, 2, 2, 4))
    layout = None
    if block_size:
        kept = torch.rand(len(lengths), 4, 44, 44, generator=make) < 0.4
        layout = flash_sparse.BlockLayout.from_blocks(kept, block_size, 700)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    options = {"cu_seqlens": bounds, "max_seqlen": 700, "layout": layout, "dropout_p": dropout_p}
    check_bits(lambda: run(rows, grad_output, "cpu", options, function=flash_sparse.attention_varlen), set_threads)


def sequences(lengths):
    """The table of sequences with these numbers of queries and keys."""
    table = np.zeros((len(lengths), COLUMNS), np.int64)
    table[:, QUERIES], table[:, KEYS] = np.array(lengths).reshape(-1, 2).T
    return table


TABLES = {
    "one": [(1, 1)],
    "short": [(130, 77)],
    "a part": [(512, 512)],
    "more": [(513, 512)],
    "long": [(4000, 4000)],
    "longer": [(70_000, 70_000)],
    "few queries": [(3, 9000)],
    "few keys": [(9000, 3)],
    "no queries": [(0, 5000)],
    "no keys": [(5000, 0)],
    "nothing": [(0, 0)],
    "none": [],
    "a batch": [(3000, 2000)] * 3,
    "a pack": [(n, n) for n in (0, 5, 5000, 128, 129, 1, 0, 2000)],
    "many": [(n, n) for n in range(100, 200)],
    "lengths": [(1200, 0), (1200, 1200), (1200, 5)],
}


def problem(heads, group, left=-1, right=-1):
    return SimpleNamespace(heads=heads, group=group, left=left, right=right)


@pytest.mark.parametrize(("heads", "group"), [(1, 1), (4, 2), (40, 1)])
@pytest.mark.parametrize("lengths", TABLES.values(), ids=TABLES)
def test_every_pair_is_taken_once_and_each_part_in_turn(lengths, heads, group):
    found = launch.part_pairs(problem(heads, group), sequences(lengths))
    check_turns(*found)
    check_pairs(found[0], lengths, heads // group)


def test_sequences_without_queries_or_keys_have_no_parts():
    """They would be cut like the longest: a pack of many has more of them than fit in memory."""
    lengths = [(4000, 4000), *[(0, 0), (0, 5), (5, 0)] * 100]
    tasks, parts = launch.part_pairs(problem(1, 1), sequences(lengths))
    assert parts == launch.part_pairs(problem(1, 1), sequences(lengths[:1]))[1]
    check_turns(tasks, parts)
    check_pairs(tasks, lengths, 1)


@pytest.mark.parametrize("seed", range(20))
def test_random_tables(seed, monkeypatch):
    draw = np.random.default_rng(seed)
    monkeypatch.setattr(launch, "PARALLEL_TASKS", int(draw.integers(1, 200)))
    monkeypatch.setattr(launch, "LEAST_PART", int(draw.integers(1, 600)))
    lengths = draw.integers(0, 1500, (int(draw.integers(1, 9)), 2)).tolist()
    key_heads = int(draw.integers(1, 5))
    found = launch.part_pairs(problem(2 * key_heads, 2), sequences(lengths))
    check_turns(*found)
    check_pairs(found[0], lengths, key_heads)


@pytest.mark.parametrize("seed", range(20))
def test_parts_that_do_not_see_each_other_are_left_out(seed, monkeypatch):
    """All others stay: those with a query that sees a key."""
    draw = np.random.default_rng(seed)
    monkeypatch.setattr(launch, "LEAST_PART", int(draw.integers(1, 300)))
    queries, keys, left, right = (int(number) for number in draw.integers(-1, 900, 4))
    queries, keys = max(1, queries), max(1, keys)
    table = sequences([(queries, keys)])
    table[:, DIAGONAL] = keys - queries
    found = launch.part_pairs(problem(1, 1, left, right), table)
    check_turns(*found)

    place = np.arange(queries)[:, None] + keys - queries  # of each query, among the keys
    seen = np.ones((queries, keys), bool)
    if left >= 0:
        seen &= np.arange(keys) >= place - left
    if right >= 0:
        seen &= np.arange(keys) <= place + right
    for start, stop, key_start, key_stop in found[0][:, 2:6].tolist():
        assert seen[start:stop, key_start:key_stop].any()
        seen[start:stop, key_start:key_stop] = False
    assert not seen.any()


def check_turns(tasks, parts):
    """A task's turn is the number of tasks before it that add to the same gradients, of queries and of keys."""
    assert tasks.dtype == np.int64
    assert tasks.flags.c_contiguous
    for part_of, turn_of in ((6, 8), (7, 9)):
        before, rows = [0] * parts, {}
        for task in tasks.tolist():
            part = task[part_of]
            assert task[turn_of] == before[part]
            before[part] += 1
            columns = (2, 3) if part_of == 6 else (4, 5)
            own = (*task[:2], *(task[column] for column in columns))
            assert rows.setdefault(part, own) == own  # a part is always the same rows
        places = sorted(rows.values())
        for one, other in itertools.pairwise(places):
            assert one[:2] != other[:2] or one[3] <= other[2]  # which no other part has


def check_pairs(tasks, lengths, key_heads):
    area = 0
    for sequence, head, start, stop, key_start, key_stop in tasks[:, :6].tolist():
        queries, keys = lengths[sequence]
        assert 0 <= start < stop <= queries
        assert 0 <= key_start < key_stop <= keys
        assert start % QUERY_TILE == key_start % QUERY_TILE == 0  # whole blocks, whatever their size
        assert 0 <= head < key_heads
        area += (stop - start) * (key_stop - key_start)
    assert area == key_heads * sum(queries * keys for queries, keys in lengths)  # and, as none meet, each pair once
    if len(tasks) < 2000:
        for one, other in itertools.combinations(tasks[:, :6].tolist(), 2):
            apart = one[3] <= other[2] or other[3] <= one[2] or one[5] <= other[4] or other[5] <= one[4]
            assert one[:2] != other[:2] or apart, (one, other)


def test_long_sequences_are_cut_by_their_shape_alone(set_threads):
    table = sequences([(16384, 16384)])
    cuts = []
    for number in THREADS:
        set_threads(number)
        cuts.append(launch.part_pairs(problem(4, 1), table)[0])
    assert cuts[0][:, 8:].max() > 0
    for other in cuts[1:]:
        assert np.array_equal(cuts[0], other)
