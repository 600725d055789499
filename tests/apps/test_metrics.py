"""metrics.json is what its schema and its page say."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from flash_sparse_apps import metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SECTIONS = [kind for kind in vars(metrics).values() if is_typeddict(kind)]


def check(value: Any, kind: Any, at: str):
    """Raise AssertionError where a value read from JSON is not of a type: with `at`, where it stands."""
    if kind is Any:
        return None
    if is_typeddict(kind):
        assert value.keys() <= kind.__annotations__.keys(), f"{at}: {value.keys() - kind.__annotations__.keys()}"
        assert value.keys() >= kind.__required_keys__, f"{at}: {kind.__required_keys__ - value.keys()}"
        for name, own in get_type_hints(kind).items():
            if name in value:
                check(value[name], own, f"{at}.{name}")
    elif get_origin(kind) is list:
        assert isinstance(value, list), at
        for index, entry in enumerate(value):
            check(entry, get_args(kind)[0], f"{at}[{index}]")
    elif get_origin(kind) is dict:
        assert isinstance(value, dict), at
        for name, entry in value.items():
            check(entry, get_args(kind)[1], f"{at}.{name}")
    elif get_origin(kind) is tuple:
        return None  # JSON has lists alone
    elif get_args(kind):
        for one in get_args(kind):
            try:
                return check(value, one, at)
            except (AssertionError, AttributeError):
                continue
        raise AssertionError(f"{at}: {value!r} is none of {kind}")
    else:
        allowed = (int, float) if kind is float else () if kind is NoneType else (kind,)
        assert (value is None) if kind is NoneType else isinstance(value, allowed), f"{at}: {value!r} is no {kind}"
    return None


@pytest.mark.parametrize("run", ["multi_label_run", "single_label_run"])
def test_a_run_writes_what_the_schema_says(run, request):
    path = request.getfixturevalue(run) / "metrics.json"
    written = json.loads(path.read_text())
    check(written, metrics.Metrics, "metrics")
    assert metrics.read_metrics(path) == written
    for damage in ({"version": "1"}, {"test": written["test"] | {"new": 1}}, {"speed": None}):
        with pytest.raises((AssertionError, AttributeError)):
            check(written | damage, metrics.Metrics, "metrics")


def test_the_report_shows_the_same_time(multi_label_run):
    finished = json.loads((multi_label_run / "metrics.json").read_text())["finished"]
    assert datetime.now().astimezone() - datetime.fromisoformat(finished) < timedelta(hours=1)
    assert finished in (multi_label_run / "report.html").read_text()


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
