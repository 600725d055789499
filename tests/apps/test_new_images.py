"""Images through a finished run."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from flash_sparse_apps import predict
from flash_sparse_datasets import pathfinder

from .test_symbols import run as train

OPTIONS = "{level: 6, distractors: 0, train_size: 8, validation_size: 2, test_size: 4}"
FLAGS = ("--dataset", "pathfinder32", "--dataset-options", OPTIONS, "--seq-len", "1024", "--no-linear-baseline")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    code, output = train(tmp_path_factory.mktemp("images"), *FLAGS)
    assert code == 0
    return output


@pytest.fixture
def images():
    """Those for testing are the first ones."""
    return pathfinder.generate(4, 32, level=6, distractors=0)[0]


def test_all_kinds_of_files_give_the_run_s_own_predictions(trained, images, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    np.savez_compressed(tmp_path / "some.npz", images=images)
    own = [json.loads(line) for line in (trained / "predictions.jsonl").read_text().splitlines()]
    single = [str(folder / f"{number}.png") for number in range(4)]
    for files in ([str(folder)], single, [str(tmp_path / "some.npz")]):
        assert predict.main([str(trained), *files]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [entry["tokens"] for entry in found] == [1024] * 4
        assert [entry["labels"] for entry in found] == [entry["predicted"] for entry in own]
        if files == single:
            assert [entry["id"] for entry in found] == single


def test_the_report_shows_images_instead_of_passages(trained, tmp_path, capsys):
    page = (trained / "report.html").read_text()
    assert "<h2>Test images</h2>" in page
    assert "Passages" not in page
    assert json.loads((trained / "metrics.json").read_text())["model"]["embeddings"] == "random"
    code, output = train(tmp_path, *FLAGS, "--examples", "0")
    assert code == 0
    assert "Test images" not in (output / "report.html").read_text()
    assert "looking for passages" not in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line(trained, images, tmp_path, capsys):
    def said(*arguments):
        assert predict.main([str(trained), *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    text = tmp_path / "text.txt"
    text.write_text("A text.")
    assert f"{text}: no image; expected PNG or .npz, as the run is on images" in said(text)
    Image.fromarray(images[0][:20]).save(tmp_path / "cut.png")
    assert "cut.png: 20 x 32 pixels, expected 32 x 32" in said(tmp_path / "cut.png")
    np.savez(tmp_path / "cut.npz", images=images[:, :20])
    assert "images (4, 20, 32) uint8, expected (count, 32, 32) uint8" in said(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", labels=images)
    assert "other.npz: KeyError, expected an .npz file with `images`" in said(tmp_path / "other.npz")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04")
    assert "expected an .npz file with `images`" in said(tmp_path / "damaged.npz")
    (tmp_path / "empty").mkdir()
    assert "empty: no .png files in this folder" in said(tmp_path / "empty")
    assert "standard input: a text, but the run is on images" in said("-")
    assert "--evidence is given, but the run is on images" in said(tmp_path / "cut.png", "--evidence")


def test_an_image_of_another_size_does_not_stop_the_rest(trained, images, tmp_path, capsys):
    Image.fromarray(images[0][:20]).save(tmp_path / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "b.png")
    assert predict.main([str(trained), str(tmp_path)]) == 1
    cut, whole = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert cut == {"id": str(tmp_path / "a.png"), "error": f"{tmp_path / 'a.png'}: 20 x 32 pixels, expected 32 x 32"}
    assert len(whole["labels"]) == 1


def test_the_report_and_the_model_card_say_what_to_give(trained):
    assert "IMAGE.png ..." in (trained / "report.html").read_text()
    assert "IMAGE.png ..." in (trained / "model" / "README.md").read_text()


def test_an_archive_that_promises_more_images_than_it_has(trained, images, tmp_path, capsys):
    """They are read one by one: a terabyte of them is no matter."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        written, {"descr": "|u1", "fortran_order": False, "shape": (10**9, *images[0].shape)}
    )
    written.write(images[:2].tobytes())
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        archive.writestr("images.npy", written.getvalue())
    assert predict.main([str(trained), str(tmp_path / "many.npz")]) == 1
    first, second, cut = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert "labels" in first
    assert "labels" in second
    assert cut["error"].endswith("many.npz: EOFError, expected an .npz file with `images`; nothing that follows in "
                                 "this file was read")  # fmt: skip
