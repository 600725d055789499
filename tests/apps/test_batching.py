"""Samplers: every document once, the budget kept, ranks and resumption exact. Packed batches."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from flash_sparse_apps.tokens.batching import EvaluationSampler, StepSampler, collate
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets import Document

lengths_lists = st.lists(st.integers(1, 300), min_size=1, max_size=60)


class Words:
    vocab_size = 100

    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    documents = [Document("x", "1 2 3", ("b",)), Document("y", "", ("a", "c")), Document("z", "4 5 6 7 8", ())]
    return TokenStore.build_or_open(
        tmp_path_factory.mktemp("store"), documents, Words(), ("a", "b", "c"), "key", progress=False
    )


def check_budget(micro_batches, lengths, budget):
    for part in micro_batches:
        assert part
        assert len(part) == 1 or sum(lengths[i] for i in part) <= budget
        assert [lengths[i] for i in part] == sorted((lengths[i] for i in part), reverse=True)


def check_in_step(ranks, lengths):
    """All ranks have as many micro-batches; those that are not a rank's own are one short document each."""
    assert len({len(micro_batches) for micro_batches, _ in ranks}) == 1
    assert not ranks[0][0] or max(own for _, own in ranks) == len(ranks[0][0])
    shortest = min((lengths[i] for micro_batches, _ in ranks for part in micro_batches for i in part), default=0)
    for micro_batches, own in ranks:
        assert [[lengths[i] for i in part] for part in micro_batches[own:]] == [[shortest]] * (len(micro_batches) - own)


def draw_lengths(rng, least=1):
    """Few or many documents, of equal, similar or very different lengths."""
    return rng.integers(1, rng.choice([2, 20, 300]), rng.integers(least, rng.choice([3, 60])))


