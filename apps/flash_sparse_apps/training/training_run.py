"""One run from the data to its report: prepare, train or resume, test, write the run folder."""

from __future__ import annotations

import contextlib
import logging
import shlex
import warnings
from functools import partial
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.metrics import confusion_matrix
from torch import nn

from flash_sparse import BlockLayout
from flash_sparse_apps.console import spoken
from flash_sparse_apps.files import to_json, write_atomically
from flash_sparse_apps.metrics import Metrics, Pretraining
from flash_sparse_apps.models import layouts
from flash_sparse_apps.models.class_weights import balanced
from flash_sparse_apps.models.description import READING
from flash_sparse_apps.models.lightning_module import Classifier
from flash_sparse_apps.models.saved_model import Linear, SavedModel
from flash_sparse_apps.models.token_vectors import begin_with_vectors
from flash_sparse_apps.models.weights_file import load_weights
from flash_sparse_apps.reports import figures, run_report
from flash_sparse_apps.reports.examples import Example, ExampleImage
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.scores.linear_baseline import LinearResult
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.training.assembling import assemble
from flash_sparse_apps.training.callbacks import Checkpoints, History, Shown
from flash_sparse_apps.training.example_images import find_images
from flash_sparse_apps.training.example_texts import can_be_read, doubtful, draw_likely, find_examples
from flash_sparse_apps.training.fitting import fit, make_trainer
from flash_sparse_apps.training.growing import ANNEALED, Growing
from flash_sparse_apps.training.loggers import log_test, make_logger
from flash_sparse_apps.training.main_process import is_main_process, say
from flash_sparse_apps.training.preparing import Prepared
from flash_sparse_apps.training.pretraining import pretrain, read_summary
from flash_sparse_apps.training.starting_weights import load_start
from flash_sparse_apps.training.stopping import ALL_TRAINED, why_stopped
from flash_sparse_apps.training.testing import (
    Answers,
    answer,
    best_device,
    fit_linear,
    prediction_lines,
    score,
    time_attention,
)
from flash_sparse_datasets import NAMED
from flash_sparse_datasets.shared.exit_codes import UserError
from flash_sparse_datasets.shared.progress import Progress

DRAWN_LABELS = 30  # of a confusion matrix, at most


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
    for line in run_report.truncation_lines(prepared.truncation, settings.seq_len):
        print(f"  {line}")
    if settings.sparse:
        print(f"  --sparse computes {run_report.percent(prepared.computed)} of the blocks in training")
    print(f"run folder: {run.path}", flush=True)


def train(settings: Settings, prepared: Prepared, run: RunFolder) -> tuple[Classifier, History]:
    """Train, or go on training, until the epochs, --patience or --max-time end it."""
    L.seed_everything(settings.seed, workers=True, verbose=False)
    encoder = _make_encoder(settings, prepared)
    if not run.has_checkpoint:
        _set_start(settings, prepared, encoder)
    layout = layouts.make_layout(settings.seq_len, prepared.attention)

    max_seconds = None if settings.max_time is None else 60 * settings.max_time
    history = History()
    if settings.pretrain:
        before = pretrain(settings, prepared.data, run, encoder, layout)
        history = History(seconds_before=before["seconds"])

    module = _make_module(settings, prepared, encoder, layout)
    stopping = EarlyStopping(
        f"validation/{settings.metric.replace('-', '_')}",
        mode="min" if settings.metric == "loss" else "max",
        patience=settings.patience,
        check_on_train_epoch_end=False,
        min_delta=0.0,
    )
    checkpoints = Checkpoints(run, settings.checkpoint_every, history, stopping, settings.metric)
    callbacks = [history, stopping, checkpoints]
    if prepared.data.growth is not None:
        callbacks.append(Growing(prepared.data.growth, settings.grow_below, history))
    callbacks.append(Shown(history, max_seconds, settings.metric))
    left = max_seconds and max_seconds - history.seconds
    trainer = make_trainer(settings, run, callbacks, settings.epochs, left, make_logger(settings, run))
    fit(trainer, module, prepared.data, checkpoints, run)
    return module, history


