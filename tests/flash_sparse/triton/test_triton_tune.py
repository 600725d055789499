"""The tuner, with a clock and a compiler made up, and the file of tiles that it writes."""

import io
import json
import os

import pytest
import torch
from tqdm import tqdm

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("kernels are interpreted in this process (TRITON_INTERPRET)", allow_module_level=True)

from flash_sparse.backends.triton import resources, tiles, tune
from flash_sparse.backends.triton.tiles import Kernels, Tile

PLACE = "sm_90", 64, torch.bfloat16
KEY = (2, 64)
SLOW, FAST, FASTEST = 9.0, 5.0, 2.0


def run(times, screen=None):
    """`tune.tune` with these milliseconds for each tile of the forward kernel, SLOW for all else."""
    timed = []

    def measure(kernel, head_dim, dtype, workload):
        tile = getattr(tiles.choose("sm_90", head_dim, dtype, 0), kernel)
        timed.append((kernel, tile, workload))
        return times.get(tile, SLOW) if kernel == "forward" else SLOW

    def screen_all(pairs):
        return [screen is None or screen(variant, tile) for variant, tile in pairs]

    with tqdm(total=3, file=io.StringIO()) as bar:
        return *tune.tune(*PLACE, screen_all, measure, bar), timed


def test_the_fastest_tile_is_found_and_the_others_stay():
    present = tiles.TABLE["sm_90"][KEY]
    wanted = Tile(64, 64, 4, 3)
    assert present.forward != wanted
    kernels, results, timed = run({wanted: FASTEST, Tile(64, 32, 4, 3): FAST})
    assert kernels == present._replace(forward=wanted)
    assert [result.kernel for result in results] == ["forward", "query", "keys"]
    assert results[0].milliseconds_found == [FASTEST] * len(tune.WORKLOADS)
    assert tiles.TABLE["sm_90"][KEY] == present  # nothing is left behind
    # The finalists alone are timed on all workloads.
    assert len({tile for kernel, tile, workload in timed if kernel == "forward" and workload.is_causal}) == 5
    assert {workload for _, tile, workload in timed if tile == wanted} == set(tune.WORKLOADS)


def test_noise_changes_nothing():
    kernels, _, _ = run({Tile(64, 64, 4, 3): SLOW / 1.01})
    assert kernels == tiles.TABLE["sm_90"][KEY]


def test_tiles_that_do_not_compile_well_are_never_timed():
    best = Tile(64, 64, 4, 3)
    kernels, _, timed = run({best: FASTEST, Tile(64, 32, 4, 3): FAST}, lambda variant, tile: tile != best)
    assert kernels.forward == Tile(64, 32, 4, 3)
    assert best not in {tile for _, tile, _ in timed}


def test_a_tile_that_spills_in_another_use_of_its_entry_is_passed_over():
    best = Tile(64, 64, 4, 3)

    def screen(variant, tile):
        return not (variant.dropout and tile == best)

    kernels, _, _ = run({best: FASTEST, Tile(64, 32, 4, 3): FAST}, screen)
    assert kernels.forward == Tile(64, 32, 4, 3)


def test_uses_are_checked_with_the_tile_that_they_get():
    seen = set()

    def screen(variant, tile):
        seen.add((variant.block_size, tile))
        return True

    run({Tile(128, 32, 4, 3): FASTEST}, screen)
    assert (0, Tile(128, 32, 4, 3)) in seen
    assert any(block_size == 16 and tile.own == 16 for block_size, tile in seen)  # cut to the block


def test_screening_asks_the_compiler():
    variant = resources.Variant("sm_80", "forward", torch.float16, 128)
    assert not tune.fits(variant, Tile(128, 128, 4, 2))  # spills
    assert tune.fits(variant, variant.tile)


