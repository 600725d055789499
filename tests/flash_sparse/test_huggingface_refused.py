"""Models that do more than plain attention are refused in one sentence: none is wrong, none is left as it was."""

import copy

import pytest
import torch

from flash_sparse import patterns

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("flash_sparse.huggingface")
disable, enable = huggingface.disable, huggingface.enable

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
INDEXED = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16,
    "index_topk": 4, "index_n_heads": 2, "index_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
BLOCKED = {
    "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention", "minimax_m3_sparse"],
    "num_local_experts": 4, "dense_intermediate_size": 48, "shared_intermediate_size": 48, "rotary_dim": 8,
    "index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2, "index_local_blocks": 1,
}  # fmt: skip
IDS = torch.randint(3, 60, (2, 24), generator=torch.Generator().manual_seed(1))


def make(name, options=None):
    """A tiny model of transformers' own class; skips where the installed version has none of the name."""
    if not hasattr(transformers, f"{name}Model"):
        pytest.skip(f"this transformers has no {name}Model")
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **(options or {})})
    return getattr(transformers, f"{name}Model")(config).eval()


def test_layers_that_choose_their_own_blocks():
    model = make("MiniMaxM3VLText", BLOCKED)
    assert model(IDS)[0].isfinite().all()
    with pytest.raises(ValueError, match="MiniMaxM3VLAttention passes block_indices, a choice of blocks"):
        enable(model)(IDS)


@pytest.mark.parametrize("name", ["indices", "sinks", "block_indices", "cu_seq_lens_q", "something_new"])
def test_keywords_that_are_not_known_to_be_harmless(name):
    layer, rows = torch.nn.Module(), torch.randn(1, 4, 16, 8)
    layer.is_causal = False
    attend = transformers.AttentionInterface()["exact_dense"]
    for harmless in ({}, {name: None}, {name: False}, {"position_ids": torch.arange(16), "use_cache": True}):
        assert attend(layer, rows, rows, rows, None, **harmless)[0].shape == (1, 16, 4, 8)
    with pytest.raises(ValueError, match=f"Module passes {name}, .*expected None: it is not computed here"):
        attend(layer, rows, rows, rows, None, **{name: torch.ones(1)})


@pytest.mark.parametrize("padded", [False, True])
def test_keys_that_a_layer_adds(padded):
    """DeepSeek V4 puts compressed keys behind the others, and the mask that the model made knows none of them."""
    from transformers.masking_utils import causal_mask_function

    layer, rows, more = torch.nn.Module(), torch.randn(2, 4, 16, 8), torch.randn(2, 4, 20, 8)
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[1, 9:] = not padded
    mask = transformers.AttentionMaskInterface()["exact_dense"](
        batch_size=2, q_length=16, kv_length=16, mask_function=causal_mask_function, attention_mask=valid
    )
    attend = transformers.AttentionInterface()["exact_dense"]
    assert attend(layer, rows, rows, rows, mask)[0].shape == (2, 16, 4, 8)
    with pytest.raises(ValueError, match="Module has 20 keys and a mask for 16; expected as many"):
        attend(layer, rows, more, more, mask)

    one = transformers.AttentionMaskInterface()["exact_dense"](
        batch_size=2, q_length=1, kv_length=16, q_offset=15, mask_function=causal_mask_function, attention_mask=valid
    )
    assert attend(layer, rows[:, :, :1], rows, rows, one)[0].shape == (2, 1, 4, 8)
    with pytest.raises(ValueError, match="Module has 20 keys and a mask for 16; expected as many"):
        attend(layer, rows[:, :, :1], more, more, one)


@pytest.mark.parametrize(
    ("name", "options"), [("DeepseekV32", INDEXED), ("GlmMoeDsa", INDEXED), ("AXK2", INDEXED), ("Doge", {})]
)
def test_models_that_compute_with_the_mask(name, options):
    model = make(name, options)
    assert model(IDS)[0].isfinite().all()
    with pytest.raises(ValueError, match="attention_mask is used as a tensor"):
        enable(model)(IDS)


