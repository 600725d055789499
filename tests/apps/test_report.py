"""The page and its pictures: figures as computed, text escaped, nothing fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from flash_sparse import patterns
from flash_sparse_apps.reports import figures, page, report
from flash_sparse_apps.reports.examples import Example, Excerpt

from .conftest import LABELS

EPOCHS = [
    {"epoch": 1, "step": 5, "train_loss": 0.7, "validation_loss": 0.6, "validation_micro_f1": 0.3, "seconds": 1.0},
    {"epoch": 2, "step": 10, "train_loss": None, "validation_loss": 0.5, "validation_micro_f1": 0.4, "seconds": 2.0},
]


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    VOID = ("meta", "br", "img", "link", "path", "use")

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set(), [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def metrics(multi_label_run) -> dict:
    return json.loads((multi_label_run / "metrics.json").read_text())


def test_the_page_is_whole_and_fetches_nothing(multi_label_run):
    page = Page((multi_label_run / "report.html").read_text())
    assert page.open == []
    assert {"svg", "table", "style", "title"} <= page.tags
    assert not {"script", "link", "img", "iframe"} & page.tags
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "onload", "onclick")
        assert name not in ("href", "xlink:href") or value.startswith(("#", "data:image/png;base64,"))
    assert "url(http" not in (multi_label_run / "report.html").read_text()


def test_labels_are_text_not_markup(multi_label_run):
    source = (multi_label_run / "report.html").read_text()
    assert "<script" not in source
    text = Page(source).text
    for label in LABELS:
        assert label in text


def test_names_notes_and_settings_are_escaped_too(metrics):
    evil = '"><img src=x onerror=alert(1)>'
    data = metrics["data"] | {"name": evil, "description": evil, "notes": [evil]}
    hostile = metrics | {"data": data, "command": evil, "settings": metrics["settings"] | {"dataset": evil}}
    source = report.render(hostile, {"loss": "", "score": "", "lengths": ""})
    assert "img" not in Page(source).tags
    assert "<img" not in source
    assert "<img" not in report.model_card(hostile)


def test_page_and_card_show_the_figures(metrics, multi_label_run):
    text = " ".join(Page((multi_label_run / "report.html").read_text()).text)
    card = (multi_label_run / "model" / "README.md").read_text()
    for shown in (text, card):
        assert f"{metrics['test']['micro_f1']:.4f}" in shown
        assert f"{metrics['linear_baseline']['micro_f1']:.4f}" in shown
        assert page.interval(metrics["linear_baseline"]["difference"]["micro_f1_interval"]) in shown
        assert metrics["data"]["fingerprint"] in shown
    assert f"{metrics['compare']['speedup']:.2f}x" in text
    assert metrics["versions"]["torch"] in text


def test_many_labels_are_shortened(metrics):
    entry = metrics["test"]["per_label"][0]
    many = [entry | {"label": f"label {number}", "support": number} for number in range(report.MAX_LABELS + 10)]
    text = " ".join(
        Page(
            report.render(
                metrics | {"test": metrics["test"] | {"per_label": many}}, {"loss": "", "score": "", "lengths": ""}
            )
        ).text
    )
    assert f"label {report.MAX_LABELS + 9}" in text
    assert "label 3 " not in text
    assert f"The {report.MAX_LABELS} most frequent of {len(many)}" in text


@pytest.mark.parametrize(
    ("bounds", "word"), [((0.01, 0.2), "better"), ((-0.2, -0.01), "worse"), ((-0.1, 0.1), "does not tell")]
)
def test_the_verdict_follows_the_interval(metrics, bounds, word):
    baseline = metrics["linear_baseline"]
    changed = baseline | {"difference": baseline["difference"] | {"micro_f1_interval": bounds}}
    assert word in report.verdict(metrics | {"linear_baseline": changed})


def test_the_verdict_says_when_all_answers_are_alike(metrics):
    said = "The model gives all 1,234 test documents the same answer: it tells nothing apart."
    alike = metrics["test"] | {"documents": 1234, "answers": 1, "truths": 3}
    assert report.verdict(metrics | {"test": alike}).startswith(said)
    for other in ({"answers": 2}, {"documents": 1}):
        assert report.verdict(metrics | {"test": alike | other}).startswith("The ")
        assert "same answer" not in report.verdict(metrics | {"test": alike | other})
    same = report.verdict(metrics | {"test": alike | {"truths": 1}})
    assert same.startswith("All test documents have the same labels: the test does not show")
    assert "same answer" not in same


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.39, ""), (0.45, "The model cannot be told from"), (0.51, "The model is worse than")],
)
def test_the_verdict_names_rules_that_are_not_beaten(metrics, value, said):
    changed = {"rule_baselines": {"first word": value}, "linear_baseline": None}
    changed["test"] = metrics["test"] | {"micro_f1_interval": [0.4, 0.5]}
    said = said and f" {said} the best guess by the first word alone."
    assert report.verdict(metrics | changed).endswith(f"(--no-linear-baseline).{said}")


def test_without_a_baseline(metrics):
    alone = metrics | {"linear_baseline": None}
    assert "linear baseline" not in " ".join(row[0] for row in report.result_rows(alone))
    assert "--no-linear-baseline" in report.console(alone)
    report.render(alone, {"loss": "", "score": "", "lengths": ""})


def test_console_lines_are_aligned(metrics):
    lines = report.console(metrics).splitlines()
    ends = set()
    for what, value, _ in report.result_rows(metrics):
        (line,) = [line for line in lines if line.startswith(f"  {what}  ")]
        ends.add(line.index(value, len(what) + 2) + len(value))
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0%"), (0.0001, "under 0.1%"), (0.256, "25.6%"), (0.99951, "100.0%"), (1, "100.0%")]
)
def test_percent(share, shown):
    assert page.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0012, "1.2 ms"), (3.44, "3.4 s"), (306, "5 min 6 s"), (3723.9, "1:02:03 h")]
)
def test_duration(seconds, shown):
    assert page.duration(seconds) == shown


def test_pictures_are_svg():
    steps = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 11)]
    lengths = {"train": np.array([1, 5, 5000]), "validation": np.array([7]), "test": np.array([9, 70000])}
    drawn = [
        figures.loss_curve(steps, EPOCHS),
        figures.score_curve(EPOCHS, "micro-f1"),
        figures.length_histogram(lengths, 4096),
        figures.layout_picture(patterns.longformer(1000, 16, window=32)),
        figures.layout_picture(patterns.local(65536, 16, window=32)),
    ]
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "width" not in root.attrib  # it takes that of the page's column
        assert re.match(r"0 0 [\d.]+ [\d.]+$", root.attrib["viewBox"])
        assert len(svg) < 300_000
    assert "4,096" in drawn[2]


def test_a_histogram_of_equal_lengths():
    assert "<svg" in figures.length_histogram({"train": np.array([64, 64]), "test": np.array([64])}, 64)


def test_examples_show_passages_as_text(metrics):
    excerpt = Excerpt("<b>label</b>", 0.25, "before & ", "<script>passage</script>", " after")
    example = Example("<i>id</i>", ("a",), ("a", "b"), 12345, (excerpt,))
    bare = Example("other", (), ("b",), 7, ())
    source = report.render(metrics, {"loss": "", "score": "", "lengths": ""}, [example, bare])
    assert "<mark>&lt;script&gt;passage&lt;/script&gt;</mark>" in source
    shown = " ".join("".join(Page(source).text).split())
    assert "<i>id</i>" in shown
    assert "12,345 tokens; labels: a; predicted: a, b" in shown
    assert "<b>label</b>, 0.250 less without" in shown
    assert "7 tokens; labels: none; predicted: b" in shown
    assert "No passage alone carries its labels." in shown


def test_a_run_shows_passages_unless_texts_are_confidential(multi_label_run, single_label_run):
    assert "Passages that carry a label" in (multi_label_run / "report.html").read_text()
    assert "<mark>" in (multi_label_run / "report.html").read_text()
    assert "word1" not in (multi_label_run / "metrics.json").read_text()
    assert "Passages that carry a label" not in (single_label_run / "report.html").read_text()
    assert "word1" not in (single_label_run / "report.html").read_text()
