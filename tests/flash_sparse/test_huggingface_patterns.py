"""Patterns in transformers models: what depends on the batch, what is kept, tokens that are global in one text."""

import copy
import warnings

import pytest
import torch

from flash_sparse import patterns

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("flash_sparse.huggingface")
disable, enable = huggingface.disable, huggingface.enable

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def make(name="Bert", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, pad_token_id=0, max_position_embeddings=600, **options)
    return getattr(transformers, f"{name}Model")(config).eval()


def tokens(length):
    return torch.randint(3, 60, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["strided", "random", "bigbird"])
def test_patterns_of_the_padded_length_warn_once(name):
    model = enable(make(), name, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(tokens(90))
        model(tokens(90))
    with pytest.warns(UserWarning, match=rf"pattern '{name}' is laid out for .*patterns\.{name}\(longest, 16\)"):
        model(tokens(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(tokens(50))


@pytest.mark.parametrize("pattern", ["local", "global_tokens", "butterfly", "longformer", "layout"])
def test_other_patterns_give_a_text_the_same_in_any_batch(pattern):
    model = enable(make(), patterns.bigbird(512, 16) if pattern == "layout" else pattern, 16)
    text = tokens(40)
    long = torch.nn.functional.pad(text, (0, 460))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        padded = model(long, attention_mask=(long > 0).long())[0][:, :40]
        torch.testing.assert_close(padded, model(text)[0], rtol=1e-5, atol=1e-5)


def test_few_layouts_are_kept():
    made = []

    def pattern(length, block_size):
        made.append(length)
        return patterns.local(length, block_size, 0)

    model = enable(make(), pattern, 16)
    with torch.no_grad():
        for length in (1, *range(2, 60), 1, 59, 1):
            model(tokens(length))
    assert made == [*range(1, 60), 1]  # the first was given up, the latest are kept
    assert len(model.flash_sparse_layouts.made) == 32


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert"])
def test_tokens_that_are_global_in_one_text(name, side):
    """Each text alone, with a layout that has its own global tokens, gives what the batch gives."""
    model, length = make(name), 100
    ids, mask = tokens(length), torch.ones(2, length, dtype=torch.int64)
    if side != "none":
        mask[0, slice(60, None) if side == "right" else slice(40)] = 0
    chosen = torch.zeros(2, length)
    chosen[0, 45], chosen[1, 3], chosen[1, 77] = 1, 1, 1
    enable(model, lambda n, size: patterns.local(n, size, 0), 16)
    output = model(ids, attention_mask=mask, global_attention_mask=chosen)[0]
    assert not torch.allclose(output, model(ids, attention_mask=mask)[0])
    for row, kept in enumerate(mask.bool()):
        text, places = ids[row][kept][None], chosen[row][kept].nonzero()[:, 0].tolist()
        positions = {} if side != "left" or name == "Roberta" else {"position_ids": torch.arange(length)[kept][None]}
        layout = patterns.local(text.shape[1], 16, 0) | patterns.global_tokens(text.shape[1], 16, places)
        if name == "Roberta" and side == "left":
            positions = {
                "position_ids": model.embeddings.create_position_ids_from_input_ids(ids, 0, 0)[row][kept][None]
            }
        alone = enable(copy.deepcopy(model), layout)(text, **positions)[0]
        torch.testing.assert_close(output[row][kept][None], alone, rtol=1e-5, atol=1e-5)


def test_global_tokens_of_a_text_need_a_pattern_and_a_shape():
    ids = tokens(40)
    with pytest.raises(ValueError, match="global_attention_mask, global tokens, which belong to a pattern"):
        enable(make())(ids, global_attention_mask=torch.zeros(2, 40))
    with pytest.raises(ValueError, match=r"global_attention_mask has shape \(40,\); expected \(2, 40\)"):
        enable(make(), "local", 16)(ids, global_attention_mask=torch.zeros(40))


def test_models_inside_of_others():
    torch._dynamo.reset()
    ids, layout = tokens(40), patterns.local(40, 16, 0)
    expected = enable(make(), layout)(ids)[0]

    class Outer(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

    compiled = torch.compile(make(), backend="eager")
    assert not torch.allclose(compiled(ids)[0], expected)
    for whole, call in ((compiled, compiled), (outer := Outer(make()), outer.encoder)):
        assert enable(whole, layout) is whole
        torch.testing.assert_close(call(ids)[0], expected)
        assert disable(whole) is whole
        assert not torch.allclose(call(ids)[0], expected)
    outer.second = make()
    with pytest.raises(TypeError, match="model is Outer with encoder, second inside; expected one transformers PreTr"):
        enable(outer)


def test_longer_positions_after_the_switch():
    model = enable(make(), "local", 16)
    assert huggingface.extend_positions(model, 700)(tokens(700))[0].isfinite().all()
    disable(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("pattern", [None, "longformer", "layout"])
def test_exports_with_a_layout(pattern):
    model, ids = make(), tokens(40)
    enable(model, patterns.longformer(64, 16, 8) if pattern == "layout" else pattern, 16)
    if pattern == "longformer":
        with pytest.raises(
            ValueError, match="pattern 'longformer' is to be laid out for 40 tokens while the model is ex"
        ):
            torch.export.export(model, (), {"input_ids": ids}, strict=False)
        model(ids)
    exported = torch.export.export(model, (), {"input_ids": ids}, strict=False).module()
    torch.testing.assert_close(exported(input_ids=ids)[0], model(ids)[0])
