"""metrics.json is what its schema and its page say."""

import json
import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args, get_type_hints, is_typeddict

import pytest

from flash_sparse_apps import classify, metrics
from flash_sparse_apps.training import testing

from .conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
KEPT = Path(__file__).parents[2] / "results"
SECTIONS = [kind for kind in vars(metrics).values() if is_typeddict(kind)]


@pytest.mark.parametrize("run", ["multi_label_run", "single_label_run"])
def test_a_run_writes_what_the_schema_says(run, request):
    path = request.getfixturevalue(run) / "metrics.json"
    written = json.loads(path.read_text())
    assert metrics.read_metrics(path) == written
    has_every_key(written, metrics.Metrics)


def has_every_key(value, kind):
    """Nothing is written that the schema does not know, and all that it asks for is."""
    assert kind.__required_keys__ <= value.keys() <= kind.__annotations__.keys()
    for name, own in get_type_hints(kind).items():
        for one in (own, *get_args(own)):
            if is_typeddict(one) and value.get(name):
                for entry in value[name] if isinstance(value[name], list) else [value[name]]:
                    has_every_key(entry, one)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["test", "micro_f1"], 7, "test.micro_f1 is 7, no number from 0 to 1"),
        (["test", "micro_f1"], "x", "test.micro_f1 is 'x', no number from 0 to 1"),
        (["test", "micro_f1"], math.nan, "test.micro_f1 is nan, no number from 0 to 1"),
        (["test", "micro_f1"], True, "test.micro_f1 is True, no number from 0 to 1"),
        (["test", "micro_f1_interval", 1], -0.5, "test.micro_f1_interval.1 is -0.5, no number from 0 to 1"),
        (["test", "per_label", 2, "support"], 1.5, "test.per_label.2.support is 1.5, no int"),
        (["test", "per_label"], {}, "test.per_label is {}, no list"),
        (["linear_baseline", "difference", "micro_f1"], -1.5, "difference.micro_f1 is -1.5, no number from -1 to 1"),
        (["training", "seconds"], math.inf, "training.seconds is inf, no number"),
        (["training", "curve"], 3, "training.curve is 3, no list"),
        (["versions"], {"torch": 2}, "versions.torch is 2, no str"),
        (["speed"], None, "speed is None, no Speed"),
        (["speed"], {}, "speed.peak_gpu_memory_bytes is missing"),
    ],
)
def test_figures_that_no_run_writes_are_named(place, value, said, multi_label_run, tmp_path):
    written = json.loads((multi_label_run / "metrics.json").read_text())
    section = written
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged: ") + ".*" + re.escape(said)):
        metrics.read_metrics(path)


def test_what_the_first_versions_wrote_can_be_read():
    for path in KEPT.rglob("metrics.json"):
        metrics.read_metrics(path)


def test_the_report_shows_the_same_time(multi_label_run):
    finished = json.loads((multi_label_run / "metrics.json").read_text())["finished"]
    assert datetime.now().astimezone() - datetime.fromisoformat(finished) < timedelta(hours=1)
    assert finished in (multi_label_run / "report.html").read_text()


def test_the_peak_is_of_before_other_attentions_are_timed(planted_files, cache_folder, tmp_path, monkeypatch):
    """Textbook attention takes the square of the length, and the model does not."""
    timed = []
    monkeypatch.setattr(testing, "time_peers", lambda *unused: timed.append(True))
    monkeypatch.setattr(testing, "peak_memory", lambda: 9 if timed else 5)
    files = ("--dataset", str(planted_files["single-label"]), "--cache-dir", str(cache_folder))
    flags = ("--epochs", "1", "--compare-peers", "--no-linear-baseline", "--output", str(tmp_path / "run"))
    assert classify.main([*files, *TINY, *flags]) == 0
    assert timed == [True]
    assert metrics.read_metrics(tmp_path / "run" / "metrics.json")["speed"]["peak_memory_bytes"] == 5


def test_what_is_no_metrics_file_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(ValueError, match=re.escape(f"{path}: No such file")):
        metrics.read_metrics(path)
    for content, said in (("{", "damaged"), ("[1]", "damaged"), ('{"version": 2}', "of version 2, not 1")):
        path.write_text(content)
        with pytest.raises(ValueError, match=re.escape(f"{path}: {said}")):
            metrics.read_metrics(path)


def test_the_page_has_every_key():
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert told == {name for section in SECTIONS for name in section.__annotations__}
    assert f"`version` is {metrics.VERSION}" in PAGE.read_text()