def _make_encoder(settings: Settings, prepared: Prepared) -> Any:
    try:
        encoder = prepared.make_encoder()
        if settings.layer_decay != 1:
            encoder.layer_rates(settings.layer_decay)  # for an error before training
    except ValueError as error:
        raise UserError(str(error)) from error
    return encoder


def _set_start(settings: Settings, prepared: Prepared, encoder: Any):
    """Put into a new encoder the weights that it begins with, where they are not those of a checkpoint."""
    if settings.init_from is not None:
        with_head = load_start(
            settings, prepared.encoder_arguments, prepared.tokenizer, prepared.dataset.labels, encoder
        )
        if is_main_process():
            print(f"beginning with the weights of {settings.init_from}{'' if with_head else ', but a new head'}")
    elif prepared.embeddings == "cooccurrence":
        begin_with_vectors(
            getattr(encoder, "encoder", encoder),  # of a model of pairs or windows, what reads each text
            prepared.data.train_store,
            settings.seq_len,
            settings.seed,
            progress=is_main_process(),
        )


def _make_module(settings: Settings, prepared: Prepared, encoder: nn.Module, layout: BlockLayout | None) -> Classifier:
    weights = None
    if settings.class_weights == "balanced":
        weights = balanced(prepared.data.train_store.label_matrix(), prepared.dataset.task)
    return Classifier(
        encoder,
        layout,
        prepared.dataset.task,
        learning_rate=cast(float, settings.learning_rate),  # `Settings` has put in what null means
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        gradient_clip=settings.gradient_clip,
        none_counts=prepared.dataset.none_label is not None,
        weights=weights,
        anneal_share=None if settings.grow_from is None else ANNEALED,
        auto_batch=settings.auto_batch,
        seed=settings.seed,
    )


def finish(settings: Settings, prepared: Prepared, run: RunFolder, module: Classifier, history: History):
    """Test the weights that did best on validation and write everything that a finished run has."""
    _load_best(settings, prepared, run, module, history)

    # test: predict, score, time, assemble
    linear = None
    if settings.linear_baseline:
        say("fitting the linear model")
        linear = fit_linear(settings, prepared)
        if linear.train_documents < (documents := len(prepared.stores["train"])):
            say(f"the linear model saw {linear.train_documents:,} of the {documents:,} training documents")
    say("testing")
    answers = answer(prepared, module, linear.model if linear is not None and settings.blend else None)
    with Progress(None, "scoring", unit=""):
        scores = score(settings, prepared, answers, linear)
    costs = time_attention(settings, prepared, module, answers, history.seconds)
    pretraining = read_summary(run) if settings.pretrain else None
    what = run_report.what_to_predict(prepared.dataset.grid, prepared.data.train_store.pairs)
    command = (run.described() or {})["command"]
    predict_command = f"{spoken('predict')} {shlex.quote(str(run.path))} {what}"
    metrics = assemble(settings, prepared, module, history, scores, costs, pretraining, command, predict_command)

    # show: documents, images, curves
    images, examples, wrong = _find_examples(settings, prepared, module, answers, metrics)
    with Progress(None, "writing the report", unit=""):
        pictures = _draw(settings, prepared, module, history, pretraining, images)
        pictures |= _draw_answers(prepared, answers, metrics)
        page = run_report.render(metrics, pictures, examples, wrong)

        # write, metrics.json last: it marks the run as finished
        _saved_model(settings, prepared, module, answers, linear).save(run.model, run_report.model_card(metrics))
        write_atomically(run.predictions, prediction_lines(prepared, answers))
        write_atomically(run.report, page.encode(errors="backslashreplace"))
        write_atomically(run.metrics, to_json(metrics))
    log_test(module.trainer.loggers, metrics)
    print(run_report.console(metrics))
    print(f"report: {run.report}")


