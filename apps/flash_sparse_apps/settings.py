"""Every flag of `classify.py`: its name, default, help and check, and the parser made from them.

A flag `--seq-len` is the field `seq_len` here and the key `seq-len` in a YAML file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from flash_sparse.layout import BLOCK_SIZES
from flash_sparse_apps.console import spoken
from flash_sparse_apps.shares import parse_share

# What may be another when a run is resumed: how long it may take, and where files are.
MAY_CHANGE = frozenset({"max_time", "dataset", "root", "validation", "test", "cache_dir"})
MAX_HEAD_DIM = 256  # what `flash_sparse.attention` takes
SCRATCH_RATE, FINE_TUNING_RATE = 3e-3, 3e-5  # learning rates where none is given


class UserError(ValueError):
    """Something that the user can mend, said in one line: the command prints it and exits with code 2."""


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
                raise ValueError(f"--{_dashed(name)} is null; expected a value")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{_dashed(name)} is {value}; expected at least {least}")
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            if value is not None and not value <= most:
                raise ValueError(f"--{_dashed(name)} is {value}; expected at most {most:.10g}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{_dashed(name)} is {getattr(self, name)}; expected 0 or more and less than 1")
        for name in ("learning_rate", "gradient_clip", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{_dashed(name)} is {value}; expected a number above 0")
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
        values = {_dashed(field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
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
_SPARSE_ALONE = ("pattern", "window", "global_blocks", "random_blocks", "density", "stride_blocks", "block_size")
# What the checkpoint decides
_SCRATCH_ALONE = ("tokenizer", "vocab_size", "width", "depth", "heads", "mlp_width", "activation", "rotary", "dropout")
_SCRATCH_ALONE += ("attention_dropout", "embeddings")
_SHARES = ("validation_share", "test_share", "dropout", "attention_dropout", "warmup_share")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class OneLineParser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line on stderr and exit code 2."""

    def error(self, message: str, ex: Exception | None = None):
        message = re.sub(r'Parser key "(\w+)"(?: element \d+)?:', lambda match: f"--{_dashed(match[1])}:", str(message))
        message = re.sub(r"Expected an? (?:<class '(\w+)'>|typing\.Literal(\[[^]]*\]))\.", r"expected \1\2,", message)
        message = " ".join(message.replace("Got value:", "got").replace("typing.", "").split())
        union = r"Does not validate .*?(?:Literal(\[[^]]*\])|<class '(\w+)'>).*Given value: "
        message = re.sub(union, r"expected \1\2 or null, got ", message)
        if unknown := re.match(r"[Uu]nrecognized arguments: (--[\w-]+)", message):
            negative = unknown[1].startswith("--no-")  # its opposite would be the nearest
            flags = [flag for flag in self._option_string_actions if flag.startswith("--no-") == negative]
            near = difflib.get_close_matches(_dashed(unknown[1]), flags, 1, cutoff=0.8)
            message += "".join(f"; the nearest is {flag}" for flag in near)
        if not self.exit_on_error:
            raise ValueError(message)
        self.exit(2, f"error: {message}\n")


class _SettingsParser(OneLineParser):
    def dump(self, cfg, **unused) -> str:
        """What `--print-config` prints: the settings, and the flags that a command has beside them."""
        settings = _to_settings(cfg)
        others = {"config", "resume", *vars(settings)}
        own = {_dashed(name): value for name, value in vars(cfg).items() if name not in others}
        return (yaml.safe_dump(own, sort_keys=False) if own else "") + settings.to_yaml()


def make_parser(
    command: str = "classify", description: str = "Train, test and report a classifier of long documents."
) -> ArgumentParser:
    """The parser of `classify.py`: one flag for each field of `Settings`, --config, --print-config and --resume."""
    parser = _SettingsParser(
        prog=spoken(command),
        description=f"{description} A flag overrides the YAML file's key of the same name.",
        print_config="--print-config",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of these flags")
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        metavar="RUN",
        help="continue the run in this folder with its own config.yaml; beside it only --max-time and where files are",
    )
    types = get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if "group" in field.metadata:
            group = parser.add_argument_group(field.metadata["group"])
        option = f"--{_dashed(field.name)}"
        if field.name == "sparse":  # --dense is its opposite
            kind = {"action": ActionYesNo(yes_prefix="sparse", no_prefix="dense")}
        elif types[field.name] is bool:
            kind = {"action": ActionYesNo(no_prefix="no-")}
        else:
            kind = {"type": types[field.name]}
        group.add_argument(option, default=field.default, help=field.metadata["help"], **kind)
    return parser


