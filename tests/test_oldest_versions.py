"""constraints-oldest.txt has the oldest version of each library that pyproject.toml allows."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    allowed = set()
    for needed in map(Requirement, texts):
        if needed.name != project["name"]:
            (least,) = (bound.version for bound in needed.specifier if bound.operator == ">=")
            allowed.add(f"{canonicalize_name(needed.name)}=={least}")

    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    told = [line for line in lines if not line.startswith("#")]
    assert told == sorted(allowed)