def _load_best(settings: Settings, prepared: Prepared, run: RunFolder, module: Classifier, history: History):
    """Put the weights that did best on validation into the module, on the device of the test."""
    device = best_device(settings)
    if settings.strategy == "fsdp":  # this process has only its part of the one that was trained
        module.encoder = prepared.make_encoder()
    module.encoder.to(device)
    if module.layout is not None:
        module.layout = module.layout.to(device)
    if not history.epochs:
        raise UserError(f"--max-time is {settings.max_time}, over before the first validation; expected more")
    try:
        load_weights(module.encoder, run.best_weights)
    except ValueError as error:
        anew = f"delete {run.best_weights.parent} to train from the beginning"
        raise UserError(f"{error}; expected the weights that did best: {anew}") from error
    if (stopped := why_stopped(settings, history)) != ALL_TRAINED:
        say(stopped)


def _find_examples(
    settings: Settings, prepared: Prepared, module: Classifier, answers: Answers, metrics: Metrics
) -> tuple[list[ExampleImage], list[Example], list[Example]]:
    """Test images with their answers, or test documents with the passages that carry their labels: some drawn by the
    seed, and some that are wrong."""
    images, examples, wrong = [], [], []
    if prepared.dataset.grid is not None:
        images = find_images(
            prepared.dataset,
            prepared.stores["test"],
            settings.seq_len,
            answers.test_probabilities,
            answers.predictions,
            settings.examples,
            settings.seed,
        )
    if settings.examples and can_be_read(prepared):
        say("looking for passages that carry labels")
        find = partial(find_examples, settings, prepared, module.encoder, module.layout, answers.predictions)
        examples = find(draw_likely(settings, answers.test_probabilities, answers.predictions))
        wrong = find(doubtful(prepared.dataset.labels, metrics["mistakes"]), passages=1)
    return images, examples, wrong


def _draw(
    settings: Settings,
    prepared: Prepared,
    module: Classifier,
    history: History,
    pretraining: Pretraining | None,
    images: list[ExampleImage],
) -> dict[str, str]:
    """The report's pictures by name, as SVG."""
    lengths = {split: store.text_lengths for split, store in prepared.stores.items()}
    pictures = {
        "loss": figures.loss_curve(history.steps, history.epochs),
        "score": figures.score_curve(history.epochs, settings.metric),
        "lengths": figures.length_histogram(lengths, settings.seq_len),
    }
    if pretraining is not None:
        pictures["pretraining"] = figures.pretraining_curve(pretraining["curve"], pretraining["history"])
    if module.layout is not None:
        pictures["layout"] = figures.layout_picture(module.layout)
    if images:
        pictures["images"] = figures.images(images)
    return pictures


def _draw_answers(prepared: Prepared, answers: Answers, metrics: Metrics) -> dict[str, str]:
    """What is confused, where that can be drawn, and how far probabilities can be trusted."""
    pictures, labels = {}, prepared.dataset.labels
    if metrics["calibration"]["bins"]:
        pictures["reliability"] = figures.reliability(metrics["calibration"]["bins"])
    if prepared.dataset.task == "single-label" and len(labels) <= DRAWN_LABELS:
        counts = confusion_matrix(answers.test_truth, answers.predictions, labels=range(len(labels)))
        pictures["confusions"] = figures.confusion_matrix(counts, labels)
    return pictures


def _saved_model(
    settings: Settings, prepared: Prepared, module: Classifier, answers: Answers, linear: LinearResult | None
) -> SavedModel:
    kept = None
    if linear is not None and linear.model is not None:
        kept = Linear(linear.model, linear.thresholds, linear.temperature)
    return SavedModel(
        encoder=module.encoder,
        encoder_arguments=prepared.encoder_arguments,
        pretrained=settings.pretrained,
        attention=prepared.attention,
        chunk_tokens=prepared.chunk_tokens,
        pairs=prepared.data.train_store.pairs,
        grid=prepared.dataset.grid,
        tokenizer=prepared.tokenizer,
        labels=prepared.dataset.labels,
        task=prepared.dataset.task,
        thresholds=answers.thresholds,
        seq_len=settings.seq_len,
        dataset=prepared.dataset.name,
        reading={} if settings.dataset in NAMED else {name: getattr(settings, name) for name in READING},
        linear=kept,
    )


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
