"""The tuned kernels, compiled ahead of time for each architecture: registers, shared memory, matrix instructions."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted in this process (TRITON_INTERPRET)", allow_module_level=True)

from flash_sparse.backends.triton import resources, tiles


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(resources.variants(quick=True)), ids=str)
def test_most_used_kernels(variant):
    assert resources.problems(variant, resources.compile_variant(variant)) == []


@pytest.mark.parametrize("kernel", resources.KERNELS)
@pytest.mark.parametrize("architecture", tiles.TABLE)
def test_capped_scores_sinks_and_crossed_packs_cost_no_spills(architecture, kernel):
    uses = [{"capped": True, "is_causal": True}, {"packed": True, "crossed": True, "is_causal": True}]
    if kernel == "forward":
        uses.append({"sunk": True})
    for use in uses:
        variant = resources.Variant(architecture, kernel, torch.bfloat16, 128, **use)
        assert resources.problems(variant, resources.compile_variant(variant)) == []


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FLASH_SPARSE_ALL_KERNELS"), reason="set FLASH_SPARSE_ALL_KERNELS=1: an hour")
@pytest.mark.parametrize("variant", list(resources.variants()), ids=str)
def test_all_kernels(variant):
    assert resources.problems(variant, resources.compile_variant(variant)) == []


def test_spills_are_noticed():
    variant = resources.Variant("sm_80", "forward", torch.float16, 128)
    usage = resources.compile_variant(variant, tiles.Tile(128, 128, 4, 2))
    assert usage.spilled > 0
    assert usage.inner_spills > 0
    assert any("spills" in problem for problem in resources.problems(variant, usage))


def with_descriptors(variant):
    return resources.compile_variant(variant, variant.tile._replace(descriptors=True))


@pytest.mark.parametrize("architecture", tiles.TABLE)
def test_descriptors_are_copies_where_the_chip_has_them_and_pointers_elsewhere(architecture):
    variant = resources.Variant(architecture, "forward", torch.bfloat16, 128)
    usage = with_descriptors(variant)
    assert resources.has_matrix_instructions(variant, usage)
    assert ("cp.async.bulk.tensor" in usage.instructions) == (architecture in resources.TENSOR_COPIES)


@pytest.mark.parametrize("head_dim", [80, 128])
def test_descriptors_in_the_backward_pass(head_dim):
    variant = resources.Variant("sm_90", "query", torch.bfloat16, head_dim, 128, is_causal=True, dropout=True)
    usage = with_descriptors(variant)
    assert resources.problems(variant, usage) == []
    assert "cp.async.bulk.tensor" in usage.instructions


def test_missing_copies_are_noticed(monkeypatch):
    variant = resources.Variant("sm_90", "forward", torch.bfloat16, 128)
    kernels = tiles.TABLE["sm_90"][2, 128]
    described = kernels._replace(forward=kernels.forward._replace(descriptors=True))
    by_pointers = resources.compile_variant(variant)
    monkeypatch.setitem(tiles.TABLE["sm_90"], (2, 128), described)
    assert resources.problems(variant, by_pointers) == ["has no tensor copies"]
    usage = resources.compile_variant(variant)
    assert resources.problems(variant, usage) == []
    assert usage.registers < by_pointers.registers  # what they are for


def test_head_dimension_is_split_without_doubling():
    assert tiles.split_head_dim(64) == (64, 0)
    assert tiles.split_head_dim(80) == (64, 16)
    assert tiles.split_head_dim(96) == (64, 32)
    assert tiles.split_head_dim(72) == (64, 16)
    assert tiles.split_head_dim(160) == (128, 32)
    for head_dim in range(1, 257):
        main, tail = tiles.split_head_dim(head_dim)
        assert head_dim <= main + tail <= max(16, 1.34 * head_dim + 15), head_dim
        assert all(part & (part - 1) == 0 and part >= 16 for part in (main, tail or 16))


@pytest.mark.parametrize("architecture", tiles.TABLE)
def test_every_head_dimension_and_dtype_has_tiles(architecture):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for head_dim in range(1, 257):
            for block_size in (0, 16, 32, 64, 128):
                for tile in tiles.choose(architecture, head_dim, dtype, block_size):
                    assert tile.other >= 16
                    assert tile.own >= 16
                    assert not block_size or tile.own <= block_size
