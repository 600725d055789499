"""The modules: what is packed, padded, checkpointed or compiled gives what one plain sequence gives."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from flash_sparse import attention, patterns
from flash_sparse.nn import Attention, AxialRotary, Encoder, EncoderLayer, LabelAttention, Rotary
from flash_sparse.nn import pooling as pool
from flash_sparse.nn.dropout import Dropout
from flash_sparse.nn.packing import positions, segments
from flash_sparse.nn.rotary import rotate

LENGTHS = [70, 1, 33, 16]
VOCABULARY = 50


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def bounds(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def make_encoder(**changes):
    arguments = {"mlp_width": 48, "num_outputs": 5, **changes}
    return Encoder(VOCABULARY, 32, 2, 4, **arguments)


def packed_tokens(lengths=LENGTHS):
    return torch.randint(VOCABULARY, (sum(lengths),)), bounds(lengths), max(lengths)


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


# Attention


def test_attention_is_torchs_multihead_attention():
    ours, theirs = Attention(32, 4), torch.nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.output.weight)
    x = torch.randn(3, 40, 32)
    lengths = torch.tensor([40, 7, 21])
    padding = torch.arange(40) >= lengths[:, None]
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])
    expected = theirs(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    for output in (ours(x, key_lengths=lengths), ours(x, key_padding_mask=padding)):
        torch.testing.assert_close(output[~padding], expected[~padding])
        assert output.isfinite().all()


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("rotary", [None, "1d"])
@pytest.mark.parametrize("where", ["dense", "layout", "causal", "window"])
def test_packed_attention_is_attention_of_each_sequence(kv_heads, rotary, where):
    options = {
        "dense": {},
        "layout": {"layout": patterns.butterfly(100, 16, factors=1)},
        "causal": {"is_causal": True},
        "window": {"window": (5, 0)},
    }[where]
    module = Attention(32, 4, kv_heads=kv_heads, rotary=rotary, **options)
    x = torch.randn(sum(LENGTHS), 32)
    output = module(x, cu_seqlens=bounds(LENGTHS), max_seqlen=max(LENGTHS))
    alone = torch.cat([module(part[None])[0] for part in x.split(LENGTHS)])
    torch.testing.assert_close(output, alone)
    padded = torch.nn.utils.rnn.pad_sequence(x.split(LENGTHS), batch_first=True)
    lengths = torch.tensor(LENGTHS)
    unpadded = module(padded, key_lengths=lengths)[torch.arange(max(LENGTHS)) < lengths[:, None]]
    torch.testing.assert_close(unpadded, alone)


def test_attention_uses_its_layout_and_the_one_given():
    x = torch.randn(1, 64, 32)
    layout = patterns.local(64, 16, window=0)
    module = Attention(32, 4, layout=layout)
    rows = module.qkv(x).unflatten(-1, (12, 8)).transpose(1, 2)  # (1, 12, 64, 8)
    attended = attention(*rows.split(4, dim=1), layout, backend="reference")
    torch.testing.assert_close(module(x), module.output(attended.transpose(1, 2).flatten(-2)))
    dense = Attention(32, 4)
    dense.load_state_dict(module.state_dict())
    torch.testing.assert_close(dense(x, layout=layout), module(x))
    assert not torch.allclose(dense(x), module(x))


def test_attention_takes_a_layout_for_each_sequence():
    blocks = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    blocks[1, 0] = torch.eye(4, dtype=torch.bool)
    layout = patterns.BlockLayout.from_blocks(blocks, 16, 64)
    module, x = Attention(32, 4), torch.randn(2, 64, 32)
    output = module(x, layout=layout)
    torch.testing.assert_close(output[:1], module(x[:1]))
    torch.testing.assert_close(output[1:], module(x[1:], layout=patterns.local(64, 16, window=0)))
    with pytest.raises(ValueError, match="layout has 2 batch entries; expected 1 beside padding"):
        module(x, layout=layout, key_lengths=torch.tensor([64, 3]))


def test_attention_drops_in_training_alone():
    module, x = Attention(32, 4, dropout=0.5), torch.randn(2, 20, 32)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_layouts_keep_their_numbers_where_weights_have_none():
    layout, x = patterns.local(64, 16), torch.randn(2, 64, 32)
    module = Attention(32, 4, layout=layout).to("meta").to_empty(device="cpu")
    module.load_state_dict(Attention(32, 4).state_dict())
    assert module.layout == layout
    assert module(x).isfinite().all()
    with torch.device("meta"):
        module = Attention(32, 4, layout=patterns.local(64, 16))
    assert module.qkv.weight.is_meta
    assert module.layout == layout
    assert module.to_empty(device="cpu").layout is module.layout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layouts_move_with_their_module():
    module = Attention(32, 4, layout=patterns.local(64, 16)).cuda()
    assert module.layout.device.type == "cuda"
    assert module(torch.randn(1, 64, 32, device="cuda")).isfinite().all()


@pytest.mark.filterwarnings("ignore")  # of PyTorch's, that this way of quantizing is on its way out
def test_quantized_attention():
    module, x = Attention(32, 4, layout=patterns.local(64, 16, 0)).eval(), torch.randn(2, 64, 32)
    quantized = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}).float()
    torch.testing.assert_close(quantized(x), module(x), atol=0.05, rtol=0)


def test_attention_without_sequences():
    module = Attention(32, 4, rotary="1d")
    assert module(torch.randn(0, 20, 32), key_lengths=torch.zeros(0, dtype=torch.int64)).shape == (0, 20, 32)


@pytest.mark.parametrize("strict", [False, True])
def test_attention_exports_with_any_length(strict):
    module, dim = Attention(32, 4, rotary="1d").eval(), torch.export.Dim("length")
    exported = torch.export.export(
        module, (torch.randn(2, 40, 32),), dynamic_shapes=({1: dim},), strict=strict
    ).module()
    for length in (7, 300):
        x = torch.randn(2, length, 32)
        torch.testing.assert_close(exported(x), module(x))


def test_attention_under_autocast():
    module, x = Attention(32, 4, rotary="1d"), torch.randn(2, 20, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), module(x), atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Attention(32, 5), "heads is 5; expected a divisor of the width, 32"),
        (lambda x: Attention(32, 4, kv_heads=3), "kv_heads is 3; expected a divisor of the heads, 4"),
        (lambda x: Attention(32, 4, rotary="3d"), "rotary is '3d'; expected '1d', '2d' or None"),
        (lambda x: Attention(32, 4, rotary="2d"), "grid is None with rotary '2d'"),
        (lambda x: Attention(32, 4, grid=(8, 8)), r"grid is \(8, 8\) with rotary None"),
        (lambda x: Attention(12, 4, rotary="1d"), "head_dim is 3; expected an even number"),
        (lambda x: Attention(24, 4, rotary="2d", grid=(2, 2)), "head_dim is 6; expected a multiple of 4"),
        (lambda x: Attention(32, 4)(x[0]), r"x has shape \(20, 32\), packed; expected cu_seqlens and max_seqlen"),
        (lambda x: Attention(32, 4)(x, max_seqlen=20), r"x has shape \(2, 20, 32\); expected \(B, N, 32\) alone"),
        (
            lambda x: Attention(32, 4)(x, key_lengths=torch.tensor([20, 21])),
            r"key_lengths is \[20, 21\]; expected 0 to 20",
        ),
        (lambda x: Attention(32, 4)(x, key_lengths=torch.tensor([20])), r"key_lengths is torch.int64 \(1,\)"),
        (
            lambda x: Attention(32, 4)(x, key_padding_mask=torch.arange(20).expand(2, 20) < 3),
            "key_padding_mask has padding before a token",
        ),
        (
            lambda x: Attention(32, 4)(x, key_padding_mask=torch.zeros(2, 20)),
            r"key_padding_mask is torch.float32 \(2, 20\); expected torch.bool \(2, 20\)",
        ),
    ],
)
def test_attention_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make(torch.randn(2, 20, 32))


# Rotary embeddings


def rotary_by_hand(row, position, base):
    """One row (D,), pair by pair."""
    turned = row.clone()
    for pair in range(len(row) // 2):
        angle = torch.tensor(position * base ** (-2 * pair / len(row)), dtype=torch.float64)
        first, second = row[2 * pair], row[2 * pair + 1]
        turned[2 * pair] = first * angle.cos() - second * angle.sin()
        turned[2 * pair + 1] = first * angle.sin() + second * angle.cos()
    return turned


def test_rotary_turns_each_pair():
    rows, positions = torch.randn(6, 3, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 7, 100, 5000])
    turned = rotate(rows, Rotary(8, base=500.0)(positions))
    for place, position in enumerate(positions.tolist()):
        for head in range(3):
            expected = rotary_by_hand(rows[place, head], position, 500.0)
            torch.testing.assert_close(turned[place, head], expected, atol=2e-3 if position > 999 else 1e-4, rtol=0)


def test_axial_rotary_turns_half_by_the_row_and_half_by_the_column():
    rows, positions = torch.randn(35, 2, 8, dtype=torch.float64), torch.arange(35)
    turned = rotate(rows, AxialRotary(8, (5, 7), base=100.0)(positions))
    for position in range(35):
        for head in range(2):
            by_row, by_column = rows[position, head].split(4)
            expected = [rotary_by_hand(by_row, position // 7, 100.0), rotary_by_hand(by_column, position % 7, 100.0)]
            torch.testing.assert_close(turned[position, head], torch.cat(expected), atol=1e-5, rtol=0)


def test_rotary_scores_depend_on_distance_alone():
    query, key = torch.randn(2, 1, 1, 16).expand(2, 300, 1, 16)
    turns = Rotary(16)(torch.arange(300))
    scores = rotate(query, turns)[:, 0] @ rotate(key, turns)[:, 0].T  # (300, 300)
    for distance in (-200, -1, 0, 3, 150):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-4, rtol=0)
    assert scores[0].std() > 0.1


def test_axial_rotary_scores_depend_on_row_and_column_distance_alone():
    height, width = 9, 12
    query, key = torch.randn(2, 1, 1, 16).expand(2, height * width, 1, 16)
    turns = AxialRotary(16, (height, width))(torch.arange(height * width))
    scores = (rotate(query, turns)[:, 0] @ rotate(key, turns)[:, 0].T).view(height, width, height, width)
    for down, right in ((0, 0), (1, 0), (0, 1), (3, 5), (2, -4)):
        seen = torch.stack(
            [
                scores[row, column, row + down, column + right]
                for row in range(height - down)
                for column in range(max(0, -right), width - max(0, right))
            ]
        )
        torch.testing.assert_close(seen, seen[:1].expand_as(seen), atol=1e-5, rtol=0)
    # One pixel right of the end of a row is the start of the next, which is not near
    assert (scores[0, width - 1, 1, 0] - scores[0, 0, 0, 1]).abs() > 1e-2


# Pooling


def naive_label_attention(module, sequences):
    """Logits (B, L) as in the paper: attention, then a vector for each label, then its decision."""
    logits = []
    for hidden in sequences:
        weights = (hidden @ module.query.T).softmax(dim=0)  # (N, L)
        found = weights.T @ hidden  # (L, W)
        logits.append((found * module.weight).sum(1) + module.bias)
    return torch.stack(logits)


@pytest.mark.parametrize("num_labels", [3, 300])
def test_label_attention(num_labels):
    module = LabelAttention(16, num_labels)
    torch.nn.init.normal_(module.bias)
    hidden = (3 * torch.randn(sum(LENGTHS), 16)).requires_grad_()
    segment = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    weight = torch.randn(len(LENGTHS), num_labels)
    results = []
    for logits in (module(hidden, segment, len(LENGTHS)), naive_label_attention(module, hidden.split(LENGTHS))):
        results.append([logits, *torch.autograd.grad((logits * weight).sum(), [hidden, *module.parameters()])])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_label_attention_survives_large_scores():
    module = LabelAttention(16, 3)
    hidden = 1e4 * torch.randn(20, 16)
    segment = torch.arange(20) // 10
    torch.testing.assert_close(module(hidden, segment, 2), naive_label_attention(module, hidden.split(10)))


@pytest.mark.parametrize(("ours", "one"), [(pool.mean, lambda x: x.mean(0)), (pool.maximum, lambda x: x.amax(0))])
def test_mean_and_maximum(ours, one):
    hidden = torch.randn(sum(LENGTHS), 16, requires_grad=True)
    segment = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    pooled, expected = ours(hidden, segment, len(LENGTHS)), torch.stack([one(x) for x in hidden.split(LENGTHS)])
    torch.testing.assert_close(pooled, expected)
    weight = torch.randn_like(pooled)
    torch.testing.assert_close(
        torch.autograd.grad((pooled * weight).sum(), hidden), torch.autograd.grad((expected * weight).sum(), hidden)
    )


# Dropout


@pytest.mark.parametrize("shape", [(1,), (7,), (300, 401)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout(shape, p):
    dropout = Dropout(p)
    x = torch.rand(shape).add(1).requires_grad_()
    dropped = dropout(x)
    kept = dropped != 0
    torch.testing.assert_close(dropped, x * kept / (1 - p), rtol=1e-4, atol=0)
    dropped.sum().backward()
    torch.testing.assert_close(x.grad, (dropped / x).detach())
    if x.numel() > 1000:
        deviation = (kept.sum() - (1 - p) * x.numel()) / (p * (1 - p) * x.numel()) ** 0.5
        assert deviation.abs() < 5
        lanes = kept.flatten()[: x.numel() // 4 * 4].view(-1, 4).float()
        assert (lanes.mean(0) - (1 - p)).abs().max() < 0.02
        assert (torch.corrcoef(lanes.T) - torch.eye(4)).abs().max() < 0.03  # features that share a draw
    torch.manual_seed(1)
    first = dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x


# Encoder


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
@pytest.mark.parametrize("layout", [None, patterns.local(128, 16, window=8)], ids=["dense", "sparse"])
def test_packed_encoder_is_the_encoder_of_each_sequence(pooling, layout):
    encoder = make_encoder(pooling=pooling).eval()
    tokens, cu_seqlens, longest = packed_tokens()
    logits = encoder(tokens, cu_seqlens, longest, layout)
    assert logits.shape == (len(LENGTHS), 5)
    alone = [encoder(part, bounds([len(part)]), len(part), layout) for part in tokens.split(LENGTHS)]
    torch.testing.assert_close(logits, torch.cat(alone))
    assert logits.std(dim=0).min() > 1e-3, "all documents look alike"


@pytest.mark.parametrize(("rotary", "grid"), [("1d", None), ("2d", (10, 7)), (None, None)])
def test_order_matters_with_rotary_alone(rotary, grid):
    encoder = make_encoder(rotary=rotary, grid=grid).eval()
    tokens, cu_seqlens, longest = packed_tokens([70])
    shuffled = tokens[torch.randperm(70)]
    same = torch.allclose(encoder(tokens, cu_seqlens, longest), encoder(shuffled, cu_seqlens, longest), atol=1e-5)
    assert same == (rotary is None)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
@pytest.mark.parametrize(("rotary", "grid"), [("1d", None), ("2d", (8, 8)), (None, None)])
def test_a_skipped_token_is_not_read_and_the_others_keep_their_positions(pooling, rotary, grid):
    encoder = make_encoder(rotary=rotary, grid=grid, pooling=pooling, skip_token=0)
    images = torch.randint(VOCABULARY, (3, 64)) * (torch.rand(3, 64) < 0.4)  # (B, N)
    images[1] = 0  # all black: its first pixel is read
    logits = encoder(images.flatten(), bounds([64] * 3), 64)  # (B, C)
    for image, row in zip(images, logits, strict=True):
        places = image.nonzero()[:, 0] if image.any() else torch.tensor([0])  # (kept,)
        starts = bounds([len(places)])
        hidden = encoder.encode(image[places], starts, len(places), places=places)
        torch.testing.assert_close(row[None], encoder.classify(hidden, starts), atol=1e-5, rtol=1e-5)
    plain = make_encoder(rotary=rotary, grid=grid, pooling=pooling)
    plain.load_state_dict(encoder.state_dict())
    whole = torch.randint(1, VOCABULARY, (64,))
    torch.testing.assert_close(encoder(whole, bounds([64]), 64), plain(whole, bounds([64]), 64))
    assert not torch.allclose(logits, plain(images.flatten(), bounds([64] * 3), 64))


def test_skipping_saves_work_in_a_layout_made_for_all():
    encoder, layout = make_encoder(skip_token=0), patterns.local(64, 16, window=8)
    lengths = []
    encoder.layers[0].register_forward_hook(lambda module, given, output: lengths.append(len(output)))
    tokens = torch.ones(128, dtype=torch.int64)
    tokens[:50] = 0
    encoder(tokens, bounds([64, 64]), 64, layout)
    assert lengths == [78]


def test_several_skipped_tokens():
    torch.manual_seed(0)
    some, one = make_encoder(skip_token=0, skip_through=4), make_encoder(skip_token=0)
    one.load_state_dict(some.state_dict())
    images = torch.randint(VOCABULARY, (2, 64))
    blackened = torch.where(images <= 4, 0, images)
    expected = one(blackened.flatten(), bounds([64] * 2), 64)
    torch.testing.assert_close(some(images.flatten(), bounds([64] * 2), 64), expected)
    assert not torch.allclose(one(images.flatten(), bounds([64] * 2), 64), expected)
    with pytest.raises(ValueError, match="skip_through is 3; it needs skip_token"):
        make_encoder(skip_through=3)
    with pytest.raises(ValueError, match="skip_through is 1"):
        make_encoder(skip_token=2, skip_through=1)


def test_layers_applied_several_times():
    """The same weights each time, and the embedding added anew before each time but the first."""
    tied, once = make_encoder(iterations=3), make_encoder()
    once.load_state_dict(tied.state_dict())
    tokens, starts, longest = packed_tokens()
    embedded = tied.embedding(tokens)  # (total, W)
    turns = tied.rotary(positions(starts, segments(starts, len(tokens))))
    hidden = torch.zeros_like(embedded)
    for _ in range(3):
        hidden = hidden + embedded
        for layer in tied.layers:
            hidden = layer(hidden, cu_seqlens=starts, max_seqlen=longest, turns=turns)
    expected = tied.classify(tied.norm(hidden), starts)
    torch.testing.assert_close(tied(tokens, starts, longest), expected)
    assert not torch.allclose(once(tokens, starts, longest), expected)
    assert sum(p.numel() for p in tied.parameters()) == sum(p.numel() for p in once.parameters())
    with pytest.raises(ValueError, match="iterations is 0"):
        make_encoder(iterations=0)


@pytest.mark.parametrize("activation", ["geglu", "gelu"])
def test_encoder_layer(activation):
    layer = EncoderLayer(32, 4, activation=activation, rotary="1d")
    x = torch.randn(2, 20, 32)
    first = x + layer.attention(F.layer_norm(x, (32,)))
    hidden = F.layer_norm(first, (32,))
    inner = F.gelu(hidden @ layer.mlp.gate.weight.T)
    assert inner.shape[-1] == {"geglu": 96, "gelu": 128}[activation]
    if activation == "geglu":
        inner = inner * (hidden @ layer.mlp.value.weight.T)
    torch.testing.assert_close(layer(x), first + inner @ layer.mlp.output.weight.T)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
def test_gradients_reach_every_parameter(pooling):
    encoder = make_encoder(pooling=pooling, kv_heads=2)
    encoder(*packed_tokens()).square().sum().backward()
    for name, gradient in gradients(encoder).items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
def test_encoder_in_other_precisions(pooling):
    encoder, batch = make_encoder(pooling=pooling).eval(), packed_tokens()
    expected = copy.deepcopy(encoder).double()(*batch)
    assert expected.dtype == torch.float64
    for dtype, error in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)):
        twin = copy.deepcopy(encoder).to(dtype)
        logits = twin(*batch)
        torch.testing.assert_close(logits.double(), expected, atol=error, rtol=error)
        logits.square().sum().backward()
        assert all(gradient.isfinite().all() for gradient in gradients(twin).values())


@pytest.mark.parametrize("pooling", ["mean", "label"])
def test_pooling_in_float64_is_exact_to_its_last_digits(pooling):
    """Sums in float32 would leave an error of 1e-8."""
    encoder = make_encoder(pooling=pooling).double().eval()
    hidden, starts = torch.randn(70, 32, dtype=torch.float64), bounds([70])
    if pooling == "mean":
        expected = encoder.head(hidden.mean(0))
    else:
        weights = (hidden @ encoder.head.query.T).softmax(0)
        expected = (weights * (hidden @ encoder.head.weight.T)).sum(0) + encoder.head.bias
    torch.testing.assert_close(encoder.classify(hidden, starts)[0], expected, atol=1e-13, rtol=1e-13)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed training")
def test_sharded_mixed_precision_leaves_positions_exact(tmp_path):
    """Mixed precision rounds what goes into a module; rounded turns would place far tokens anywhere."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        encoder, batch = make_encoder().eval(), packed_tokens()
        expected, seen = copy.deepcopy(encoder).bfloat16()(*batch), []
        encoder.layers[1].attention.register_forward_hook(
            lambda module, args, kwargs, output: seen.append(kwargs["turns"]), with_kwargs=True
        )
        policy, mesh = MixedPrecisionPolicy(param_dtype=torch.bfloat16), init_device_mesh("cpu", (1,))
        for part in (*encoder.layers, encoder):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        logits = encoder(*batch)
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits, expected, atol=3e-2, rtol=3e-2)
        assert torch.equal(seen[0][:70], encoder.rotary(torch.arange(70)))
        logits.sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_padded_encoder_is_the_packed_one():
    encoder, (tokens, starts, longest) = make_encoder().eval(), packed_tokens()
    padded = torch.nn.utils.rnn.pad_sequence(tokens.split(LENGTHS), batch_first=True, padding_value=-1)
    for layout in (None, patterns.local(128, 16, 8)):
        expected = encoder(tokens, starts, longest, layout)
        torch.testing.assert_close(encoder(padded, layout=layout, lengths=torch.tensor(LENGTHS)), expected)
    torch.testing.assert_close(encoder(tokens.view(4, 30)), encoder(tokens, bounds([30] * 4), 30))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, t: e(t, lengths=torch.tensor([3, 21])), r"lengths is \[3, 21\]; expected 1 to 20"),
        (lambda e, t: e(t, lengths=torch.tensor([3])), r"lengths is torch.int64 \(1,\); expected \(2,\) integers"),
        (lambda e, t: e(t, bounds([20, 20]), 20), r"tokens has shape \(2, 20\); expected \(total,\) with cu_seqlens"),
        (lambda e, t: e(t[0]), r"tokens has shape \(20,\); expected \(total,\) with cu_seqlens and max_seqlen"),
    ],
)
def test_padded_encoder_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_encoder(), torch.ones(2, 20, dtype=torch.int64))