def test_an_image_model_that_computes_with_the_mask():
    sizes = {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = transformers.Siglip2VisionConfig(**sizes, num_attention_heads=4, num_patches=16, patch_size=4)
    model = transformers.Siglip2VisionModel(config).eval()
    image = torch.randn(1, 16, 48), torch.ones(1, 16, dtype=torch.int64), torch.tensor([[4, 4]])
    assert model(*image)[0].isfinite().all()
    with pytest.raises(ValueError, match="attention_mask is used as a tensor"):
        enable(model)(*image)


@pytest.mark.parametrize(("name", "options"), [("Mistral", {"sliding_window": 9}), ("Llama", {})])
def test_caches_of_fixed_length(name, options):
    config = getattr(transformers, f"{name}Config")(**SIZES, num_key_value_heads=2, **options)
    model = enable(getattr(transformers, f"{name}ForCausalLM")(config).eval())
    with pytest.raises(ValueError, match="a cache of fixed length"):
        model.generate(IDS, max_new_tokens=3, cache_implementation="static", disable_compile=True)


@pytest.mark.parametrize("use", [
    lambda mask: mask.shape, lambda mask: mask[:, None], lambda mask: mask + 1, lambda mask: mask == 0,
    lambda mask: ~mask, lambda mask: torch.ones(2) * mask, lambda mask: torch.cat([mask]), lambda mask: len(mask),
    lambda mask: mask.to(torch.bool), lambda mask: mask.contiguous(),
])  # fmt: skip
def test_no_use_of_the_mask_as_a_tensor_is_silent(use):
    mask = transformers.AttentionMaskInterface()["exact_dense"](
        batch_size=2, q_length=4, kv_length=4, mask_function=transformers.masking_utils.causal_mask_function
    )
    with pytest.raises(ValueError, match="attention_mask is used as a tensor"):
        use(mask)


def test_the_mask_moves_between_devices():
    mask = transformers.AttentionMaskInterface()["exact_dense"](
        batch_size=2, q_length=4, kv_length=4, mask_function=transformers.masking_utils.causal_mask_function,
        attention_mask=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
    )  # fmt: skip
    moved = mask.to("meta", non_blocking=True)
    assert (mask.cu_seqlens.device.type, moved.cu_seqlens.device.type, moved.window) == ("cpu", "meta", (None, 0))


def sam(kind):
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        mlp_dim=48, window_size=2, global_attn_indexes=[1],
    )  # fmt: skip
    return getattr(transformers, f"{kind}Model")(config)


@pytest.mark.parametrize("pattern", [None, "local"])
@pytest.mark.parametrize("kind", ["SamVision", "SamHQVision"])
def test_models_whose_layers_never_call(kind, pattern):
    with pytest.raises(ValueError, match=f"model is a {kind}Model; expected one whose attention can be exchanged"):
        enable(sam(kind), pattern)


def test_models_with_some_layers_that_a_pattern_cannot_reach():
    class Both(transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.text, self.image = transformers.BertModel(config), sam("SamVision")

    model = Both(transformers.BertConfig(**SIZES))
    with pytest.raises(ValueError, match="model has SamVisionSdpaAttention, which a pattern cannot reach"):
        enable(model, "local")
    assert model.config._attn_implementation == "sdpa"
    assert enable(model).text(IDS)[0].isfinite().all()
    enable(model.text, "local")


def test_a_pattern_is_not_switched_on_by_its_name_alone():
    config = transformers.BertConfig(**SIZES)
    model = transformers.AutoModel.from_config(config, attn_implementation="exact_block_sparse").eval()
    with pytest.raises(ValueError, match=r"BertSelfAttention has no pattern; expected .*enable"):
        model(IDS)
    assert enable(model, patterns.local(24, 16))(IDS)[0].isfinite().all()
    expected = disable(make("Bert"))
    model = enable(copy.deepcopy(expected), patterns.local(24, 16, 0))
    assert not torch.allclose(model(IDS)[0], expected(IDS)[0])
    model.set_attn_implementation("exact_dense")  # nor does a pattern stay behind its back
    torch.testing.assert_close(model(IDS)[0], expected(IDS)[0])


def test_more_tokens_than_learned_positions():
    model = enable(make("Roberta", {"max_position_embeddings": 34, "pad_token_id": 1}))
    assert model(IDS)[0].isfinite().all()
    long = torch.randint(3, 60, (1, 33))
    for call in ({"input_ids": long}, {"input_ids": long, "attention_mask": torch.ones_like(long)}):
        with pytest.raises(ValueError, match=r"input_ids has 33 tokens; expected at most 32, .*extend_positions"):
            model(**call)
    assert huggingface.extend_positions(model, 33)(long)[0].shape == (1, 33, 32)
