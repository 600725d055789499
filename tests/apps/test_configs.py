"""Every file in configs/ is understood, and makes the block layout and the encoder that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flash_sparse.nn import Encoder
from flash_sparse_apps.command_line import load_settings, parse
from flash_sparse_apps.models import layouts
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.sweeping.stages import read_stages

ROOT = Path(__file__).parents[2]
CONFIGS = [  # other commands have files of their own form
    path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if "apps/classify.py" in path.read_text(encoding="utf-8")
]
CURRICULA = [
    path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if "apps/curriculum.py" in path.read_text(encoding="utf-8")
]
LRA = [path for path in CONFIGS if path.parent.name == "lra"]
NAMED_BY_TITLE = {"text-2cores": "imdb", "image-2cores": "cifar10"}  # as Long Range Arena calls the task
TASKS = ("listops", "imdb", "aan", "cifar10", "pathfinder32", "pathx", "pathfinder256")
SIDES = {"cifar10": 32, "pathfinder32": 32, "pathx": 128, "pathfinder256": 256}


def grid(settings: Settings) -> tuple[int, int] | None:
    side = SIDES.get(settings.dataset)
    return None if side is None else (side, side)


def test_every_task_has_a_recipe():
    names = {path.stem for path in LRA}
    assert set(TASKS) <= names
    assert {"listops-cpu", "pathfinder32-1gpu", "pathx-1gpu", "pathfinder256-1gpu"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_printed_with_all_its_values(path, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", str(path), "--print-config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in given.items():
        assert str(printed[key]) == str(value) or float(printed[key]) == float(value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_head_says_how_to_run_it(path):
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"python apps/classify.py --config {path.relative_to(ROOT).as_posix()}" in head
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    assert all("#" in line for line in lines if line and not line[0].isspace())


@pytest.mark.parametrize("path", CURRICULA, ids=lambda path: path.stem)
def test_a_curriculum_ends_with_the_task_that_it_is_named_after(path, tmp_path):
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"python apps/curriculum.py --config {path.relative_to(ROOT).as_posix()}" in head
    stages = read_stages(path, {}, tmp_path)
    task = re.sub("-(curriculum|2cores)$", "", path.stem)
    assert (stages[-1].name, stages[-1].settings.dataset) == (task, task)
    sizes = {"train_size", "validation_size", "test_size", "workers", "level"}
    assert set(stages[-1].settings.dataset_options or {}) <= sizes
    assert (stages[-1].settings.dataset_options or {}).get("level", 14) == 14


def test_two_cores_have_their_recipes():
    names = {path.stem for path in (*CURRICULA, *LRA)}
    assert {f"{name}-2cores" for name in ("listops", "text", "image", "pathfinder32")} <= names


@pytest.mark.parametrize("path", LRA, ids=lambda path: path.stem)
def test_it_makes_its_layout_and_its_encoder(path):
    settings = load_settings(path)
    assert settings.dataset == NAMED_BY_TITLE.get(path.stem, re.sub("-(cpu|1gpu|2cores)$", "", path.stem))
    shape = grid(settings)
    if shape is not None:
        assert settings.seq_len == shape[0] * shape[1]
    layout = layouts.make_layout(settings.seq_len, layouts.describe(settings, shape))
    if settings.sparse:
        assert layout.density < 0.5
    else:
        assert layout is None
    Encoder(
        vocab_size=257,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        mlp_width=settings.mlp_width,
        activation=settings.activation,
        rotary=None if settings.rotary == "none" else settings.rotary,
        grid=shape if settings.rotary == "2d" else None,
        pooling=settings.pooling,
        num_outputs=2,
    )


@pytest.mark.parametrize("path", LRA, ids=lambda path: path.stem)
def test_what_tells_of_neighbouring_pixels_is_named(path):
    settings = load_settings(path)
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    knows = settings.rotary == "2d" or (settings.sparse and settings.pattern in ("axial", "neighborhood_2d"))
    assert knows == ("which pixels are neighbours" in " ".join(head.replace("#", "").split()))