def test_checkpointing_changes_nothing():
    encoder = make_encoder(dropout=0.2, attention_dropout=0.2)
    twin = make_encoder(dropout=0.2, attention_dropout=0.2, checkpoint_activations=True)
    twin.load_state_dict(encoder.state_dict())
    batch, results = packed_tokens(), []
    for module in (encoder, twin):
        torch.manual_seed(7)
        logits = module(*batch)
        logits.square().sum().backward()
        results.append((logits, gradients(module)))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][name]), name
    torch.manual_seed(8)
    assert not torch.equal(encoder(*batch), results[0][0])


def test_checkpointing_saves_memory():
    def kept(checkpoint_activations):
        encoder = make_encoder(checkpoint_activations=checkpoint_activations)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
        storages = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder(*packed_tokens([500]))
        return sum(size for size, _ in storages.values())

    assert kept(True) < kept(False) / 3


def test_the_same_bits_every_time():
    encoder = make_encoder(pooling="label", dropout=0.1, attention_dropout=0.1)
    batch, results = packed_tokens(), []
    for _ in range(2):
        torch.manual_seed(3)
        encoder.zero_grad()
        logits = encoder(*batch)
        logits.square().sum().backward()
        results.append([logits, *gradients(encoder).values()])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_encoder_learns_to_find_a_token():
    """A document's class is whether a marked token is anywhere in it."""
    encoder = make_encoder(num_outputs=1, pooling="max")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    for _ in range(60):
        tokens = torch.randint(2, VOCABULARY, (16, 40))
        targets = (torch.arange(16) % 2).float()
        tokens[torch.arange(16), torch.randint(40, (16,))] = targets.long()
        logits = encoder(tokens.flatten(), bounds([40] * 16), 40)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_copies_and_state():
    layout = patterns.bigbird(128, 16)
    encoder = make_encoder(pooling="label", rotary="2d", grid=(8, 16)).eval()
    batch = packed_tokens()
    expected = encoder(*batch, layout)
    other = make_encoder(pooling="label", rotary="2d", grid=(8, 16)).eval()
    other.load_state_dict(encoder.state_dict())
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), other):
        assert torch.equal(twin(*batch, layout), expected)
    module = Attention(32, 4, layout=layout).eval()
    x = torch.randn(1, 128, 32)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert set(module.state_dict()) == {"qkv.weight", "output.weight"}


