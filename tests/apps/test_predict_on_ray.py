"""Collections in parts, and on a real Ray cluster of two nodes, one of which dies."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from clusters import needs_ray, two_nodes
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from flash_sparse_apps import predict
from flash_sparse_apps.prediction import on_ray
from flash_sparse_apps.prediction.new_documents import NewDocument, Reading
from flash_sparse_apps.prediction.tally import Tally
from flash_sparse_datasets.shared.exit_codes import UserError

HERE = LocalFileSystem()


def documents(count: int, characters: int = 10) -> list[NewDocument]:
    return [NewDocument(str(number), "x" * characters) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "characters", "sizes"),
    [
        (10, 10, [10]),
        (0, 10, [0]),
        (128, 10, [128]),  # as many as a part has: there is none after it
        (300, 10, [128, 128, 44]),
        (200, 1000, [64, 64, 64, 8]),  # long ones, of which fewer make a part
    ],
)
def test_parts_end_where_their_source_says(count, characters, sizes):
    parts = list(on_ray._cut(documents(count, characters), documents=100, characters=50_000))
    assert [len(part) for part, _ in parts] == sizes
    assert [last for _, last in parts] == [False] * (len(sizes) - 1) + [True]
    assert [document for part, _ in parts for document in part] == documents(count, characters)


def test_a_table_is_a_source_and_texts_are_taken_together(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "TEXTS", 2)
    for name in ("a.jsonl", "b.csv", "texts/1.txt", "texts/2.txt", "texts/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sources, listing = on_ray._sources([f"{tmp_path}/*.*", f"{tmp_path}/texts"])
    assert [source.number for source in sources] == [0, 1, 2, 3]
    assert [[Path(name).name for name, _ in source.files] for source in sources] == [
        ["a.jsonl"], ["b.csv"], ["1.txt", "2.txt"], ["3.txt"]
    ]  # fmt: skip
    assert listing["files"] == 5
    (tmp_path / "a.jsonl").write_text("another size")
    assert on_ray._sources([f"{tmp_path}/*.*", f"{tmp_path}/texts"])[1]["fingerprint"] != listing["fingerprint"]


def test_documents_are_called_by_the_names_of_their_files(tmp_path):
    """Wherever they were copied to be read."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    elsewhere = SubTreeFileSystem(str(tmp_path), HERE)
    source = on_ray.Source(0, elsewhere, [("s3://a/a.jsonl", "a.jsonl"), ("s3://a/b.txt", "b.txt"), ("s3://c", "c")])
    one, broken, text, missing = on_ray._documents(source, Reading())
    assert one == NewDocument("s3://a/a.jsonl:1", "one")
    assert (broken.id, broken.error[:32]) == ("s3://a/a.jsonl:2", "s3://a/a.jsonl line 2: broken JS")
    assert (text.id, text.error[:24]) == ("s3://a/b.txt", "s3://a/b.txt line 1: 0xe")
    assert missing.id == "s3://c"
    assert "cannot be read" in missing.error


