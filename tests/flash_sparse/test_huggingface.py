"""transformers models give with `enable` what they give with "sdpa", outputs and gradients, and refuse the rest."""

import copy
import functools
import inspect
import pickle

import pytest
import torch
from transformers_cases import BATCH, LENGTH, inputs, run, seen

import flash_sparse
from flash_sparse import patterns

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("flash_sparse.huggingface")
disable, enable = huggingface.disable, huggingface.enable

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def make(name, **options):
    torch.manual_seed(0)
    if name == "vit":
        sizes = {k: v for k, v in SIZES.items() if k != "vocab_size"}
        return transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=4, **options)).eval()
    if name == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48, **options)
        return transformers.DistilBertModel(config).eval()
    classes = {
        "bert": ("BertConfig", "BertModel", {}),
        "roberta": ("RobertaConfig", "RobertaModel", {"pad_token_id": 1, "max_position_embeddings": 130}),
        "electra": ("ElectraConfig", "ElectraModel", {"embedding_size": 16}),
        "modernbert": (
            "ModernBertConfig",
            "ModernBertModel",
            {
                **SPECIAL, "cls_token_id": 1, "sep_token_id": 2, "num_hidden_layers": 3, "local_attention": 16,
                "global_attn_every_n_layers": 3,
            },
        ),
        "llama": ("LlamaConfig", "LlamaForCausalLM", {**SPECIAL, "num_key_value_heads": 2}),
        "mistral": ("MistralConfig", "MistralForCausalLM", {**SPECIAL, "num_key_value_heads": 2, "sliding_window": 9}),
    }  # fmt: skip
    config, model, own = classes[name]
    config = getattr(transformers, config)(**{**SIZES, "max_position_embeddings": 128, **own, **options})
    return getattr(transformers, model)(config).eval()


TEXT = ("bert", "roberta", "distilbert", "electra", "modernbert", "llama", "mistral")


def check_same(model, batch, **options):
    disable(model)
    expected, expected_gradients = run(model, batch)
    assert model.config._attn_implementation == "sdpa"
    enable(model, **options)
    assert model.config._attn_implementation.startswith("exact")
    output, gradients = run(model, batch)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = max(1.0, float(expected_gradients[name].abs().max()))
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", TEXT)
def test_gives_what_sdpa_gives(name, side):
    check_same(make(name), inputs(side))


@pytest.mark.parametrize("name", TEXT)
def test_gives_what_sdpa_gives_in_training_without_dropout(name):
    model = make(name).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    check_same(model, inputs("right"))


def test_images():
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    model = make("vit")
    check_same(model, batch)
    whole = flash_sparse.BlockLayout.from_blocks(torch.ones(5, 5, dtype=torch.bool), 16, 65)
    check_same(model, batch, pattern=whole)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_padding_inside_a_sequence_is_exact_where_order_does_not_matter(name):
    check_same(make(name), inputs("holes"))


@pytest.mark.parametrize("name", ["llama", "modernbert"])
def test_padding_inside_a_sequence_raises_where_distance_matters(name):
    with pytest.raises(ValueError, match="padding inside a sequence"):
        enable(make(name))(**inputs("holes"))


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", TEXT)
def test_a_pattern_of_all_blocks_is_dense(name, side):
    check_same(make(name), inputs(side), pattern=lambda n, size: patterns.local(n, size, window=n), block_size=16)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pattern_hides_its_blocks_from_the_first_token_on(side):
    """The textbook mask of the layout, given to sdpa for each text alone."""
    model = make("bert")
    batch = inputs(side)
    layout = patterns.longformer(LENGTH, 16, window=4)
    assert layout.density < 1
    output = enable(model, "local", 16, global_tokens=[0])(**batch)[0]
    assert torch.equal(output, enable(model, patterns.local(LENGTH, 16), global_tokens=[0])(**batch)[0])
    output = enable(model, layout)(**batch)[0]
    disable(model)
    for row, kept in enumerate(seen(batch)):
        ids = batch["input_ids"][row : row + 1, kept]
        positions = torch.arange(LENGTH)[kept][None]
        mask = layout.to_mask()[:, :, : ids.shape[1], : ids.shape[1]]
        expected = model(ids, attention_mask=mask, position_ids=positions)[0]
        torch.testing.assert_close(output[row : row + 1, kept], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "pattern", ["local", "global_tokens", "strided", "random", "butterfly", "longformer", "bigbird"]
)
def test_named_patterns(pattern):
    model = make("bert", max_position_embeddings=600)
    for length in (1, 16, 50, 600):  # one switch for each: a second length may warn
        output = enable(model, pattern, 16)(**inputs(length=length))[0]
        assert output.isfinite().all()
    dense = disable(model)(**inputs(length=600))[0]
    if pattern not in ("local",):
        assert (output - dense).abs().max() > 1e-3
    far = inputs(length=600)
    far["input_ids"][:, -1] = 5
    changed = enable(model, pattern, 16)(**far)[0]
    assert (changed - output)[:, 0].abs().max() > 1e-6, "the first token sees the last"