def test_without_a_gpu_one_line_and_exit_code_2(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert tune.main(["--head-dims", "64", "--output", str(tmp_path / "tiles.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "GPU" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch reaches")
def test_on_a_gpu(tmp_path, monkeypatch):
    path = tmp_path / "tiles.json"
    monkeypatch.setattr(tune, "candidates", lambda *place: [Tile(64, 64, 4, 2), Tile(128, 64, 8, 2)])
    assert tune.main(["--head-dims", "64", "--dtypes", "bf16", "--output", str(path)]) == 0
    monkeypatch.setenv("FLASH_SPARSE_TILES", str(path))
    assert tiles.table()[tiles.architecture(torch.device("cuda"))][KEY].forward.own in (64, 128)


def test_a_file_of_tiles_stands_in_for_the_table(tmp_path, monkeypatch):
    path = tmp_path / "tiles.json"
    tile = Tile(64, 32, 4, 3)
    tiles.write_table(path, {("sm_90", KEY): Kernels(tile, tile, tile)})
    assert [file.name for file in tmp_path.iterdir()] == ["tiles.json"]
    before = tiles.choose("sm_90", 128, torch.bfloat16, 0), tiles.choose("sm_80", 64, torch.bfloat16, 0)
    monkeypatch.setenv("FLASH_SPARSE_TILES", str(path))
    assert tiles.choose("sm_90", 64, torch.bfloat16, 0) == Kernels(tile, tile, tile)
    assert tiles.choose("sm_90", 40, torch.float16, 0).forward == tile
    assert tiles.choose("sm_90", 64, torch.bfloat16, 32).forward.own == 32
    assert (tiles.choose("sm_90", 128, torch.bfloat16, 0), tiles.choose("sm_80", 64, torch.bfloat16, 0)) == before
    monkeypatch.delenv("FLASH_SPARSE_TILES")
    assert tiles.choose("sm_90", 64, torch.bfloat16, 0) == tiles.TABLE["sm_90"][KEY]


@pytest.mark.parametrize(
    ("architecture", "kernel", "dtype", "tried"),
    [
        ("sm_90", "forward", torch.bfloat16, {False, True}),
        ("sm_100", "query", torch.float16, {False, True}),
        ("sm_90", "keys", torch.bfloat16, {False}),
        ("sm_90", "forward", torch.float32, {False}),
        ("sm_80", "forward", torch.bfloat16, {False}),
    ],
)
def test_descriptors_are_tried_where_the_chip_has_copies_for_them(architecture, kernel, dtype, tried):
    assert {tile.descriptors for tile in tune.candidates(architecture, kernel, dtype, 64)} == tried


def test_a_file_can_ask_for_descriptors(tmp_path, monkeypatch):
    path = tmp_path / "tiles.json"
    tile = Tile(128, 64, 8, 2, descriptors=True)
    tiles.write_table(path, {("sm_90", KEY): Kernels(tile, tile, tile._replace(descriptors=False))})
    monkeypatch.setenv("FLASH_SPARSE_TILES", str(path))
    assert tiles.choose("sm_90", 64, torch.bfloat16, 0).forward == tile
    assert tiles.choose("sm_90", 64, torch.bfloat16, 64).forward == Tile(64, 64, 4, 2, descriptors=True)
    assert not tiles.choose("sm_90", 64, torch.bfloat16, 32).forward.descriptors  # tiles of several blocks


GOOD = {"own": 64, "other": 32, "warps": 4, "stages": 3, "descriptors": False}
ENTRY = {"architecture": "sm_90", "element_bytes": 2, "head_dim": 64, "forward": GOOD, "query": GOOD, "keys": GOOD}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a JSON file"),
        ("{}", "found dict; expected a list"),
        ("[3]", "entry 1: has int; expected"),
        (json.dumps([ENTRY, ENTRY | {"architecture": "sm_91"}]), "entry 2: architecture is 'sm_91'; expected one of"),
        (json.dumps([ENTRY | {"architecture": []}]), r"entry 1: architecture is \[\]; expected one of"),
        (json.dumps([ENTRY | {"head_dim": 65}]), r"entry 1: \(element_bytes, head_dim\) is \(2, 65\)"),
        (json.dumps([ENTRY | {"head_dim": [64]}]), r"entry 1: \(element_bytes, head_dim\) is"),
        (json.dumps([ENTRY | {"query": GOOD | {"own": 100}}]), "entry 1: query.own is 100; expected one of 16, 32"),
        (json.dumps([ENTRY | {"keys": GOOD | {"warps": True}}]), "entry 1: keys.warps is True"),
        (
            json.dumps([ENTRY | {"query": GOOD | {"descriptors": 1}}]),
            "query.descriptors is 1; expected one of False, T",
        ),
        (
            json.dumps([ENTRY | {"keys": GOOD | {"descriptors": True}}]),
            "keys.descriptors is True; expected one of False$",
        ),
        (json.dumps([ENTRY | {"keys": {"own": 64}}]), r"entry 1: keys has \['own'\]"),
        (json.dumps([ENTRY | {"more": 1}]), "entry 1: has"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, monkeypatch, content, message):
    path = tmp_path / "tiles.json"
    path.write_text(content)
    monkeypatch.setenv("FLASH_SPARSE_TILES", str(path))
    with pytest.raises(ValueError, match=message) as raised:
        tiles.choose("sm_90", 64, torch.bfloat16, 0)
    assert str(raised.value).startswith(f"FLASH_SPARSE_TILES: {path}: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASH_SPARSE_TILES", str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"none\.json: .*No such file"):
        tiles.choose("sm_90", 64, torch.bfloat16, 0)
