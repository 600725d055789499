"""Figures in plain words, for readers who are not statisticians."""

from __future__ import annotations

from flash_sparse_apps.metrics import Metrics

ENOUGH_FOR_THREE, ENOUGH_FOR_FOUR = 1_000, 100_000  # test documents


def places(documents: int) -> int:
    """Decimals of a score that so many documents can tell apart."""
    return 2 + (documents >= ENOUGH_FOR_THREE) + (documents >= ENOUGH_FOR_FOUR)


def kind(metrics: Metrics, count: int = 2) -> str:
    """What a document of the run is called."""
    if metrics["data"]["grid"]:
        return "image" if count == 1 else "images"
    if metrics["data"]["pairs"]:
        return "pair of texts" if count == 1 else "pairs of texts"
    return "document" if count == 1 else "documents"


def pages(metrics: Metrics, tokens: float) -> str:
    """How many printed pages so many tokens are, in brackets after a space; nothing where tokens are no words."""
    per_page = metrics["data"].get("tokens_per_page")
    if per_page is None or tokens < per_page / 2:
        return ""
    count = round(tokens / per_page)
    return f" (about {count:,} page{'s' * (count != 1)})"


def plain_sentence(metrics: Metrics) -> str:
    """What to expect of new documents, without a word of statistics."""
    test, several = metrics["test"], metrics["data"]["task"] == "multi-label"
    accuracy, count = test["accuracy"], test["documents"]
    labels = "exactly the right labels" if several else "the right label"
    tested = f"{count:,} {kind(metrics, count)} in the test"
    if accuracy in (0, 1):
        first = f"{'All' if accuracy else 'None'} of the {tested} got {labels}."
        if count == 1:
            first = f"The one {kind(metrics, 1)} in the test {'got' if accuracy else 'did not get'} {labels}."
    else:
        of = _of(accuracy)
        low, high = (round(of * bound) for bound in test["accuracy_interval"])
        about = f" ({low:,} to {high:,}, as far as the {tested} can tell)" if low < high else f" (by the {tested})"
        verb = "gets" if round(of * accuracy) == 1 else "get"
        first = f"Of {of:,} new {kind(metrics)} of this kind, about {round(of * accuracy):,} {verb} {labels}{about}."
    return first + (_label_by_label(test.get("precision"), test.get("recall")) if several else "")


def _label_by_label(precision: float | None, recall: float | None) -> str:
    if precision is None or recall is None:
        return ""
    return f" Of the labels given, {_share(precision)} right; of the labels there are, {_share(recall)} found."


def _share(share: float) -> str:
    if share in (0, 1):
        return "all are" if share else "none are"
    count = round(_of(share) * share)
    return f"about {count:,} of {_of(share):,} {'is' if count == 1 else 'are'}"


def _of(share: float) -> int:
    """The lowest of 10, 100, ... of which a share above 0 and below 1 is some, and not all."""
    of = 10
    while not 0 < round(of * share) < of:
        of *= 10
    return of