def test_packed_sequences():
    model = make("llama")
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None].expand(BATCH, -1)
    batch = {**inputs(), "position_ids": positions}
    check_same(model, {**batch, "use_cache": False})


def test_dropout_is_drawn_in_training_and_off_in_evaluation():
    model = enable(make("bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0))
    batch = inputs("right")
    assert torch.equal(model(**batch)[0], model(**batch)[0])
    model.train()
    torch.manual_seed(3)
    first, second = model(**batch)[0], model(**batch)[0]
    assert not torch.allclose(first, second)
    torch.manual_seed(3)
    assert torch.equal(model(**batch)[0], first)


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("side", ["none", "left"])
def test_generates_the_same_with_a_cache(name, side):
    model = make(name)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    expected = model.generate(**inputs(side, length=20), **options)
    result = enable(model).generate(**inputs(side, length=20), **options)
    assert torch.equal(result.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(result.logits), torch.stack(expected.logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_several_queries_after_a_cache(name):
    model, batch = make(name), inputs("left")

    def last():
        cache = model(batch["input_ids"][:, :45], attention_mask=batch["attention_mask"][:, :45]).past_key_values
        rest = model(batch["input_ids"][:, 45:], attention_mask=batch["attention_mask"], past_key_values=cache)
        return rest.logits[::2]  # the second text has a single token, the last

    expected = last()
    enable(model)
    torch.testing.assert_close(last(), expected, rtol=1e-5, atol=1e-5)


def test_a_model_without_attention_is_refused():
    config = transformers.FNetConfig(**{**SIZES, "use_tpu_fourier_optimizations": False})
    with pytest.raises(ValueError, match="model is a FNetModel; expected one whose attention can be exchanged"):
        enable(transformers.FNetModel(config))


def test_what_cannot_be_honoured_raises():
    bert, llama = enable(make("bert")), enable(make("llama"))
    batch = inputs()
    with pytest.raises(ValueError, match="output_attentions"):
        bert(**batch, output_attentions=True)
    ones = torch.ones(BATCH, 1, LENGTH, LENGTH)
    for finished in (ones.bool(), ones):
        with pytest.raises(ValueError, match="finished mask"):
            bert(**batch, attention_mask=finished)
    with pytest.raises(ValueError, match="fixed length"):
        llama(**batch, past_key_values=transformers.StaticCache(config=llama.config, max_cache_len=64))
    with pytest.raises(ValueError, match="use_cache=False"):
        enable(llama, "local", 16).generate(**inputs(length=20), max_new_tokens=3)
    llama.generate(**inputs(length=20), max_new_tokens=3, use_cache=False)
    layer = llama.model.layers[0].self_attn
    rows = torch.randn(1, 4, 16, 8)
    attend = transformers.AttentionInterface()["exact_dense"]
    for name in ("position_bias", "head_mask"):
        with pytest.raises(ValueError, match=name):
            attend(layer, rows, rows, rows, None, **{name: torch.ones(())})


def test_a_mask_function_of_the_model_raises():
    from transformers.masking_utils import create_causal_mask

    config = enable(make("llama")).config
    arguments = {"attention_mask": None, "past_key_values": None, "inputs_embeds": torch.zeros(1, 16, 32)}
    blocks = torch.tensor([[-1, -1, 0, 0, 0, -1, -1, 1, 1, 1, -1, -1, -1, -1, -1, -1]])
    with pytest.raises(ValueError, match="cannot be expressed"):
        create_causal_mask(config, or_mask_function=lambda b, h, q, k: q == k, **arguments)
    if "block_sequence_ids" in inspect.signature(create_causal_mask).parameters:  # newer versions have it
        with pytest.raises(ValueError, match="cannot be expressed"):
            create_causal_mask(config, block_sequence_ids=blocks, **arguments)


def test_argument_errors():
    model = make("bert")
    for options, message in (
        ({"pattern": "nothing"}, "pattern is 'nothing'"),
        ({"pattern": 3}, "pattern is int"),
        ({"pattern": "local", "block_size": 48}, "block_size is 48"),
        ({"global_tokens": [0]}, "global_tokens"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            enable(model, **options)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(TypeError, match="Linear"):
        enable(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layout is made for 40 x 40 tokens; expected at least 50"):
        enable(model, patterns.local(40, 16))(**inputs())


def test_disable_brings_back_what_was_there():
    for implementation in ("eager", "sdpa"):
        model = make("bert", attn_implementation=implementation)
        before = set(model.__dict__), {name: set(part.__dict__) for name, part in model.named_modules()}
        enable(enable(model, "local", 16))
        disable(disable(model))
        assert model.config._attn_implementation == implementation
        assert before == (set(model.__dict__), {name: set(part.__dict__) for name, part in model.named_modules()})


def test_models_made_from_one_configuration_do_not_disturb_each_other():
    config = make("bert").config
    models = [transformers.BertModel(config).eval() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    batch = inputs("right")
    expected = [
        models[0](**batch)[0],
        enable(models[1], patterns.local(LENGTH, 16, 0))(**batch)[0],
        enable(models[2], patterns.local(LENGTH, 16, 16))(**batch)[0],
    ]
    assert not torch.allclose(expected[0], expected[1])
    assert not torch.allclose(expected[1], expected[2])
    for model, output in zip(models, expected, strict=True):
        assert torch.equal(model(**batch)[0], output)
    assert [model.config._attn_implementation.split("_")[0] for model in models] == ["sdpa", "exact", "exact"]


def test_copies_and_files(tmp_path):
    model = enable(make("bert"), functools.partial(patterns.local, window=0), 16)
    batch = inputs("right")
    expected = model(**batch)[0]
    assert torch.equal(copy.deepcopy(model)(**batch)[0], expected)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(**batch)[0], expected)
    assert disable(again).config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    assert "exact" not in (tmp_path / "config.json").read_text()
    assert "sparse" not in (tmp_path / "config.json").read_text()
    loaded = transformers.BertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**batch)[0], disable(model)(**batch)[0])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("bert", None), ("modernbert", None), ("llama", None), ("bert", "longformer"), ("bert", "layout")],
)
def test_compiles_whole(name, pattern):
    torch._dynamo.reset()
    model = make(name, num_hidden_layers=2 if name == "modernbert" else 1)
    enable(model, patterns.longformer(LENGTH, 16, 16) if pattern == "layout" else pattern, 16)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for side, length in (("left", 50), ("left", 40), ("none", 40)):
        batch = inputs(side, length)
        expected, output = model(**batch)[0], compiled(**batch)[0]
        kept = batch.get("attention_mask", torch.ones(BATCH, length)).bool()
        torch.testing.assert_close(output[kept], expected[kept], rtol=1e-5, atol=1e-5)
    if pattern is not None:
        with pytest.raises(RuntimeError, match="padding inside a sequence"):
            compiled(**inputs("holes", 40))
