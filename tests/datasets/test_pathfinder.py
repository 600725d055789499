"""Pathfinder: the generated images against the released ones' statistics, and small files of the official form."""

import errno
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label as components

from flash_sparse_datasets import DataError, load, pathfinder
from flash_sparse_datasets.snakes.growth import grow
from flash_sparse_datasets.snakes.images import draw
from flash_sparse_datasets.snakes.shapes import RECIPES, distractor_level, usual_distractors

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
SPLITS = ("train", "validation", "test")


def rows(dataset):
    return {s: [(d.id, d.text, d.labels) for d in getattr(dataset, s)] for s in SPLITS}


def small(cache, **options):
    sizes = {"train_size": 30, "validation_size": 6, "test_size": 5}
    return load("pathfinder32", cache_dir=cache, **{**sizes, **options})


# What is generated


def test_an_image_depends_on_its_seed_and_index_alone(monkeypatch):
    images, labels = pathfinder.generate(40, 32, seed=3)
    assert (images.shape, images.dtype, labels.dtype) == ((40, 32, 32), np.uint8, np.uint8)
    monkeypatch.setattr(pathfinder, "CHUNK", 7)
    for workers in (1, 2):
        again, again_labels = pathfinder.generate(40, 32, seed=3, workers=workers)
        assert (again == images).all()
        assert (again_labels == labels).all()
    assert (pathfinder.generate(11, 32, seed=3)[0] == images[:11]).all()
    other = pathfinder.generate(40, 32, seed=4)[0]
    assert not any((other == image).all((1, 2)).any() for image in images)
    assert len(np.unique(images.reshape(40, -1), axis=0)) == 40


@pytest.mark.parametrize(
    ("size", "level", "count"), [(32, 14, 60), (32, 2, 20), (32, 5, 20), (64, 6, 20), (128, 9, 8), (256, 14, 4)]
)
def test_markers_are_on_one_snake_if_and_only_if_the_label_is_1(size, level, count):
    recipe = RECIPES[size]
    for index in range(count):
        drawing = grow(index, size, level, usual_distractors(size, level, "released"), 0)
        for snake in range(drawing.snakes.max() + 1):
            own = drawing.snakes == snake
            assert own.sum() in ((level,) if snake < 2 else (0, distractor_level(level)))
            starts = drawing.starts[own]
            # the dashes of a snake follow each other, and each ends a dash and two margins after the one before
            steps = np.hypot(*(starts[1:] - starts[:-1]).T)
            assert (steps < 2 * (recipe.paddle_length + max(recipe.margins)) + 4).all()
        assert drawing.label == (drawing.marked[0] == drawing.marked[1])
        origin, terminal = (np.flatnonzero(drawing.snakes == snake) for snake in drawing.marked)
        ends = origin[0], terminal[-1]
        assert (drawing.markers == drawing.starts[list(ends)]).all()
        image = draw(drawing, size, "released")
        assert image.max() == 255
        brightness = 255 / max(1, recipe.target_contrast, recipe.distractor_contrast)
        assert all(image[row, column] >= 0.9 * brightness for row, column in drawing.markers)


def test_path_x_has_as_many_components_as_the_released_images():
    """They have 87.6 with a standard deviation of 7.0, known from 8 images alone."""
    count = 40
    parts = [components(draw(grow(i, 128, 14, 17, 0), 128, "released") > 90, np.ones((3, 3)))[1] for i in range(count)]
    assert np.mean(parts) == pytest.approx(87.6, abs=3 * 7 * (1 / 8 + 1 / count) ** 0.5)


