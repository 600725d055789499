"""Files by paths, patterns and URIs; other file systems than this machine's."""

from __future__ import annotations

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from flash_sparse_apps.prediction import places
from flash_sparse_datasets import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.csv", "a.csv", "notes.txt", "deep/c.csv", "deep/letter.txt"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "folder"


def names(place: str) -> list[str]:
    return [file.name for file in places.find(place)[1]]


def test_a_place_is_called_as_it_was_typed(folder):
    assert names("folder/a.csv") == ["folder/a.csv"]
    assert names("folder/*.csv") == ["folder/a.csv", "folder/b.csv"]
    assert names(f"{folder}/?.csv") == [f"{folder}/a.csv", f"{folder}/b.csv"]
    assert names(f"file://{folder}/a*.csv") == [f"file://{folder}/a.csv"]
    assert names("folder/**/*.csv") == ["folder/a.csv", "folder/b.csv", "folder/deep/c.csv"]


def test_of_a_folder_the_documents_are_taken(folder):
    assert names("folder") == ["folder/deep/letter.txt", "folder/notes.txt"]
    (folder / "tables").mkdir()
    with pytest.raises(DataError, match=r"folder/tables: no documents \(\.txt"):
        places.find("folder/tables")


def test_a_name_may_look_like_a_pattern(folder):
    (folder / "[a].csv").write_text("x")
    assert names("folder/[a].csv") == ["folder/[a].csv"]


@pytest.mark.parametrize("place", ["folder/c.csv", "folder/*.parquet", "file:///not/there.csv"])
def test_what_is_not_there_is_named(folder, place):
    with pytest.raises(DataError, match="no such file") as caught:
        places.find(place)
    assert str(caught.value).startswith(place)


def test_a_uri_of_nothing_known(folder):
    with pytest.raises(DataError, match=r"gopher://host/a.csv: .*expected a path, or a URI that pyarrow reads"):
        places.find("gopher://host/a.csv")


def test_a_changed_file_is_another(folder):
    (before,) = places.find("folder/a.csv")[1]
    (folder / "a.csv").write_text("more than before")
    (after,) = places.find("folder/a.csv")[1]
    assert (before.name, before.path) == (after.name, after.path)
    assert before.stamp != after.stamp


def test_a_copy_on_disk_lasts_as_long_as_the_block(folder):
    elsewhere = SubTreeFileSystem(str(folder), LocalFileSystem())
    with places.on_disk(elsewhere, "deep/c.csv") as copy:
        assert (copy.name, copy.read_text()) == ("c.csv", "deep/c.csv")
        assert folder not in copy.parents
    assert not copy.exists()
    with places.on_disk(LocalFileSystem(), str(folder / "a.csv")) as same:
        assert same == folder / "a.csv"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_written_is_whole_or_not_there(folder, elsewhere):
    filesystem = SubTreeFileSystem(str(folder), LocalFileSystem()) if elsewhere else LocalFileSystem()
    path = "new/a.jsonl" if elsewhere else str(folder / "new" / "a.jsonl")
    (folder / "new").mkdir()

    def half():
        with places.writing_at(filesystem, path) as file:
            file.write(b"half")
            assert not (folder / "new" / "a.jsonl").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert list((folder / "new").iterdir()) == []
    with places.writing_at(filesystem, path) as file:
        file.write(b"all")
    assert [entry.name for entry in (folder / "new").iterdir()] == ["a.jsonl"]
    assert (folder / "new" / "a.jsonl").read_bytes() == b"all"
