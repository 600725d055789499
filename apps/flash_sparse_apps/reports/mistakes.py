"""The report's chapters on mistakes: labels that are confused, documents that are wrong though the model was sure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flash_sparse_apps.metrics import Metrics, Mistake
from flash_sparse_apps.reports.examples import Example
from flash_sparse_apps.reports.page import picture, score, table
from flash_sparse_apps.reports.words import kind, places


def confusions(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    """Which labels are taken for one another: the matrix where it can be drawn, and the pairs."""
    found = metrics["confusions"]
    single = metrics["data"]["task"] == "single-label"
    if not found:
        nothing = "No label was taken for another one." if single else "No label was given in another one's place."
        return ["<h2>Labels that are confused</h2>", f"<p>{nothing}</p>"]
    caption = (
        "Rows are the labels that test documents have, columns those that they were given: what is right stands on the "
        "diagonal."
    )
    head = ("has the label", "was given" if single else "was given in its place", kind(metrics))
    rows = [(escape(pair["label"]), escape(pair["given"]), f"{pair['documents']:,}") for pair in found]
    return [
        "<h2>Labels that are confused</h2>",
        picture(figures["confusions"], caption, "wide") if "confusions" in figures else "",
        ""
        if single
        else f'<p class="soft">Test {kind(metrics)} that lack a label which they have, and were given one '
        "which they do not have.</p>",
        table(head, rows, ["name", "name", "n"]),
    ]


def mistakes(metrics: Metrics, examples: Sequence[Example]) -> list[str]:
    """The documents that are most confidently wrong.

    Args:
        examples: of the first ones, with passages, in the same order.
    """
    found = metrics["mistakes"]
    if not found:
        return []
    what = kind(metrics)
    far = ", whose probability is furthest from the threshold" * (metrics["data"]["task"] == "multi-label")
    rows = []
    for number, mistake in enumerate(found):
        name = escape(mistake["id"])
        linked = f'<a href="#{_anchor(number)}">{name}</a>' if number < len(examples) else name
        sure = score(mistake["confidence"], places(metrics["test"]["documents"]))
        labels, predicted = (escape(", ".join(mistake[key]) or "none") for key in ("labels", "predicted"))
        rows.append((linked, labels, predicted, escape(_said(mistake)), sure))
    head = (kind(metrics, 1), "labels in the data", "labels given", "the surest mistake", "sure")
    passages = (
        [
            "<h3>What they were labelled by</h3>",
            *(part for number, each in enumerate(examples) for part in passages_of(each, _anchor(number))),
        ]
        if examples
        else []
    )
    return [
        "<h2>Surest mistakes, and likely errors in the data</h2>",
        f'<p class="soft">Test {what} with wrong labels, those first of which the model was surest{far}. Look at the '
        "labels in the data too: where the model is good, many of these are errors there, and to mend them in training "
        f"{what} as well is often the best next step. predictions.jsonl has all test {what}.</p>",
        table(head, rows, ["name", "name", "name", "name", "n"]),
        *passages,
    ]


def _anchor(number: int) -> str:
    return f"mistake-{number + 1}"


def _said(mistake: Mistake) -> str:
    return f"{'given' if mistake['given'] else 'not given'}: {mistake['label']}"


def passages_of(example: Example, anchor: str = "") -> list[str]:
    """A document with the passages that carry its labels, as HTML."""
    labels, predicted = ", ".join(example.labels) or "none", ", ".join(example.predicted) or "none"
    name = f' id="{anchor}"' if anchor else ""
    parts = [
        f'<h3{name}>{escape(example.id)}</h3><p class="soft">{example.tokens:,} tokens; labels: {escape(labels)}; '
        f"predicted: {escape(predicted)}</p>"
    ]
    for excerpt in example.excerpts:
        change = f"{abs(excerpt.drop):.3f} {'less' if excerpt.drop >= 0 else 'more'} without"
        alone = "" if excerpt.carries else "; no passage carries it alone, this one does most"
        parts.append(
            f"<blockquote><b>{escape(excerpt.label)}, {change}{alone}</b> ... {escape(excerpt.before)}"
            f"<mark>{escape(excerpt.passage)}</mark>{escape(excerpt.after)} ...</blockquote>"
        )
    if not example.excerpts:
        parts.append("<p>No label, or nothing that can be taken out of so short a text.</p>")
    return parts
