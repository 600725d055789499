"""A pretrained transformers encoder in the place of our own `Encoder`: the same call, weights from a checkpoint.

It needs transformers, which the other models do not; import it where one is asked for.

Letters: B documents, total tokens of all, W width, L layers; b documents of a group, n tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from flash_sparse import BlockLayout
from flash_sparse.huggingface import disable, enable, extend_positions
from flash_sparse.huggingface.positions import count_positions
from flash_sparse.nn import Encoder
from flash_sparse.nn import pooling as pool
from flash_sparse.nn.dropout import Dropout
from flash_sparse_apps.tokens.hub import fetch
from flash_sparse_datasets.shared.exit_codes import one_line

# Documents are padded together where that adds few tokens: up to so many, or a quarter of the longest
PADDING = 64


class PretrainedEncoder(nn.Module):
    """Tokens of packed sequences to one row of logits for each, by a transformers model and a head of our own.

    The model sees padded batches of sequences of like length, and computes attention by `flash_sparse`. Its weights are
    in the state dict under the prefix that transformers expects, so that `AutoModel.from_pretrained` finds them.

    Args:
        body: what `load_body` or `make_body` returns.
        pooling, num_outputs, checkpoint_activations: as in `flash_sparse.nn.Encoder`.
        dropout: share of the pooled vector's features dropped in training; the body has dropout of its own.

    Raises:
        ValueError: activations cannot be checkpointed in a model of this kind.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        *,
        pooling: str,
        num_outputs: int,
        dropout: float,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        self._prefix = body.base_model_prefix
        self.add_module(self._prefix, body.train())  # transformers gives it without dropout, and Lightning keeps that
        self._layout: BlockLayout | None = None  # which `body` is switched to
        self.pooling = pooling
        self.dropout = Dropout(dropout)
        width = body.config.hidden_size
        if pooling == "label":
            self.head: nn.Module = pool.LabelAttention(width, num_outputs)
        else:
            linear = nn.Linear(width, num_outputs)
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.06, b=0.06)
            nn.init.zeros_(linear.bias)
            self.head = linear
        if checkpoint_activations:
            if not body.supports_gradient_checkpointing:
                raise ValueError(f"checkpoint_activations is True; expected False for {type(body).__name__}")
            name = "activation_checkpointing_enable"  # the other is deprecated where this is there
            switch = getattr(body, name, None) or body.gradient_checkpointing_enable
            switch({"use_reentrant": False})
            body.config.use_cache = False  # which nothing here has, and of which transformers would warn

    @property
    def body(self) -> PreTrainedModel:
        return getattr(self, self._prefix)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None) -> Tensor:
        """Logits (B, num_outputs); arguments as in `flash_sparse.nn.Encoder.forward`."""
        return self.classify(self.encode(tokens, cu_seqlens, max_seqlen, layout), cu_seqlens)

    def encode(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int, layout: BlockLayout | None = None) -> Tensor:
        """The tokens after the last layer, (total, W); arguments as in `forward`."""
        if layout is not self._layout:
            enable(self.body, layout)
            self._layout = layout
        padding = self.body.config.pad_token_id or 0
        states, places = [], []
        for group in like_lengths(cu_seqlens.diff().tolist()):
            starts = cu_seqlens[group].long()[:, None]  # (b, 1)
            lengths = cu_seqlens[[row + 1 for row in group]].long()[:, None] - starts  # (b, 1)
            positions = torch.arange(int(lengths.max()), device=tokens.device)  # (n,)
            valid = positions < lengths  # (b, n)
            place = torch.where(valid, starts + positions, 0)  # (b, n)
            ids = torch.where(valid, tokens[place], padding)  # (b, n)
            mask = None if bool(valid.all()) else valid.long()
            hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state  # (b, n, W)
            states.append(hidden[valid])
            places.append(place[valid])
        return torch.cat(states)[torch.cat(places).argsort()]  # (total, W)

    classify: Any = Encoder.classify  # pools and decides in the same way, by `pooling`, `dropout` and `head`

    @contextmanager
    def attending(self, implementation: str) -> Iterator[None]:
        """Compute attention, dense, by an implementation of transformers' own for as long as the context is open."""
        disable(self.body).set_attn_implementation(implementation)
        self._layout = None  # as `encode` is called then: it changes nothing
        try:
            yield
        finally:
            enable(self.body)

    def layer_rates(self, decay: float) -> list[tuple[nn.Parameter, float]]:
        """Each parameter and the share of the learning rate that it has.

        The head and what else comes after the layers has 1, layer l (from 0) of L has `decay ** (L - l)`, and the
        embeddings have `decay ** (L + 1)`.

        Raises:
            ValueError: the layers are not to be told apart.

        Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", appendix H; Clark et al. 2020,
            "ELECTRA", section 3.1.
        """
        depth = self.body.config.num_hidden_layers
        lists = [(name, part) for name, part in self.body.named_modules() if isinstance(part, nn.ModuleList)]
        layers = next((name for name, part in lists if len(part) == depth), None)
        if layers is None:
            raise ValueError(f"{type(self.body).__name__} has no list of {depth} layers; expected no layer decay")
        rates, others = [], decay ** (depth + 1)
        for name, parameter in self.body.named_parameters():  # in the order of their definition
            if name.startswith(f"{layers}."):
                rates.append((parameter, decay ** (depth - int(name[len(layers) + 1 :].split(".")[0]))))
                others = 1.0  # what comes now, comes after the layers
            else:
                rates.append((parameter, others))
        return rates + [(parameter, 1.0) for parameter in self.head.parameters()]


