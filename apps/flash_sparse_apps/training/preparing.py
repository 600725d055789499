"""What training needs: the data read, the tokenizer trained or loaded, texts tokenized, the layout made."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import flash_sparse_datasets
from flash_sparse.nn import Encoder
from flash_sparse_apps.files import check_sums, write_sums
from flash_sparse_apps.machine import choose_device
from flash_sparse_apps.models import layouts
from flash_sparse_apps.models.chunking import Chunked
from flash_sparse_apps.models.two_towers import TwoTowers
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import IMAGE_PATTERNS, Settings, dashed
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.data_module import TextDataModule
from flash_sparse_apps.tokens.growing import Growth
from flash_sparse_apps.tokens.pixels import BLACK, SAMPLE, check_images, count_read
from flash_sparse_apps.tokens.token_store import TokenStore, truncation
from flash_sparse_apps.tokens.tokenization import Tokenizer, load_tokenizer, train_tokenizer, word_tokenizer
from flash_sparse_apps.training.loggers import check_logger
from flash_sparse_apps.training.main_process import is_main_process, say
from flash_sparse_apps.training.starting_weights import check_start, earlier_split, earlier_tokenizer
from flash_sparse_datasets import Dataset
from flash_sparse_datasets.shared.cache_folder import cache_folder
from flash_sparse_datasets.shared.exit_codes import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


DATA_OPTIONS = (
    *("text_field", "label_field", "id_field", "validation", "test", "validation_share", "test_share", "split_seed"),
    *("task", "label_separator", "unseen_labels", "label_fields", "file_field", "bad_rows", "join_rows"),
    *("encoding", "delimiter", "quotes", "columns", "stratify", "folds", "fold"),
)


MOST_COMPUTED = 0.6  # of the blocks: above, what is skipped may no longer pay for finding the others


@dataclass(frozen=True)
class Prepared:
    """What training needs, made before anything is written into a run folder."""

    dataset: Dataset
    tokenizer: Tokenizer | ByteTokenizer
    data: TextDataModule
    stores: dict[str, TokenStore]
    truncation: dict[str, dict]
    body: PreTrainedModel | None  # of a pretrained encoder, with its weights
    encoder_arguments: dict
    embeddings: str | None  # what they begin as; None where other weights bring them
    attention: dict
    computed: float  # share of the blocks, over the training texts
    pixels_read: float  # share of the training images' pixels
    chunk_tokens: int | None

    def make_encoder(self) -> Any:
        """The encoder to train: new weights, or those of the checkpoint behind a new head."""
        encoder: Any
        if self.body is None:
            encoder = Encoder(**self.encoder_arguments)
        else:
            from flash_sparse_apps.models.pretrained import PretrainedEncoder  # needs transformers

            encoder = PretrainedEncoder(self.body, **self.encoder_arguments)
        if self.data.train_store.pairs:
            return TwoTowers(encoder)
        return encoder if self.chunk_tokens is None else Chunked(encoder, self.chunk_tokens)


def prepare(settings: Settings, resumed: Path | None) -> Prepared:
    """Read the data, train or load the tokenizer, tokenize."""
    _check_early(settings, resumed)
    cache = cache_folder(settings.cache_dir)
    with _in_flags():
        # the data
        dataset = _load_data(settings, cache, resumed)
        _check_kind(settings, dataset)

        # what follows from it: the layout, the pretrained body, the tokenizer
        attention = layouts.describe(settings, dataset.grid)
        layout = layouts.make_layout(settings.seq_len, attention)
        body = None if settings.pretrained is None else _load_body(settings)
        tokenizer = _tokenizer(settings, dataset, cache, resumed)
        _check_tokenizer(settings, tokenizer, body)

        # the tokens
        data = _tokenized(settings, dataset, tokenizer, cache)
    stores = {"train": data.train_store, "validation": data.validation_store, "test": data.test_store}

    # what to say of all this before it is trained on
    lengths = whole = data.train_store.each_length(settings.seq_len)  # (texts,)
    if settings.skip_black:
        lengths, whole = count_read(data.train_store, settings.seq_len, settings.black), lengths[:SAMPLE]
    computed = 1.0 if layout is None else layouts.share_computed(layout, lengths)
    notes = [
        f"no {split} document has a label, so that its scores say nothing"
        for split, store in stores.items()
        if dataset.none_label is None and not store.label_matrix().nnz
    ]
    if layout is not None and computed > MOST_COMPUTED:
        notes.append(f"--sparse skips only {1 - computed:.0%} of the blocks in training: --dense may be as fast")

    return Prepared(
        dataset=replace(dataset, notes=(*dataset.notes, *notes)),
        tokenizer=tokenizer,
        data=data,
        stores=stores,
        truncation={split: asdict(truncation(store, settings.seq_len)) for split, store in stores.items()},
        body=body,
        encoder_arguments=_encoder_arguments(settings, dataset, tokenizer, body),
        embeddings=_embeddings(settings, dataset, tokenizer),
        attention=attention,
        computed=computed,
        pixels_read=float(lengths.sum() / whole.sum()),
        chunk_tokens=settings.chunk_tokens if settings.chunked else None,
    )


def _check_early(settings: Settings, resumed: Path | None):
    """Raise UserError or FileExistsError for what would otherwise be noticed late."""
    if settings.output is not None and resumed is None and is_main_process():
        RunFolder(settings.output).check_new()
    choose_device(settings.accelerator)
    check_logger(settings.logger)
    if settings.init_from is not None and resumed is None:
        check_start(settings.init_from)


@contextmanager
def _in_flags() -> Iterator[None]:
    """Turn errors of the libraries into UserError: they name their arguments, the user types flags."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        words = ("encoding", "delimiter", "quotes", "columns", "folds", "fold")  # which messages use as such
        named = [name for name in DATA_OPTIONS if name not in words]
        names = rf"(?<![\w/.-])({'|'.join(named)})(?![\w/.-])"
        raise UserError(re.sub(names, lambda match: f"--{dashed(match[0])}", str(error))) from error


