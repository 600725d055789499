"""Capped scores (Gemma 2's) and sinks (GPT-OSS's): against the float64 formula, and as such models compute them."""

import dataclasses

import pytest
import torch
from attention_cases import Case, cap_or_sink, check_errors, draw_case, error, generator, run, run_eager, run_exactly

import flash_sparse
from flash_sparse import attention_weights, block_mass, patterns

LOW = ("float32", "float32", "float16", "bfloat16")
SHAPE = (2, 4, 40, 8)


def upstream(case, device="cpu"):
    return torch.randn(case.batch, case.heads, case.query_length, generator=generator(case.seed)).to(device)


@pytest.mark.parametrize("seed", range(8000, 8080))
def test_at_most_twice_the_error_of_single_operations(kernel, device, seed):
    case = cap_or_sink(draw_case(seed, LOW))
    *rows, grad_output = case.tensors(device)
    empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)  # (B, H, Nq)
    grad_logsumexp = upstream(case).masked_fill(empty, 0).to(device)
    found = run(rows, grad_output, kernel, case.options(device), grad_logsumexp)
    exact = run_exactly(rows, grad_output, case.options(), grad_logsumexp)
    sinks = case.options()["sinks"]
    baseline = run_eager(rows, grad_output, case.mask(), case.scale, grad_logsumexp, case.softcap, sinks)
    check_errors(found, exact, baseline, case, names=found)
    assert ("grad_sinks" in found) == case.sinks
    if case.sinks:  # what a row that sees nothing has is its sink
        expected = sinks[:, None].expand_as(found["lse"])[empty]
        assert torch.allclose(found["lse"].cpu()[empty], expected, rtol=1e-6)
        assert not found["output"].cpu()[empty].any()


@pytest.mark.parametrize("seed", range(8100, 8140))
def test_float64_to_rounding(seed):
    case = cap_or_sink(draw_case(seed, ["float64"]))
    *rows, grad_output = case.tensors()
    empty = ~case.mask().expand(case.batch, case.heads, -1, -1).any(-1)
    grad_logsumexp = upstream(case).double().masked_fill(empty, 0)
    found = run(rows, grad_output, "cpu", case.options(), grad_logsumexp)
    exact = run_exactly(rows, grad_output, case.options(), grad_logsumexp)
    for name, result in found.items():
        assert result.dtype == torch.float64 or name == "grad_sinks"
        assert error(result, exact[name]) <= (1e-10 if result.dtype == torch.float64 else 1e-5), f"{name}: {case}"


def test_gemma2s_and_gpt_oss_own_lines(backend, device):
    """The formula itself, against what these models write down."""
    query, key, value = (torch.randn(SHAPE, generator=generator(i)).to(device) for i in range(3))
    sinks = torch.randn(4, generator=generator(3)).to(device)
    weights = torch.matmul(query, key.transpose(2, 3)) * 8**-0.5
    capped = torch.tanh(weights / 2.0) * 2.0
    expected = torch.nn.functional.softmax(capped, dim=-1) @ value
    found = flash_sparse.attention(query, key, value, softcap=2.0, backend=backend)
    torch.testing.assert_close(found, expected)

    column = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
    logits = torch.cat([weights, column], dim=-1)
    logits = logits - logits.max(dim=-1, keepdim=True).values
    expected = torch.nn.functional.softmax(logits, dim=-1)[..., :-1] @ value
    found = flash_sparse.attention(query, key, value, sinks=sinks, backend=backend)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize("options", [{"softcap": 0.5}, {}, {"softcap": 2.0, "window": (4, 0)}], ids=str)
def test_gradcheck(options, return_lse):
    """Also of the sinks, of a batch entry that sees nothing, and through the log-sum-exp."""
    case = Case(0, "float64", batch=2, heads=2, key_heads=1, query_length=18, key_length=20, head_dim=2, amplitude=2.0)
    *rows, _ = case.tensors()
    sinks = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)

    def call(query, key, value, sinks):
        return flash_sparse.attention(
            query, key, value, **options, sinks=sinks, key_lengths=torch.tensor([20, 0]), return_lse=return_lse,
            backend="cpu",
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, (*rows, sinks), fast_mode=True)


