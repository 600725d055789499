"""What to try next, from the figures of a run, with the flag that does it."""

from __future__ import annotations

import textwrap

from flash_sparse_apps.metrics import Metrics, best_epoch
from flash_sparse_apps.reports.page import percent, score
from flash_sparse_apps.reports.words import kind, pages, places

CUT_SHARE = 0.05  # of the training documents, from which reading more is advised
MOST_TIMES = 8  # as many tokens that are advised at once
FEW_PER_LABEL = 50  # training documents
FEW_TESTED = 30  # test documents
WIDE = 0.1  # of an interval


def advice(metrics: Metrics) -> list[str]:
    """Sentences, the weightiest first; none where nothing suggests itself."""
    found = [_by_linear_model, _by_reading_more, _by_training_longer, _by_more_documents, _by_a_larger_test]
    return [sentence for find in found if (sentence := find(metrics))]


def advice_lines(metrics: Metrics) -> list[str]:
    """The same for the console."""
    sentences = advice(metrics)
    wrapped = ["\n    ".join(textwrap.wrap(sentence, 110, break_on_hyphens=False)) for sentence in sentences]
    return ["what to try next", *(f"  - {sentence}" for sentence in wrapped)] if sentences else []


def _by_linear_model(metrics: Metrics) -> str:
    test, baseline, blend = metrics["test"], metrics["linear_baseline"], metrics.get("blend")
    if baseline is None:
        return ""
    linear = baseline["micro_f1"]
    alone = test["micro_f1"] if blend is None else blend["encoder_micro_f1"]
    if linear < max(alone, test["micro_f1"]) and (blend is None or linear < alone):
        return ""
    better = "--pretrained NAME begins with an encoder that has read much text before"
    if metrics["settings"].get("pretrained") is not None:
        better = "another --pretrained encoder, or a longer training, may change that"
    if metrics["data"].get("tokens_per_page") is None:
        better = "a longer training or another model size may change that"
    shown = places(test["documents"])
    if blend is not None and linear < test["micro_f1"]:
        return (
            f"By itself the encoder reaches a micro-F1 of {score(alone, shown)}, the linear model "
            f"{score(linear, shown)}: most of the score is the linear model's. {better[0].upper()}{better[1:]}."
        )
    use = "" if metrics["data"]["pairs"] else f"{metrics['predict_command']} --linear labels with it alone; "
    what = "does better" if linear > test["micro_f1"] else "does as well"
    return f"The linear model {what} ({score(linear, shown)}): {use}{better}."


def _by_reading_more(metrics: Metrics) -> str:
    cut, seq_len = metrics["data"]["truncation"]["train"], metrics["settings"]["seq-len"]
    if metrics["data"]["grid"] or cut["documents_cut_share"] < CUT_SHARE:
        return ""
    whole = 2 ** max(0, int(cut["p95_length"]) - 1).bit_length()
    longer = max(2 * seq_len, min(whole, MOST_TIMES * seq_len))
    times = f"{longer / seq_len:.0f} times"
    reads = "reads nearly all of them whole" if longer >= whole else f"reads up to {times} as much of them"
    return (
        f"{percent(cut['documents_cut_share'])} of the training {kind(metrics)} are cut at {seq_len:,} tokens"
        f"{pages(metrics, seq_len)}: --seq-len {longer} {reads}, with up to {times} the memory for each."
    )


def _by_training_longer(metrics: Metrics) -> str:
    training, settings = metrics["training"], metrics["settings"]
    history = training["history"]
    if best_epoch(history, training.get("metric", "micro-f1")) is not history[-1]:
        return ""
    losses = [entry["train_loss"] for entry in history if entry["train_loss"] is not None]
    if len(losses) > 1 and losses[-1] >= losses[-2]:
        return ""
    if settings.get("max-time") is not None and "--max-time" in training["stopped"]:
        return (
            f"The last epoch was the best when --max-time {settings['max-time']:g} ended training: --resume RUN with a "
            "higher --max-time goes on from there."
        )
    if "stopped early" in training["stopped"]:
        return ""
    return f"The last epoch was the best, and the loss still fell: --epochs {2 * settings['epochs']} trains longer."


def _by_more_documents(metrics: Metrics) -> str:
    documents, labels = metrics["data"]["truncation"]["train"]["documents"], metrics["data"]["num_labels"]
    if metrics["data"]["grid"] or documents >= FEW_PER_LABEL * labels:
        return ""
    each = documents / labels
    return (
        f"{documents:,} training {kind(metrics)} for {labels:,} labels are few, {each:.0f} for each: more of them, "
        "above all with rare labels, usually help most."
    )


def _by_a_larger_test(metrics: Metrics) -> str:
    low, high = metrics["test"]["micro_f1_interval"]
    count = metrics["test"]["documents"]
    tested = f"{count:,} test {kind(metrics, count)}"
    if high - low >= WIDE:
        found = f"{tested} leave micro-F1 open between {score(low, places(count))} and {score(high, places(count))}"
    elif count < FEW_TESTED:  # all of them right, or all wrong: resamples of them say nothing else
        found = f"{tested} are too few to say how well it does, whatever the interval"
    else:
        return ""
    return (
        f"{found}: a larger --test-share or a file for --test tells more, before two runs are compared, and so does "
        "sweep.py --folds 5, which tests on every document once."
    )