def _load_data(settings: Settings, cache: Path, resumed: Path | None) -> Dataset:
    defaults = {field.name: field.default for field in fields(Settings)}
    options = {name: getattr(settings, name) for name in DATA_OPTIONS if getattr(settings, name) != defaults[name]}
    named, notes = settings.dataset in flash_sparse_datasets.NAMED, []
    if not named and not os.path.lexists(os.path.expanduser(settings.dataset)):
        names = ", ".join(flash_sparse_datasets.NAMED)
        raise UserError(f"--dataset is {settings.dataset!r}; expected a file, a folder or a dataset's name ({names})")
    if not named and settings.init_from is not None:
        options["keep_split"] = earlier_split(settings.init_from, resumed)
        if options["keep_split"] is None:
            notes.append(f"{settings.init_from} does not say which documents it was trained on: the test may have some")
    dataset = flash_sparse_datasets.load(
        settings.dataset, root=settings.root, cache_dir=cache, **options, **settings.dataset_options or {}
    )
    return replace(dataset, notes=(*dataset.notes, *notes))


def _tokenized(
    settings: Settings, dataset: Dataset, tokenizer: Tokenizer | ByteTokenizer, cache: Path
) -> TextDataModule:
    data = TextDataModule(
        dataset,
        tokenizer,
        seq_len=settings.seq_len,
        batch_size=settings.batch_size,
        tokens_per_batch=settings.tokens_per_batch,
        seed=settings.seed,
        cache_dir=cache,
        progress=is_main_process(),
        turned=settings.augment == "dihedral",
        fresh=settings.fresh_images,
        growth=None
        if settings.grow_from is None or dataset.fresh is None
        else Growth(dataset.fresh, settings.grow_from, settings.seed),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def _check_tokenizer(settings: Settings, tokenizer: Tokenizer | ByteTokenizer, body: PreTrainedModel | None):
    """Raise UserError for a tokenizer that the model does not know, or that cannot mask."""
    if body is not None and tokenizer.vocab_size > body.config.vocab_size:
        raise UserError(
            f"--pretrained is {settings.pretrained}, whose tokenizer has {tokenizer.vocab_size} tokens and whose "
            f"model {body.config.vocab_size}; expected no more tokens than the model knows"
        )
    if settings.pretrain and tokenizer.mask_id is None:
        raise UserError(f"--tokenizer is {settings.tokenizer}, which has no mask token; expected one for --pretrain")


def _load_body(settings: Settings) -> PreTrainedModel:
    try:
        from flash_sparse_apps.models.pretrained import load_body
    except ImportError as error:
        raise UserError(
            f"--pretrained is {settings.pretrained}, which needs transformers: pip install 'flash-sparse[hub]'"
        ) from error
    try:
        return load_body(str(settings.pretrained), settings.attention_length)
    except ValueError as error:
        raise UserError(f"--pretrained: {error}") from error


def _encoder_arguments(
    settings: Settings, dataset: Dataset, tokenizer: Tokenizer | ByteTokenizer, body: PreTrainedModel | None
) -> dict:
    """What `Encoder`, or `PretrainedEncoder` beside its body, is made with."""
    head = {
        "pooling": settings.pooling,
        "num_outputs": len(dataset.labels),
        "checkpoint_activations": settings.checkpoint_activations,
    }
    if body is not None:
        from flash_sparse_apps.models.pretrained import head_dropout

        return head | {"dropout": head_dropout(body.config)}
    return {
        "vocab_size": tokenizer.vocab_size,
        "width": settings.width,
        "depth": settings.depth,
        "iterations": settings.iterations,
        "heads": settings.heads,
        "mlp_width": settings.mlp_width,
        "activation": settings.activation,
        "dropout": settings.dropout,
        "attention_dropout": settings.attention_dropout,
        "rotary": None if settings.rotary == "none" else settings.rotary,
        "grid": dataset.grid if settings.rotary == "2d" else None,
        "skip_token": BLACK if settings.skip_black else None,
        "skip_through": settings.black if settings.skip_black else None,
    } | head


def _embeddings(settings: Settings, dataset: Dataset, tokenizer: Tokenizer | ByteTokenizer) -> str | None:
    """What token embeddings begin as: as asked for, or as suits the data."""
    if settings.pretrained is not None or settings.init_from is not None:
        return None
    symbols = dataset.vocabulary is not None or isinstance(tokenizer, ByteTokenizer)
    return settings.embeddings or ("random" if symbols else "cooccurrence")


def _check_kind(settings: Settings, dataset: Dataset):
    """Raise UserError for settings that this kind of data does not have."""
    if dataset.grid is None:
        for name, value in (("rotary", "2d"), *(("pattern", name) for name in IMAGE_PATTERNS)):
            if getattr(settings, name) == value and (name == "rotary" or settings.sparse):
                raise UserError(f"--{name} is {value}, which needs images; {dataset.name} has none")
    elif settings.tokenizer != "bpe":
        raise UserError(f"--tokenizer is {settings.tokenizer}; expected none for {dataset.name}: pixels are tokens")
    check_images(settings, dataset)
    if settings.pretrained is not None and (dataset.vocabulary or isinstance(next(iter(dataset.train)).text, bytes)):
        raise UserError(f"--pretrained is {settings.pretrained}; expected none for {dataset.name}, which is not prose")
    if next(iter(dataset.train)).second is not None:
        if settings.pooling == "label":
            raise UserError(f"--pooling is label; expected mean, max or cls for {dataset.name}, a dataset of pairs")
        if settings.chunked:
            raise UserError(f"--chunked is given; it cannot be used with {dataset.name}, a dataset of pairs")
        if settings.pretrained is not None:
            raise UserError(
                f"--pretrained is {settings.pretrained}; expected none for {dataset.name}, a dataset of pairs"
            )


def _tokenizer(settings: Settings, dataset: Dataset, cache: Path, resumed: Path | None) -> Tokenizer | ByteTokenizer:
    """What the data prescribes, the named tokenizer, that of the run which training begins with, or one trained on this
    training split, which is done only once."""
    if settings.pretrained is not None:
        return load_tokenizer(settings.pretrained)
    if dataset.vocabulary is not None:
        return word_tokenizer(dataset.vocabulary)
    if isinstance(next(iter(dataset.train)).text, bytes):
        return ByteTokenizer()
    if settings.tokenizer != "bpe":
        return load_tokenizer(settings.tokenizer)
    if settings.init_from is not None and (tokenizer := earlier_tokenizer(settings.init_from, resumed)):
        return tokenizer
    folder = cache / "tokenizers" / f"{dataset.fingerprint[:32]}-{settings.vocab_size}"
    if (folder / "tokenizer.json").is_file():
        try:
            check_sums(folder)
            return Tokenizer.from_folder(folder)
        except ValueError as error:
            if is_main_process():
                say(f"note: {error}; it is made anew")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        train_tokenizer(
            (
                cast(str, text)  # bytes have had their tokenizer already
                for document in dataset.train
                for text in (document.text, document.second)
                if text is not None
            ),
            settings.vocab_size,
            temporary,
            total=len(dataset.train) * (1 if next(iter(dataset.train)).second is None else 2),
            progress=is_main_process(),
        )
        folder.mkdir(exist_ok=True)
        os.replace(temporary / "tokenizer.json", folder / "tokenizer.json")
        write_sums(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Tokenizer.from_folder(folder)