def test_gradcheck_with_dropout():
    rows = [torch.randn(1, 2, 20, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def call(*rows, sinks=sinks):
        torch.manual_seed(0)
        return flash_sparse.attention(*rows, softcap=1.5, sinks=sinks, dropout_p=0.3, return_lse=True, backend="cpu")

    assert torch.autograd.gradcheck(call, rows, fast_mode=True)


@pytest.mark.parametrize("block_size", [0, 16])
def test_packed_sequences(backend, device, block_size):
    """Each sequence is what it is alone; an empty one among them."""
    lengths = (30, 0, 41, 1)
    rows = [torch.randn(72, heads, 8, generator=generator(heads)).to(device) for heads in (4, 2, 2, 4)]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    sinks = torch.randn(4, generator=generator(5)).to(device)
    options = {"softcap": 1.0, "sinks": sinks, "is_causal": True}
    if block_size:
        options["layout"] = patterns.longformer(41, block_size).to(device)
    packed = {"cu_seqlens": bounds, "max_seqlen": 41, "function": flash_sparse.attention_varlen}
    found = run(rows[:3], rows[3], backend, options, **packed)
    total = torch.zeros(4, device=device)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = [tensor[start:stop].transpose(0, 1)[None] for tensor in rows]
        alone = run(part[:3], part[3], backend, options)
        torch.testing.assert_close(found["output"][start:stop], alone["output"][0].transpose(0, 1))
        torch.testing.assert_close(found["lse"][:, start:stop], alone["lse"][0])
        torch.testing.assert_close(found["grad_key"][start:stop], alone["grad_key"][0].transpose(0, 1))
        total += alone["grad_sinks"]
    torch.testing.assert_close(found["grad_sinks"], total)


@pytest.mark.parametrize("options", [{"key_lengths": torch.tensor([0, 40])}, {"window": (0, 0)}], ids=str)
def test_rows_without_keys_give_zeros(backend, device, options):
    options = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    query = torch.randn(SHAPE, generator=generator(0)).to(device)
    key = torch.randn(2, 4, 40, 8, generator=generator(1)).to(device)
    sinks = torch.tensor([0.0, 2.0, -3.0, 50.0], device=device)
    if "window" in options:  # the first 10 queries stand before all keys
        key = key[:, :, :30]
    empty = (slice(0, 1), slice(None)) if "key_lengths" in options else (slice(None), slice(None), slice(0, 10))
    rows, grad = (query, key, key), torch.ones_like(query)
    found = run(rows, grad, backend, {**options, "sinks": sinks}, torch.ones(SHAPE[:3], device=device))
    assert not found["output"][empty].any()
    assert not found["grad_query"][empty].any()
    torch.testing.assert_close(found["lse"][empty], sinks[:, None].expand(SHAPE[:3])[empty])
    exact = run_exactly(rows, grad, {**options, "sinks": sinks}, torch.ones(SHAPE[:3]))
    for name, result in found.items():
        assert not result.isnan().any()
        torch.testing.assert_close(result.cpu().double(), exact[name], rtol=1e-4, atol=1e-4)


def test_a_sink_of_minus_infinity_is_none(backend, device):
    rows = [torch.randn(SHAPE, generator=generator(i)).to(device) for i in range(4)]
    options = {"window": (5, 0), "key_lengths": torch.tensor([40, 10], device=device)}  # rows that see nothing, too
    sinks = torch.full((4,), -torch.inf, device=device)
    found = run(rows[:3], rows[3], backend, {**options, "sinks": sinks})
    plain = run(rows[:3], rows[3], backend, options)
    assert not found.pop("grad_sinks").any()
    for name, result in found.items():
        torch.testing.assert_close(result, plain[name])


def test_a_sink_far_above_or_below_the_scores(kernel, device):
    rows = [torch.randn(SHAPE, generator=generator(i)).to(device) for i in range(4)]
    sinks = torch.tensor([1e4, -1e4, 90.0, -90.0], device=device)
    for scale in (None, 0.0, -2.0, 1e-20):
        options = {"sinks": sinks, "scale": scale}
        found, exact = run(rows[:3], rows[3], kernel, options), run_exactly(rows[:3], rows[3], options)
        for name, result in found.items():
            torch.testing.assert_close(result.cpu().double(), exact[name], rtol=1e-5, atol=1e-5, msg=f"{name} {scale}")


@pytest.mark.parametrize("softcap", [1e-30, 1e-3, 1e6, 1e30])
def test_caps_of_every_size(kernel, device, softcap):
    """A tiny cap leaves equal scores, a huge one those that were."""
    rows = [torch.randn(SHAPE, generator=generator(i)).to(device) for i in range(4)]
    options = {"softcap": softcap, "is_causal": True}
    found, exact = run(rows[:3], rows[3], kernel, options), run_exactly(rows[:3], rows[3], options)
    for name, result in found.items():
        torch.testing.assert_close(result.cpu().double(), exact[name], rtol=1e-4, atol=1e-5)


def test_dropout_drops_what_it_drops_without_a_cap(kernel, device):
    value = torch.eye(40, device=device).expand(2, 4, 40, 40)
    rows = [torch.randn(2, 4, 40, 40, generator=generator(i)).to(device) for i in range(2)]
    masks = []
    for options in ({}, {"softcap": 3.0, "sinks": torch.zeros(4, device=device)}):
        torch.manual_seed(5)
        masks.append(flash_sparse.attention(*rows, value, dropout_p=0.3, backend=kernel, **options) != 0)
    assert 0.6 < float(masks[0].float().mean()) < 0.8
    assert torch.equal(*masks)


def test_sinks_keep_their_dtype_and_have_a_gradient_alone(kernel, device):
    rows = [torch.randn(SHAPE, generator=generator(i)).to(device, torch.bfloat16) for i in range(3)]
    sinks = torch.zeros(4, dtype=torch.bfloat16, device=device, requires_grad=True)
    flash_sparse.attention(*rows, sinks=sinks, backend=kernel).float().square().sum().backward()
    assert sinks.grad.dtype == torch.bfloat16
    assert sinks.grad.shape == (4,)
    assert bool((sinks.grad < 0).all())  # more for the sink, less output


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    case = Case(0, batch=2, heads=1, key_heads=1, query_length=1023, key_length=300, softcap=5.0, sinks=True)
    *rows, grad_output = case.tensors()
    before = torch.get_num_threads()
    expected = run(rows, grad_output, "cpu", case.options())
    try:
        torch.set_num_threads(threads)
        found = run(rows, grad_output, "cpu", case.options())
    finally:
        torch.set_num_threads(before)
    for name, result in found.items():
        assert torch.equal(result, expected[name]), name


def test_compiled_with_gradients(kernel, device):
    rows = [torch.randn(SHAPE, generator=generator(i)).to(device).requires_grad_() for i in range(3)]
    sinks = torch.randn(4, generator=generator(4)).to(device).requires_grad_()

    def call(query, key, value, sinks):
        return flash_sparse.attention(query * 1.5, key, value, softcap=2.0, sinks=sinks.exp(), is_causal=True).tanh()

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*rows, sinks), call(*rows, sinks)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(output.sum(), (*rows, sinks)) for output in (found, expected))
    torch.testing.assert_close(*gradients)
    torch.compiler.reset()