def read_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, dict, list[str]]:
    """Everything with its defaults, what was typed as a flag, and the YAML files.

    Raises:
        ValueError: a YAML file that is none of flags, which it names.
    """
    files, flags = split_config(arguments)
    for file in files:
        _read_config(Path(file), parser)  # for an error that names the file
    namespace = parser.parse_args([*(f"--config={file}" for file in files), *flags])
    return namespace, vars(parser.parse_args(flags, defaults=False)), files


def _to_settings(namespace) -> Settings:
    return Settings(**{field.name: namespace[field.name] for field in dataclasses.fields(Settings)})


def parse(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    """Read the command line and its YAML file.

    Returns:
        The settings, and the run folder to resume (then the settings are that run's own) or None.

    Exits with code 2 and one line on stderr where a flag, key or value is wrong; with 0 after --help, --print-config.
    """
    parser = make_parser()
    try:
        namespace, given, files = read_arguments(parser, arguments)
        if namespace.resume is None:
            settings = _to_settings(namespace)
            check_typed(given, [settings], "--chunked")
            return settings, None
        run = Path(namespace.resume)
        stored = run / "config.yaml"
        if not stored.is_file():
            raise ValueError(f"--resume is {run}; expected a run folder, with config.yaml in it")
        extra = [name for name in given if name not in ("resume", *MAY_CHANGE)]
        if extra or files:
            allowed = ", ".join(f"--{_dashed(name)}" for name in sorted(MAY_CHANGE))
            name = _dashed(extra[0]) if extra else "config"
            raise ValueError(f"--{name} cannot be given with --resume; only {allowed} can")
        changed = {name: given[name] for name in MAY_CHANGE & given.keys()}
        return dataclasses.replace(load_settings(stored), **changed), run
    except ValueError as error:
        parser.error(str(error))


def check_typed(given: dict, runs: Sequence[Settings], chunked: str):
    """Raise ValueError for a flag that was typed and that none of the runs reads.

    Args:
        given: the flags that were typed, and their values.
        chunked: what asks for windows.
    """
    chosen = "sparse" in given or "kinds" in given  # who types --dense knows what it turns off
    for name, value in given.items():
        expected = None
        if name in _SPARSE_ALONE and not chosen and not any(run.sparse for run in runs):
            expected = "--sparse beside it"
        elif name == "chunk_tokens" and "kinds" not in given and not any(run.chunked for run in runs):
            expected = f"{chunked} beside it"
        elif name in _SCRATCH_ALONE and runs[0].pretrained is not None:
            expected = f"it without --pretrained {runs[0].pretrained}, which decides that"
        elif name == "embeddings" and value is not None and runs[0].init_from is not None:
            expected = f"it without --init-from {runs[0].init_from}, which brings its own"
        if expected is not None:
            raise ValueError(f"--{_dashed(name)} is {value}; expected {expected}")


def load_settings(path: Path) -> Settings:
    """The settings in a YAML file that `Settings.to_yaml` wrote.

    Raises:
        ValueError: not such a file.
    """
    try:
        return _to_settings(_read_config(path, make_parser()))
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None


def flags_to_resume(path: Path, settings: Settings) -> list[str]:
    """The flags with which a run whose config.yaml is at `path` goes on: --resume, and what may be another and is.

    Raises:
        ValueError: the file is damaged.
    """
    before = load_settings(path)
    flags = ["--resume", str(path.parent)]
    for name in sorted(MAY_CHANGE):
        value = getattr(settings, name)
        if value != getattr(before, name):
            flags.append(f"--{_dashed(name)}={'null' if value is None else value}")
    return flags


def _read_config(path: Path, parser: ArgumentParser) -> Namespace:
    exits, parser.exit_on_error = parser.exit_on_error, False
    try:
        return parser.parse_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a YAML file of flags") from None
    except Exception as error:  # jsonargparse, PyYAML and the decoder raise many kinds
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    finally:
        parser.exit_on_error = exits


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files after --config, and the other arguments: jsonargparse lets the later one win, here any flag wins."""
    files, flags = [], []
    arguments = iter(arguments)
    for argument in arguments:
        if argument == "--config":
            files.append(next(arguments, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            flags.append(argument)
    return files, flags