def test_parts_that_are_written_are_known(tmp_path):
    described = {"files": 3, "top_k": None}
    folder = str(tmp_path / "out")
    assert on_ray._open_folder(HERE, folder, "out", described) == {}
    for name in (
        "0000000-00000.jsonl",
        "0000000-00001-last.jsonl",
        "0000002-00001.jsonl",
        ".0000001-00000.jsonl.partial-x",
    ):
        (tmp_path / "out" / name).touch()
    done = on_ray._open_folder(HERE, folder, "out", described)
    assert done == {0: {0: False, 1: True}, 2: {1: False}}
    assert [on_ray._is_whole(done.get(number, {})) for number in range(3)] == [True, False, False]
    assert not on_ray._is_whole({1: True})  # the first is missing
    with pytest.raises(
        UserError, match=r"^--top-k is 5, but null in out/collection.json; expected the same, or another"
    ):
        on_ray._open_folder(HERE, folder, "out", described | {"top_k": 5})
    with pytest.raises(UserError, match=r"^the files to label are others than those in out/collection.json"):
        on_ray._open_folder(HERE, folder, "out", described | {"files": 4})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"which has no collection.json; expected a new folder"):
        on_ray._open_folder(HERE, str(tmp_path), "out", {})
    with pytest.raises(UserError, match=r"--output is out, a file; expected a folder"):
        on_ray._open_folder(HERE, str(tmp_path / "thesis.tex"), "out", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_written_is_not_read_again(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "text {number}"}}\n' for number in range(200)))
    source = on_ray.Source(7, HERE, [("a.jsonl", str(tmp_path / "a.jsonl"))], frozenset({0, 3}))
    batch = {"source": [pickle.dumps(source)]}
    parts = [pickle.loads(row["part"][0]) for row in on_ray._read(batch, Reading(), "csv", 64, 2**20)]
    assert [part.name for part in parts] == ["0000007-00001.csv", "0000007-00002.csv"]
    assert [part.documents[0].id for part in parts] == ["a.jsonl:65", "a.jsonl:129"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--ray is given; expected --output as well, a folder"),
        (("--output", "DIR", "--format", "table"), "--format is table; expected jsonl, csv or wide-csv with --ray"),
        (("--output", "DIR.xlsx"), "--format is xlsx; expected jsonl, csv or wide-csv with --ray"),
        (("-", "--output", "DIR"), "standard input; expected files with --ray"),
        (("/not/there/*.csv", "--output", "DIR"), "/not/there/*.csv: no such file"),
        (("--output", "DIR", "--ray", "127.0.0.1:1"), "--ray is 127.0.0.1:1, where nothing answers"),
    ],
)
@needs_ray
def test_wrong_flags_are_one_line(multi_label_run, tmp_path, monkeypatch, capsys, flags, said):
    (tmp_path / "a.txt").write_text("word1")
    monkeypatch.chdir(tmp_path)
    assert predict.main(["--ray", "local", str(multi_label_run), "a.txt", *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_without_the_extra_a_line_says_what_to_install(multi_label_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [str(multi_label_run), "a.txt", "--output", str(tmp_path / "out"), "--ray", "local"]
    assert predict.main(given) == 2
    assert capsys.readouterr().err == "error: ray is not installed; expected pip install 'flash-sparse[ray]'\n"
    assert not (tmp_path / "out").exists()


# whole collections


def write_collection(folder: Path, files: int, rows: int) -> list[Path]:
    """JSON lines of made-up words, each file with a row that cannot be read, and a text."""
    draw = random.Random(0)
    folder.mkdir()
    paths = []
    for number in range(files):
        lines = [
            json.dumps({"text": " ".join(f"word{draw.randrange(40)}" for _ in range(draw.choice([8, 30, 60])))})
            for _ in range(rows)
        ]
        lines.insert(number, '{"text": ')
        paths.append(folder / f"{number}.jsonl")
        paths[-1].write_text("\n".join(lines))
    (folder / "letter.txt").write_text("word1 keyword0")
    return [*paths, folder / "letter.txt"]


def written(folder: Path) -> list[str]:
    """The lines of all parts, in the order of the collection."""
    return [line for part in sorted(folder.glob("0*")) for line in part.read_text().splitlines()]


@pytest.fixture
def without_a_cluster(monkeypatch):
    """What tasks and actors do is done here; the parts that were labelled."""
    labelled = []

    def run(job, sources, reading, resources, most):
        tally, labeller = Tally(), on_ray._Labeller(job)
        for source in sources:
            batch = {"source": [pickle.dumps(source)]}
            for part in on_ray._read(batch, reading, job.format, on_ray.DOCUMENTS, on_ray.CHARACTERS):
                labelled.append(pickle.loads(part["part"][0]).name)
                counted = pickle.loads(labeller(part)["counted"][0])
                if isinstance(counted, Exception):
                    raise counted
                tally.add(counted)
        return tally

    monkeypatch.setattr(on_ray, "DOCUMENTS", 64)
    monkeypatch.setattr(on_ray, "connected", nullcontext)
    monkeypatch.setattr(on_ray, "_actors", lambda accelerator: ({"num_cpus": 1}, 1))
    monkeypatch.setattr(on_ray, "_run", run)
    return labelled


@needs_ray
def test_parts_hold_the_same_lines_and_are_not_labelled_twice(multi_label_run, tmp_path, without_a_cluster, capsys):
    files = write_collection(tmp_path / "collection", files=2, rows=150)
    plain, out = tmp_path / "plain.jsonl", tmp_path / "out"
    common = [str(multi_label_run), "--accelerator", "cpu"]
    assert predict.main([*common, *map(str, files), "--output", str(plain)]) == 1
    said = capsys.readouterr().err
    given = [*common, f"{tmp_path}/collection/*.*", "--output", str(out), "--ray", "local"]
    assert predict.main(given) == 1
    assert capsys.readouterr().err == said
    assert written(out) == plain.read_text().splitlines()
    assert len(without_a_cluster) == len(list(out.glob("0*"))) == 2 * 3 + 1

    (out / "0000001-00001.jsonl").unlink()
    without_a_cluster.clear()
    assert predict.main(given) == 0
    assert without_a_cluster == ["0000001-00001.jsonl"]
    assert written(out) == plain.read_text().splitlines()

    without_a_cluster.clear()
    assert predict.main([*given, "--top-k", "1"]) == 2
    assert "--top-k is 1, but null in" in capsys.readouterr().err
    (tmp_path / "collection" / "2.jsonl").write_text('{"text": "new"}')
    assert predict.main(given) == 2
    assert "the files to label are others than those in" in capsys.readouterr().err
    assert without_a_cluster == []


@needs_ray
def test_a_full_disk_ends_it_with_a_line_and_the_same_command_goes_on(
    multi_label_run, tmp_path, without_a_cluster, monkeypatch, capsys
):
    write_collection(tmp_path / "collection", files=1, rows=100)
    out = tmp_path / "out"
    given = [str(multi_label_run), f"{tmp_path}/collection/0.jsonl", "--output", str(out), "--ray", "local"]

    def full(*unused):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "in_utf8", full)
        assert predict.main(given) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "out/0000000-00000.jsonl'; expected room and permission to write, or another --output" in err
    assert [path.name for path in out.iterdir()] == ["collection.json"]
    assert predict.main(given) == 1  # one row cannot be read
    assert len(written(out)) == 101


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(3600)  # of a busy machine
def test_a_collection_is_whole_though_a_node_dies(multi_label_run, tmp_path, monkeypatch, capfd):
    """On a real cluster: the same lines as without it."""
    monkeypatch.setattr(on_ray, "DOCUMENTS", 64)
    files = write_collection(tmp_path / "collection", files=3, rows=1000)
    plain, out = tmp_path / "plain.jsonl", tmp_path / "out"
    common = [str(multi_label_run), "--accelerator", "cpu"]
    assert predict.main([*common, *map(str, files), "--output", str(plain)]) == 1
    said = "3 of 3004 documents could not be read"
    assert said in capfd.readouterr().err

    with two_nodes() as (cluster, second):

        def kill():
            while len(list(out.glob("0*"))) < 5:
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        given = [*common, f"{tmp_path}/collection/*.*", "--output", str(out), "--ray", cluster.address]
        assert predict.main(given) == 1
        killer.join()
    assert said in capfd.readouterr().err
    assert written(out) == plain.read_text().splitlines()
    assert len(list(out.glob("0*"))) == 3 * 16 + 1
