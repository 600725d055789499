"""What is checked of the Triton backend, on a GPU or, with the device "cpu", in Triton's interpreter.

The interpreter is chosen when Triton is imported, so that checks in it run in a process of their own (`conftest.py`);
each takes and returns plain values. bfloat16 products are wrong there, silently: never used on "cpu".
"""

import dataclasses
import random
import warnings
from contextlib import contextmanager
from unittest import mock

import torch
from attention_cases import Case, check_errors, draw_case, error, generator, plain_options, run, run_exactly, strided

import flash_sparse
from flash_sparse.backends import reference


def repair_interpreter():
    """Let the interpreter of Triton 3.6 take loop bounds from tensors also with numpy 2.4 and later.

    Numpy's warnings about infinities, which rows that see nothing cause on purpose, are silenced.
    """
    from triton.runtime import interpreter

    warnings.filterwarnings("ignore", module="triton")

    patch = interpreter._patch_lang_tensor

    def patch_and_repair(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch_and_repair


def small_case(seed, dtypes):
    """A random case whose lengths suit the interpreter."""
    case = draw_case(seed, dtypes)
    limit = max(40, 200 // (case.batch * case.heads))
    query_length, key_length = min(case.query_length, limit), min(case.key_length, limit)
    key_lengths = case.key_lengths
    if key_lengths is not None:
        key_lengths = tuple(min(length, key_length) for length in key_lengths)
    return dataclasses.replace(case, query_length=query_length, key_length=key_length, key_lengths=key_lengths)


def check_case(case, device, with_logsumexp=False):
    """Output, log-sum-exp and gradients: at most twice the error of the same precision's baseline, plus 1e-5.

    Not PyTorch's own attention on a CPU: that one keeps float32 where no GPU kernel does. The baseline is the formula
    in the same dtype or the float64 formula rounded where flash kernels round, whichever is worse.
    """
    *rows, grad_output = case.tensors(device)
    empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)  # (B, H, Nq)
    grad_logsumexp = None
    if with_logsumexp:
        draw = torch.randn(empty.shape, generator=generator(case.seed))
        grad_logsumexp = draw.masked_fill(empty, 0).to(device)
    found = run(rows, grad_output, "triton", case.options(device), grad_logsumexp)
    exact = run_exactly(rows, grad_output, case.options(), grad_logsumexp)
    own = [part.detach().cpu() for part in rows]
    upstream = None if grad_logsumexp is None else grad_logsumexp.cpu()
    formula = run(own, grad_output.cpu(), "reference", case.options(), upstream)
    rounded = run_rounded(case, own, grad_output.cpu(), upstream)
    for name, result in found.items():
        limit = 2 * max(error(baseline[name], exact[name]) for baseline in (formula, rounded)) + 1e-5
        assert error(result, exact[name]) <= limit, (
            f"{name} is {error(result, exact[name]):.3g} off, {limit=:.3g}: {case}"
        )
    assert found["output"].dtype == rows[0].dtype
    assert found["lse"].dtype == torch.float32
    assert case.sinks or bool((found["lse"].cpu()[empty] == -torch.inf).all()), case
    assert bool((found["lse"].cpu()[~empty] > -torch.inf).all()), case
    assert not found["output"].cpu()[empty].any(), case
    assert not found["grad_query"].cpu()[empty].any(), case


def run_rounded(case, rows, grad_output, grad_logsumexp):
    """The formula in float64, of what flash kernels keep in the inputs' dtype: operands of products, and the output."""

    def kept(tensor):
        return tensor.to(rows[0].dtype).double()

    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    group = case.heads // case.key_heads
    query, grad = rows[0].double(), grad_output.double()
    key, value = (part.double().repeat_interleave(group, 1) for part in rows[1:])
    hidden = ~case.mask()
    scores, slope = query @ key.mT * scale, 1.0
    if case.softcap is not None:
        slope = 1 - (scores / case.softcap).tanh().square()
        scores = case.softcap * (scores / case.softcap).tanh()
    logsumexp = scores.masked_fill(hidden, -torch.inf).logsumexp(-1)
    sinks = None
    if case.sinks:
        sinks = case.options()["sinks"].double()[:, None]  # (H, 1)
        logsumexp = torch.logaddexp(logsumexp, sinks)
    shift = logsumexp.masked_fill(logsumexp == -torch.inf, 0)[..., None]
    weights = (scores - shift).exp().masked_fill(hidden, 0)
    output = kept(kept(weights) @ value)
    delta = (output * grad).sum(-1) - (0 if grad_logsumexp is None else grad_logsumexp.double())
    grad_scores = kept(weights * (grad @ value.mT - delta[..., None]) * slope)
    grad_key, grad_value = grad_scores.mT @ query * scale, kept(weights).mT @ grad
    grad_sinks = {} if sinks is None else {"grad_sinks": -((sinks - logsumexp).exp() * delta).sum((0, 2))}
    return {
        **grad_sinks,
        "output": output,
        "lse": logsumexp.float(),
        "grad_query": kept(grad_scores @ key * scale),
        "grad_key": kept(grad_key.unflatten(1, (-1, group)).sum(2)),
        "grad_value": kept(grad_value.unflatten(1, (-1, group)).sum(2)),
    }


def check_packed(seed, dtype, device):
    """Sequences laid end to end, an empty one among them, with layouts that are larger than they are."""
    draw = random.Random(seed)
    lengths = [draw.choice((0, 1, 17, 33, 64, 90)) for _ in range(3)] + [draw.randint(1, 40)]
    draw.shuffle(lengths)
    heads, key_heads, head_dim = draw.choice(((1, 1), (2, 1), (4, 2))), None, draw.choice((8, 20, 48))
    heads, key_heads = heads
    total, longest = sum(lengths), max(lengths)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    torch.manual_seed(seed)
    dtype = getattr(torch, dtype)
    shapes = (heads, key_heads, key_heads, heads)
    *rows, grad_output = (torch.randn(total, count, head_dim).to(dtype).to(device) for count in shapes)
    layout = None
    block_size = draw.choice((0, 16, 32, 64, 128))
    if block_size:
        size = -(-(longest + 20) // block_size)
        leading = draw.choice(((), (heads,), (len(lengths), heads), (len(lengths), 1)))
        kept = torch.rand(*leading, size, size) < 0.6
        layout = flash_sparse.BlockLayout.from_blocks(kept, block_size, longest + 20)
    options = {
        "cu_seqlens": cu_seqlens,
        "max_seqlen": longest + draw.choice((0, 7)),
        "is_causal": draw.random() < 0.3,
        "window": draw.choice((None, None, (9, 3), (None, 5))),
    }
    on_device = layout.to(device) if layout is not None else None
    found = run(rows, grad_output, "triton", options | {"layout": on_device}, None, flash_sparse.attention_varlen)
    options |= {"cu_seqlens": cu_seqlens.cpu(), "layout": layout}
    own = [part.cpu() for part in rows]
    exact = run_exactly(own, grad_output, options, None, flash_sparse.attention_varlen)
    baseline = run(own, grad_output.cpu(), "reference", options, None, flash_sparse.attention_varlen)
    check_errors(found, exact, baseline, (lengths, heads, key_heads, head_dim, block_size, options), names=found)


def check_crossed(seed, device):
    """Queries and keys packed by bounds of their own, empty ones on either side, against the float64 formula."""
    draw = random.Random(seed)
    lengths = [(draw.choice((0, 1, 17, 50)), draw.choice((0, 3, 33, 70))) for _ in range(3)] + [(20, 45)]
    longest = [max(side) + draw.choice((0, 7)) for side in zip(*lengths, strict=True)]
    bounds = [torch.tensor([0, *side]).cumsum(0).int() for side in zip(*lengths, strict=True)]
    totals = [int(side[-1]) for side in bounds]
    shapes = (totals[0], 4), (totals[1], 2), (totals[1], 2), (totals[0], 4)
    *rows, grad_output = (torch.randn(*shape, 24, generator=generator(seed)).to(device) for shape in shapes)
    block_size = draw.choice((0, 16, 64))
    layout = None
    if block_size:
        kept = torch.rand(len(lengths), 4, *(-(-length // block_size) for length in longest)) < 0.6
        layout = flash_sparse.BlockLayout.from_blocks(kept, block_size, *longest)
    options = {
        "cu_seqlens": bounds[0], "max_seqlen": longest[0], "cu_seqlens_k": bounds[1], "max_seqlen_k": longest[1],
        "layout": layout, "is_causal": draw.random() < 0.5, "window": draw.choice((None, (9, 3), (None, 5))),
        "softcap": draw.choice((None, 2.0)), "sinks": torch.randn(4) if draw.random() < 0.5 else None,
    }  # fmt: skip
    there = {name: part.to(device) if hasattr(part, "to") else part for name, part in options.items()}
    found = run(rows, grad_output, "triton", there, None, flash_sparse.attention_varlen)
    own, upstream = [part.cpu() for part in rows], grad_output.cpu()
    exact = run_exactly(own, upstream, options, None, flash_sparse.attention_varlen)
    baseline = run(own, upstream, "reference", options, None, flash_sparse.attention_varlen)
    check_errors(found, exact, baseline, (lengths, options), names=found)


def dropout_mask(shape, p, device, **options):
    """Which probabilities (B, H, Nq, Nk) a call keeps: the output where all values are rows of the identity."""
    batch, heads, query_length, key_length = shape
    query = torch.zeros(batch, heads, query_length, 256, device=device)
    key = torch.zeros(batch, heads, key_length, 256, device=device)
    value = torch.eye(256, device=device)[:key_length].expand_as(key)
    output = flash_sparse.attention(query, key, value, dropout_p=p, backend="triton", **options)
    return output[..., :key_length] > 0


def check_dropout(block_size, is_causal, device):
    """With the mask that the kernel draws, output and gradients are the formula's."""
    torch.manual_seed(1)
    shape, p = (2, 4, 50, 70), 0.3
    layout = None
    if block_size:
        kept = torch.rand(4, -(-50 // block_size), -(-70 // block_size)) < 0.7
        layout = flash_sparse.BlockLayout.from_blocks(kept, block_size, 50, 70)
    rows = [torch.randn(2, heads, length, 24) for heads, length in ((4, 50), (2, 70), (2, 70))]
    grad_output, grad_logsumexp = torch.randn(2, 4, 50, 24), torch.randn(2, 4, 50)
    visible = reference.visible(50, 70, layout, (None, 0 if is_causal else None), None, torch.device("cpu"))
    empty = ~visible.any(-1, keepdim=True)  # (1, H, Nq, 1)
    grad_logsumexp = grad_logsumexp.masked_fill(empty[..., 0], 0)

    torch.manual_seed(5)
    keep = dropout_mask(shape, p, device).cpu()  # the mask depends on the seed and the positions alone
    torch.manual_seed(5)
    options = {"layout": layout.to(device) if layout is not None else None, "is_causal": is_causal}
    on_device = [part.to(device) for part in rows]
    found = run(on_device, grad_output.to(device), "triton", options, grad_logsumexp.to(device), dropout_p=p)

    def formula(dtype):
        leaves = [part.to(dtype).requires_grad_() for part in rows]
        key, value = (part.repeat_interleave(2, 1) for part in leaves[1:])
        scores = (leaves[0] @ key.mT * 24**-0.5).masked_fill(~visible, -torch.inf)
        logsumexp = scores.logsumexp(-1)
        weights = scores.masked_fill(empty, 0).softmax(-1) * visible
        output = (weights * keep / (1 - p)) @ value
        sums = [output, logsumexp.masked_fill(empty[..., 0], 0)]
        gradients = torch.autograd.grad(sums, leaves, [grad_output.to(dtype), grad_logsumexp.to(dtype)])
        names = ("output", "lse", "grad_query", "grad_key", "grad_value")
        return dict(zip(names, (output.detach(), logsumexp.detach(), *gradients), strict=True))

    check_errors(found, formula(torch.float64), formula(torch.float32), (block_size, is_causal), names=found)


def check_dropout_share(p, device):
    """Kept with chance 1 - p in every row, column, head and batch entry, and independently of the neighbours."""
    torch.manual_seed(2)
    shape = (2, 2, 256, 256)
    keep = dropout_mask(shape, p, device).cpu().double() - (1 - p)  # (B, H, Nq, Nk), mean 0
    variance = p * (1 - p)

    def check(sums, count):  # a sum of `count` draws, as a multiple of its standard deviation
        deviations = sums / (variance * count) ** 0.5
        assert float(deviations.abs().max()) < 5.5, deviations.abs().max()
        assert abs(float(deviations.square().mean()) - 1) < max(0.3, 6 / deviations.numel() ** 0.5)

    check(keep.sum(-1), 256)
    check(keep.sum(-2), 256)
    check(keep.sum((-2, -1)), 256 * 256)
    # Correlation with each shift along either axis, between heads, and between batch entries.
    pairs = [keep * keep.roll(shift, axis) / variance**0.5 for axis in (-1, -2) for shift in (1, 2, 4, 8, 16, 128)]
    check(torch.stack([pair.sum((-2, -1)) for pair in pairs]), 256 * 256)
    check((keep[:, 0] * keep[:, 1] / variance**0.5).sum((-2, -1)), 256 * 256)
    check((keep[0] * keep[1] / variance**0.5).sum((-2, -1)), 256 * 256)
    # Four corners of a rectangle: where a hash that mixes rows and columns badly shows.
    corners = keep * keep.roll(1, -1) * keep.roll(1, -2) * keep.roll((1, 1), (-2, -1)) / variance**1.5
    check(corners.sum((-2, -1)), 256 * 256)


def check_dropout_repeats(device):
    """The seed alone decides, also when the sequences are packed; other seeds draw otherwise."""
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(dropout_mask((1, 1, 40, 40), 0.5, device))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    torch.manual_seed(3)
    first, second = dropout_mask((1, 1, 40, 40), 0.5, device), dropout_mask((1, 1, 40, 40), 0.5, device)
    assert not torch.equal(first, second)


DROPPED = {
    "plain": {"shape": (1, 1, 40, 70), "p": 0.5},
    "batch and heads": {"shape": (3, 4, 50, 33), "p": 0.3},
    "grouped": {"shape": (2, 6, 33, 40), "key_heads": 2, "p": 0.1},
    "more tokens than a tile": {"shape": (1, 2, 140, 200), "p": 0.9},
    "causal": {"shape": (1, 2, 90, 70), "p": 0.2, "is_causal": True},
    "window": {"shape": (2, 1, 70, 70), "p": 0.2, "window": (20, 5)},
    "lengths": {"shape": (3, 2, 30, 60), "p": 0.25, "key_lengths": (60, 0, 17)},
    "layout": {"shape": (2, 2, 100, 130), "p": 0.4, "block_size": 16},
    "nearly nothing": {"shape": (1, 1, 64, 128), "p": 1e-9},
    "nearly all": {"shape": (1, 1, 64, 128), "p": 0.999},
    "capped, sinks": {"shape": (2, 2, 70, 90), "p": 0.3, "softcap": 2.0, "sinks": (0.5, -1.0), "is_causal": True},
    "pack": {"lengths": (0, 40, 1, 130, 0, 33), "heads": 2, "p": 0.3},
    "pack, grouped": {"lengths": (70, 5, 90), "heads": 4, "key_heads": 2, "p": 0.5, "block_size": 32},
}


def draw_dropped(name, backend):
    """Which probabilities the case of that name keeps, bool: columns of the identity are the values."""
    options = dict(DROPPED[name])
    p, block_size = options.pop("p"), options.pop("block_size", 0)
    lengths = options.pop("lengths", None)
    if lengths is None:
        batch, heads, queries, keys = options.pop("shape")
    else:
        batch, heads, queries, keys = 1, options.pop("heads"), sum(lengths), sum(lengths)
    key_heads = options.pop("key_heads", heads)
    query = torch.zeros(batch, heads, queries, 256)
    key = torch.zeros(batch, key_heads, keys, 256)
    value = torch.eye(256)[:keys].expand_as(key)
    if "sinks" in options:
        options["sinks"] = torch.tensor(options["sinks"])
    if "key_lengths" in options:
        options["key_lengths"] = torch.tensor(options["key_lengths"])
    if block_size:
        sizes = [-(-length // block_size) for length in ((queries, keys) if lengths is None else [max(lengths)] * 2)]
        kept = torch.rand(heads, *sizes, generator=generator(7)) < 0.6
        covered = (queries, keys) if lengths is None else [max(lengths)] * 2
        options["layout"] = flash_sparse.BlockLayout.from_blocks(kept, block_size, *covered)

    torch.manual_seed(11)
    if lengths is None:
        return flash_sparse.attention(query, key, value, dropout_p=p, backend=backend, **options) != 0
    packed = [rows[0].transpose(0, 1) for rows in (query, key, value)]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    output = flash_sparse.attention_varlen(*packed, bounds, max(lengths), dropout_p=p, backend=backend, **options)
    return output != 0


def check_dropped_as_on_cpu(name):
    """One seed drops the same elements in these kernels and in those for CPUs."""
    found, expected = draw_dropped(name, "triton"), draw_dropped(name, "cpu")
    assert expected.any()
    assert torch.equal(found, expected), (found != expected).nonzero()[:5]


def check_full_layout(block_size, device):
    """A layout that keeps all blocks gives what no layout gives, bit for bit where the tiles are the same."""
    torch.manual_seed(0)
    *rows, grad_output = (torch.randn(1, 1, 200, 32).to(device) for _ in range(4))
    size = -(-200 // block_size)
    layout = flash_sparse.BlockLayout.from_blocks(torch.ones(size, size, dtype=torch.bool), block_size, 200)
    dense = run(rows, grad_output, "triton", {})
    sparse = run(rows, grad_output, "triton", {"layout": layout.to(device)})
    for name, result in dense.items():
        if block_size == 128:
            assert torch.equal(result, sparse[name]), name
        else:
            assert error(sparse[name], result.double().cpu()) < 1e-5, name


def check_wide_offsets(device):
    """Offsets in 64 bits give the same bits as offsets in 32."""
    from flash_sparse.backends.triton import launch

    case = Case(seed=3, heads=2, key_heads=1, query_length=50, key_length=90, head_dim=48, block_size=16, density=0.5)
    *rows, grad_output = case.tensors(device)
    narrow = run(rows, grad_output, "triton", case.options(device))
    before, launch.is_wide = launch.is_wide, lambda matrix: True
    try:
        wide = run(rows, grad_output, "triton", case.options(device))
    finally:
        launch.is_wide = before
    for name, result in narrow.items():
        assert torch.equal(result, wide[name]), name


@contextmanager
def descriptors(counted):
    """Tensor descriptors wherever they can be; in the interpreter `counted` takes each load through one."""
    from triton.runtime import interpreter

    from flash_sparse.backends.triton import tiles

    def with_descriptors(kernels):
        forward, query = (tile._replace(descriptors=True) for tile in (kernels.forward, kernels.query))
        return kernels._replace(forward=forward, query=query)

    load = interpreter.InterpreterBuilder.create_descriptor_load

    def load_and_count(self, descriptor, *arguments):
        counted.append(descriptor.block_shape)
        return load(self, descriptor, *arguments)

    table = {
        name: {key: with_descriptors(kernels) for key, kernels in own.items()} for name, own in tiles.TABLE.items()
    }
    with (
        mock.patch.dict(tiles.TABLE, table),
        mock.patch.object(interpreter.InterpreterBuilder, "create_descriptor_load", load_and_count),
    ):
        yield


def check_descriptors(case, loads):
    """Tiles loaded through tensor descriptors give the bits that pointers give; `loads`: whether any can be."""
    *rows, grad_output = case.tensors("cpu")
    expected = run(rows, grad_output, "triton", case.options())
    counted = []
    with descriptors(counted):
        found = run(rows, grad_output, "triton", case.options())
    assert bool(counted) == loads, case
    for name, result in expected.items():
        assert torch.equal(result, found[name]), (name, case)


def check_descriptors_on_gpu(case):
    with descriptors([]):
        check_case(case, "cuda")


def check_descriptor_packed(device):
    """A descriptor ends with its sequence: NaNs in the next one, which the same tile would reach, get nowhere."""
    torch.manual_seed(4)
    rows = [torch.randn(90, 2, 16).half().to(device) for _ in range(4)]
    cu_seqlens = torch.tensor([0, 30, 30, 61, 90], dtype=torch.int32, device=device)
    options = {"cu_seqlens": cu_seqlens, "max_seqlen": 31}
    counted = []
    with descriptors(counted):
        expected = run(rows[:3], rows[3], "triton", options, function=flash_sparse.attention_varlen)
        for part in rows:
            part[30:61] = torch.nan
        found = run(rows[:3], rows[3], "triton", options, function=flash_sparse.attention_varlen)
    for name in ("output", "grad_query", "grad_key", "grad_value"):
        for own in (slice(30), slice(61, 90)):
            assert torch.equal(found[name][own], expected[name][own]), name
        assert found[name][30:61].isnan().any(), name
    assert device != "cpu" or counted


def check_heavy_lines(is_causal, device):
    """Lines that see all begin first: whole rows and columns, different ones and differently many in each head."""
    torch.manual_seed(0)
    blocks = torch.eye(9, dtype=torch.bool).repeat(1, 4, 1, 1)  # (1, H, Qb, Kb)
    blocks[0, 0, 0] = blocks[0, 0, :, 0] = True
    blocks[0, 1, [3, 7]] = blocks[0, 1, :, 8] = True
    blocks[0, 3] = False
    layout = flash_sparse.BlockLayout.from_blocks(blocks, 32, 280).to(device)
    assert layout.row_order[..., -1].unique().tolist() == [2]
    rows = [torch.randn(2, heads, 280, 16, device=device, requires_grad=True) for heads in (4, 2, 2)]
    grad_output = torch.randn(2, 4, 280, 16, device=device)
    options = {"layout": layout, "is_causal": is_causal}
    found = run(rows, grad_output, "triton", options)
    exact = run_exactly(rows, grad_output, {**options, "layout": layout.to("cpu")})
    for name, result in found.items():
        assert error(result, exact[name]) < 1e-5 * float(exact[name].nan_to_num(neginf=0).abs().max()), name


def check_operator():
    """The interpreted operators keep PyTorch's rules, and leave CPU tensors' own backend alone."""
    from flash_sparse import dispatch

    torch.manual_seed(0)
    rows = [strided(torch.randn(1, 2, 30, 16), "transposed").requires_grad_() for _ in range(3)]
    layout = flash_sparse.BlockLayout.from_blocks(torch.ones(2, 2, dtype=torch.bool), 16, 30)
    for own in (layout, None):
        sinks = torch.randn(2, requires_grad=True)
        arguments = (*rows, *plain_options(own, right=0, scale=0.25, softcap=2.0, sinks=sinks))
        torch.library.opcheck(dispatch.interpreted_forward.default, arguments)
    automatic = flash_sparse.attention(*rows, is_causal=True)
    assert torch.equal(automatic, flash_sparse.attention(*rows, is_causal=True, backend="cpu"))
    assert not torch.equal(automatic, flash_sparse.attention(*rows, is_causal=True, backend="triton"))


def check_compiled(packed):
    """One graph without breaks for all lengths, its results and gradients the eager ones."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    layout = flash_sparse.patterns.local(32, 16)

    def call(rows, cu_seqlens, max_seqlen):
        if packed:
            options = {"layout": layout, "is_causal": True, "backend": "triton"}
            return flash_sparse.attention_varlen(*rows, cu_seqlens, max_seqlen, **options)
        return flash_sparse.attention(*rows, window=(20, 20), backend="triton")

    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for lengths in ((9, 3), (20, 13, 5), (17, 2)):
        total = sum(lengths)
        shape = (total, 1, 16) if packed else (1, 1, total, 16)
        rows = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        arguments = rows, torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32), max(lengths)
        found, expected = compiled(*arguments), call(*arguments)
        assert torch.equal(found, expected)
        upstream = torch.randn_like(expected)
        gradients = (torch.autograd.grad(output, rows, upstream) for output in (found, expected))
        for one, other in zip(*gradients, strict=True):
            assert torch.equal(one, other)
    torch.compiler.reset()
    assert counter.frame_count <= 2, counter.frame_count  # the first length, and all others


def check_autocast():
    """float32 leaves under autocast: the kernels run in its dtype, compiled too; gradients come back in float32."""
    rows = [torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3)]

    def call(*rows):
        return flash_sparse.attention(*rows, is_causal=True, backend="triton")

    expected = call(*(part.half() for part in rows))
    for attend in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", dtype=torch.float16):
            found = attend(*rows)
        assert found.dtype == torch.float16
        assert torch.equal(found, expected)
        gradients = torch.autograd.grad(found.float().sum(), rows)
        assert all(part.dtype == torch.float32 and part.isfinite().all() for part in gradients)
    torch.compiler.reset()


def check_backward_operator():
    """The interpreted backward operator keeps PyTorch's rules too, with dropout and packed sequences."""
    from flash_sparse import dispatch

    torch.manual_seed(0)
    rows = [strided(torch.randn(1, 2, 30, 16), "transposed") for _ in range(3)]
    layout = flash_sparse.patterns.local(32, 16)
    bounds = torch.tensor([0, 13, 30], dtype=torch.int32)
    for parts, cu_seqlens in ((layout, bounds), (None, None)):
        common = plain_options(
            parts, cu_seqlens=cu_seqlens, max_seqlen=17, max_seqlen_k=17, right=0, dropout_p=0.2,
            seed=torch.tensor(7), scale=0.25, sinks=torch.randn(2),
        )  # fmt: skip
        output, logsumexp = dispatch.interpreted_forward(*rows, *common)
        for wanted in ([True, True, True, True], [False, False, True, False]):
            arguments = (torch.randn_like(output), None, *rows, output, logsumexp, *common, wanted)
            torch.library.opcheck(torch.ops.flash_sparse.interpreted_backward.default, arguments)
