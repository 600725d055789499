"""The run's page `report.html`, the model card, and the few lines on the console, all from the figures in metrics.json.

Everything that comes from the data (labels, names, notes) is escaped where it enters the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flash_sparse_apps.console import spoken
from flash_sparse_apps.metrics import LinearScores, Metrics, ModelScores
from flash_sparse_apps.reports.advice import advice, advice_lines
from flash_sparse_apps.reports.examples import Example
from flash_sparse_apps.reports.glossary import GLOSSARY
from flash_sparse_apps.reports.mistakes import confusions, mistakes, passages_of
from flash_sparse_apps.reports.page import (
    document,
    duration,
    interval,
    percent,
    picture,
    repeating,
    score,
    size,
    table,
    tile,
)
from flash_sparse_apps.reports.trust import trust
from flash_sparse_apps.reports.words import kind, pages, places, plain_sentence

MAX_LABELS = 200  # rows of the table of labels; metrics.json has all
EXACTLY = "exactly the right labels"
MEANINGS = {  # what rows of the results begin with, and what they say
    "micro-F1": "all labels of all documents together: 1 is perfect",
    "macro-F1": "the mean over labels, rare ones counting as much as frequent ones",
    EXACTLY: "no label wrong and none missing",
    "without": "what the encoder reaches alone",
    "linear baseline": "the usual simple method on the same documents, to be beaten",
    "difference": "of the model to the linear baseline; above 0 the model is better",
    "by ": "what the best guess from this alone reaches",
}


def attention_line(metrics: Metrics) -> str:
    attention = metrics["model"]["attention"]
    images = "; positions in two dimensions" if metrics["model"]["encoder"].get("rotary") == "2d" else ""
    if (times := metrics["model"]["encoder"].get("iterations") or 1) > 1:
        images += f"; all layers are applied {times} times"
    if metrics["model"]["encoder"].get("skip_token") is not None:
        black = metrics["model"]["encoder"].get("skip_through")
        which = f"pixels of values up to {black}" if black else "black pixels"
        images += f"; {which} are left out, {percent(metrics['model']['pixels_read'])} of the pixels are read"
    if metrics["model"].get("chunk_tokens") is not None:
        return f"dense within windows of {metrics['model']['chunk_tokens']:,} tokens, pooled over all windows"
    if not attention["sparse"]:
        return f"dense{images}"
    return (
        f"block-sparse: {attention['pattern']}, blocks of {attention['block_size']} tokens, "
        f"{percent(metrics['model']['density'])} of the blocks kept at {metrics['settings']['seq-len']:,} tokens, "
        f"{percent(metrics['model']['computed'])} in training{images}"
    )


def result_rows(metrics: Metrics) -> list[tuple[str, str, str]]:
    """The test results as (what, value, 95% interval), for the console and the page."""
    test, baseline = metrics["test"], metrics["linear_baseline"]
    none = metrics["data"]["none_label"]
    counted = "" if none is None else f' ("{none}" counted)'  # figures of the two conventions must not be compared
    decimals = places(test["documents"])

    def row(what: str, found: Mapping[str, Any], key: str) -> tuple[str, str, str]:
        return what, score(found[key], decimals), interval(found[f"{key}_interval"], decimals)

    rows = [row(f"micro-F1{counted}", test, "micro_f1"), row(f"macro-F1{counted}", test, "macro_f1")]
    if metrics["data"]["task"] == "multi-label":  # else it is micro-F1 again
        low, high = (100 * bound for bound in test["accuracy_interval"])
        rows.append((f"{EXACTLY} ({kind(metrics)})", percent(test["accuracy"]), f"[{low:.1f}%, {high:.1f}%]"))
    if (blend := metrics.get("blend")) is not None:
        rows.append(("without the linear model's vote, micro-F1", score(blend["encoder_micro_f1"], decimals), ""))
    if baseline is not None:
        rows.append(row("linear baseline, micro-F1", baseline, "micro_f1"))
        rows.append(row("linear baseline, macro-F1", baseline, "macro_f1"))
        difference = baseline["difference"]
        bounds = interval(difference["micro_f1_interval"], decimals)
        rows.append(("difference in micro-F1", f"{difference['micro_f1']:+.{decimals}f}", bounds))
    rules = metrics["rule_baselines"].items()
    return rows + [(f"by {name} alone, micro-F1", score(value, decimals), "") for name, value in rules]


def _meaning(what: str) -> str:
    return next(said for begin, said in MEANINGS.items() if what.startswith(begin))


def speed_rows(metrics: Metrics) -> list[tuple[str, str]]:
    """Speed and memory as (what, value)."""
    speed, compare = metrics["speed"], metrics["compare"]
    rows = [("training", duration(metrics["training"]["seconds"]))]
    if speed["step_seconds"] is not None:
        rows += [
            ("optimizer step, mean", duration(speed["step_seconds"])),
            ("tokens per second in training", f"{speed['tokens_per_second']:,.0f}"),
        ]
    rows.append(("peak memory of the process", size(speed["peak_memory_bytes"])))
    if speed["peak_gpu_memory_bytes"] is not None:
        rows.append(("peak memory of the GPU", size(speed["peak_gpu_memory_bytes"])))
    if compare is not None:
        rows += [
            (f"sparse step, {compare['step_tokens']:,} tokens", duration(compare["sparse_step_seconds"])),
            ("dense step, same weights and tokens", duration(compare["dense_step_seconds"])),
            ("speedup of sparse over dense", f"{compare['speedup']:.2f}x"),
            (
                "dense and sparse predictions agree",
                f"{percent(compare['label_agreement'])} of label decisions, {percent(compare['document_agreement'])} "
                f"of documents in all ({compare['documents']} of {compare['test_documents']} test documents)",
            ),
        ]
    return rows


def verdict(metrics: Metrics) -> str:
    """Whether the model earns its keep: tells documents apart, beside the linear one and beside simple rules."""
    return " ".join([*_all_alike(metrics["test"]), *_voters(metrics), _beside_linear(metrics), *_beside_rules(metrics)])


def _all_alike(test: ModelScores) -> list[str]:
    if test["documents"] == 1:
        return []
    if test["truths"] == 1:
        return ["All test documents have the same labels: the test does not show whether the model tells them apart."]
    if test["answers"] == 1:
        return [f"The model gives all {test['documents']:,} test documents the same answer: it tells nothing apart."]
    return []


def _voters(metrics: Metrics) -> list[str]:
    blend = metrics.get("blend")
    if blend is None:
        return []
    if not blend["linear"]:
        return ["The validation documents gave the linear model no vote."]
    return ["The model is an encoder and the linear model of the same tokens, which vote together (--blend)."]


def _beside_rules(metrics: Metrics) -> list[str]:
    low, high = metrics["test"]["micro_f1_interval"]
    sentences = []
    for name, value in metrics["rule_baselines"].items():
        if low <= value:
            found = "is worse than" if high < value else "cannot be told from"
            sentences.append(f"The model {found} the best guess by the {name} alone.")
    return sentences


def _beside_linear(metrics: Metrics) -> str:
    baseline = metrics["linear_baseline"]
    if baseline is None:
        return "No linear baseline (TF-IDF) was fitted (--no-linear-baseline)."
    low, high = baseline["difference"]["micro_f1_interval"]
    if low > 0:
        return "The model is better than the linear baseline: the 95% interval of the difference is above 0."
    if high < 0:
        return "The model is worse than the linear baseline: the 95% interval of the difference is below 0."
    return "The test cannot tell the model from the linear baseline: the 95% interval of the difference contains 0."


def what_to_predict(grid: Sequence[int] | None, pairs: bool) -> str:
    """The files that `predict.py` takes for a run on images of this grid, on pairs, or on texts."""
    if grid is not None:
        return "IMAGE.png ..."
    return "PAIRS.jsonl" if pairs else "FILE.txt ..."


def truncation_lines(truncation: dict[str, dict], seq_len: int) -> list[str]:
    """What --seq-len cuts, one line for each split."""
    head = f"{'':<10}{'documents':>11}{'tokens':>14}{'longest':>11}   cut at {seq_len:,}"
    return [
        head,
        *(
            f"{split:<10}{cut['documents']:>11,}{cut['tokens']:>14,}{cut['max_length']:>11,}   "
            f"{percent(cut['documents_cut_share'])} of documents, {percent(cut['tokens_cut_share'])} of tokens"
            for split, cut in truncation.items()
        ),
    ]


def console(metrics: Metrics) -> str:
    """The results as a few aligned lines, the first of them in words, and what to try next."""
    results, speed = result_rows(metrics), speed_rows(metrics)
    width = max(len(row[0]) for row in (*results, *speed))
    lines = textwrap.wrap(plain_sentence(metrics), 118)
    lines.append(f"test, {metrics['test']['documents']:,} document{'s' * (metrics['test']['documents'] != 1)}")
    lines += [f"  {what:<{width}}  {value:>7}  {bounds}".rstrip() for what, value, bounds in results]
    lines.append(f"  {verdict(metrics)}")
    lines += advice_lines(metrics)
    lines.append("speed and memory")
    lines += [f"  {what:<{width}}  {value}" for what, value in speed]
    return "\n".join(lines)


def render(
    metrics: Metrics, figures: dict[str, str], examples: Sequence[Example] = (), wrong: Sequence[Example] = ()
) -> str:
    """The page.

    Args:
        figures: loss, score, lengths and, where they apply, reliability, confusions, layout, pretraining and images, as
            SVG.
        examples: with the passages that carry their labels.
        wrong: the same of the first of `metrics["mistakes"]`, in their order.
    """
    data = metrics["data"]
    parts = [
        *_headline(metrics),
        *_advice(metrics),
        *_results(metrics),
        "<h2>Labels</h2>",
        _label_table(metrics),
        *confusions(metrics, figures),
        *mistakes(metrics, wrong),
        *trust(metrics, figures),
        *_images(figures),
        *_examples(examples),
        *_documents(metrics, figures),
        *_training(metrics, figures),
        *_pretraining(metrics, figures),
        *_speed(metrics, figures),
        *_use_and_repeat(metrics),
        *_glossary(),
    ]
    return document(f"{data['name']}: test micro-F1 {_score(metrics, metrics['test']['micro_f1'])}", parts)


def _score(metrics: Metrics, value: float) -> str:
    """With the decimals that the test can tell apart."""
    return score(value, places(metrics["test"]["documents"]))


def _interval(metrics: Metrics, bounds: Sequence[float]) -> str:
    return interval(bounds, places(metrics["test"]["documents"]))


def _headline(metrics: Metrics) -> list[str]:
    """What it is, what to expect of it in words, the scores in boxes, the verdict, and what to beware of."""
    data, seq_len = metrics["data"], metrics["settings"]["seq-len"]
    notes = "".join(f"<li>{escape(note)}</li>" for note in data["notes"])
    return [
        f"<h1>{escape(data['name'])}</h1>",
        f'<p class="soft">{escape(data["task"])}, {data["num_labels"]:,} labels; up to '
        f"{seq_len:,} tokens{pages(metrics, seq_len)} of {_text(metrics)}; "
        f"{escape(metrics['finished'])}</p>",
        f'<p class="lead">{escape(plain_sentence(metrics))}</p>',
        f'<div class="tiles">{"".join(_tiles(metrics))}</div>',
        f"<p>{escape(verdict(metrics))}</p>",
        f'<ul class="notes">{notes}</ul>' if notes else "",
    ]


def _tiles(metrics: Metrics) -> list[str]:
    test, baseline = metrics["test"], metrics["linear_baseline"]
    tiles = [
        tile(
            f"test {name}",
            _score(metrics, found),
            f"{_meaning(name)}; 95% interval {_interval(metrics, bounds)}",
            "head" * (name == "micro-F1"),
        )
        for name, found, bounds in (
            ("micro-F1", test["micro_f1"], test["micro_f1_interval"]),
            ("macro-F1", test["macro_f1"], test["macro_f1_interval"]),
        )
    ]
    if baseline is not None:
        difference = baseline["difference"]
        shown = f"{difference['micro_f1']:+.{places(test['documents'])}f}"
        against = f"micro-F1; difference {shown} {_interval(metrics, difference['micro_f1_interval'])}"
        tiles.append(tile("linear baseline", _score(metrics, baseline["micro_f1"]), against))
    return tiles


def _advice(metrics: Metrics) -> list[str]:
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in advice(metrics))
    return ["<h2>What to try next</h2>", f"<ul>{sentences}</ul>"] if sentences else []


def _linear_method(metrics: Metrics, baseline: LinearScores) -> str:
    documents = metrics["data"]["truncation"]["train"]["documents"]
    fitted, sample = baseline.get("train_documents", documents), ""
    if fitted < documents:
        sample = f", fitted on {fitted:,} of the {documents:,} training {kind(metrics)}, drawn at random"
    return f" The linear baseline: for each label an SVM on TF-IDF of the same tokens{sample}."


def _results(metrics: Metrics) -> list[str]:
    test, baseline = metrics["test"], metrics["linear_baseline"]
    method = "" if baseline is None else _linear_method(metrics, baseline)
    if rules := metrics["rule_baselines"]:
        names = escape(" or by the ".join(rules))
        method += f" By the {names} alone: the best guess, from training, of what sees nothing else of a document."
    tested = f"{test['documents']:,} test {kind(metrics, test['documents'])}"
    return [
        "<h2>Test results</h2>",
        f'<p class="soft">{tested}. {escape(_threshold_sentence(metrics))} Intervals: '
        f"{test['bootstrap_samples']:,} bootstrap resamples of the test documents"
        f"{'; the difference is resampled in pairs' if baseline is not None else ''}.{method} The words are explained "
        'in the <a href="#glossary">glossary</a> below.</p>',
        table(
            ("", "value", "95% interval", "what it says"),
            [(escape(a), b, c, f'<span class="soft">{_meaning(a)}</span>') for a, b, c in result_rows(metrics)],
            ["", "n", "n", "name"],
        ),
    ]


def _training(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    tuned = "; thresholds are tuned on the same validation documents" * (metrics["data"]["task"] == "multi-label")
    by = "By the validation loss" if metrics["training"].get("metric") == "loss" else "By this score"
    chosen = f"{by} the tested weights are chosen{tuned}, so the score is rather higher than a test would be."
    return [
        "<h2>Training</h2>",
        f"<p>{escape(_training_sentence(metrics) + _before_training(metrics))}</p>",
        '<div class="pair">',
        picture(figures["loss"], "Loss; the faint line is that of single steps.", ""),
        picture(figures["score"], chosen, ""),
        "</div>",
    ]


def _documents(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    pairs = (
        "<p>A document is a pair of texts: each is cut by itself, a pair counts as cut where one of them is, and "
        "lengths are of the longer one.</p>"
    )
    return [
        "<h2>Documents and what is cut</h2>",
        f"<p>{escape(metrics['data']['description'])}</p>",
        pairs if metrics["data"]["pairs"] else "",
        _truncation_table(metrics),
        picture(figures["lengths"], "Whole documents by length; what is right of the line is cut there.", "wide"),
    ]


def _speed(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    parts = [
        "<h2>Speed and memory</h2>",
        f'<p class="soft">Attention: {escape(attention_line(metrics))}.</p>',
        table(("", ""), [(escape(a), escape(b)) for a, b in speed_rows(metrics)], ["", ""]),
    ]
    if "layout" in figures:
        caption = f"Which blocks of keys each block of queries sees; {percent(metrics['model']['density'])} are kept."
        parts += ["<h2>Block layout</h2>", picture(figures["layout"], caption, "small")]
    return parts


def _use_and_repeat(metrics: Metrics) -> list[str]:
    fingerprint = f"<code>{escape(metrics['data']['fingerprint'])}</code>"
    settings = [(f"--{escape(key)}", escape(str(value))) for key, value in metrics["settings"].items()]
    return [
        "<h2>How to use it</h2>",
        f"<pre>{escape(metrics['predict_command'])}</pre>",
        '<p class="soft">Beside this page: metrics.json with every figure, predictions.jsonl with the test documents\' '
        "labels and probabilities, model/ with all that predicting needs.</p>",
        *repeating(metrics["command"], metrics["machine"], metrics["versions"], ("data fingerprint", fingerprint)),
        "<details><summary>All settings</summary>",
        table(("flag", "value"), settings, ["", ""]),
        "</details>",
    ]


def _pretraining(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    before = metrics.get("pretraining")
    if before is None:
        return []
    first, last = before["history"][0]["train_loss"], before["history"][-1]["train_loss"]
    epochs = f"{before['epochs']} epoch{'s' * (before['epochs'] > 1)}"
    return [
        "<h2>Pretraining</h2>",
        f"<p>Before, the encoder learnt from the training documents without their labels to fill in "
        f"{percent(before['mask_share'])} of their tokens, which were masked: {before['steps']:,} optimizer steps in "
        f"{epochs}, {duration(before['seconds'])}, which are part of the training time given above. The loss of masked "
        f"tokens was {first:.4f} over the first epoch and {last:.4f} over the last; knowing how frequent tokens are, "
        f"and nothing else, would give {before['frequency_loss']:.4f}.</p>",
        picture(figures["pretraining"], "Cross-entropy of masked tokens; the faint line is that of single steps.", ""),
    ]


def _images(figures: dict[str, str]) -> list[str]:
    if "images" not in figures:
        return []
    caption = (
        "Above those answered right, below those answered wrong, drawn by the seed: the label, the answer and its "
        "probability. What the model does not read is left blank."
    )
    return ["<h2>Test images</h2>", picture(figures["images"], caption, "wide")]


def _examples(examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    parts = [
        "<h2>Passages that carry a label</h2>",
        '<p class="soft">Test documents drawn by the seed. Each marked passage was taken out of the text, and its '
        "label's probability changed by so much.</p>",
    ]
    return parts + [part for example in examples for part in passages_of(example)]


def _glossary() -> list[str]:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in GLOSSARY.items())
    return ['<h2 id="glossary">Glossary</h2>', f"<dl>{terms}</dl>"]


def _text(metrics: Metrics) -> str:
    if metrics["data"]["grid"]:
        return "an image"
    return "each text of a pair" if metrics["data"]["pairs"] else "a document"


def _threshold_sentence(metrics: Metrics) -> str:
    if metrics["data"]["task"] == "single-label":
        return "The most probable label is given."
    return "A label is given where its probability reaches the label's threshold, tuned on the validation documents."


def _training_sentence(metrics: Metrics) -> str:
    training = metrics["training"]
    metric, chosen = training.get("metric", "micro-f1"), ""
    if metric != "micro-f1":
        chosen = f", chosen by {metric.replace('f1', 'F1')} ({_score(metrics, training['best_validation_score'])})"
    return (
        f"{training['steps']:,} optimizer steps in {training['epochs']} epoch{'s' * (training['epochs'] > 1)}, "
        f"{duration(training['seconds'])}. "
        f"{training['stopped']} The tested weights are those after epoch {training['best_epoch']}, "
        f"validation micro-F1 {_score(metrics, training['best_validation_micro_f1'])}{chosen}."
        f"{_lowered_sentences(metrics)}{_halved_sentence(metrics)}"
    )


def _halved_sentence(metrics: Metrics) -> str:
    asked = metrics["settings"].get("tokens-per-batch")
    enough = metrics["speed"].get("tokens_per_batch", asked)
    if enough == asked:
        return ""
    return f" Memory was too little for --tokens-per-batch {asked:,}: it was enough for {enough:,} (--auto-batch)."


def _lowered_sentences(metrics: Metrics) -> str:
    sentences = ""
    for what, section in (("pretraining", metrics["pretraining"]), ("training", metrics["training"])):
        for lowered in [] if section is None else section.get("lowered", []):
            rate = f"{lowered['learning_rate']:g}"
            sentences += f" After step {lowered['step']:,} {what} went on with a lower learning rate, {rate}."
    return sentences


def _before_training(metrics: Metrics) -> str:
    """Which weights and images training had, where they were not the usual ones."""
    settings, sentences = metrics["settings"], ""
    if settings.get("class-weights", "none") != "none":
        sentences += " In the loss and for the linear model all labels count the same, rare or not (--class-weights)."
    if settings.get("init-from") is not None:
        sentences += f" It began with the weights of {settings['init-from']}."
    if metrics["model"]["embeddings"] == "cooccurrence":
        sentences += " Token embeddings began as vectors made from which tokens stand next to each other in its texts."
    if settings.get("fresh-images"):
        sentences += " Every epoch but the first had new training images."
    if settings.get("grow-from") is not None:
        sentences += (
            f" Training images began with snakes of {settings['grow-from']} dashes, which grew as these were learnt; "
            "every image was new."
        )
    if settings.get("augment", "none") != "none":
        sentences += " Training images were turned and mirrored at random; those for validation and test were not."
    return sentences


def _truncation_table(metrics: Metrics) -> str:
    seq_len = metrics["settings"]["seq-len"]
    head = (
        "split",
        "documents",
        f"cut at {seq_len:,}",
        "tokens",
        "cut",
        "median",
        "95% at most",
        "longest",
    )
    rows = [
        (
            split,
            f"{cut['documents']:,}",
            f"{cut['documents_cut']:,} ({percent(cut['documents_cut_share'])})",
            f"{cut['tokens']:,}",
            f"{cut['tokens_cut']:,} ({percent(cut['tokens_cut_share'])})",
            f"{cut['median_length']:,.0f}{pages(metrics, cut['median_length'])}",
            f"{cut['p95_length']:,.0f}{pages(metrics, cut['p95_length'])}",
            f"{cut['max_length']:,}{pages(metrics, cut['max_length'])}",
        )
        for split, cut in metrics["data"]["truncation"].items()
    ]
    return table(head, rows, ["", *"nnnnnnn"])


def _label_table(metrics: Metrics) -> str:
    labels = sorted(metrics["test"]["per_label"], key=lambda entry: -entry["support"])
    multi = metrics["data"]["task"] == "multi-label"
    rows = []
    for entry in labels[:MAX_LABELS]:
        tested = entry["support"] > 0
        bar = f'<div><i style="width:{100 * entry["f1"]:.1f}%"></i></div>' if tested else ""
        f1, precision, recall = (
            _score(metrics, share) if tested else "-" for share in (entry["f1"], entry["precision"], entry["recall"])
        )
        row = [escape(entry["label"]), f"{entry['support']:,}", f1, bar, precision, recall]
        if multi:  # what is counted as none of the others has no threshold
            row.append("" if entry["threshold"] is None else _score(metrics, entry["threshold"]))
        rows.append(row)
    head = ["label", "test documents", "F1", "", "precision", "recall", *(["threshold"] if multi else [])]
    more = (
        f"The {MAX_LABELS} most frequent of {len(labels):,}; metrics.json has all. " if len(labels) > MAX_LABELS else ""
    )
    untested = sum(not entry["support"] for entry in labels)
    more += f"{untested:,} without a test document (-) were not tested. " if untested else ""
    absent = (
        "A label that no test document has counts F1 0 in macro-F1."
        if multi
        else "Macro-F1 is over the labels that a test document has or is given."
    )
    meaning = (
        "Precision: of the documents given the label, the share that has it. Recall: of those that have it, the share "
        "that is given it. F1: one number for both."
    )
    sentence = f'<p class="soft">{meaning} {more}{absent}</p>'
    return sentence + table(head, rows, ["name", "n", "n", "bar", "n", "n", *(["n"] if multi else [])])


def model_card(metrics: Metrics) -> str:
    """The README.md of `model/`."""
    data = metrics["data"]
    rows = "\n".join(f"| {what} | {value} | {bounds} |" for what, value, bounds in result_rows(metrics))
    labels = "\n".join(
        "    " + entry["label"].replace("\n", " ")
        for entry in metrics["test"]["per_label"][: min(MAX_LABELS, data["num_labels"])]
    )
    return f"""\
---
library_name: flash-sparse
pipeline_tag: text-classification
---

# {_markdown(data["name"])}, {data["task"]}, {data["num_labels"]:,} labels

{textwrap.fill(_markdown(data["description"]), 100)}

{textwrap.fill(plain_sentence(metrics), 100)}

Reads the first {metrics["settings"]["seq-len"]:,} tokens of {_text(metrics)}; attention: {attention_line(metrics)};
{metrics["model"]["parameters"]:,} parameters. {_threshold_sentence(metrics)}

| test, {metrics["test"]["documents"]:,} documents | value | 95% interval |
|---|---|---|
{rows}

{verdict(metrics)}

Files: `model.safetensors` (weights), `classifier.json` (labels, thresholds, encoder arguments), and the
tokenizer's. To label new {"images" if data["grid"] else "texts"}:

    {spoken("predict")} RUN {what_to_predict(data["grid"], data["pairs"])}

Data fingerprint: `{data["fingerprint"]}`. Seed: {metrics["settings"]["seed"]}.

Labels:

{labels}
"""


def _markdown(text: str) -> str:
    return " ".join(escape(text, quote=False).replace("|", "\\|").split())
