"""Random cases of attention, and how far from the truth a result is.

A case holds every choice in plain values: the `Case(...)` in a failure's message can be pasted to repeat it.
"""

import dataclasses
import random

import torch

import flash_sparse
from flash_sparse.arguments import layout_arguments
from flash_sparse.backends import reference
from flash_sparse.backends.options import Options

LENGTHS = (1, 2, 16, 31, 64, 113, 128, 203, 256, 300, 512, 1023)
HEAD_DIMS = (1, 2, 8, 16, 40, 59, 64, 80, 96, 111, 128, 256)
WIDTHS = (None, 0, 1, 7, 64, 500)
STRIDES = ("contiguous", "transposed", "fused", "sliced", "expanded", "last")
ELEMENTS = 700_000  # largest attention matrix over all heads, so that hundreds of cases take a minute


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of `attention`: letters as there."""

    seed: int
    dtype: str = "float32"
    batch: int = 1
    heads: int = 1
    key_heads: int = 1
    query_length: int = 64
    key_length: int = 64
    head_dim: int = 16
    block_size: int = 0  # 0: no layout
    density: float = 1.0
    leading: tuple[int, ...] = ()  # of the layout's blocks: shared, per head, per batch entry
    is_causal: bool = False
    window: tuple[int | None, int | None] | None = None
    key_lengths: tuple[int, ...] | None = None
    scale: float | None = None
    amplitude: float = 1.0  # of the query: the larger, the more peaked the softmax
    strides: str = "contiguous"
    softcap: float | None = None
    sinks: bool = False

    def options(self, device="cpu"):
        """Keyword arguments that the query, key and value go with."""
        lengths = None if self.key_lengths is None else torch.tensor(self.key_lengths, device=device)
        return {
            "layout": self.layout(device),
            "is_causal": self.is_causal,
            "window": self.window,
            "key_lengths": lengths,
            "scale": self.scale,
            "softcap": self.softcap,
            "sinks": 3 * torch.randn(self.heads, generator=generator(self.seed)).to(device) if self.sinks else None,
        }

    def layout(self, device="cpu"):
        if not self.block_size:
            return None
        sizes = [-(-length // self.block_size) for length in (self.query_length, self.key_length)]
        kept = torch.rand(*self.leading, *sizes, generator=generator(self.seed)) < self.density
        kept[..., :: max(2, sizes[0] // 3), :] &= self.density == 1  # whole rows of blocks that see nothing
        layout = flash_sparse.BlockLayout.from_blocks(kept, self.block_size, self.query_length, self.key_length)
        return layout.to(device)

    def tensors(self, device="cpu"):
        """Query, key, value and the output's gradient in the case's dtype and strides; the first three are leaves."""
        draw = generator(self.seed)
        key_shape = (self.batch, self.key_heads, self.key_length, self.head_dim)
        query_shape = (self.batch, self.heads, self.query_length, self.head_dim)
        dtype = getattr(torch, self.dtype)
        rows = [torch.randn(shape, generator=draw) for shape in (query_shape, key_shape, key_shape, query_shape)]
        rows[0] *= self.amplitude
        rows = [strided(part.to(dtype).to(device), self.strides) for part in rows]
        return *(part.requires_grad_() for part in rows[:3]), rows[3]

    def mask(self):
        """Which keys each query may see, bool (B | 1, H | 1, Nq, Nk)."""
        left, right = self.window or (None, None)
        options = self.options()
        window = (left, 0 if self.is_causal else right)
        return reference.visible(
            self.query_length, self.key_length, options["layout"], window, options["key_lengths"], torch.device("cpu")
        )


def plain_options(layout=None, **changed):
    """What the operators and backends take of a call without options, but for those that are `changed`."""
    neutral = {
        "cu_seqlens": None, "max_seqlen": 0, "cu_seqlens_k": None, "max_seqlen_k": 0, "key_lengths": None, "left": -1,
        "right": -1, "dropout_p": 0.0, "seed": None, "scale": 1.0, "softcap": 0.0, "sinks": None,
    }  # fmt: skip
    return Options(*layout_arguments(layout), **{**neutral, **changed})


def generator(seed):
    return torch.Generator().manual_seed(seed)


def strided(rows, kind):
    """The same values (B, H, N, D) with other strides; for "expanded", those of the first batch entry for all."""
    batch, heads, length, dim = rows.shape
    if kind == "contiguous":
        return rows
    if kind == "transposed":  # as a projection leaves them: (B, N, H, D)
        return rows.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "fused":  # a slice of query, key and value in one tensor
        fused = rows.new_full((batch, length, 3, heads, dim), torch.nan)
        fused[:, :, 1] = rows.transpose(1, 2)
        return fused[:, :, 1].transpose(1, 2)
    if kind == "sliced":  # rows and columns of a larger tensor
        large = rows.new_full((batch, heads, length + 5, dim + 3), torch.nan)
        large[:, :, 2:-3, 1:-2] = rows
        return large[:, :, 2:-3, 1:-2]
    if kind == "expanded":
        return rows[:1].expand(batch, -1, -1, -1)
    assert kind == "last"  # the last dimension is not contiguous
    return rows.mT.contiguous().mT


def draw_case(seed, dtypes):
    """A case of small size with every option drawn at random."""
    draw = random.Random(seed)
    dtype = draw.choice(dtypes)
    batch, key_heads, group = draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 4))
    heads = key_heads * group
    affordable = [length for length in LENGTHS if batch * heads * length <= 40_000]
    query_length = draw.choice(affordable)
    affordable = [length for length in LENGTHS if batch * heads * query_length * length <= ELEMENTS]
    # Half of the cases are square where they can be.
    square = query_length in affordable and draw.random() < 0.5
    key_length = query_length if square else draw.choice(affordable)
    pixels = batch * heads * max(query_length, key_length)
    # The largest of very few 16-bit errors is a matter of luck: head dimensions 1 and 2 have a test of their own.
    smallest = 8 if dtype in ("float16", "bfloat16") else 1
    head_dim = draw.choice([dim for dim in HEAD_DIMS if smallest <= dim and pixels * dim <= 400_000])
    block_size = draw.choice((0, 0, 16, 16, 32, 64, 128))
    key_lengths = None
    if draw.random() < 0.35:
        key_lengths = tuple(draw.choice((0, key_length, draw.randint(0, key_length))) for _ in range(batch))
    # Scores as models have them: standard deviations up to 8. Under a single key all of them cancel.
    scales = [(1.0, None), (1.0, None), (1.0, 0.0), (1.0, 0.2), (1.0, 0.5), (1.0, -0.5)]
    amplitude, scale = draw.choice(scales + [(4.0, None)] * (key_length > 1))
    return Case(
        seed=seed,
        dtype=dtype,
        batch=batch,
        heads=heads,
        key_heads=key_heads,
        query_length=query_length,
        key_length=key_length,
        head_dim=head_dim,
        block_size=block_size,
        density=draw.choice((0.0, 0.1, 0.3, 0.6, 1.0, 1.0)),
        leading=draw.choice(((), (heads,), (batch, heads), (batch, 1))),
        is_causal=draw.random() < 0.35,
        window=(draw.choice(WIDTHS), draw.choice(WIDTHS)) if draw.random() < 0.35 else None,
        key_lengths=key_lengths,
        scale=scale,
        amplitude=amplitude,
        strides=draw.choice(STRIDES),
    )


def cap_or_sink(case):
    """The case with capped scores, with sinks, or with both; in at least 8 dimensions, for the largest error not to be
    a matter of luck."""
    draw = random.Random(case.seed)
    softcap, sinks = draw.choice((None, 1.5, 5.0, 50.0)), draw.random() < 0.6
    head_dim = max(case.head_dim, 8)
    return dataclasses.replace(case, softcap=softcap, sinks=sinks or softcap is None, head_dim=head_dim)


def run(rows, grad_output, backend, options, grad_logsumexp=None, function=flash_sparse.attention, **more):
    """Output, log-sum-exp and the three gradients of one call; with sinks, theirs too."""
    leaves = [part.detach().requires_grad_() for part in rows]
    names = ["grad_query", "grad_key", "grad_value"]
    if options.get("sinks") is not None:
        options = {**options, "sinks": options["sinks"].detach().requires_grad_()}
        leaves, names = [*leaves, options["sinks"]], [*names, "grad_sinks"]
    output, logsumexp = function(*leaves[:3], **options, **more, return_lse=True, backend=backend)
    results, upstream = [output], [grad_output]
    if grad_logsumexp is not None:
        results, upstream = [output, logsumexp], [grad_output, grad_logsumexp]
    gradients = torch.autograd.grad(results, leaves, upstream)
    return {
        "output": output.detach(),
        "lse": logsumexp.detach(),
        **dict(zip(names, gradients, strict=True)),
    }


def run_exactly(rows, grad_output, options, grad_logsumexp=None, function=flash_sparse.attention, **more):
    """`run` with the textbook formula in float64."""
    rows, grad_output = [part.detach().double().cpu() for part in rows], grad_output.double().cpu()
    grad_logsumexp = None if grad_logsumexp is None else grad_logsumexp.double().cpu()
    if options.get("sinks") is not None:
        options = {**options, "sinks": options["sinks"].double().cpu()}
    return run(rows, grad_output, "reference", options, grad_logsumexp, function, **more)


def run_torch(rows, grad_output, mask, scale):
    """Output and gradients of PyTorch's own attention with a boolean mask, in the dtype of `rows`.

    On contiguous rows, where it runs its flash kernel: it takes another for some strides.
    """
    leaves = [part.detach().cpu().contiguous().requires_grad_() for part in rows]
    group = leaves[0].shape[1] // leaves[1].shape[1]
    query, key, value = leaves[0], *(part.repeat_interleave(group, 1) for part in leaves[1:])
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    gradients = torch.autograd.grad(output, leaves, grad_output.cpu())
    return dict(zip(("output", "grad_query", "grad_key", "grad_value"), (output.detach(), *gradients), strict=True))


def run_eager(rows, grad_output, mask, scale, grad_logsumexp, softcap=None, sinks=None):
    """`run` by PyTorch's single operations, every one in the dtype of `rows`."""
    leaves = [part.detach().cpu().requires_grad_() for part in rows]
    group = leaves[0].shape[1] // leaves[1].shape[1]
    query, key, value = leaves[0], *(part.repeat_interleave(group, 1) for part in leaves[1:])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.mT * scale  # (B, H, Nq, Nk)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~mask, -torch.inf)
    finite = scores.masked_fill(~mask.any(-1, keepdim=True), 0)
    names = ["output", "lse", "grad_query", "grad_key", "grad_value"]
    if sinks is not None:
        leaves, names = [*leaves, sinks.cpu().to(scores).requires_grad_()], [*names, "grad_sinks"]
        column = leaves[3][:, None, None].expand(*scores.shape[:3], 1)
        scores, finite = torch.cat([scores, column], -1), torch.cat([finite, column], -1)
    logsumexp = scores.logsumexp(-1)
    weights = finite.softmax(-1)[..., : mask.shape[-1]].masked_fill(~mask, 0)
    output = weights @ value
    gradients = torch.autograd.grad([output, logsumexp], leaves, [grad_output.cpu(), grad_logsumexp.cpu().to(output)])
    return dict(zip(names, (output.detach(), logsumexp.detach(), *gradients), strict=True))


def error(found, exact):
    """The largest absolute error. Where the truth is minus infinity (an empty row's log-sum-exp), so must it be."""
    found, exact = found.double().cpu(), exact.double()
    assert found.shape == exact.shape
    same = found == exact  # infinities among them
    return float((found - exact).masked_fill(same, 0).abs().max()) if found.numel() else 0.0


def check_errors(
    found, exact, baseline, about, names=("output", "grad_query", "grad_key", "grad_value"), allowance=1e-5
):
    """At most twice the error of the baseline, plus an allowance; 1e-10 in float64."""
    for name in names:
        assert found[name].isnan().sum() == 0, f"{name} has NaN: {about}"
        own = error(found[name], exact[name])
        limit = 1e-10 if found[name].dtype == torch.float64 else 2 * error(baseline[name], exact[name]) + allowance
        assert own <= limit, f"{name} is {own:.3g} off, allowed {limit:.3g}: {about}"
