"""Fine-tuning pretrained encoders by the same command: tiny ones with random weights, made here, in the place of
published ones."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flash_sparse import patterns
from flash_sparse_apps import classify, predict
from flash_sparse_apps.models import peers
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.training.callbacks import Checkpoints

from .conftest import SPARSE

transformers = pytest.importorskip("transformers")
pretrained = pytest.importorskip("flash_sparse_apps.models.pretrained")

WORDS = [f"word{number}" for number in range(40)] + [f"keyword{number}" for number in range(4)]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
POSITIONS = 32  # fewer than --seq-len
KINDS = {
    "roberta": ("Roberta", {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "bert": ("Bert", {"max_position_embeddings": POSITIONS}),
    "modernbert": (
        "ModernBert",
        {
            "max_position_embeddings": POSITIONS, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3,
            "bos_token_id": 2, "eos_token_id": 3, "local_attention": 16, "global_attn_every_n_layers": 2,
        },
    ),
}  # fmt: skip
FLAGS = (
    *("--seq-len", "96", "--batch-size", "8", "--tokens-per-batch", "256", "--learning-rate", "0.01"),
    *("--accelerator", "cpu", "--bootstrap-samples", "20", "--no-linear-baseline"),
)


def make_checkpoint(kind: str, folder: Path) -> Path:
    """A folder as `save_pretrained` writes it, of a model for masked language modelling, as most are published."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(SPECIAL), show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    name, own = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(vocab_size=160, **SIZES, **own)
    getattr(transformers, f"{name}ForMaskedLM")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def data(planted_files, cache_folder) -> list[str]:
    return ["--dataset", str(planted_files["multi-label"]), "--id-field", "name", "--cache-dir", str(cache_folder)]


