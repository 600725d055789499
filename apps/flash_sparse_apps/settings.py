"""Every flag of `classify.py`: its name, default, help and check.

A flag `--seq-len` is the field `seq_len` here and the key `seq-len` in a YAML file.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import yaml

# What may be another when a run is resumed: how long and how much memory it may take, on how many devices, and where
# files are.
MAY_CHANGE = frozenset(
    {"max_time", "tokens_per_batch", "auto_batch", "devices", "num_nodes", "start_timeout"}
    | {"dataset", "root", "validation", "test", "cache_dir"}
)
BLOCK_SIZES = (16, 32, 64, 128)  # what `flash_sparse.BlockLayout` takes: it is not imported for --help to be fast
IMAGE_PATTERNS = ("axial", "neighborhood_2d")
MAX_HEAD_DIM = 256  # what `flash_sparse.attention` takes
SCRATCH_RATE, FINE_TUNING_RATE = 3e-3, 3e-5  # learning rates where none is given


class Range(NamedTuple):
    """What a number may be. Sizes are 32-bit for the libraries below, unless something else is said.

    Attributes:
        least, most: both included, but for `open`.
        open: whether `least` itself is too little.
        expected: what an error asks for where "at least" and "at most" do not say it.
    """

    least: float
    most: float = 2**31 - 1
    open: bool = False
    expected: str | None = None

    def error(self, value: float) -> str | None:
        """What is expected instead of a value; None if it is one of these. NaN never is."""
        if (self.least < value if self.open else self.least <= value) and value <= self.most:
            return None
        if self.expected is not None:
            return self.expected
        if value > self.most:
            return f"at most {self.most:.10g}"
        return f"a number above {self.least}" if self.open else f"at least {self.least}"


SHARE = Range(0, math.nextafter(1, 0), expected="0 or more and less than 1")
MASKED = Range(0, math.nextafter(1, 0), open=True, expected="more than 0 and less than 1")
DECAY = Range(0, 1, open=True, expected="more than 0 and at most 1")
POSITIVE = Range(0, sys.float_info.max, open=True, expected="a number above 0")
MINUTES = Range(0, 1e12, open=True)  # a time in days has nine digits


def _flag(
    default: Any,
    help: str,
    *,
    group: str | None = None,
    range: Range | None = None,
    only: str | None = None,
    scratch: bool = False,
    daily: bool = False,
    before: Any = None,
) -> Any:
    """A field and all that is known of its flag.

    Args:
        group: begins a group of `--help`.
        range: of a number.
        only: the flag, off by default, without which this one has no effect.
        scratch: whether --pretrained decides it.
        daily: whether `--help` shows it; `--help-all` shows every flag.
        before: what runs did that began before there was this flag, where that is not the default.
    """
    about = {"help": help, "group": group, "range": range, "only": only, "scratch": scratch, "daily": daily}
    about["before"] = before
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """What one run of `classify.py` does. Plain values alone, so that it goes to YAML and back unchanged."""

    # data
    dataset: str = _flag(
        "python-stdlib",
        "name of a dataset, or a CSV, TSV, JSON, Parquet, Excel or fastText file, or a folder of texts, PDF, Word or "
        "HTML files",
        group="data",
        daily=True,
    )
    root: str | None = _flag(None, "folder with the official files of a named dataset", daily=True)
    dataset_options: dict[str, Any] | None = _flag(  # noqa: RUF009
        None,
        "options of a named dataset, such as {level: 9}; `python datasets/prepare.py NAME --help` lists them",
    )
    text_field: list[str] | str = _flag(  # noqa: RUF009
        "text", "column or key with the text, or a list of several, whose texts are joined in this order", daily=True
    )
    file_field: str | None = _flag(
        None, "column or key with the path of each document's file, in place of --text-field; PDF, Word and HTML too"
    )
    label_field: str | None = _flag(
        None, "column or key with the labels; null: `labels` or `label`, whichever exists", daily=True
    )
    label_fields: list[str] | None = _flag(  # noqa: RUF009
        None, "columns that are each a label, 1 in the rows that have it, in place of --label-field"
    )
    id_field: str | None = _flag(None, "column or key with a document's id; null: rows are numbered")
    validation: str | None = _flag(None, "file with validation documents; null: --validation-share of --dataset")
    test: str | None = _flag(None, "file with test documents; null: --test-share of --dataset")
    validation_share: float = _flag(
        0.1, "share of the documents held out for validation, unless files provide them", range=SHARE
    )
    test_share: float = _flag(
        0.1, "share of the documents held out for testing, unless files provide them", range=SHARE
    )
    split_seed: int = _flag(0, "seed of these splits", range=Range(0, math.inf))
    stratify: bool = _flag(
        True,
        "give each of these splits the same share of every label, where documents have one label and each label has "
        "enough documents",
        before=False,
    )
    folds: int | None = _flag(
        None,
        "cross-validation: cut the documents into this many parts, each of which is the test of one run; sweep.py runs "
        "all of them",
        range=Range(2),
        daily=True,
    )
    fold: int | None = _flag(
        None, "which of the --folds is the test, from 1 on; sweep.py takes each in turn", range=Range(1), only="folds"
    )
    task: Literal["auto", "single-label", "multi-label"] = _flag(
        "auto", "whether documents have exactly one label or any number"
    )
    label_separator: str | None = _flag(None, "what separates several labels in one cell of a table, such as ;")
    unseen_labels: Literal["error", "ignore"] = _flag(
        "error", "what to do about validation and test labels that no training document has"
    )
    bad_rows: Literal["error", "skip"] = _flag(
        "error", "what to do about documents that cannot be read: name the first ten, or leave them out and count them"
    )
    join_rows: bool = _flag(
        False, "make rows, or files, of the same text one document with all of their labels (multi-label)"
    )
    encoding: str | None = _flag(
        None, "encoding of text files, such as cp1252; null: UTF-8, or UTF-16 where a byte-order mark says so"
    )
    delimiter: str | None = _flag(
        None, "what separates the cells of CSV and TSV files, such as ; or tab; null: what the file says or looks like"
    )
    quotes: bool = _flag(
        True, "CSV and TSV files may have quotes around a cell; with --no-quotes these are plain characters"
    )
    columns: list[str] | None = _flag(  # noqa: RUF009
        None, "names of the columns of a CSV or TSV file without a header"
    )

    # text
    seq_len: int = _flag(
        4096,
        "tokens that the model reads of a document, or of each text of a pair; longer texts are cut there",
        group="text",
        range=Range(1, 2**24),
        daily=True,
    )
    tokenizer: str = _flag(
        "bpe",
        "`bpe` trains one on the training split; otherwise the name or folder of a transformers tokenizer",
        scratch=True,
    )
    vocab_size: int = _flag(8192, "largest vocabulary of the trained tokenizer", range=Range(260, 2**20), scratch=True)

    # images
    augment: Literal["none", "dihedral"] = _flag(
        "none", "dihedral rotates and mirrors training images at random, differently in each epoch", group="images"
    )
    fresh_images: bool = _flag(
        False, "generate new training images for every epoch after the first (Pathfinder without --root)"
    )
    grow_from: int | None = _flag(
        None,
        "train first on Pathfinder images whose snakes have this many dashes, and add snakes of one more dash each "
        "time that the running loss is below --grow-below, up to the dataset's level; every image is new",
        range=Range(2),
    )
    grow_below: float = _flag(
        0.3, "the running loss below which snakes of the next length are added", range=POSITIVE, only="grow_from"
    )
    skip_black: bool = _flag(
        False,
        "leave black pixels (value 0) out of what the model reads; the others keep their positions. Long Range "
        "Arena's own code does so, most others do not; the report mentions it",
    )
    black: int = _flag(
        0,
        "largest value that counts as black for --skip-black: what Pathfinder has below about 16 comes from the "
        "resampling of its images",
        range=Range(0, 254),
        only="skip_black",
    )

    # attention
    sparse: bool = _flag(
        False,
        "block-sparse attention (--sparse), or every token to every token (--dense)",
        group="attention",
        daily=True,
    )
    pattern: Literal["longformer", "bigbird", "local", "strided", "butterfly", "random", "axial", "neighborhood_2d"] = (
        _flag(
            "longformer",
            "which blocks --sparse keeps, see flash_sparse.patterns; the last two are for images",
            only="sparse",
            daily=True,
        )
    )
    block_size: int = _flag(
        64, f"tokens along each side of a block: one of {', '.join(map(str, BLOCK_SIZES))}", only="sparse", daily=True
    )
    window: int = _flag(
        128,
        "how many tokens each token sees on either side (longformer, local; bigbird rounds to blocks; "
        "neighborhood_2d: pixels)",
        range=Range(0),
        only="sparse",
        daily=True,
    )
    global_blocks: int = _flag(
        1,
        "leading blocks that see everything and are seen by everything (longformer, bigbird, butterfly)",
        range=Range(0),
        only="sparse",
    )
    random_blocks: int = _flag(2, "random blocks in each row of blocks (bigbird)", range=Range(0), only="sparse")
    density: float | str = _flag(0.125, "share of the blocks that are kept, such as 1/8 (random)", only="sparse")
    stride_blocks: int | None = _flag(
        None,
        "distance between the far blocks, in blocks (strided); null: the square root of their number",
        range=Range(1),
        only="sparse",
    )

    # model
    pretrained: str | None = _flag(
        None,
        "encoder to fine-tune: a name on the Hugging Face hub, or a folder with config.json and weights. It brings "
        "its own tokenizer and sizes, so --tokenizer, --vocab-size, the flags from --embeddings to --activation, "
        "--rotary and the dropouts do not apply; null: train one from scratch",
        group="model",
        daily=True,
    )
    init_from: str | None = _flag(
        None,
        "folder of a finished run to take the initial weights and the tokenizer from. Sizes must match; documents or "
        "images may be of another length, and the head is new if labels or --pooling differ. Documents of your own "
        "files stay in the split, training, validation or test, in which that run had them",
        daily=True,
    )
    embeddings: Literal["cooccurrence", "random"] | None = _flag(
        None,
        "how token embeddings start, without --pretrained and --init-from: as vectors computed from which tokens "
        "occur next to each other in the training texts, or random; null: cooccurrence for texts, random for "
        "bytes, pixels and generated languages",
        scratch=True,
    )
    width: int = _flag(64, "features per token", range=Range(1), scratch=True)
    depth: int = _flag(1, "layers", range=Range(1), scratch=True)
    iterations: int = _flag(
        1,
        "how many times all layers are applied, with the same weights and the input added anew each time",
        range=Range(1),
        scratch=True,
    )
    heads: int = _flag(2, "attention heads; must divide --width", range=Range(1), scratch=True)
    mlp_width: int | None = _flag(
        None,
        "features inside the feed-forward part; null: chosen by --width",
        range=Range(1),
        scratch=True,
    )
    activation: Literal["geglu", "gelu"] = _flag("geglu", "feed-forward activation", scratch=True)
    pooling: Literal["mean", "max", "cls", "label"] = _flag(
        "label",
        "how token features become one document: their mean or maximum, the first token, or one query per label",
    )
    rotary: Literal["1d", "2d", "none"] = _flag(
        "1d",
        "rotary position embeddings; 2d is for images and tells the model which pixels are neighbours",
        scratch=True,
    )
    dropout: float = _flag(0.1, "dropout of embeddings and layer outputs", range=SHARE, scratch=True)
    attention_dropout: float = _flag(0.0, "dropout of attention probabilities", range=SHARE, scratch=True)
    chunked: bool = _flag(
        False,
        "read each document in separate windows of --chunk-tokens and pool over all of them: the usual baseline",
        daily=True,
    )
    chunk_tokens: int = _flag(
        512, "tokens per window, counting its first token ([CLS])", range=Range(2), only="chunked"
    )
    checkpoint_activations: bool = _flag(False, "recompute activations in the backward pass: less memory, more time")

    # training
    epochs: int = _flag(4, "passes over the training documents, at most", group="training", range=Range(1), daily=True)
    pretrain: int = _flag(
        0,
        "passes over the training documents before those of --epochs, without labels: the encoder learns to fill in "
        "masked tokens",
        range=Range(0),
    )
    mask_share: float | None = _flag(
        None,
        "share of the tokens that --pretrain masks; null: 0.5 for images, 0.1 for generated languages, 0.15 for "
        "other texts",
        range=MASKED,
    )
    max_time: float | None = _flag(
        None,
        "minutes of training, at most, including --pretrain and all resumed parts; then the run is tested and reported "
        "as usual",
        range=MINUTES,
        daily=True,
    )
    batch_size: int = _flag(8, "documents per optimizer step, over all devices", range=Range(1), daily=True)
    tokens_per_batch: int = _flag(
        16384,
        "tokens that pass through the model at once on a device; larger steps accumulate gradients",
        range=Range(1),
    )
    auto_batch: bool = _flag(
        False,
        "where memory is too little for --tokens-per-batch in training, halve it and go on, with the same result but "
        "for rounding and what dropout draws",
    )
    learning_rate: float | None = _flag(
        None,
        f"peak learning rate of AdamW; null: {SCRATCH_RATE:g}, with --pretrained {FINE_TUNING_RATE:g}",
        range=POSITIVE,
        daily=True,
    )
    layer_decay: float = _flag(
        1.0,
        "with --pretrained: each layer's learning rate as a share of that of the layer above; the head has the "
        "full --learning-rate, the last layer this share of it, and so on down to the embeddings",
        range=DECAY,
    )
    weight_decay: float = _flag(
        0.01, "weight decay of AdamW, except on norms, biases and embeddings", range=Range(0, math.inf)
    )
    warmup_share: float = _flag(
        0.1, "share of the steps during which the learning rate rises; afterwards it falls as a cosine", range=SHARE
    )
    gradient_clip: float = _flag(1.0, "largest norm of the gradient", range=POSITIVE)
    class_weights: Literal["balanced", "none"] = _flag(
        "none",
        "balanced lets each label count the same in the loss, and in the linear model, however many documents have it "
        "(multi-label: documents with it count as much as those without)",
        daily=True,
    )
    metric: Literal["micro-f1", "macro-f1", "accuracy", "loss"] = _flag(
        "micro-f1", "validation score by which weights are kept and training stops early", daily=True
    )
    patience: int = _flag(4, "stop after this many epochs without a better validation score (--metric)", range=Range(1))
    seed: int = _flag(0, "seed of weights, order and dropout", range=Range(0, 2**32 - 1), daily=True)
    checkpoint_every: int = _flag(200, "steps between checkpoints; there is also one after each epoch", range=Range(1))
    precision: Literal["32-true", "bf16-mixed"] = _flag("32-true", "number format, as Lightning names it", daily=True)
    accelerator: Literal["auto", "cpu", "gpu"] = _flag("auto", "where to train", daily=True)
    devices: int = _flag(1, "devices per machine", range=Range(1))
    num_nodes: int = _flag(1, "machines", range=Range(1))
    strategy: Literal["auto", "ddp", "fsdp"] = _flag(
        "auto", "how several devices work together: ddp has all weights on each, fsdp a part; auto is ddp"
    )
    start_timeout: float = _flag(
        2.0, "minutes that the processes of a run wait for each other when they begin", range=MINUTES
    )

    # results
    linear_baseline: bool = _flag(True, "fit the TF-IDF linear model for comparison", group="results")
    blend: bool = _flag(
        True, "let the linear model vote with the encoder, with the weight that the validation documents choose"
    )
    compare: bool = _flag(True, "with --sparse: also time dense steps, and count how often the predictions agree")
    compare_peers: bool = _flag(
        False, "also time steps with PyTorch's and with textbook attention, if there is enough memory"
    )
    compare_documents: int = _flag(64, "test documents to predict densely for --compare, at most", range=Range(1))
    examples: int = _flag(
        3,
        "test documents for which the report shows the passages that support their labels, or test images, as many "
        "right as wrong (at most 8); 0 for confidential data",
        range=Range(0),
    )
    bootstrap_samples: int = _flag(1000, "resamples of the test documents for each 95% interval", range=Range(1))

    # files
    output: str | None = _flag(None, "run folder; null: a new one under runs/", group="files", daily=True)
    logger: Literal["none", "csv", "tensorboard", "wandb", "mlflow"] = _flag(
        "none",
        "also log losses and scores by this logger of Lightning: csv and tensorboard to logs/ in the run folder, wandb "
        "and mlflow to wherever they are set up to log; a run that is resumed begins a new log",
    )
    cache_dir: str | None = _flag(None, "folder for tokenized text; null: flash-sparse in $XDG_CACHE_HOME or ~/.cache")

    def __post_init__(self):
        """Check each value by itself and against the others.

        Raises:
            ValueError: one line that names the flag, its value and what was expected.
        """
        if isinstance(self.text_field, list) and len(self.text_field) == 1:
            object.__setattr__(self, "text_field", self.text_field[0])
        if self.learning_rate is None:
            rate = SCRATCH_RATE if self.pretrained is None else FINE_TUNING_RATE
            object.__setattr__(self, "learning_rate", rate)  # for `config.yaml` and the report to say what was used
        for name, kind in get_type_hints(Settings).items():
            if getattr(self, name) is None and type(None) not in get_args(kind):  # a key of a YAML file without a value
                raise ValueError(f"--{dashed(name)} is null; expected a value")
        for field in dataclasses.fields(self):
            value, limits = getattr(self, field.name), field.metadata["range"]
            if limits is not None and value is not None and (expected := limits.error(value)) is not None:
                raise ValueError(f"--{dashed(field.name)} is {value}; expected {expected}")
        object.__setattr__(self, "density", parse_share("--density", str(self.density)))
        self._check_together()
        self._check_sizes()

    def _check_together(self):
        """Raise ValueError for flags that exclude or need each other."""
        if self.label_field is not None and self.label_fields is not None:
            raise ValueError(f"--label-field is {self.label_field}; it cannot be used with --label-fields")
        if self.file_field is not None and self.text_field != "text":
            raise ValueError(f"--text-field is {self.text_field}; it cannot be used with --file-field")
        if self.fold is not None and self.fold > (self.folds or 0):
            expected = "it needs --folds" if self.folds is None else f"expected at most --folds {self.folds}"
            raise ValueError(f"--fold is {self.fold}; {expected}")
        for name in ("test", "init_from"):
            if self.folds is not None and getattr(self, name) is not None:
                raise ValueError(f"--folds is {self.folds}; it cannot be used with --{dashed(name)}")
        if self.mask_share is not None and not self.pretrain:
            raise ValueError(f"--mask-share is {self.mask_share}; it needs --pretrain")
        for name, value in (("pretrained", self.pretrained is not None), ("chunked", self.chunked)):
            if self.pretrain and value:
                raise ValueError(f"--pretrain is {self.pretrain}; it cannot be used with --{name}")
            if self.init_from is not None and value:
                raise ValueError(f"--init-from is {self.init_from}; it cannot be used with --{name}")
        if self.layer_decay != 1 and self.pretrained is None:
            raise ValueError(f"--layer-decay is {self.layer_decay}; it needs --pretrained")
        for what, given in (("--sparse is given", self.sparse), ("--rotary is 2d", self.rotary == "2d")):
            if self.chunked and given:
                raise ValueError(f"{what}; it cannot be used with --chunked, whose windows are read as separate texts")
        if self.grow_from is not None and (self.fresh_images or self.pretrain):
            other = "fresh-images" if self.fresh_images else "pretrain"
            raise ValueError(f"--grow-from is {self.grow_from}; it cannot be used with --{other}")
        for name in ("grow_from", "auto_batch"):
            if getattr(self, name) and self.devices * self.num_nodes > 1:
                devices = self.devices * self.num_nodes
                raise ValueError(f"--{dashed(name)} is {getattr(self, name)}; expected one device, not {devices}")
        if self.pretrain and self.strategy == "fsdp":
            raise ValueError(f"--pretrain is {self.pretrain}; it cannot be used with --strategy fsdp")
        if self.skip_black and self.chunked:
            raise ValueError("--skip-black is given; it cannot be used with --chunked")
        if self.skip_black and self.sparse and self.pattern in IMAGE_PATTERNS:
            raise ValueError(
                f"--pattern is {self.pattern}, which needs all pixels; it cannot be used with --skip-black"
            )

    def _check_sizes(self):
        """Raise ValueError for sizes that do not fit each other."""
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
        if isinstance(self.text_field, str) and self.text_field.startswith(("[", "- ")):
            values["text-field"] = [self.text_field]  # jsonargparse would take the name for a list
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


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