def like_lengths(lengths: list[int]) -> list[list[int]]:
    """Groups of rows whose lengths are near each other, so that padding them together adds few tokens."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest - lengths[row] <= max(PADDING, longest // 4):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def load_body(name_or_folder: str, max_length: int) -> PreTrainedModel:
    """The encoder of a checkpoint with float32 weights, which takes at least `max_length` tokens.

    Learned positions are repeated where the model has fewer, as `flash_sparse.huggingface.extend_positions` does.

    Raises:
        ValueError: one line: it cannot be fetched, is no encoder of text, lacks weights, cannot be made longer, or
            computes attention in its own way.
    """
    if Path(name_or_folder).is_dir() and not (Path(name_or_folder) / "config.json").is_file():
        raise ValueError(f"model {name_or_folder!r} has no config.json; expected the folder of a transformers model")
    config = fetch(AutoConfig.from_pretrained, "model", name_or_folder)
    _check_kind(config, name_or_folder)
    body, report = fetch(
        AutoModel.from_pretrained, "model", name_or_folder,
        config=config, dtype=torch.float32, output_loading_info=True,
    )  # fmt: skip
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing or report["mismatched_keys"]:
        names = missing or sorted(str(key[0]) for key in report["mismatched_keys"])
        raise ValueError(
            f"model {name_or_folder!r} lacks {len(names)} of its weights, such as {names[0]}; expected all of them"
        )
    _without_pooler(body)
    try:
        if max_length > count_positions(body):
            extend_positions(body, max_length)
        enable(body)
        _check_padding(body)
    except ValueError as error:
        raise ValueError(f"model {name_or_folder!r}: {error}") from error
    return body


def make_body(folder: Path, max_length: int) -> PreTrainedModel:
    """The same without its weights, from the config.json in a run's `model/`.

    Raises:
        ValueError: one line: there is none, or it is not of an encoder that takes `max_length` tokens.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the configuration of the pretrained encoder")
    config = fetch(AutoConfig.from_pretrained, "model", str(folder))
    _check_kind(config, str(folder))
    body = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    if max_length > count_positions(body):
        raise ValueError(f"{path}: takes {count_positions(body)} tokens; expected at least seq_len, {max_length}")
    _without_pooler(body)
    return enable(body)


def describe_body(body: PreTrainedModel) -> str:
    """Its kind and size in a few words."""
    count = sum(parameter.numel() for parameter in body.parameters())
    return (
        f"{body.config.model_type}, {body.config.num_hidden_layers} layers, {count:,} parameters, takes "
        f"{count_positions(body):,} tokens"
    )


def head_dropout(config: PreTrainedConfig) -> float:
    """What the checkpoint's authors drop before a classifier, else after each layer; 0.1 where they say neither."""
    values = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob"))
    return next((value for value in values if value is not None), 0.1)


def _check_kind(config: PreTrainedConfig, name: str):
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise ValueError(
            f"model {name!r} is of type {config.model_type}; expected an encoder of text, such as BERT, RoBERTa or "
            "ModernBERT"
        )
    if getattr(config, "is_decoder", False):
        raise ValueError(f"model {name!r} has is_decoder True; expected an encoder")


@torch.no_grad()
def _check_padding(body: PreTrainedModel):
    """Raise ValueError for a model that tokens and a mask are not enough for, or that mixes texts with their padding.

    Some of the models that pass for switched compute no attention at all, or make masks of their own.
    """
    padding = body.config.pad_token_id or 0
    ids = torch.arange(5) % body.config.vocab_size  # (5,)
    ids = ids[ids != padding][None]  # (1, n)
    padded = torch.cat([ids, torch.full_like(ids, padding)], 1)  # (1, 2 n)
    try:
        alone = body(input_ids=ids).last_hidden_state  # (1, n, W)
        among = body(input_ids=padded, attention_mask=(padded != padding).long()).last_hidden_state  # (1, 2 n, W)
    except Exception as error:  # whatever else its code wants
        raise ValueError(
            f"{type(body).__name__} cannot be called with tokens and their mask alone: {one_line(error)}"
        ) from error
    if not torch.allclose(alone, among[:, : ids.shape[1]], rtol=1e-3, atol=1e-3):
        raise ValueError(f"{type(body).__name__} mixes texts with their padding; expected attention that leaves it out")


def _without_pooler(body: PreTrainedModel):
    """Take out the layer behind the first token that some have for another task: nothing here would train it."""
    if isinstance(getattr(body, "pooler", None), nn.Module):
        cast(Any, body).pooler = None
