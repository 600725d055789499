"""One run from the data to its report: prepare, train or resume, test, write the run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

import flash_sparse_datasets
from flash_sparse.nn import Encoder
from flash_sparse_apps.console import spoken
from flash_sparse_apps.models import layouts
from flash_sparse_apps.models.chunking import Chunked
from flash_sparse_apps.models.lightning_module import MONITOR, Classifier
from flash_sparse_apps.models.starting_weights import check_start, load_start
from flash_sparse_apps.models.token_vectors import begin_with_vectors
from flash_sparse_apps.models.two_towers import TwoTowers
from flash_sparse_apps.reports import figures, report
from flash_sparse_apps.run_folder import RunFolder, SavedModel, load_weights, to_json, write_atomically
from flash_sparse_apps.scores import results
from flash_sparse_apps.settings import MAY_CHANGE, Settings, UserError
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.data_module import TextDataModule
from flash_sparse_apps.tokens.pixels import BLACK, SAMPLE, check_images, count_read
from flash_sparse_apps.tokens.token_store import TokenStore, truncation
from flash_sparse_apps.tokens.tokenization import Tokenizer, load_tokenizer, train_tokenizer, word_tokenizer
from flash_sparse_apps.training.callbacks import Checkpoints, History, Progress
from flash_sparse_apps.training.fitting import fit, make_trainer
from flash_sparse_apps.training.pretraining import pretrain, read_summary
from flash_sparse_datasets import Dataset
from flash_sparse_datasets.shared.cache_folder import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATA_OPTIONS = (
    *("text_field", "label_field", "id_field", "validation", "test", "validation_share", "test_share", "split_seed"),
    *("task", "label_separator", "unseen_labels"),
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

    def make_encoder(self) -> nn.Module:
        """The encoder to train: new weights, or those of the checkpoint behind a new head."""
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
    if settings.output is not None and resumed is None and is_main_process():
        RunFolder(settings.output).check_new()
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("--accelerator is gpu; expected cpu or auto, since PyTorch finds no GPU")
    if settings.init_from is not None and resumed is None:
        check_start(settings.init_from)
    cache = cache_folder(settings.cache_dir)
    try:
        defaults = {field.name: field.default for field in fields(Settings)}
        options = {name: getattr(settings, name) for name in DATA_OPTIONS if getattr(settings, name) != defaults[name]}
        dataset = flash_sparse_datasets.load(
            settings.dataset, root=settings.root, cache_dir=cache, **options, **settings.dataset_options or {}
        )
        _check_kind(settings, dataset)
        attention = layouts.describe(settings, dataset.grid)
        layout = layouts.make_layout(settings.seq_len, attention)
        body = None if settings.pretrained is None else _load_body(settings)
        tokenizer = _tokenizer(settings, dataset, cache)
        if body is not None and tokenizer.vocab_size > body.config.vocab_size:
            raise UserError(
                f"--pretrained is {settings.pretrained}, whose tokenizer has {tokenizer.vocab_size} tokens and whose "
                f"model {body.config.vocab_size}; expected no more tokens than the model knows"
            )
        if settings.pretrain and tokenizer.mask_id is None:
            raise UserError(
                f"--tokenizer is {settings.tokenizer}, which has no mask token; expected one for --pretrain"
            )
        data = TextDataModule(
            dataset,
            tokenizer,
            seq_len=settings.seq_len,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            seed=settings.seed,
            cache_dir=cache,
            progress=is_main_process() and sys.stderr.isatty(),
            turned=settings.augment == "dihedral",
            fresh=settings.fresh_images,
        )
        data.prepare_data()
        data.setup("fit")
    except UserError:
        raise
    except ValueError as error:
        names = "|".join(DATA_OPTIONS)  # the library names its arguments, the user types flags
        message = re.sub(
            rf"(?<![\w/.-])({names})(?![\w/.-])", lambda match: "--" + match[0].replace("_", "-"), str(error)
        )
        raise UserError(message) from error
    stores = {"train": data.train_store, "validation": data.validation_store, "test": data.test_store}
    notes = [
        f"no {split} document has a label, so that its scores say nothing"
        for split, store in stores.items()
        if dataset.none_label is None and not store.label_matrix().nnz
    ]
    lengths = whole = data.train_store.each_length(settings.seq_len)  # (texts,)
    if settings.skip_black:
        lengths, whole = count_read(data.train_store, settings.seq_len), lengths[:SAMPLE]
    computed = 1.0 if layout is None else layouts.share_computed(layout, lengths)
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


def _load_body(settings: Settings) -> PreTrainedModel:
    try:
        from flash_sparse_apps.models.pretrained import load_body
    except ImportError as error:
        raise UserError(
            f"--pretrained is {settings.pretrained}, which needs transformers: pip install 'flash-sparse[hub]'"
        ) from error
    try:
        return load_body(settings.pretrained, settings.attention_length)
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
        "heads": settings.heads,
        "mlp_width": settings.mlp_width,
        "activation": settings.activation,
        "dropout": settings.dropout,
        "attention_dropout": settings.attention_dropout,
        "rotary": {"1d": "1d", "2d": "axial2d", "none": None}[settings.rotary],
        "grid": dataset.grid if settings.rotary == "2d" else None,
        "skip_token": BLACK if settings.skip_black else None,
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
        for name, value in (("rotary", "2d"), ("pattern", "axial"), ("pattern", "neighborhood_2d")):
            if getattr(settings, name) == value and (name == "rotary" or settings.sparse):
                raise UserError(f"--{name} is {value}; expected another for {dataset.name}, whose texts are no images")
    elif settings.tokenizer != "bpe":
        raise UserError(f"--tokenizer is {settings.tokenizer}; expected none for {dataset.name}: pixels are tokens")
    check_images(settings, dataset)
    if settings.pretrained is not None and (dataset.vocabulary or isinstance(next(iter(dataset.train)).text, bytes)):
        raise UserError(f"--pretrained is {settings.pretrained}; expected none for {dataset.name}, which is not prose")
    if next(iter(dataset.train)).second is not None:
        if settings.pooling == "label":
            raise UserError(
                f"--pooling is label; expected mean, max or cls for {dataset.name}, which is pairs of texts"
            )
        if settings.chunked:
            raise UserError(f"--chunked is given; expected it without {dataset.name}, which is pairs of texts")
        if settings.pretrained is not None:
            raise UserError(f"--pretrained is {settings.pretrained}; expected none for {dataset.name}, which is pairs")


def _tokenizer(settings: Settings, dataset: Dataset, cache: Path) -> Tokenizer | ByteTokenizer:
    """What the data prescribes, the named tokenizer, or one trained on this training split, which is done only once."""
    if settings.pretrained is not None:
        return load_tokenizer(settings.pretrained)
    if dataset.vocabulary is not None:
        return word_tokenizer(dataset.vocabulary)
    if isinstance(next(iter(dataset.train)).text, bytes):
        return ByteTokenizer()
    if settings.tokenizer != "bpe":
        return load_tokenizer(settings.tokenizer)
    folder = cache / "tokenizers" / f"{dataset.fingerprint[:32]}-{settings.vocab_size}"
    if not (folder / "tokenizer.json").is_file():
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            train_tokenizer(
                (text for document in dataset.train for text in (document.text, document.second) if text is not None),
                settings.vocab_size,
                temporary,
                progress=is_main_process() and sys.stderr.isatty(),
            )
            folder.mkdir(exist_ok=True)
            os.replace(temporary / "tokenizer.json", folder / "tokenizer.json")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Tokenizer.from_folder(folder)


def open_run(settings: Settings, resumed: Path | None, prepared: Prepared) -> RunFolder:
    """Make the run folder, or check that the resumed one is of the same data."""
    if not is_main_process():
        return RunFolder(os.environ["FLASH_SPARSE_RUN"])
    fingerprint = {"name": prepared.dataset.name, "fingerprint": prepared.dataset.fingerprint}
    described = fingerprint | {
        "tokenizer": prepared.tokenizer.fingerprint,
        "settings": yaml.safe_load(settings.to_yaml()),
    }
    if resumed is not None:
        run = RunFolder(resumed)
        run.lock()
        if run.metrics.is_file() and (settings.max_time is None or results.all_trained(run)):
            raise UserError(f"--resume is {resumed}, which is finished: its report is {run.report}")
        if run.metrics.is_file() and not run.last_checkpoint.is_file():
            raise UserError(f"--resume is {resumed}, which is finished and has no {run.last_checkpoint} to go on from")
        try:
            before = run.described() or described
        except ValueError as error:
            raise UserError(str(error)) from error
        if any(before.get(key) != value for key, value in fingerprint.items()):
            raise UserError(
                f"--resume is {resumed}, but the data of {settings.dataset} has changed since that run began"
            )
        if before.get("tokenizer", described["tokenizer"]) != described["tokenizer"]:
            name = settings.pretrained or settings.tokenizer
            raise UserError(f"--resume is {resumed}, but the tokenizer of {name} has changed since that run began")
        for key, value in before.get("settings", {}).items():
            if key.replace("-", "_") not in MAY_CHANGE | {"output"} and described["settings"].get(key) != value:
                now = described["settings"].get(key)
                raise UserError(f"{run.config}: {key} is {now}; expected {value}, with which that run began")
        write_atomically(run.config, settings.to_yaml().encode())
    else:
        path = settings.output or _default_output(settings, prepared.dataset)
        run = RunFolder.create(path, settings.to_yaml())
        run.lock()
    try:
        write_atomically(run.data, to_json(described))
    except BaseException:
        if resumed is None:
            run.remove()
        raise
    os.environ["FLASH_SPARSE_RUN"] = str(run.path)  # for the processes that Lightning starts for further devices
    return run


def _default_output(settings: Settings, dataset: Dataset) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(dataset.name).stem) or "run"
    kind = "sparse" if settings.sparse else "chunked" if settings.chunked else "dense"
    return Path("runs") / f"{name}-{settings.seq_len}-{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def introduce(settings: Settings, prepared: Prepared, run: RunFolder):
    """The lines before training: the data, what is cut, the run folder."""
    if not is_main_process():
        return
    dataset = prepared.dataset
    print(f"{dataset.name}: {dataset.task}, {len(dataset.labels):,} labels")
    for note in dataset.notes:
        print(f"  note: {note}")
    if prepared.body is not None:
        from flash_sparse_apps.models.pretrained import describe_body

        print(f"  pretrained: {settings.pretrained}, {describe_body(prepared.body)}")
    if prepared.data.train_store.pairs:
        print("  pairs of texts: each of the two is cut by itself, and lengths are of the longer one")
    for line in report.truncation_lines(prepared.truncation, settings.seq_len):
        print(f"  {line}")
    if settings.sparse:
        print(f"  --sparse computes {report.percent(prepared.computed)} of the blocks in training")
    print(f"run folder: {run.path}", flush=True)


def train(settings: Settings, prepared: Prepared, run: RunFolder) -> tuple[Classifier, L.Trainer, History]:
    """Train, or go on training, until the epochs, --patience or --max-time end it."""
    L.seed_everything(settings.seed, workers=True, verbose=False)
    try:
        encoder = prepared.make_encoder()
        if settings.layer_decay != 1:
            encoder.layer_rates(settings.layer_decay)  # for an error before training
    except ValueError as error:
        raise UserError(str(error)) from error
    if settings.init_from is not None and not run.has_checkpoint:
        with_head = load_start(
            settings, prepared.encoder_arguments, prepared.tokenizer, prepared.dataset.labels, encoder
        )
        if is_main_process():
            print(f"beginning with the weights of {settings.init_from}{'' if with_head else ', but a new head'}")
    elif prepared.embeddings == "cooccurrence" and not run.has_checkpoint:
        begin_with_vectors(
            getattr(encoder, "encoder", encoder),  # of a model of pairs or windows, what reads each text
            prepared.data.train_store,
            settings.seq_len,
            settings.seed,
            progress=is_main_process() and sys.stderr.isatty(),
        )
    layout = layouts.make_layout(settings.seq_len, prepared.attention)
    max_seconds = None if settings.max_time is None else 60 * settings.max_time
    history = History()
    if settings.pretrain:
        before = pretrain(settings, prepared.data, run, encoder, layout)
        history = History(seconds_before=before["seconds"])
    module = Classifier(
        encoder,
        layout,
        prepared.dataset.task,
        learning_rate=settings.learning_rate,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        gradient_clip=settings.gradient_clip,
        none_counts=prepared.dataset.none_label is not None,
        seed=settings.seed,
    )
    stopping = EarlyStopping(
        MONITOR, mode="max", patience=settings.patience, check_on_train_epoch_end=False, min_delta=0.0
    )
    callbacks = [history, stopping, Checkpoints(run, settings.checkpoint_every, history, stopping)]
    callbacks.append(Progress(history, max_seconds))
    trainer = make_trainer(settings, run, callbacks, settings.epochs, max_seconds and max_seconds - history.seconds)
    fit(trainer, module, prepared.data, run.last_checkpoint, run)
    return module, trainer, history


def finish(settings: Settings, prepared: Prepared, run: RunFolder, module: Classifier, history: History, command: str):
    """Test the weights that did best on validation and write everything that a finished run has."""
    encoder = module.encoder.to(results.best_device(settings))
    if not history.epochs:
        raise UserError(f"--max-time is {settings.max_time}, over before the first validation; expected more")
    try:
        load_weights(encoder, run.best_weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    if (stopped := results.why_stopped(settings, history)) != results.ALL_TRAINED:
        _say(stopped)
    metrics, thresholds, predictions, examples, images = results.collect(
        settings, prepared, encoder, module.layout, history, command, _say
    )
    metrics["pretraining"] = read_summary(run) if settings.pretrain else None
    saved = SavedModel(
        encoder=encoder,
        encoder_arguments=prepared.encoder_arguments,
        pretrained=settings.pretrained,
        attention=prepared.attention,
        chunk_tokens=prepared.chunk_tokens,
        pairs=prepared.data.train_store.pairs,
        grid=prepared.dataset.grid,
        tokenizer=prepared.tokenizer,
        labels=prepared.dataset.labels,
        task=prepared.dataset.task,
        thresholds=thresholds,
        seq_len=settings.seq_len,
        dataset=prepared.dataset.name,
    )
    saved.save(run.model, report.model_card(metrics))
    write_atomically(run.predictions, predictions)
    metrics["predict_command"] = f"{spoken('predict')} {shlex.quote(str(run.path))} {report.what_to_predict(metrics)}"
    pictures = {
        "loss": figures.loss_curve(history.steps, history.epochs),
        "score": figures.score_curve(history.epochs),
        "lengths": figures.length_histogram(
            {split: store.text_lengths for split, store in prepared.stores.items()}, settings.seq_len
        ),
    }
    if metrics["pretraining"] is not None:
        pictures["pretraining"] = figures.pretraining_curve(
            metrics["pretraining"]["curve"], metrics["pretraining"]["history"]
        )
    if module.layout is not None:
        pictures["layout"] = figures.layout_picture(module.layout)
    if images:
        pictures["images"] = figures.images(images)
    write_atomically(run.report, report.render(metrics, pictures, examples).encode(errors="backslashreplace"))
    write_atomically(run.metrics, to_json(metrics))  # last: it marks the run as finished
    print(report.console(metrics))
    print(f"report: {run.report}")


def is_main_process() -> bool:
    """False in the processes for further devices, which say nothing and write nothing."""
    return rank_zero_only.rank in (None, 0)


def _say(text: str):
    print(text, flush=True)


@contextlib.contextmanager
def quiet():
    """Keep Lightning's advice off the console: what it has to say is said here, or does not fit this program."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