@pytest.mark.parametrize(("pooling", "sparse"), [("mean", False), ("max", False), ("label", True)])
def test_compiles_once_for_all_lengths(pooling, sparse):
    torch._dynamo.reset()
    layout = patterns.bigbird(256, 16) if sparse else None
    encoder = Encoder(VOCABULARY, 16, 1, 2, num_outputs=5, pooling=pooling, checkpoint_activations=sparse).eval()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(encoder, fullgraph=True, backend=counter)
    for lengths in ([40, 30], [60, 200, 9], [11, 250, 16, 17], [90, 33]):
        batch = packed_tokens(lengths)
        results = []
        for module in (compiled, encoder):
            encoder.zero_grad()
            logits = module(*batch, layout)
            logits.square().mean().backward()
            results.append([logits, *gradients(encoder).values()])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
    assert counter.frame_count == 2  # the first lengths, then any


def test_attention_module_compiles():
    torch._dynamo.reset()
    module = Attention(32, 4, rotary="1d", dropout=0.1, layout=patterns.local(128, 16, 16)).eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for length in (40, 128):
        x, lengths = torch.randn(2, length, 32), torch.tensor([length, 7])
        torch.testing.assert_close(compiled(x, key_lengths=lengths), module(x, key_lengths=lengths))


def test_memory_is_linear_in_length():
    """Nothing that is kept for the backward pass is larger than the MLP's inner rows."""
    encoder, sizes = make_encoder(pooling="label"), []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encoder(*packed_tokens([2000]), patterns.local(2000, 64, 64))
    assert max(sizes) <= 2000 * 32 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "sum"}, "pooling is 'sum'; expected 'mean', 'max', 'cls' or 'label'"),
        ({"activation": "relu"}, "activation is 'relu'; expected 'geglu' or 'gelu'"),
        ({"rotary": "2d"}, "grid is None with rotary '2d'"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 <= dropout < 1"),
        ({"num_outputs": 0}, "num_outputs is 0; expected at least 1"),
        ({"mlp_width": 0}, "mlp_width is 0; expected at least 1"),
        ({"rotary_base": 0.0}, "rotary_base is 0.0; expected a number above 0"),
        ({"kv_heads": 3}, "kv_heads is 3; expected a divisor of the heads, 4"),
    ],
)
def test_encoder_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(**changes)


def test_no_negative_depth():
    with pytest.raises(ValueError, match="depth is -1; expected at least 0"):
        Encoder(VOCABULARY, 32, -1, 4, num_outputs=5)


@pytest.mark.parametrize("token", [-1, 50])
def test_tokens_outside_of_the_vocabulary_are_refused(token):
    tokens, starts, longest = packed_tokens()
    tokens[7] = token
    with pytest.raises(ValueError, match=f"tokens has {token}; expected 0 to 49"):
        make_encoder()(tokens, starts, longest)


def test_empty_sequences_are_refused():
    tokens, _, longest = packed_tokens()
    with pytest.raises(ValueError, match="cu_seqlens has an empty sequence at 1"):
        make_encoder()(tokens, bounds([70, 0, 50]), longest)
