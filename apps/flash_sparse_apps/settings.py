"""Every flag of `classify.py`: its name, default, help and check.

A flag `--seq-len` is the field `seq_len` here and the key `seq-len` in a YAML file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_type_hints

import yaml

from flash_sparse.layout import BLOCK_SIZES

# What may be another when a run is resumed: how long it may take, and where files are.
MAY_CHANGE = frozenset({"max_time", "dataset", "root", "validation", "test", "cache_dir"})
MAX_HEAD_DIM = 256  # what `flash_sparse.attention` takes
SCRATCH_RATE, FINE_TUNING_RATE = 3e-3, 3e-5  # learning rates where none is given


def _flag(default, help: str, **metadata):
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class Settings:
    """What one run of `classify.py` does. Plain values alone, so that it goes to YAML and back unchanged."""

    # data
    dataset: str = _flag(
        "python-stdlib", "name of a dataset, or a CSV, TSV, JSONL or Parquet file or folder of text files", group="data"
    )
    root: str | None = _flag(None, "folder that holds the files of a named dataset")
    dataset_options: dict[str, Any] | None = _flag(  # noqa: RUF009
        None,
        "options of a named dataset, such as {level: 9}; `python datasets/prepare.py NAME --help` lists them",
    )
    text_field: str = _flag("text", "column or key of the text")
    label_field: str | None = _flag(
        None, "column or key of the labels; null takes `labels` or `label`, whichever is there"
    )
    id_field: str | None = _flag(None, "column or key that names a document; null numbers the rows")
    validation: str | None = _flag(None, "file of validation documents; null takes --validation-share of --dataset")
    test: str | None = _flag(None, "file of test documents; null takes --test-share of --dataset")
    validation_share: float = _flag(0.1, "share of the documents kept for validation where no file gives them")
    test_share: float = _flag(0.1, "share of the documents kept for testing where no file gives them")
    split_seed: int = _flag(0, "seed of that split")
    task: Literal["auto", "single-label", "multi-label"] = _flag("auto", "one label a document, or any number")
    label_separator: str | None = _flag(None, "what separates labels within one cell of a table, such as ;")
    unseen_labels: Literal["error", "ignore"] = _flag(
        "error", "what to do with validation and test labels that no training document has"
    )

    # text
    seq_len: int = _flag(
        4096,
        "tokens of a document, or of each text of a pair, that the model reads; what is longer is cut there",
        group="text",
    )
    tokenizer: str = _flag(
        "bpe", "`bpe` trains one on the training split; else name or folder of a transformers tokenizer"
    )
    vocab_size: int = _flag(8192, "entries of the trained tokenizer, at most")

    # images
    augment: Literal["none", "dihedral"] = _flag(
        "none", "dihedral turns and mirrors each training image at random, anew in each epoch", group="images"
    )
    fresh_images: bool = _flag(
        False, "generate new training images in every epoch but the first (Pathfinder without --root)"
    )
    skip_black: bool = _flag(
        False,
        "leave black pixels (value 0) out of what the model reads; the others keep their positions. Long Range Arena's "
        "own code does it, most others do not; reports name it",
    )

    # attention
    sparse: bool = _flag(
        False, "block-sparse attention (--sparse) or every token to every token (--dense)", group="attention"
    )
    pattern: Literal["longformer", "bigbird", "local", "strided", "butterfly", "random", "axial", "neighborhood_2d"] = (
        _flag("longformer", "which blocks --sparse keeps; see flash_sparse.patterns; the last two are for images")
    )
    block_size: int = _flag(64, f"tokens along each side of a block: one of {', '.join(map(str, BLOCK_SIZES))}")
    window: int = _flag(
        128,
        "tokens that a token sees on either side (longformer, local; bigbird in whole blocks; neighborhood_2d: pixels)",
    )
    global_blocks: int = _flag(1, "first blocks that see all and that all see (longformer, bigbird, butterfly)")
    random_blocks: int = _flag(2, "random blocks in each row of blocks (bigbird)")
    density: float | str = _flag(0.125, "share of the blocks that is kept, such as 1/8 (random)")
    stride_blocks: int | None = _flag(None, "blocks between far blocks (strided); null takes the root of their number")

    # model
    pretrained: str | None = _flag(
        None,
        "encoder to fine-tune, a name on the Hugging Face hub or a folder with config.json and weights; its tokenizer "
        "and sizes take the place of --tokenizer, --vocab-size, and all of --width to --activation, --rotary and "
        "both dropouts; null trains an encoder from nothing",
        group="model",
    )
    init_from: str | None = _flag(
        None,
        "folder of a finished run whose weights training begins with: of the same sizes and tokens, with documents or "
        "images of any length; the head is new where labels or --pooling differ",
    )
    embeddings: Literal["cooccurrence", "random"] | None = _flag(
        None,
        "what token embeddings begin as, without --pretrained and --init-from: vectors made from which tokens stand "
        "next to each other in the training texts, or random ones; null: cooccurrence for texts, random for bytes, "
        "pixels and generated languages",
    )
    width: int = _flag(64, "features of a token")
    depth: int = _flag(1, "layers")
    heads: int = _flag(2, "attention heads; must divide --width")
    mlp_width: int | None = _flag(None, "features inside the feed-forward part; null lets the model choose by --width")
    activation: Literal["geglu", "gelu"] = _flag("geglu", "feed-forward activation")
    pooling: Literal["mean", "max", "cls", "label"] = _flag(
        "label",
        "how token features become one document: their mean or maximum, the first token, or one query per label",
    )
    rotary: Literal["1d", "2d", "none"] = _flag(
        "1d", "rotary position embeddings; 2d is for images: it tells the model which pixels are neighbours"
    )
    dropout: float = _flag(0.1, "dropout of embeddings and layer outputs")
    attention_dropout: float = _flag(0.0, "dropout of attention probabilities")
    chunked: bool = _flag(
        False, "read each document in windows of --chunk-tokens, each by itself, and pool over all: the usual baseline"
    )
    chunk_tokens: int = _flag(512, "tokens of a window, its first token ([CLS]) counted")
    checkpoint_activations: bool = _flag(False, "recompute activations in the backward pass: less memory, more time")

    # training
    epochs: int = _flag(4, "passes over the training documents, at most", group="training")
    pretrain: int = _flag(
        0,
        "passes over the training documents before that, without labels: the encoder learns to fill in masked tokens",
    )
    mask_share: float | None = _flag(
        None, "tokens that --pretrain masks; null: 0.5 of images, 0.1 of generated languages, 0.15 of other texts"
    )
    max_time: float | None = _flag(
        None,
        "minutes of training, at most, over --pretrain and all resumed parts; then the run is tested and reported as "
        "usual",
    )
    batch_size: int = _flag(8, "documents per optimizer step, over all devices")
    tokens_per_batch: int = _flag(
        16384, "tokens that go through the model at once on a device; the gradients of a larger step are added up"
    )
    learning_rate: float | None = _flag(
        None, f"peak learning rate of AdamW; null: {SCRATCH_RATE:g}, with --pretrained {FINE_TUNING_RATE:g}"
    )
    layer_decay: float = _flag(
        1.0,
        "with --pretrained: learning rate of each layer as a share of that of the one above it; the head has the whole "
        "--learning-rate, the last layer this share of it, and so on down to the embeddings",
    )
    weight_decay: float = _flag(0.01, "weight decay of AdamW; none on norms, biases and embeddings")
    warmup_share: float = _flag(0.1, "share of the steps in which the learning rate rises; then it falls as a cosine")
    gradient_clip: float = _flag(1.0, "largest norm of the gradient")
    patience: int = _flag(4, "epochs without a better validation micro-F1 after which training stops")
    seed: int = _flag(0, "seed of weights, order and dropout")
    checkpoint_every: int = _flag(200, "steps between checkpoints; each epoch ends with one too")
    precision: Literal["32-true", "bf16-mixed"] = _flag("32-true", "arithmetic, as Lightning names it")
    accelerator: Literal["auto", "cpu", "gpu"] = _flag("auto", "where to train")
    devices: int = _flag(1, "devices on each machine")
    num_nodes: int = _flag(1, "machines")
    strategy: Literal["auto", "ddp"] = _flag("auto", "how several devices work together")

    # results
    linear_baseline: bool = _flag(True, "fit the TF-IDF linear model that stands beside the result", group="results")
    compare: bool = _flag(True, "with --sparse, time dense steps too and count how often the predictions agree")
    compare_peers: bool = _flag(
        False, "time steps with PyTorch's and with textbook attention too, where the memory is enough"
    )
    compare_documents: int = _flag(64, "test documents that are also predicted densely for it, at most")
    examples: int = _flag(
        3,
        "test documents of which the report shows passages that carry their labels, or test images, as many answered "
        "right as wrong (8 at most); 0 where they are confidential",
    )
    bootstrap_samples: int = _flag(1000, "resamples of the test documents behind each 95% interval")

    # files
    output: str | None = _flag(None, "run folder; null makes one under runs/", group="files")
    cache_dir: str | None = _flag(
        None, "folder for tokenized text; null takes flash-sparse in $XDG_CACHE_HOME or ~/.cache"
    )

    def __post_init__(self):
        """Check each value by itself and against the others.

        Raises:
            ValueError: one line that names the flag, its value and what was expected.
        """
        if self.learning_rate is None:
            rate = SCRATCH_RATE if self.pretrained is None else FINE_TUNING_RATE
            object.__setattr__(self, "learning_rate", rate)  # for `config.yaml` and the report to say what was used
        for name, kind in get_type_hints(Settings).items():
            if getattr(self, name) is None and type(None) not in get_args(kind):  # a key of a YAML file without a value
                raise ValueError(f"--{dashed(name)} is null; expected a value")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{dashed(name)} is {value}; expected at least {least}")
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            if value is not None and not value <= most:
                raise ValueError(f"--{dashed(name)} is {value}; expected at most {most:.10g}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{dashed(name)} is {getattr(self, name)}; expected 0 or more and less than 1")
        for name in ("learning_rate", "gradient_clip", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{dashed(name)} is {value}; expected a number above 0")
        object.__setattr__(self, "density", parse_share("--density", str(self.density)))
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay is {self.layer_decay}; expected more than 0 and at most 1")
        if self.mask_share is not None and not 0 < self.mask_share < 1:
            raise ValueError(f"--mask-share is {self.mask_share}; expected more than 0 and less than 1")
        if self.mask_share is not None and not self.pretrain:
            raise ValueError(f"--mask-share is {self.mask_share}; expected --pretrain beside it")
        for name, value in (("pretrained", self.pretrained is not None), ("chunked", self.chunked)):
            if self.pretrain and value:
                raise ValueError(f"--pretrain is {self.pretrain}; expected it without --{name}")
            if self.init_from is not None and value:
                raise ValueError(f"--init-from is {self.init_from}; expected it without --{name}")
        if self.layer_decay != 1 and self.pretrained is None:
            raise ValueError(f"--layer-decay is {self.layer_decay}; expected --pretrained beside it")
        for name, value in (("sparse", True), ("rotary", "2d")):
            if self.chunked and getattr(self, name) == value:
                what = "--sparse is given" if name == "sparse" else f"--{name} is {value}"
                raise ValueError(f"{what}; expected it without --chunked, whose windows are texts of their own")
        if self.skip_black and self.chunked:
            raise ValueError("--skip-black is given; expected it without --chunked")
        if self.skip_black and self.sparse and self.pattern in ("axial", "neighborhood_2d"):
            raise ValueError(f"--pattern is {self.pattern}, which needs all pixels; expected it without --skip-black")
        if self.width % self.heads:
            raise ValueError(f"--heads is {self.heads}; expected a divisor of --width {self.width}")
        head_dim = self.width // self.heads
        if head_dim > MAX_HEAD_DIM:
            raise ValueError(
                f"--heads is {self.heads}, {head_dim} features a head at --width {self.width}; "
                f"expected at most {MAX_HEAD_DIM}"
            )
        multiple = {"1d": 2, "2d": 4, "none": 1}[self.rotary]
        if head_dim % multiple:
            raise ValueError(
                f"--heads is {self.heads}, {head_dim} features a head; expected a multiple of {multiple}, which "
                f"--rotary {self.rotary} needs"
            )
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"--block-size is {self.block_size}; expected one of {', '.join(map(str, BLOCK_SIZES))}")
        if self.sparse and self.block_size > self.seq_len:
            raise ValueError(f"--block-size is {self.block_size}; expected at most --seq-len {self.seq_len}")
        if self.sparse and self.global_blocks * self.block_size > self.seq_len:
            raise ValueError(
                f"--global-blocks is {self.global_blocks}; expected at most {self.seq_len // self.block_size}, "
                f"--seq-len {self.seq_len} in blocks of {self.block_size}"
            )
        if self.batch_size % (self.devices * self.num_nodes):
            raise ValueError(
                f"--batch-size is {self.batch_size}; expected a multiple of the {self.devices * self.num_nodes} devices"
            )

    @property
    def attention_length(self) -> int:
        """Tokens that attend to each other, at most: of a document, or of one of its windows."""
        return self.chunk_tokens if self.chunked else self.seq_len

    def to_yaml(self) -> str:
        """The settings as YAML, keys with dashes, in the order of `--help`."""
        values = {dashed(field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


_AT_LEAST = {
    "seq_len": 1,
    "chunk_tokens": 2,
    "vocab_size": 260,  # 256 bytes and the special tokens
    "window": 0,
    "global_blocks": 0,
    "random_blocks": 0,
    "stride_blocks": 1,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "mlp_width": 1,
    "epochs": 1,
    "pretrain": 0,
    "batch_size": 1,
    "tokens_per_batch": 1,
    "weight_decay": 0,
    "patience": 1,
    "seed": 0,
    "split_seed": 0,
    "checkpoint_every": 1,
    "devices": 1,
    "num_nodes": 1,
    "compare_documents": 1,
    "examples": 0,
    "bootstrap_samples": 1,
}
# What the libraries below can count: sizes are 32-bit, NumPy's seeds too, and a time in days has nine digits.
_AT_MOST = dict.fromkeys(set(_AT_LEAST) - {"weight_decay", "split_seed"}, 2**31 - 1)
_AT_MOST |= {"seq_len": 2**24, "seed": 2**32 - 1, "vocab_size": 2**20, "max_time": 1e12}
_SHARES = ("validation_share", "test_share", "dropout", "attention_dropout", "warmup_share")


def dashed(name: str) -> str:
    """A field's name as a flag and as a key in YAML."""
    return name.replace("_", "-")


def parse_share(flag: str, text: str) -> float:
    """A share written as 1/16 or 0.0625.

    Raises:
        ValueError: it is none, or not above 0 and at most 1; the message names the flag.
    """
    try:
        share = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{flag} is {text}; expected a share such as 1/16 or 0.0625, above 0 and at most 1")
    return share