@pytest.mark.parametrize(
    ("size", "count", "parts", "ink"),
    [(64, 100, 30.1, 460), (128, 40, 87.6, 860)],
)
def test_released_images_have_the_ink_and_the_components_of_the_release(size, count, parts, ink):
    """Of 8 released images of each size: their means. Documented ones at 128 x 128 have half the snakes."""
    found = pathfinder.statistics(pathfinder.generate(count, size)[0])
    for name, released, deviation in (("components of pixels above 90", parts, 7), ("pixels above 60", ink, 50)):
        assert found[name][0] == pytest.approx(released, abs=2 * deviation * (1 / 8 + 1 / count) ** 0.5)
    documented = pathfinder.statistics(pathfinder.generate(count, size, preset="documented")[0])
    assert documented["pixels above 60"][0] < 0.92 * found["pixels above 60"][0]


def test_snakes_of_any_length():
    assert [distractor_level(level) for level in (2, 5, 6, 9, 14)] == [1, 1, 2, 3, 4]
    for level in (2, 3, 4, 8, 11):
        images, labels = pathfinder.generate(12, 32, level=level, distractors=0)
        assert {0, 1} == set(labels)
        assert all(drawn == 2 * level for drawn in (len(grow(i, 32, level, 0, 0).snakes) for i in range(12)))
        assert len(np.unique(images.reshape(12, -1), axis=0)) == 12


def test_snakes_too_long_for_the_image_are_an_error(monkeypatch):
    with pytest.raises(
        ValueError, match="level is 500, expected fewer dashes: two such snakes find no room in 32 x 32"
    ):
        pathfinder.generate(1, 32, level=500, distractors=0)


def test_labels_are_balanced_and_not_in_the_pixel_counts():
    count = 800
    images, labels = pathfinder.generate(count, 32)
    assert labels.mean() == pytest.approx(0.5, abs=3 * 0.5 / count**0.5)
    features = np.stack([np.histogram(image, 16, (0, 256))[0] for image in images]).astype(float)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features = np.column_stack((features, np.ones(count)))
    half = count // 2
    weights = np.linalg.lstsq(features[:half], labels[:half] * 2.0 - 1, rcond=None)[0]
    accuracy = ((features[half:] @ weights > 0) == labels[half:]).mean()
    assert accuracy == pytest.approx(0.5, abs=3 * 0.5 / half**0.5)


def test_how_many_distractors():
    assert [usual_distractors(size, 14, "documented") for size in (32, 64, 128, 256)] == [5, 5, 8, 7]
    assert [usual_distractors(size, 14, "released") for size in (32, 64, 128, 256)] == [5, 5, 17, 7]
    assert usual_distractors(128, 9, "documented") == 11
    usual = pathfinder.generate(8, 32, level=6)[0]
    assert (pathfinder.generate(8, 32, level=6, distractors=10)[0] == usual).all()
    fewer = [pathfinder.generate(8, 32, level=6, distractors=number)[0] for number in (0, 3)]
    shares = [(images > 0).mean() for images in (*fewer, usual)]
    assert 0 < shares[0] < shares[1] < shares[2]


# Generated files


def test_load(tmp_path):
    dataset = small(tmp_path)
    images, labels = pathfinder.generate(41, 32)
    everything = rows(dataset)
    assert [len(getattr(dataset, split)) for split in SPLITS] == [30, 6, 5]
    in_order = everything["test"] + everything["validation"] + everything["train"]
    assert [text for _, text, _ in in_order] == [image.tobytes() for image in images]
    assert [names for *_, names in in_order] == [("connected",) if one else ("separate",) for one in labels]
    assert (dataset.grid, dataset.labels, dataset.task) == ((32, 32), ("connected", "separate"), "single-label")
    again = small(tmp_path, workers=2)
    assert (again.fingerprint, rows(again)) == (dataset.fingerprint, everything)
    assert set(dataset.baselines()) == {"marker positions"}
    more = rows(small(tmp_path, train_size=33))
    assert (more["test"], more["train"][:30]) == (everything["test"], everything["train"])
    others = [small(tmp_path, seed=1), small(tmp_path, level=6), small(tmp_path, preset="documented")]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others[:2])}) == 3


def test_what_marker_positions_tell(tmp_path):
    """Ends of short snakes are near each other, so that where the markers are says something, but not all."""
    dataset = small(tmp_path, level=6, distractors=0, train_size=3000, test_size=1000)
    assert 0.62 < dataset.baselines()["marker positions"] < 0.78
    assert small(tmp_path, train_size=1).baselines() == {}