@pytest.mark.parametrize("seed", range(100))
def test_every_document_once_an_epoch_in_steps_of_batch_size(seed):
    rng = np.random.default_rng(seed)
    lengths, batch_size, budget, epoch = draw_lengths(rng), rng.integers(1, 20), rng.integers(1, 700), rng.integers(5)
    sampler = StepSampler(lengths, batch_size, budget, seed=3)
    sampler.set_epoch(epoch)
    steps = list(sampler)
    assert len(steps) == len(sampler)
    for step in steps:
        check_budget(step.micro_batches, lengths, budget)
        assert step.own == len(step.micro_batches)
    sizes = [sum(map(len, step.micro_batches)) for step in steps]
    assert sizes == [step.documents for step in steps]
    assert set(sizes[:-1]) <= {batch_size}
    seen = [i for step in steps for part in step.micro_batches for i in part]
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("seed", range(100))
def test_ranks_share_each_step(seed):
    rng = np.random.default_rng(seed)
    lengths, batch_size, budget = draw_lengths(rng), rng.integers(1, 20), rng.integers(1, 700)
    world_size = int(rng.integers(1, 5))
    alone = list(StepSampler(lengths, batch_size, 10**9, seed=0))
    shares = [
        list(StepSampler(lengths, batch_size, budget, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for step, *parts in zip(alone, *shares, strict=True):
        owned = [part.micro_batches[: part.own] for part in parts]
        counts = [sum(map(len, own)) for own in owned]
        assert max(counts) - min(counts) <= 1
        for part, own in zip(parts, owned, strict=True):
            check_budget(own, lengths, budget)
            assert part.documents == step.documents
        assert sorted(i for own in owned for micro_batch in own for i in micro_batch) == sorted(step.micro_batches[0])
        check_in_step([(part.micro_batches, part.own) for part in parts], lengths)


@pytest.mark.parametrize("seed", range(100))
def test_goes_on_where_it_was(seed):
    rng = np.random.default_rng(seed)
    lengths, batch_size, epoch = draw_lengths(rng), int(rng.integers(1, 20)), int(rng.integers(3))
    sampler = StepSampler(lengths, batch_size, 500, seed=1)
    sampler.set_epoch(epoch)
    taken = rng.integers(0, len(sampler) + 1)
    iterator = iter(sampler)
    for _ in range(taken):
        next(iterator)
    resumed = StepSampler(lengths, batch_size, 100, seed=1)  # another token budget does not matter
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(epoch)
    whole = StepSampler(lengths, batch_size, 100, seed=1)
    whole.set_epoch(epoch)
    assert len(resumed) == len(sampler)
    assert list(resumed) == list(whole)[taken:]
    resumed.set_epoch(epoch + 1)
    whole.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)


def documents(sampler, epoch):
    sampler.set_epoch(epoch)
    return [sorted(i for part in step.micro_batches for i in part) for step in sampler]


def test_order_depends_on_seed_and_epoch_alone():
    lengths = np.arange(1, 101)
    first = documents(StepSampler(lengths, 7, 300, seed=0), 1)
    assert documents(StepSampler(lengths, 7, 50, seed=0), 1) == first
    assert documents(StepSampler(lengths, 7, 300, seed=1), 1) != first
    assert documents(StepSampler(lengths, 7, 300, seed=0), 2) != first


def test_a_step_is_a_fair_sample_whatever_the_lengths():
    lengths = np.arange(1, 1001)
    means = [np.mean(lengths[step]) for step in documents(StepSampler(lengths, 50, 10_000, seed=0), 1)]
    assert np.std(means) < 3 * 1000 / np.sqrt(12 * 50)
    assert max(means) < 700


def test_other_data_cannot_be_gone_on_with():
    state = StepSampler(np.ones(10), 2, 5, seed=0).state_dict()
    for sampler, name in (
        (StepSampler(np.ones(11), 2, 5, seed=0), "documents is 11, but was 10"),
        (StepSampler(np.ones(10), 3, 5, seed=0), "batch_size is 3, but was 2"),
        (StepSampler(np.ones(10), 2, 5, seed=1), "seed is 1, but was 0"),
    ):
        with pytest.raises(ValueError, match=name):
            sampler.load_state_dict(state)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="tokens_per_batch is 0"):
        StepSampler(np.ones(3), 2, 0, seed=0)
    with pytest.raises(ValueError, match="0 training documents"):
        StepSampler(np.ones(0), 2, 5, seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        StepSampler(np.ones(3), 0, 5, seed=0)


@pytest.mark.parametrize("seed", range(100))
def test_evaluation_goes_through_every_document_once(seed):
    rng = np.random.default_rng(seed)
    lengths, budget, world_size = draw_lengths(rng, least=0), rng.integers(1, 700), int(rng.integers(1, 5))
    samplers = [EvaluationSampler(lengths, budget, rank=rank, world_size=world_size) for rank in range(world_size)]
    for sampler in samplers:
        check_budget(list(sampler), lengths, budget)
        assert len(sampler) == len(list(sampler))
    owned = [list(sampler)[: sampler.own] for sampler in samplers]
    assert sorted(i for own in owned for part in own for i in part) == list(range(len(lengths)))
    counts = [sum(map(len, own)) for own in owned]
    assert max(counts) - min(counts) <= 1
    check_in_step([(list(sampler), sampler.own) for sampler in samplers], lengths)


def test_evaluation_begins_with_the_longest():
    parts = list(EvaluationSampler(np.array([3, 9, 1, 5]), 9))
    assert parts == [[1], [3, 0, 2]]


def test_packed_multi_label(store):
    batch = collate(store, [2, 0, 1], 4, 3, "multi-label")
    assert batch.tokens.tolist() == [0, 4, 5, 6, 0, 1, 2, 3, 0]
    assert batch.tokens.dtype == torch.int64
    assert batch.cu_seqlens.tolist() == [0, 4, 8, 9]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.max_seqlen == 4
    assert batch.targets.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert batch.targets.dtype == torch.float32
    assert batch.indices.tolist() == [2, 0, 1]
    assert batch.step_documents == 3
    assert collate(store, [0], 4, 3, "multi-label", step_documents=8).step_documents == 8
    assert batch.counts
    assert not collate(store, [0], 4, 3, "multi-label", counts=False).to("cpu").counts


def test_packed_single_label(store):
    batch = collate(store, [0], 9, 3, "single-label")
    assert batch.targets.tolist() == [1]
    assert batch.targets.dtype == torch.int64
    with pytest.raises(ValueError, match="document 'y' has 2 labels; expected 1"):
        collate(store, [0, 1], 9, 3, "single-label")


def test_moves_to_a_device_whole(store):
    batch = collate(store, [0, 2], 9, 3, "multi-label").to("meta")
    assert {t.device.type for t in (batch.tokens, batch.cu_seqlens, batch.targets, batch.indices)} == {"meta"}
    assert (batch.max_seqlen, batch.step_documents) == (6, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_memory(store):
    batch = collate(store, [0, 2], 9, 3, "multi-label")
    moved = batch.pin_memory().to("cuda")
    assert moved.tokens.is_cuda
    assert moved.tokens.cpu().tolist() == batch.tokens.tolist()