@pytest.fixture(scope="module")
def sparse_run(checkpoints, data, tmp_path_factory) -> Path:
    """A finished run from a checkpoint that is no longer there."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(checkpoints["roberta"], folder / "checkpoint")
    run = folder / "run"
    flags = (*FLAGS, *SPARSE, "--compare-documents", "4", "--epochs", "2", "--layer-decay", "0.8")
    assert classify.main([*data, *flags, "--pretrained", str(folder / "checkpoint"), "--output", str(run)]) == 0
    shutil.rmtree(folder / "checkpoint")
    return run


@pytest.fixture
def run_command(data, tmp_path, capsys):
    """Exit code, stdout, stderr and the run folder."""

    def run(*flags: str, output: Path = tmp_path / "run"):
        capsys.readouterr()
        try:
            code = classify.main([*data, "--output", str(output), *flags])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr(), output

    return run


def encoder(folder: Path, pooling: str = "mean", max_length: int = 96, **options) -> pretrained.PretrainedEncoder:
    torch.manual_seed(0)
    body = pretrained.load_body(str(folder), max_length)
    return pretrained.PretrainedEncoder(body, pooling=pooling, num_outputs=3, dropout=0.1, **options).eval()


def packed(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
    tokens = torch.randint(5, 150, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return tokens, torch.tensor([0, *lengths]).cumsum(0).int(), max(lengths)


LENGTHS = [3, 96, 1, 40, 95, 7]  # far enough apart for several groups, and padding within one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "label"])
def test_a_packed_batch_gives_what_each_document_alone_gives_with_sdpa(kind, pooling, checkpoints):
    model = encoder(checkpoints[kind], pooling)
    tokens, starts, longest = packed(LENGTHS)
    logits = model(tokens, starts, longest)
    reference = transformers.AutoModel.from_pretrained(checkpoints[kind], attn_implementation="sdpa")
    reference = pretrained.extend_positions(reference, 96).eval()
    for row, (start, end) in enumerate(itertools.pairwise(starts)):
        hidden = reference(input_ids=tokens[None, start:end]).last_hidden_state[0]  # (n, W)
        alone = model.classify(hidden, torch.tensor([0, len(hidden)], dtype=torch.int32))
        torch.testing.assert_close(logits[row], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_attention_sees_what_the_layout_lets_it(kind, checkpoints):
    """Tokens of the last document change: with blocks on the diagonal alone, those of other blocks do not notice."""
    model = encoder(checkpoints[kind])
    tokens, starts, longest = packed(LENGTHS)
    changed = tokens.clone()
    changed[starts[1] + 80] = 4
    local = patterns.local(96, 16, window=0)
    with_first = local | patterns.global_tokens(96, 16)
    for layout, block_of_first_differs in ((local, False), (with_first, True), (None, True)):
        before, after = (model.encode(ids, starts, longest, layout) for ids in (tokens, changed))
        differs = (before != after).any(1)[starts[1] : starts[2]]
        assert differs[80:96].all()
        assert bool(differs[:16].any()) == block_of_first_differs
        assert torch.equal(before[: starts[1]], after[: starts[1]])  # other documents


@pytest.mark.parametrize("kind", KINDS)
def test_peers_compute_the_same_by_their_own_attention(kind, checkpoints):
    model = encoder(checkpoints[kind], "label")
    batch = packed(LENGTHS)
    sparse = patterns.longformer(96, 16, window=16)
    before = model(*batch, sparse)
    for name, function in (("sdpa", peers.sdpa), ("eager", peers.textbook)):
        with peers.attending(model, function):
            assert model.body.config._attn_implementation == name
            torch.testing.assert_close(model(*batch), encoder(checkpoints[kind], "label")(*batch), atol=1e-5, rtol=1e-4)
    assert torch.equal(model(*batch, sparse), before)
    assert peers.textbook_fits(model, 96, torch.device("cpu"))
    assert not peers.textbook_fits(model, 10**7, torch.device("cpu"))


def test_gradients_are_those_of_documents_alone_also_with_checkpoints(checkpoints):
    grads = []
    for checkpointed in (False, True):
        model = encoder(checkpoints["roberta"], "label", checkpoint_activations=checkpointed).train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        tokens, starts, longest = packed(LENGTHS)
        model(tokens, starts, longest, patterns.longformer(96, 16, window=16)).square().sum().backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        model.zero_grad()
        for start, end in itertools.pairwise(starts):
            alone = torch.tensor([0, end - start], dtype=torch.int32)
            layout = patterns.longformer(96, 16, window=16)
            model(tokens[start:end], alone, int(end - start), layout).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, grads[-1][name], atol=1e-5, rtol=1e-3)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


@pytest.mark.parametrize(
    "lengths", [[5], [1, 1, 1], [96, 95, 3, 40], [16384, 100, 90, 12000, 12300, 20], list(range(1, 400))]
)
def test_documents_of_like_length_are_padded_together(lengths):
    groups = pretrained.like_lengths(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert all(longest - lengths[row] <= max(64, longest // 4) for row in group)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_it_begins_in_training_mode_and_recomputes_when_asked(kind, recompute, checkpoints):
    torch.manual_seed(0)
    body = pretrained.load_body(str(checkpoints[kind]), 96)
    model = pretrained.PretrainedEncoder(
        body, pooling="mean", num_outputs=3, dropout=0.1, checkpoint_activations=recompute
    )
    assert all(part.training for part in model.modules())
    calls = []
    first = next(part for name, part in body.named_modules() if name.endswith(("layer.0", "layers.0")))
    inside = next(part for part in first.modules() if isinstance(part, torch.nn.Linear))
    inside.register_forward_hook(lambda *_: calls.append(1))
    tokens, starts, longest = packed([40])
    model(tokens, starts, longest).sum().backward()
    assert len(calls) == (2 if recompute else 1)
    assert not recompute or not body.config.use_cache  # else transformers warns


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_has_its_own_rate(kind, checkpoints):
    model = encoder(checkpoints[kind], "label")
    module = Classifier(
        model, None, "multi-label", learning_rate=0.1, layer_decay=0.5, weight_decay=0.25, warmup_share=0.1,
        gradient_clip=1.0, seed=0,
    )  # fmt: skip
    module.trainer = type("Trainer", (), {"max_epochs": 1, "datamodule": None})()
    module.trainer.datamodule = type("Data", (), {"train_dataloader": lambda self: [None] * 10})()
    module._fabric = None
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert groups[0]["initial_lr"] == 0.1
    names = dict(model.named_parameters())
    assert len(rates) == len(names)
    assert not any("pooler" in name for name in names)
    for name, parameter in names.items():
        expected = 0.1 if name.startswith("head.") or "final_norm" in name else 0.1 * 0.5**3
        expected = 0.1 * 0.5**2 if "layer.0." in name or "layers.0." in name else expected
        expected = 0.1 * 0.5 if "layer.1." in name or "layers.1." in name else expected
        assert rates[id(parameter)] == pytest.approx(expected), name
        plain = parameter.dim() < 2 or "embeddings." in name
        assert decays[id(parameter)] == (0.0 if plain else 0.25), name


def test_a_sparse_run_says_what_it_began_with(sparse_run, checkpoints):
    metrics = json.loads((sparse_run / "metrics.json").read_text())
    assert metrics["model"]["pretrained"].endswith("checkpoint")
    assert metrics["compare"]["speedup"] > 0
    assert metrics["model"]["attention"]["global_tokens"] == 1
    assert metrics["training"]["epochs"] == 2
    assert (sparse_run / "report.html").exists()
    before = load_file(checkpoints["roberta"] / "model.safetensors")
    after = load_file(sparse_run / "model" / "model.safetensors")
    assert all((after[name] != before[name]).any() for name in after if name.endswith("query.weight"))
    config = json.loads((sparse_run / "model" / "config.json").read_text())
    assert (config["model_type"], config["max_position_embeddings"]) == ("roberta", 98)


def test_the_model_folder_is_all_that_predicting_needs(sparse_run, planted_files, tmp_path, capsys):
    shutil.copytree(sparse_run / "model", tmp_path / "model")
    capsys.readouterr()
    assert predict.main([str(tmp_path / "model"), str(planted_files["multi-label"]), "--id-field", "name"]) == 0
    found = {row["id"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    tested = [json.loads(line) for line in (sparse_run / "predictions.jsonl").read_text().splitlines()]
    assert len(tested) == 10
    for row in tested:
        assert found[row["id"]]["labels"] == row["predicted"]
        assert found[row["id"]]["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)


def test_transformers_reads_the_model_folder(sparse_run):
    model, report = transformers.AutoModel.from_pretrained(
        sparse_run / "model", output_loading_info=True, add_pooling_layer=False
    )
    assert not report["missing_keys"]
    saved = load_file(sparse_run / "model" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[f"roberta.{name}"]), name


def test_fine_tuning_goes_on_from_a_finished_run(sparse_run, run_command):
    code, out, err, _ = run_command(*FLAGS, "--dense", "--epochs", "1", "--pretrained", str(sparse_run / "model"))
    assert (code, err) == (0, "")
    assert "takes 96 tokens" in out


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_dense_in_bfloat16_with_checkpoints(kind, checkpoints, run_command):
    flags = (*FLAGS, "--dense", "--epochs", "1", "--pooling", "cls", "--precision", "bf16-mixed")
    code, out, err, run = run_command(*flags, "--checkpoint-activations", "--pretrained", str(checkpoints[kind]))
    assert (code, err) == (0, "")
    assert f"pretrained: {checkpoints[kind]}, {kind}, 2 layers" in out
    weights = load_file(run / "model" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_windows_need_no_more_positions_than_they_have_tokens(checkpoints, run_command, tmp_path, capsys):
    flags = (*FLAGS, "--chunked", "--chunk-tokens", str(POSITIONS), "--epochs", "1", "--layer-decay", "0.9")
    code, out, err, run = run_command(*flags, "--pretrained", str(checkpoints["roberta"]))
    assert (code, err) == (0, "")
    assert f"takes {POSITIONS} tokens" in out
    assert json.loads((run / "model" / "config.json").read_text())["max_position_embeddings"] == POSITIONS + 2
    (tmp_path / "long.txt").write_text("word1 keyword2 " * 48)
    assert predict.main([str(run), str(tmp_path / "long.txt")]) == 0


class Killed(BaseException):
    """Ends a run in this process where a SIGKILL would."""


def test_a_killed_run_goes_on_and_ends_the_same(checkpoints, run_command, tmp_path, monkeypatch):
    flags = (*FLAGS, *SPARSE, "--no-compare", "--epochs", "2", "--checkpoint-every", "4", "--layer-decay", "0.7")
    flags += ("--pretrained", str(checkpoints["modernbert"]))
    whole = run_command(*flags, output=tmp_path / "whole")
    assert whole[0] == 0
    save, saved = Checkpoints._save, []

    def save_and_die(self, trainer):
        save(self, trainer)
        saved.append(trainer.global_step)
        if len(saved) == 2:
            raise Killed

    monkeypatch.setattr(Checkpoints, "_save", save_and_die)
    with pytest.raises(Killed):
        run_command(*flags, output=tmp_path / "killed")
    monkeypatch.undo()
    assert classify.main(["--resume", str(tmp_path / "killed")]) == 0
    for name in ("model/model.safetensors", "model/config.json", "predictions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_it_learns_what_is_planted(checkpoints, run_command):
    flags = (*FLAGS, *SPARSE, "--no-compare", "--epochs", "8", "--pooling", "label")
    code, _, _, run = run_command(*flags, "--pretrained", str(checkpoints["bert"]))
    assert code == 0
    curve = json.loads((run / "metrics.json").read_text())["training"]["history"]
    assert curve[-1]["train_loss"] < 0.6 * curve[0]["train_loss"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--width", "32"), "--width is 32; it cannot be used with --pretrained"),
        (("--vocab-size", "500"), "--vocab-size is 500; it cannot be used with --pretrained"),
        (("--tokenizer", "bpe"), "--tokenizer is bpe; it cannot be used with --pretrained"),
        (("--rotary", "none"), "--rotary is none; it cannot be used with --pretrained"),
        (("--dropout", "0"), "--dropout is 0.0; it cannot be used with --pretrained"),
        (("--layer-decay", "0"), "--layer-decay is 0.0; expected more than 0 and at most 1"),
        (("--layer-decay", "1.5"), "--layer-decay is 1.5; expected more than 0 and at most 1"),
        (("--dataset", "listops"), "listops"),
    ],
)
def test_flags_that_make_no_sense_beside_it(flags, said, checkpoints, run_command):
    code, out, err, run = run_command("--pretrained", str(checkpoints["bert"]), *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not run.exists()


def test_layers_that_share_their_weights_have_one_rate(run_command, checkpoints, tmp_path):
    shutil.copytree(checkpoints["bert"], tmp_path / "albert")
    config = transformers.AlbertConfig(vocab_size=160, embedding_size=8, **SIZES)
    transformers.AlbertForMaskedLM(config).save_pretrained(tmp_path / "albert")
    flags = (*FLAGS, "--epochs", "1", "--pretrained", str(tmp_path / "albert"))
    code, _, err, run = run_command(*flags, "--layer-decay", "0.9")
    assert (code, err) == (2, "error: AlbertModel has no list of 2 layers; expected no layer decay\n")
    assert not run.exists()
    assert run_command(*flags)[0] == 0


def test_layer_decay_without_it(run_command):
    code, _, err, _ = run_command("--layer-decay", "0.9")
    assert (code, err) == (2, "error: --layer-decay is 0.9; it needs --pretrained\n")


class Harmful:
    def __reduce__(self):
        return (exit, (99,))


MORE_KINDS = {
    "no attention": ("FNet", {}),
    "a language to choose": ("Xmod", {"languages": ["en_XX"], "default_language": None}),
    "a mask of its own": ("LayoutLM", {}),
}


def spoil(folder: Path, how: str):
    weights = folder / "model.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    elif how == "damaged weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "another attention":
        config = transformers.DebertaV2Config(vocab_size=160, max_position_embeddings=96, **SIZES)
        transformers.DebertaV2ForMaskedLM(config).save_pretrained(folder)
    elif how in MORE_KINDS:
        name, own = MORE_KINDS[how]
        config = getattr(transformers, f"{name}Config")(vocab_size=160, max_position_embeddings=34, **SIZES, **own)
        getattr(transformers, f"{name}ForMaskedLM")(config).save_pretrained(folder)
    elif how == "harmful pickle":
        weights.unlink()
        torch.save({"a": Harmful()}, folder / "pytorch_model.bin")
    else:
        changes = {
            "decoder": {"model_type": "gpt2", "architectures": ["GPT2Model"]},
            "vision": {"model_type": "vit", "architectures": ["ViTModel"]},
            "encoder and decoder": {"model_type": "bart", "architectures": ["BartModel"]},
            "own code": {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}},
            "causal": {"is_decoder": True},
            "more layers": {"num_hidden_layers": 3},
            "other sizes": {"intermediate_size": 48},
            "few tokens": {"vocab_size": 20},
        }
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes[how]))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "has no config.json"),
        ("no weights", "no file named model.safetensors"),
        ("no tokenizer", "has no words"),
        ("damaged weights", "cannot be loaded"),
        ("harmful pickle", "pickled weights with more than tensors"),
        ("decoder", "is of type gpt2; expected an encoder of text"),
        ("vision", "is of type vit; expected an encoder of text"),
        ("encoder and decoder", "is of type bart; expected an encoder of text"),
        ("own code", "cannot be loaded"),
        ("causal", "has is_decoder True; expected an encoder"),
        ("another attention", "does not use transformers' attention interface"),
        ("no attention", "FNetModel; expected one whose attention can be exchanged"),
        ("a language to choose", "XmodModel cannot be called with tokens and their mask alone: Input language unknown"),
        ("a mask of its own", "LayoutLMModel cannot be called with tokens and their mask alone"),
        ("more layers", "lacks 16 of its weights, such as encoder.layer.2.attention"),
        ("other sizes", ""),
        ("few tokens", ""),
    ],
)
def test_checkpoints_that_cannot_be_used(how, said, checkpoints, run_command, tmp_path):
    folder = tmp_path / "test" / "checkpoint"  # `test` is a flag too, and no word of this path is to become one
    shutil.copytree(checkpoints["bert"], folder)
    spoil(folder, how)
    code, out, err, run = run_command(*FLAGS, "--epochs", "1", "--pretrained", str(folder))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(folder) in err
    assert said in err
    assert not run.exists()


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "not-there", "/not/there", "./not-there", "a b/c:d"])
def test_names_that_cannot_be_fetched(name, run_command):
    code, out, err, run = run_command(*FLAGS, "--pretrained", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"model {name!r} cannot be loaded; expected a folder or a name on the hub" in err
    assert err.endswith(": no such folder\n") == name.startswith(("/", "."))
    assert not run.exists()


def test_without_a_network_it_is_said_at_once(run_command, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    code, _, err, _ = run_command(*FLAGS, "--pretrained", "nobody/nothing-of-this-name")
    assert (code, err.count("\n")) == (2, 1)
    assert "no connection to http://127.0.0.1:9" in err
    assert time.monotonic() - began < 15


def test_a_name_that_was_fetched_before_needs_no_network(checkpoints, run_command, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(checkpoints["bert"], cached / "snapshots" / "0123abcd")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err, _ = run_command(*FLAGS, "--epochs", "1", "--pretrained", "someone/tiny")
    assert (code, err) == (0, "")
    assert "pretrained: someone/tiny, bert, 2 layers" in out


def test_another_tokenizer_in_the_same_place_is_noticed_on_resuming(checkpoints, run_command, tmp_path, capsys):
    shutil.copytree(checkpoints["bert"], tmp_path / "checkpoint")
    code, _, _, run = run_command(*FLAGS, "--epochs", "1", "--pretrained", str(tmp_path / "checkpoint"))
    assert code == 0
    (run / "metrics.json").unlink()
    path = tmp_path / "checkpoint" / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    capsys.readouterr()
    assert classify.main(["--resume", str(run)]) == 2
    assert f"the tokenizer of {tmp_path / 'checkpoint'} has changed" in capsys.readouterr().err


def test_a_checkpoint_of_pickled_tensors(checkpoints, tmp_path):
    shutil.copytree(checkpoints["bert"], tmp_path / "checkpoint")
    weights = load_file(tmp_path / "checkpoint" / "model.safetensors")
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "checkpoint" / "pytorch_model.bin")
    body, same = (pretrained.load_body(str(path), 32) for path in (tmp_path / "checkpoint", checkpoints["bert"]))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in body.state_dict().items())


@pytest.mark.parametrize("damage", ["config", "shorter", "kind", "other"])
def test_damaged_model_folders_are_one_line(damage, sparse_run, tmp_path, capsys):
    shutil.copytree(sparse_run / "model", tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    if damage == "config":
        path.unlink()
    elif damage == "shorter":
        path.write_text(json.dumps(config | {"max_position_embeddings": 50}))
    elif damage == "kind":
        path.write_text(json.dumps(config | {"model_type": "vit"}))
    else:
        path.write_text(json.dumps(config | {"hidden_size": 32}))
    (tmp_path / "a.txt").write_text("word1")
    capsys.readouterr()
    assert predict.main([str(tmp_path), str(tmp_path / "a.txt")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(tmp_path / "model") in err
