"""The report's chapter on confidence: whether probabilities are what they say, and what to leave to people."""

from __future__ import annotations

from flash_sparse_apps.metrics import Calibration, Metrics
from flash_sparse_apps.reports.page import percent, picture, score, table
from flash_sparse_apps.reports.words import kind, places

NEAR_ONE = 0.05  # of a temperature that changes nothing that can be seen


def trust(metrics: Metrics, figures: dict[str, str]) -> list[str]:
    """How far the probabilities of new documents can be trusted."""
    found = metrics["calibration"]
    caption = (
        "Labels given to test documents by their probability. On the line, probabilities are what they say; below it, "
        "the model is too sure of itself. Larger dots are more labels."
    )
    return [
        "<h2>How far to trust it</h2>",
        f"<p>{_error(metrics, found)} {_temperature(found)}</p>",
        picture(figures["reliability"], caption, "small") if "reliability" in figures else "",
        "<h3>Review below a confidence</h3>",
        f'<p class="soft">predict.py writes a <i>confidence</i> for each {kind(metrics, 1)}: {_meaning(metrics)} If '
        f"people review the {kind(metrics)} below the one in a row, the rest is decided by the model, and so good is "
        "what it decides, on the test.</p>",
        _levels(metrics, found),
    ]


def _error(metrics: Metrics, found: Calibration) -> str:
    if found["error"] is None:
        return "No label was given to a test document, so that nothing can be said of probabilities."
    shown = places(metrics["test"]["documents"])
    return (
        f"Probabilities of the labels given are off by {score(found['error'], shown)} in the mean (expected "
        "calibration error; 0 is best)."
    )


def _temperature(found: Calibration) -> str:
    temperature = found["temperature"]
    if abs(temperature - 1) < NEAR_ONE:
        return "They needed no correction: the temperature, chosen on validation documents, is about 1."
    how = "too sure of itself" if temperature > 1 else "less sure of itself than it might be"
    before = "" if found["error_before"] is None else f"; without it, the test has {found['error_before']:.2f}"
    return (
        f"By itself the model is {how}, so that its scores are divided by a temperature of {temperature:.2f}, chosen "
        f"on validation documents{before}."
    )


def _meaning(metrics: Metrics) -> str:
    if metrics["data"]["task"] == "single-label":
        return "the probability of its label."
    return "the probability of its least sure decision, for or against a label."


def _levels(metrics: Metrics, found: Calibration) -> str:
    several = metrics["data"]["task"] == "multi-label"
    exactly = "exactly right" if several else "right"
    head = ["review below", "decided by the model", f"of these {exactly}", *(["labels given that are right"] * several)]
    rows = [
        [
            f"{level['confidence']:.2f}" if level["confidence"] else "review none",
            f"{percent(level['decided'])} ({level['documents']:,})",
            _share(level["accuracy"]),
            *([_share(level["precision"])] * several),
        ]
        for level in found["review"]
    ]
    return table(head, rows, ["", *"n" * (len(head) - 1)])


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share)
