"""Models that cap their scores or have sinks give with `enable` what they give with "eager", outputs and gradients."""

import pytest
import torch
from transformers_cases import LENGTH, inputs, run

from flash_sparse import BlockLayout, patterns

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("flash_sparse.huggingface")
disable, enable = huggingface.disable, huggingface.enable

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "sliding_window": 9, "max_position_embeddings": 64,
}  # fmt: skip
MODELS = {
    "Gemma2": {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 4},
    "VaultGemma": {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 4},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def make(name):
    """A tiny model whose caps are reached, and whose sinks are of the scores' size."""
    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"this transformers has no {name}ForCausalLM")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **MODELS[name], attn_implementation="eager")
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if part.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(20)
            if part.endswith("sinks"):
                weight.copy_(torch.linspace(-1, 2, 4))
    return model


@pytest.mark.parametrize("pattern", [None, "all blocks"])
@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_gives_what_eager_gives(name, side, pattern):
    model, batch = make(name), inputs(side)
    expected, expected_gradients = run(model, batch)
    if pattern is not None:
        pattern = BlockLayout.from_blocks(torch.ones(4, 4, dtype=torch.bool), 16, LENGTH)
    enable(model, pattern)
    output, gradients = run(model, batch)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == expected_gradients.keys()
    assert any(name.endswith("sinks") for name in gradients) == (name == "GptOss")
    for part, gradient in gradients.items():
        scale = max(1.0, float(expected_gradients[part].abs().max()))
        torch.testing.assert_close(gradient, expected_gradients[part], rtol=1e-4, atol=1e-4 * scale, msg=part)
    assert disable(model).config._attn_implementation == "eager"
    assert torch.equal(run(model, batch)[0], expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_cap_and_the_sinks_are_not_lost(name):
    """What the test above compares would differ without them."""
    model, batch = make(name), inputs()
    expected = enable(model)(**batch)[0]
    for part in model.modules():
        if hasattr(part, "sinks"):
            part.sinks.data.fill_(-torch.inf)
        if hasattr(part, "attn_logit_softcapping"):
            part.attn_logit_softcapping = None
    assert float((model(**batch)[0] - expected).abs().max().detach()) > 1e-2


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_generates_what_eager_generates(name, side):
    model, batch = make(name), inputs(side, length=20)
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(**batch, **options)
    assert torch.equal(enable(model).generate(**batch, **options), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_pattern(name):
    model, batch = enable(make(name), patterns.local(LENGTH, 16, window=16)), inputs("right")
    assert run(model, batch)[0].isfinite().all()
    assert not torch.allclose(model(**batch)[0], disable(model)(**batch)[0], atol=1e-3)


def test_in_bfloat16():
    model, batch = make("GptOss").bfloat16(), inputs()
    expected = make("GptOss")(**batch)[0]
    eager = float((model(**batch)[0] - expected).abs().max().detach())
    own = float((enable(model)(**batch)[0] - expected).abs().max().detach())
    assert own <= 2 * eager + 1e-5


def test_sinks_of_each_query_are_refused():
    layer, rows = torch.nn.Module(), torch.randn(1, 4, 16, 8)
    layer.is_causal = False
    attend = transformers.AttentionInterface()["exact_dense"]
    with pytest.raises(ValueError, match="Module passes sinks, sinks that differ from query to query"):
        attend(layer, rows, rows, rows, None, sinks=torch.zeros(1, 4, 16, 1))
    with pytest.raises(ValueError, match=r"sinks has shape \(1, 4, 16, 1\); expected \(4,\)"):
        attend(layer, rows, rows, rows, None, s_aux=torch.zeros(1, 4, 16, 1))