def test_transforms(kernel, device):
    """Gradients of each sample, with sinks of its own and with shared ones; forward mode is refused."""
    rows = [torch.randn(3, *SHAPE, generator=generator(i)).to(device) for i in range(3)]
    sinks = torch.randn(3, 4, generator=generator(4)).to(device)

    def loss(query, key, value, sinks, backend=kernel):
        return flash_sparse.attention(query, key, value, softcap=2.0, sinks=sinks, backend=backend).square().sum()

    every = (0, 1, 2, 3)
    for sink_dim, own in ((0, sinks), (None, sinks[0])):
        grad = torch.func.vmap(torch.func.grad(loss, every), in_dims=(0, 0, 0, sink_dim))(*rows, own)
        for number in range(3):
            arguments = [*(part[number] for part in rows), own if sink_dim is None else own[number]]
            formula = torch.func.grad(lambda *parts: loss(*parts, backend="reference"), every)(*arguments)
            for found, expected in zip(grad, formula, strict=True):
                torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)
    query, key, value = (part[0] for part in rows)
    with pytest.raises(NotImplementedError, match="forward-mode derivatives"):
        torch.func.jvp(lambda sinks: loss(query, key, value, sinks), (sinks[0],), (sinks[0],))


@pytest.mark.parametrize("seed", range(8200, 8220))
def test_weights_and_mass(kernel, device, seed):
    """The log-sum-exp has the sinks in it, so that the probabilities come out by the cap alone."""
    case = dataclasses.replace(cap_or_sink(draw_case(seed, ["float32"])), sinks=True)
    case = dataclasses.replace(case, block_size=case.block_size or 64)
    query, key, value, _ = case.tensors(device)
    options = case.options(device)
    _, logsumexp = flash_sparse.attention(query, key, value, **options, return_lse=True, backend=kernel)
    sinks = options.pop("sinks")
    rows = torch.arange(case.query_length, device=device)
    weights = attention_weights(query, key, logsumexp, rows, **options)
    output = weights @ value.repeat_interleave(case.heads // case.key_heads, 1)
    expected = flash_sparse.attention(query, key, value, **options, sinks=sinks, backend="reference")
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
    empty = weights.sum(-1) == 0
    missing = (sinks[:, None] - logsumexp).exp()  # of each row: what its sink got
    torch.testing.assert_close((weights.sum(-1) + missing)[~empty], torch.ones_like(missing)[~empty])
    mass = block_mass(query, key, logsumexp, **options)
    torch.testing.assert_close(mass.to_dense().sum(), weights.sum(), rtol=1e-4, atol=1e-3)


def test_capped_kernels_are_compiled_when_they_are_used(monkeypatch):
    """Nobody else waits for them, nor tests for a cap."""
    from flash_sparse.backends.cpu import kernels

    used = {name: getattr(kernels, name) for name in ("capped_forward_kernel", "capped_backward_kernel")}
    for kernel in used.values():
        monkeypatch.setattr(kernel, "ready", lambda dtype: pytest.fail("compiled"))
    rows = [torch.randn(SHAPE, requires_grad=True) for _ in range(3)]
    flash_sparse.attention(*rows, sinks=torch.zeros(4), dropout_p=0.1, window=(3, 3)).sum().backward()
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        flash_sparse.attention(*rows, softcap=5.0)
