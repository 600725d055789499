"""The page and its pictures: figures as computed, text escaped, nothing fetched."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from flash_sparse import patterns
from flash_sparse_apps.reports import figures, page, run_report
from flash_sparse_apps.reports.examples import Example, Excerpt
from flash_sparse_apps.reports.glossary import GLOSSARY
from flash_sparse_apps.reports.words import plain_sentence

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
    source = run_report.render(hostile, {"loss": "", "score": "", "lengths": ""})
    assert "img" not in Page(source).tags
    assert "<img" not in source
    assert "<img" not in run_report.model_card(hostile)


def test_page_and_card_show_the_figures(metrics, multi_label_run):
    text = " ".join(Page((multi_label_run / "report.html").read_text()).text)
    card = (multi_label_run / "model" / "README.md").read_text()
    for shown in (text, card):
        assert f"{metrics['test']['micro_f1']:.2f}" in shown  # ten documents do not tell 0.7012 from 0.7034
        assert f"{metrics['linear_baseline']['micro_f1']:.2f}" in shown
        assert page.interval(metrics["linear_baseline"]["difference"]["micro_f1_interval"], 2) in shown
        assert metrics["data"]["fingerprint"] in shown
    assert f"{metrics['compare']['speedup']:.2f}x" in text
    assert metrics["versions"]["torch"] in text


def test_many_labels_are_shortened(metrics):
    entry = metrics["test"]["per_label"][0]
    many = [entry | {"label": f"label {number}", "support": number} for number in range(run_report.MAX_LABELS + 10)]
    text = " ".join(
        Page(
            run_report.render(
                metrics | {"test": metrics["test"] | {"per_label": many}}, {"loss": "", "score": "", "lengths": ""}
            )
        ).text
    )
    assert f"label {run_report.MAX_LABELS + 9}" in text
    assert "label 3 " not in text
    assert f"The {run_report.MAX_LABELS} most frequent of {len(many)}" in text


@pytest.mark.parametrize(
    ("bounds", "word"), [((0.01, 0.2), "better"), ((-0.2, -0.01), "worse"), ((-0.1, 0.1), "cannot tell")]
)
def test_the_verdict_follows_the_interval(metrics, bounds, word):
    baseline = metrics["linear_baseline"]
    changed = baseline | {"difference": baseline["difference"] | {"micro_f1_interval": bounds}}
    assert word in run_report.verdict(metrics | {"linear_baseline": changed})


def test_the_verdict_says_when_all_answers_are_alike(metrics):
    said = "The model gives all 1,234 test documents the same answer: it tells nothing apart."
    alike = metrics["test"] | {"documents": 1234, "answers": 1, "truths": 3}
    assert run_report.verdict(metrics | {"test": alike}).startswith(said)
    for other in ({"answers": 2}, {"documents": 1}):
        assert run_report.verdict(metrics | {"test": alike | other}).startswith("The ")
        assert "same answer" not in run_report.verdict(metrics | {"test": alike | other})
    same = run_report.verdict(metrics | {"test": alike | {"truths": 1}})
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
    assert run_report.verdict(metrics | changed).endswith(f"(--no-linear-baseline).{said}")


def test_a_linear_model_of_a_sample_says_so(metrics):
    baseline = metrics["linear_baseline"] | {"train_documents": 7}
    sampled = run_report.render(metrics | {"linear_baseline": baseline}, {"loss": "", "score": "", "lengths": ""})
    documents = metrics["data"]["truncation"]["train"]["documents"]
    assert f"fitted on 7 of the {documents:,} training documents, drawn at random" in sampled
    assert "drawn at random" not in run_report.render(metrics, {"loss": "", "score": "", "lengths": ""})


def test_without_a_baseline(metrics):
    alone = metrics | {"linear_baseline": None}
    assert "linear baseline" not in " ".join(row[0] for row in run_report.result_rows(alone))
    assert "--no-linear-baseline" in run_report.console(alone)
    run_report.render(alone, {"loss": "", "score": "", "lengths": ""})


def test_console_lines_are_aligned(metrics):
    lines = run_report.console(metrics).splitlines()
    ends = set()
    for what, value, _ in run_report.result_rows(metrics):
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
    faint = Excerpt("c", -0.002, "", "some words", "", carries=False)
    bare, little = Example("other", (), ("b",), 7, ()), Example("third", ("c",), ("c",), 9, (faint,))
    source = run_report.render(metrics, {"loss": "", "score": "", "lengths": ""}, [example, bare, little])
    assert "<mark>&lt;script&gt;passage&lt;/script&gt;</mark>" in source
    shown = " ".join("".join(Page(source).text).split())
    assert "<i>id</i>" in shown
    assert "12,345 tokens; labels: a; predicted: a, b" in shown
    assert "<b>label</b>, 0.250 less without" in shown
    assert "7 tokens; labels: none; predicted: b" in shown
    assert "nothing that can be taken out of so short a text" in shown
    assert "c, 0.002 more without; no passage carries it alone, this one does most" in shown


def test_a_run_shows_passages_unless_texts_are_confidential(multi_label_run, single_label_run):
    assert "Passages that carry a label" in (multi_label_run / "report.html").read_text()
    assert "<mark>" in (multi_label_run / "report.html").read_text()
    assert "word1" not in (multi_label_run / "metrics.json").read_text()
    assert "Passages that carry a label" not in (single_label_run / "report.html").read_text()
    assert "word1" not in (single_label_run / "report.html").read_text()


def shown_page(metrics: dict, **changes) -> str:
    source = run_report.render(metrics | changes, {"loss": "", "score": "", "lengths": ""})
    return " ".join("".join(Page(source).text).split())


def test_a_sentence_in_plain_words_comes_first_and_speed_behind_the_results(metrics, multi_label_run):
    source = (multi_label_run / "report.html").read_text()
    source = source[source.index("<h1>") :]
    assert source.index('class="lead"') < source.index('class="tiles"') < source.index("micro-F1")
    assert plain_sentence(metrics) in unescape(source)
    tiles = source[source.index('class="tiles"') : source.index("<h2>")]
    assert f"{metrics['compare']['speedup']:.2f}x" not in tiles
    assert source.index("Speed and memory") > max(source.index(title) for title in ("Test results", "Training</h2>"))
    assert run_report.console(metrics).startswith(plain_sentence(metrics)[:80])


def test_every_row_of_the_results_says_what_it_means(metrics):
    rules = metrics | {"rule_baselines": {"first word": 0.4}}
    text = shown_page(rules)
    for what, _, _ in run_report.result_rows(rules):
        assert run_report._meaning(what) in text


def test_the_page_has_the_glossary_of_the_docs(multi_label_run):
    told = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
    defined = dict(re.findall(r"^\*\*(.+?)\*\*: (.+?)\n\n", told + "\n\n", re.MULTILINE | re.DOTALL))
    assert {term: " ".join(said.split()) for term, said in defined.items()} == GLOSSARY
    text = " ".join("".join(Page((multi_label_run / "report.html").read_text()).text).split())
    for term, said in GLOSSARY.items():
        assert f"{term}{said}" in text


def test_links_lead_to_passages_of_what_is_wrong(multi_label_run):
    source = (multi_label_run / "report.html").read_text()
    page = Page(source)
    links = [value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")]
    ids = {value for name, value in page.attributes if name == "id"}
    linked = [link for link in links if link.startswith("mistake-")]
    assert linked == [f"mistake-{number}" for number in range(1, len(linked) + 1)]
    assert set(linked) <= ids
    assert len(linked) > 0
    passages = source[source.index('id="mistake-1"') :]
    assert "<mark>" in passages[: passages.index("<h2>")]


def test_no_document_is_named_where_data_is_confidential(single_label_run):
    rows = [json.loads(line) for line in (single_label_run / "predictions.jsonl").read_text().splitlines()]
    source = (single_label_run / "report.html").read_text()
    assert not any(row["id"] in source for row in rows)
    assert "Surest mistakes" not in source


def test_confusions_are_a_matrix_or_pairs(multi_label_run, single_label_run):
    multi, single = ((run / "report.html").read_text() for run in (multi_label_run, single_label_run))
    assert 'aria-label="confusion matrix"' in single
    assert 'aria-label="confusion matrix"' not in multi
    for source in (multi, single):
        assert 'aria-label="reliability"' in source
    pair = {"label": "<i>has</i>", "given": "given", "documents": 3}
    metrics = json.loads((multi_label_run / "metrics.json").read_text())
    assert "<i>has</i>given3" in shown_page(metrics, confusions=[pair])
    assert "No label was given in another one's place." in shown_page(metrics, confusions=[])


def test_a_label_without_a_test_document_has_no_score(metrics):
    first = metrics["test"]["per_label"][0] | {"label": "never tested", "support": 0, "f1": 0.0}
    text = shown_page(metrics, test=metrics["test"] | {"per_label": [first]})
    assert f"never tested0---{first['threshold']:.2f}" in text
    assert "1 without a test document (-) were not tested." in text


def test_levels_of_review_are_a_table(metrics):
    level = {"confidence": 0.62, "documents": 7, "decided": 0.7, "accuracy": 0.857, "precision": None}
    text = shown_page(metrics, calibration=metrics["calibration"] | {"review": [level]})
    assert "0.6270.0% (7)85.7%-" in text


@pytest.mark.parametrize(
    ("temperature", "said"), [(1.01, "needed no correction"), (2.5, "too sure of itself"), (0.5, "less sure")]
)
def test_the_temperature_is_explained(metrics, temperature, said):
    assert said in shown_page(metrics, calibration=metrics["calibration"] | {"temperature": temperature})


def test_pages_stand_beside_tokens(metrics):
    long = {"settings": metrics["settings"] | {"seq-len": 16384}}
    assert "16,384 tokens (about 33 pages) of a document" in shown_page(metrics, **long)
    symbols = {"data": metrics["data"] | {"tokens_per_page": None}}
    assert "(about" not in shown_page(metrics, **long, **symbols)


def test_the_confusion_matrix_counts():
    counts = np.array([[5, 1], [0, 7]])
    svg = figures.confusion_matrix(counts, ["<b>", "x" * 90])
    root = ElementTree.fromstring(svg)
    text = "".join(root.itertext())
    assert "<b>" in text
    assert "x" * 40 not in text
    drawn = [element.text for element in root.iter() if element.text in ("5", "1", "0", "7")]
    assert sorted(drawn) == ["1", "5", "7"]  # nothing is written where there is nothing