def test_a_killed_generation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(pathfinder, "CHUNK", 10)
    whole = small(tmp_path / "whole")
    made = []

    def killed_at_the_third(indices, **recipe):
        made.append(indices.start)
        if len(made) == 3:
            raise KeyboardInterrupt
        return images_of(indices, **recipe)

    images_of = pathfinder.images_of
    monkeypatch.setattr(pathfinder, "images_of", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "killed")
    assert small(tmp_path / "killed").fingerprint == whole.fingerprint
    assert made == [0, 10, 20, 20, 30, 40]
    small(tmp_path / "killed")
    assert len(made) == 6


@pytest.mark.parametrize("name", ["images.bin", "markers.bin", "labels.bin"])
def test_files_that_are_missing_or_cut(tmp_path, name):
    whole = small(tmp_path)
    (complete,) = tmp_path.glob("pathfinder/*/complete")
    file = complete.parent / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{complete.parent}: files are missing or cut"):
        small(tmp_path)
    complete.unlink()
    file.unlink()
    again = small(tmp_path)
    assert (again.fingerprint, again.baselines()) == (whole.fingerprint, whole.baselines())


def test_room_is_taken_before_anything_is_written(tmp_path, monkeypatch):
    def stopped(*arguments, **recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr(pathfinder, "images_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, train_size=1000)
    (images,) = tmp_path.glob("pathfinder/*/images.bin")
    assert images.stat().st_blocks * 512 >= images.stat().st_size == 1011 * 32 * 32


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathfinder.os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"No space left on device.*expected room in cache_dir"):
        small(tmp_path)


def test_workers_end_with_a_killed_process(tmp_path):
    script = tmp_path / "generate.py"
    script.write_text(
        "from flash_sparse_datasets.pathfinder import generate\n"
        "if __name__ == '__main__':\n    generate(10**6, 32, workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not workers.exists():
        process.kill()
        pytest.skip("no /proc with the children of a process")
    deadline = time.monotonic() + 100
    while len(workers.read_text().split()) < 3 and time.monotonic() < deadline:  # a tracker of resources too
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)  # to the end of its output, which is when the last process that has it is gone


def test_it_compiles_where_nothing_can_be_kept(tmp_path, monkeypatch):
    """Neither beside the source, whose __pycache__ is a file here, nor in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    (tmp_path / "__pycache__").touch()
    path = tmp_path / "adding.py"
    path.write_text(
        "from flash_sparse_datasets.shared.compiled import compiled\n\n"
        "@compiled\ndef more(number):\n    return number + 1\n"
    )
    spec = importlib.util.spec_from_file_location("adding", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.more(1) == 2


# Official files


def write_official(root, count=20, numpy=False, name="pathfinder32", level="curv_contour_length_14"):
    folder = root / name / level
    (folder / "metadata").mkdir(parents=True)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2 * count, 32, 32), np.uint8)
    for part in (0, 1):
        (folder / "imgs" / str(part)).mkdir(parents=True)
        lines = []
        for i in range(count):
            Image.fromarray(images[part * count + i]).save(folder / "imgs" / str(part) / f"sample_{i}.png")
            lines.append(f"imgs/{part} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1".split())
        if numpy:
            np.save(folder / "metadata" / f"{part}.npy", np.array(lines))
        else:
            (folder / "metadata" / f"{part}.npy").write_text("".join(" ".join(line) + "\n" for line in lines))
    return folder, images


@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("outer", ["", "lra_release", "lra_release/lra_release", "pathfinder"])
def test_official_tree(tmp_path, outer, numpy):
    import torch

    _, images = write_official(tmp_path / outer, numpy=numpy)
    dataset = load("pathfinder32", tmp_path)
    generator = torch.Generator().manual_seed(42)
    expected = torch.utils.data.random_split(range(40), [32, 4, 4], generator)
    for split, indices in zip(SPLITS, expected, strict=True):
        documents = list(getattr(dataset, split))
        assert [d.text for d in documents] == [images[i].tobytes() for i in indices]
        assert [d.labels for d in documents] == [("connected",) if i % 2 else ("separate",) for i in indices]
        assert [d.id for d in documents] == [f"imgs/{i // 20}/sample_{i % 20}.png" for i in indices]


def test_the_empty_image_is_left_out(tmp_path):
    folder, _ = write_official(tmp_path, level="curv_baseline")
    (folder / "imgs/0/sample_12.png").write_bytes(b"")
    dataset = load("pathfinder32", tmp_path, level=6)
    assert "curv_baseline/imgs/0/sample_12.png is empty and left out" in dataset.notes
    assert "curv_baseline: 40 images, the release has 200,000" in dataset.notes
    assert sum(len(getattr(dataset, split)) for split in SPLITS) == 39


def test_errors_of_official_files(tmp_path):
    folder, _ = write_official(tmp_path)
    with pytest.raises(DataError, match="no curv_baseline in it, expected the folder"):
        load("pathfinder32", tmp_path, level=6)
    with pytest.raises(ValueError, match="expected no sizes, seed, preset or distractors"):
        load("pathfinder32", tmp_path, seed=1)
    image = folder / "imgs/1/sample_3.png"
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=re.escape(f"{image}: no image; expected a PNG image")):
        load("pathfinder32", tmp_path)
    Image.new("L", (31, 32)).save(image)
    with pytest.raises(DataError, match=re.escape(f"{image}: 32 x 31 pixels, expected 32 x 32")):
        load("pathfinder32", tmp_path)
    image.unlink()
    with pytest.raises(DataError, match=re.escape(f"{image}: No such file")):
        load("pathfinder32", tmp_path)
    metadata = folder / "metadata/1.npy"
    metadata.write_text("imgs/1 sample_0.png 0 2\n")
    with pytest.raises(DataError, match=re.escape(f"{metadata} row 1: 'imgs/1 sample_0.png 0 2', expected")):
        load("pathfinder32", tmp_path)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 48}, "size is 48, expected one of 32, 64, 128, 256"),
        ({"level": 1}, "level is 1, expected an integer of at least 2"),
        ({"preset": "x"}, "preset is 'x', expected one of released, documented"),
        ({"seed": -1}, "seed is -1, expected an integer of at least 0"),
        ({"workers": 0}, "workers is 0, expected an integer of at least 1"),
        ({"distractors": -1}, "distractors is -1, expected an integer from 0 to 100"),
        ({"distractors": 10**20}, f"distractors is {10**20}, expected an integer from 0 to 100"),
        ({"distractors": True}, "distractors is True, expected an integer from 0 to 100"),
        ({"level": [6]}, "level is [6], expected an integer of at least 2"),
        ({"level": 6.0}, "level is 6.0, expected an integer of at least 2"),
        ({"count": -1}, "count is -1, expected an integer of at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pathfinder.generate(**{"count": 1, **arguments})


def test_the_size_belongs_to_the_name(tmp_path):
    with pytest.raises(ValueError, match="pathx has no option 'size'"):
        load("pathx", size=32, cache_dir=tmp_path)


def test_command(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, DOOR, "pathfinder", *map(str, arguments)], capture_output=True, text=True, check=False
        )

    output, sheet = tmp_path / "images.npz", tmp_path / "sheet.png"
    done = run("--size", 32, "--count", 9, "--output", output, "--sheet", sheet)
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 images of 32 x 32" in done.stdout
    assert "components of pixels above 90: " in done.stdout
    assert (np.load(output)["images"] == pathfinder.generate(9, 32)[0]).all()
    assert Image.open(sheet).size == (3 * 34, 3 * 34)
    bad = run("--size", 33)
    assert (bad.returncode, bad.stderr) == (2, "error: size is 33, expected one of 32, 64, 128, 256\n")
