"""The folder `model/` of a run: all that predicting needs, written whole and read without running anything in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse.nn import Encoder
from flash_sparse_apps.files import check_sums, partial_path, to_json, umask, write_atomically, write_sums
from flash_sparse_apps.models.blend import Blend, Weights
from flash_sparse_apps.models.calibrated import Calibrated
from flash_sparse_apps.models.chunking import Chunked
from flash_sparse_apps.models.description import FORMAT, check_description
from flash_sparse_apps.models.layouts import make_layout
from flash_sparse_apps.models.two_towers import TwoTowers
from flash_sparse_apps.models.weights_file import encode_weights, load_weights
from flash_sparse_apps.scores.linear_model import LinearModel
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import Tokenizer, open_saved

LINEAR = "linear.safetensors"


class Linear(NamedTuple):
    """The linear model to label with alone: its thresholds, (L,) or None as of a `SavedModel`, and its temperature."""

    model: LinearModel
    thresholds: np.ndarray | None
    temperature: float


@dataclass(frozen=True)
class SavedModel:
    """All that predicting needs, and `model/` holds.

    Attributes:
        encoder: weights loaded, in evaluation mode; a `Blend` where the linear model votes, and `Calibrated` where its
            logits have a temperature.
        encoder_arguments: what `flash_sparse.nn.Encoder` or `PretrainedEncoder` was made with.
        pretrained: name or folder of the checkpoint that training began with; None for an `Encoder`.
        attention: `{"sparse": bool, "pattern": ..., ...}`, what `make_layout` takes.
        chunk_tokens: of a window where documents are read window by window, else None.
        pairs: whether a document is a pair of texts.
        grid: rows and columns of the images that it reads; None if it reads texts.
        reading: how the run's own files were read, for new ones of the same kind: `text_field` and the other options
            of `flash_sparse_datasets.own_files.load` by which texts are found; empty for named datasets.
        thresholds: (L,) for multi-label, None for single-label, where the most probable label is given.
        linear: the linear model of the same tokens, which a `Blend` holds too; None where there is none.
    """

    encoder: nn.Module
    encoder_arguments: dict
    attention: dict
    tokenizer: Tokenizer | ByteTokenizer
    labels: tuple[str, ...]
    task: str
    thresholds: np.ndarray | None
    seq_len: int
    dataset: str
    pretrained: str | None = None
    chunk_tokens: int | None = None
    pairs: bool = False
    grid: tuple[int, int] | None = None
    reading: dict = field(default_factory=dict)
    linear: Linear | None = None

    def layout(self) -> BlockLayout | None:
        return make_layout(self.seq_len, self.attention)

    def save(self, folder: Path, card: str):
        """Write the folder `model/`, complete or not at all; `card` is its README."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=partial_path(folder)))
        try:
            os.chmod(temporary, 0o777 & ~umask())
            encoder, temperature = self.encoder, 1.0
            if isinstance(encoder, Calibrated):
                encoder, temperature = encoder.encoder, encoder.temperature
            write_atomically(temporary / "model.safetensors", encode_weights(encoder))
            if self.linear is not None and not isinstance(encoder, Blend):
                write_atomically(temporary / LINEAR, encode_weights(self.linear.model))
            self.tokenizer.save(temporary)
            description = {
                "format": FORMAT,
                "task": self.task,
                "labels": list(self.labels),
                "thresholds": None if self.thresholds is None else [float(value) for value in self.thresholds],
                "seq_len": self.seq_len,
                "encoder": self.encoder_arguments,
                "pretrained": self.pretrained,
                "attention": self.attention,
                "chunk_tokens": self.chunk_tokens,
                "pairs": self.pairs,
                "grid": self.grid,
                "blend": _describe_blend(encoder),
                "temperature": temperature,
                "linear": self._describe_linear(),
                "dataset": self.dataset,
                "reading": self.reading,
            }
            write_atomically(temporary / "classifier.json", to_json(description))
            if self.pretrained is not None:
                write_atomically(temporary / "config.json", cast(Any, encoder).body.config.to_json_string().encode())
            write_sums(temporary)  # before the README, which anybody may edit
            write_atomically(temporary / "README.md", card.encode(errors="backslashreplace"))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _describe_linear(self) -> dict | None:
        if self.linear is None:
            return None
        model, thresholds, temperature = self.linear
        return {
            "features": len(model.columns),
            "thresholds": None if thresholds is None else [float(value) for value in thresholds],
            "temperature": temperature,
        }

    @classmethod
    def load(cls, run: str | Path) -> SavedModel:
        """Read it from a run folder or from its `model/`. Nothing in the files is executed.

        Raises:
            ValueError: one line that says which file is missing or damaged.
        """
        folder = model_folder(run)
        check_sums(folder)
        path = folder / "classifier.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(described["format"], int) and described["format"] > FORMAT:
                raise ValueError(
                    f"{path}: of format {described['format']}, which a newer version of flash-sparse wrote; expected "
                    f"{FORMAT}, or pip install --upgrade flash-sparse"
                )
            check_description(described)
            thresholds, temperature = described["thresholds"], described.get("temperature", 1.0)
            encoder, vocab_size = _make_encoder(folder, described)
            linear = _make_linear(encoder, described)
            model = cls(
                encoder=encoder if temperature == 1 else Calibrated(encoder, temperature),
                encoder_arguments=described["encoder"],
                pretrained=described.get("pretrained"),
                attention=described["attention"],
                chunk_tokens=described.get("chunk_tokens"),
                pairs=described.get("pairs", False),
                grid=None if described.get("grid") is None else tuple(described["grid"]),
                tokenizer=open_saved(folder),
                labels=tuple(described["labels"]),
                task=described["task"],
                thresholds=None if thresholds is None else np.asarray(thresholds, dtype=np.float64),
                seq_len=described["seq_len"],
                dataset=described["dataset"],
                reading=described.get("reading", {}),
                linear=linear,
            )
            model.layout()
            if model.grid is not None and not isinstance(model.tokenizer, ByteTokenizer):
                raise ValueError(f"grid is {described['grid']}, and its tokenizer reads texts")
            if model.tokenizer.vocab_size > vocab_size:
                raise ValueError(f"its encoder knows {vocab_size} tokens, the tokenizer more")
        except (AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
            if isinstance(error, ValueError) and str(error).startswith(str(folder)):
                raise
            raise ValueError(f"{path}: damaged: {type(error).__name__}: {error}") from None
        load_weights(encoder, folder / "model.safetensors")
        if linear is not None and not isinstance(encoder, Blend):
            load_weights(linear.model, folder / LINEAR)
        model.encoder.eval()
        return model

    def by_linear_model(self) -> SavedModel:
        """What labels by the linear model alone.

        Raises:
            ValueError: it was not kept.
        """
        if self.linear is None:
            raise ValueError(
                "the run keeps no linear model for --linear; expected one of single texts, trained without "
                "--no-linear-baseline and with this version"
            )
        model, thresholds, temperature = self.linear
        return replace(self, encoder=Calibrated(model, temperature).eval(), thresholds=thresholds)


def _describe_blend(encoder: nn.Module) -> dict | None:
    if not isinstance(encoder, Blend):
        return None
    return {"features": len(encoder.linear.columns), **encoder.weights._asdict()}


def model_folder(run: str | Path) -> Path:
    """Where the model of a run is, given the run folder or its `model/`; ValueError where there is none."""
    folder = Path(run)
    if (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / "classifier.json").is_file():
        missing = "no model/classifier.json in it" if Path(run).is_dir() else "no such folder"
        raise ValueError(f"{run}: {missing}; expected the folder of a finished run")
    return folder


def _make_encoder(folder: Path, described: dict) -> tuple[nn.Module, int]:
    """What `model.safetensors` has the weights of, without these, and the number of tokens that it knows."""
    encoder: Any
    if described.get("pretrained") is None:
        encoder, vocab_size = Encoder(**described["encoder"]), described["encoder"]["vocab_size"]
    else:
        encoder, vocab_size = _make_pretrained(folder, described)
    if (chunk_tokens := described.get("chunk_tokens")) is not None:
        encoder = Chunked(encoder, chunk_tokens)
    if described.get("pairs", False):
        encoder = TwoTowers(encoder)
    if (blend := described.get("blend")) is not None:
        linear = LinearModel(blend["features"], len(described["labels"]))
        encoder = Blend(encoder, linear, Weights(*(float(blend[name]) for name in Weights._fields)))
    return encoder, vocab_size


def _make_linear(encoder: nn.Module, described: dict) -> Linear | None:
    """The linear model: that of the blend, or another without its coefficients."""
    linear = described.get("linear")
    if linear is None:
        return None
    model = LinearModel(linear["features"], len(described["labels"]))
    thresholds = linear["thresholds"]
    return Linear(
        model=encoder.linear if isinstance(encoder, Blend) else model,
        thresholds=None if thresholds is None else np.asarray(thresholds, dtype=np.float64),
        temperature=linear["temperature"],
    )


def _make_pretrained(folder: Path, described: dict) -> tuple[nn.Module, int]:
    """A `PretrainedEncoder` without its weights, and the number of tokens that it knows."""
    try:
        from flash_sparse_apps.models.pretrained import PretrainedEncoder, make_body
    except ImportError as error:
        raise ValueError(
            f"{folder}: a pretrained encoder, which needs transformers: pip install 'flash-sparse[hub]' ({error})"
        ) from error
    body = make_body(folder, described.get("chunk_tokens") or described["seq_len"])
    return PretrainedEncoder(body, **described["encoder"]), body.config.vocab_size
