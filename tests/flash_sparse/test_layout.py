"""The block layout against boolean pictures of it."""

import copy
import pickle
import weakref

import pytest
import torch

from flash_sparse import BlockLayout, attention, patterns


def cases():
    """Boolean pictures (Bl, Hl, Qb, Kb) with block size and lengths, of many shapes."""
    generator = torch.Generator().manual_seed(0)

    def pick(*options):
        return options[torch.randint(len(options), (), generator=generator)]

    for _ in range(60):
        block_size = pick(16, 32, 64, 128)
        lengths = torch.randint(1, 700, (2,), generator=generator).tolist()
        shape = (pick(1, 2), pick(1, 3), *(-(-length // block_size) for length in lengths))
        yield torch.rand(shape, generator=generator) < pick(0.0, 0.2, 0.6, 1.0), block_size, *lengths


CASES = list(cases())


@pytest.fixture(params=CASES, ids=lambda case: f"{tuple(case[0].shape)}x{case[1]}")
def case(request):
    return request.param


def test_rows_columns_and_pictures_agree(case):
    blocks, block_size, query_length, key_length = case
    layout = BlockLayout.from_blocks(*case)
    assert torch.equal(layout.to_blocks(), blocks)
    assert layout.leading == blocks.shape[:2]
    assert (layout.num_query_blocks, layout.num_key_blocks) == blocks.shape[2:]
    assert layout.num_blocks == blocks.sum()
    assert layout.density == pytest.approx(blocks.float().mean().item(), abs=1e-6)
    assert torch.equal(layout.indices(), blocks.nonzero().T)
    for matrix in range(blocks.shape[0]):
        for head in range(blocks.shape[1]):
            for offsets, lines, block_list in (
                (layout.row_offsets, blocks, layout.row_blocks),
                (layout.column_offsets, blocks.transpose(2, 3), layout.column_blocks),
            ):
                bounds = offsets[matrix, head].tolist()
                for line, begin, end in zip(lines[matrix, head], bounds[:-1], bounds[1:], strict=True):
                    assert block_list[begin:end].tolist() == line.nonzero()[:, 0].tolist()
    for tensor in (layout.row_offsets, layout.row_blocks, layout.column_offsets, layout.column_blocks):
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()
    mask = layout.to_mask()
    assert mask.shape == (*blocks.shape[:2], query_length, key_length)
    query, key = torch.arange(query_length) // block_size, torch.arange(key_length) // block_size
    assert torch.equal(mask, blocks[:, :, query[:, None], key])


def test_union_and_intersection(case):
    blocks, *sizes = case
    layout = BlockLayout.from_blocks(*case)
    for batch in {1, blocks.shape[0]}:
        for heads in {1, blocks.shape[1]}:
            other = torch.rand(batch, heads, *blocks.shape[2:]) < 0.4
            other_layout = BlockLayout.from_blocks(other, *sizes)
            assert torch.equal((layout | other_layout).to_blocks(), blocks | other)
            assert torch.equal((other_layout & layout).to_blocks(), blocks & other)


def test_from_indices_takes_any_order_and_repeats(case):
    blocks, *sizes = case
    indices = blocks.nonzero().T
    order = torch.randint(max(1, indices.shape[1]), (3 * indices.shape[1],))
    indices = torch.cat([indices[:, order], indices], dim=1) if indices.shape[1] else indices
    assert BlockLayout.from_indices(indices, blocks.shape[:2], *sizes) == BlockLayout.from_blocks(*case)


def test_key_length_defaults_to_query_length():
    blocks = torch.ones(3, 3, dtype=torch.bool)
    assert BlockLayout.from_blocks(blocks, 16, 40) == BlockLayout.from_blocks(blocks, 16, 40, 40)


def test_more_keys_than_32_bits_count():
    """Blocks of many heads, whose flat numbers pass 2**31."""
    heads, num_blocks = 3, 40000
    indices = torch.stack(
        [torch.zeros(heads), torch.arange(heads), torch.full((heads,), num_blocks - 1), torch.arange(heads)]
    )
    layout = BlockLayout.from_indices(indices.long(), (1, heads), 16, num_blocks * 16, num_blocks * 16)
    assert torch.equal(layout.indices(), indices.long())
    assert layout.column_blocks.tolist() == [num_blocks - 1] * heads
    assert (layout | layout) == layout


def test_equality_pickle_and_copies():
    layout = patterns.bigbird(500, 16, heads=2)
    for twin in (pickle.loads(pickle.dumps(layout)), copy.copy(layout), copy.deepcopy(layout)):
        assert twin == layout
        assert hash(twin) == hash(layout)
    assert layout != patterns.bigbird(500, 16, heads=2, seed=1)
    assert layout != patterns.bigbird(501, 16, heads=2)
    assert layout != "layout"
    assert weakref.ref(layout)() is layout


def test_crop_is_the_upper_left_part(case):
    _, block_size, query_length, key_length = case
    layout = BlockLayout.from_blocks(*case)
    for queries, keys in ((query_length, key_length), (1, key_length), (query_length // 2 + 1, key_length // 3 + 1)):
        cropped = layout.crop(queries, keys)
        assert torch.equal(cropped.to_mask(), layout.to_mask()[:, :, :queries, :keys])
        assert (cropped.query_length, cropped.key_length, cropped.block_size) == (queries, keys, block_size)
        assert cropped.leading == layout.leading
    assert layout.crop(query_length, key_length) is layout


def test_crop_errors():
    layout = patterns.local(100, 16)
    assert layout.crop(40) == patterns.local(40, 16)
    for lengths in ((101,), (100, 101)):
        with pytest.raises(ValueError, match="of a layout made for 100 x 100; expected no more"):
            layout.crop(*lengths)
    with pytest.raises(ValueError, match="query_length is 0; expected at least 1"):
        layout.crop(0)


def test_saved_and_loaded_as_weights_alone(tmp_path):
    layout = patterns.bigbird(500, 16, heads=2)
    torch.save({"layout": layout, "state": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "file.pt")
    loaded = torch.load(tmp_path / "file.pt", weights_only=True)["layout"]
    assert loaded == layout
    assert torch.equal(loaded.row_order, layout.row_order)
    assert torch.equal(loaded.column_blocks, layout.column_blocks)


def test_as_a_hyperparameter_of_a_lightning_module(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def __init__(self, layout):
            super().__init__()
            self.save_hyperparameters()

    layout = patterns.local(100, 16)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(Model(layout))
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert Model.load_from_checkpoint(tmp_path / "model.ckpt").hparams.layout == layout


def test_to_the_same_device_is_the_same():
    layout = patterns.local(100, 16)
    assert layout.to("cpu") is layout
    assert layout.cpu() is layout
    moved = layout.to("meta")
    assert moved.device.type == "meta"
    assert moved.block_size == 16
    assert moved.column_offsets.shape == layout.column_offsets.shape


def test_cuda_takes_a_device_as_tensors_do(monkeypatch):
    layout, asked = patterns.local(100, 16), []
    monkeypatch.setattr(BlockLayout, "to", lambda self, device: asked.append(torch.device(device)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for device in (None, 1, torch.device("cuda:2")):
        layout.cuda(device)
    assert [device.index for device in asked] == [3, 1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    layout, other = patterns.local(1000, 16).cuda(), patterns.bigbird(1000, 16, heads=2)
    assert (layout | other.to("cuda")).to("cpu") == patterns.local(1000, 16) | other
    assert BlockLayout.from_blocks(layout.to_blocks(), 16, 1000) == layout
    assert layout.draw() == patterns.local(1000, 16).draw()


def test_draw():
    blocks = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    layout = BlockLayout.from_blocks(blocks, 16, 48)
    assert layout.draw() == "█  \n██ \n  █"
    assert layout.draw(width=2) == "▓ \n █"  # 3 of 4 blocks, 0 of 2, 0 of 2, 1 of 1
    assert layout.draw(width=1) == "▒"  # 4 of 9
    two_heads = BlockLayout.from_blocks(torch.stack([blocks, ~blocks]), 16, 48)
    assert two_heads.draw() == layout.draw()


def test_repr_says_what_it_is():
    assert repr(patterns.butterfly(16384, 128)) == (
        "BlockLayout(16384 x 16384 tokens, blocks of 128, 1024 kept, density 0.0625, batch and heads (1, 1), cpu)"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3, 3), 16, 40), TypeError, "blocks is torch.float32; expected a tensor of torch.bool"),
        (([[True]], 16, 16), TypeError, "blocks is list; expected a tensor"),
        ((torch.ones(3, 3).bool(), 17, 40), ValueError, r"block_size is 17; expected one of \(16, 32, 64, 128\)"),
        ((torch.ones(3, 3).bool(), 16, 0), ValueError, "query_length is 0; expected at least 1"),
        ((torch.ones(3, 3).bool(), 16, 40, -1), ValueError, "key_length is -1; expected at least 1"),
        ((torch.ones(3, 3).bool(), 16, 49), ValueError, r"shape \(3, 3\); expected its last two sizes to be \(4, 4\)"),
        ((torch.ones(1, 1, 1, 3, 3).bool(), 16, 40), ValueError, "at most two before them"),
        ((torch.ones(3).bool(), 16, 40), ValueError, "expected its last two sizes"),
        ((torch.ones(3, 3).bool().to_sparse(), 16, 40), TypeError, "blocks is a sparse tensor; expected a dense one"),
        ((torch.ones(3, 3, device="meta").bool(), 16, 40), TypeError, "blocks is on the device meta"),
    ],
)
def test_from_blocks_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        BlockLayout.from_blocks(*arguments)


def block_at(*place: int) -> torch.Tensor:
    return torch.tensor(place)[:, None]  # (4, 1)


@pytest.mark.parametrize(
    ("indices", "leading", "error", "message"),
    [
        (block_at(0, 0, 0, 3), (1, 1), ValueError, r"indices: key block 3 is outside 0\.\.2"),
        (block_at(0, -1, 0, 0), (1, 2), ValueError, r"indices: head -1 is outside 0\.\.1"),
        ([[0], [0], [0], [0]], (1, 1), TypeError, "indices is list; expected a tensor"),
        (block_at(0, 0, 0, 0).float(), (1, 1), TypeError, "indices is torch.float32; expected a tensor of integers"),
        (block_at(0, 0, 0, 0).bool(), (1, 1), TypeError, "indices is torch.bool; expected a tensor of integers"),
        (block_at(0, 0, 0, 0).to_sparse(), (1, 1), TypeError, "indices is a sparse tensor"),
        (block_at(0, 0, 0, 0)[:, 0], (1, 1), ValueError, r"indices has shape \(4,\); expected \(4, n\)"),
        (block_at(0, 0, 0), (1, 1), ValueError, r"indices has shape \(3, 1\); expected \(4, n\)"),
        (block_at(0, 0, 0, 0), 1, TypeError, r"leading is 1; expected two integers"),
        (block_at(0, 0, 0, 0), (1, 1, 1), TypeError, r"leading is \(1, 1, 1\); expected two integers"),
        (block_at(0, 0, 0, 0), (1.0, 1), TypeError, r"leading is 1\.0; expected an integer"),
        (block_at(0, 0, 0, 0), (-1, 1), ValueError, r"leading is -1; expected at least 0"),
        (block_at(0, 0, 0, 0), (2**20, 2**10), ValueError, "leading is .* rows of blocks; expected at most"),
    ],
)
def test_from_indices_errors(indices, leading, error, message):
    with pytest.raises(error, match=message):
        BlockLayout.from_indices(indices, leading, 16, 48, 48)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integer_type(dtype):
    """Places in a layout of many blocks are counted beyond what the indices themselves can hold."""
    indices = torch.tensor([[7, 1], [15, 3], [100, 5], [100, 9]], dtype=dtype)
    layout = BlockLayout.from_indices(indices, (8, 16), 16, 131072, 131072)
    assert layout.indices().tolist() == [[1, 7], [3, 15], [5, 100], [9, 100]]


def test_more_blocks_than_32_bits_count_are_refused(monkeypatch):
    monkeypatch.setattr("flash_sparse.layout.MAX_NUMBER", 300)
    assert BlockLayout.from_blocks(torch.ones(17, 17).bool(), 16, 272).num_blocks == 289
    with pytest.raises(ValueError, match="a layout of 324 blocks; expected at most 300"):
        BlockLayout.from_blocks(torch.ones(18, 18).bool(), 16, 288)


def test_a_layout_for_each_of_no_batch_entries():
    layout = BlockLayout.from_blocks(torch.ones(0, 2, 3, 3).bool(), 16, 48)
    assert (layout.leading, layout.num_blocks, layout.density) == ((0, 2), 0, 0)
    query = torch.ones(0, 2, 48, 8)  # (B, H, N, D)
    assert attention(query, query, query, layout).shape == query.shape


def test_combining_errors():
    layout = patterns.local(100, 16)
    with pytest.raises(ValueError, match=r"\(16, 100, 100\) and \(32, 100, 100\); expected the same three"):
        layout | patterns.local(100, 32)
    with pytest.raises(TypeError):
        layout & torch.ones(7, 7).bool()
    with pytest.raises(ValueError, match=r"heads\) \(1, 2\) and \(1, 3\); expected the same or 1"):
        patterns.random(100, 16, heads=2) | patterns.random(100, 16, heads=3)


def test_compiles_as_argument_and_closed_over():
    def weigh(x, layout):
        return x * layout.density + layout.row_offsets.diff(dim=-1).sum() + layout.num_key_blocks * layout.block_size

    x, kept = torch.ones(3), patterns.local(300, 16)
    compiled = torch.compile(weigh, fullgraph=True, backend="eager")
    for layout in (patterns.local(100, 16), patterns.bigbird(2000, 32)):
        assert torch.allclose(compiled(x, layout), weigh(x, layout))
    closed = torch.compile(lambda x: weigh(x, kept), fullgraph=True, backend="eager")
    assert torch.allclose(closed(x), weigh(x, kept))


def test_heavy_lines_are_to_begin_first():
    """Those with more than twice the mean of blocks; all matrices have as many places for them as the one with most."""
    blocks = torch.eye(12, dtype=torch.bool).repeat(2, 1, 1)
    blocks[0, [4, 9]] = True  # two rows that see all; the mean over both heads is 46 / 24 blocks
    layout = BlockLayout.from_blocks(blocks, 16, 12 * 16)
    others = [row for row in range(12) if row not in (4, 9)]
    assert layout.row_order[0].tolist() == [[4, 9, *others, 2], [*range(12), 2]]
    assert layout.column_order[0].tolist() == [[*range(12), 0]] * 2  # three blocks each, and one
    assert layout.row_order.dtype == torch.int32
