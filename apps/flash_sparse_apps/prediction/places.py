"""Files wherever pyarrow reads and writes them: paths, and URIs such as s3://bucket/folder/*.parquet."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import pyarrow
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from flash_sparse_apps.files import partial_path, writing
from flash_sparse_datasets import DataError
from flash_sparse_datasets.shared.document_files import DOCUMENTS, is_document_in


class Found(NamedTuple):
    """A file: what it is called, as who named it would, and its path in its file system.

    Attributes:
        stamp: its size and the time of its last change, where the file system knows that.
    """

    name: str
    path: str
    stamp: str


def open_place(place: str) -> tuple[FileSystem, str]:
    """The file system behind a path or URI, and the path in it.

    Raises:
        DataError: a URI of none that pyarrow knows.
    """
    if "://" not in place:
        return LocalFileSystem(), os.path.abspath(place)
    try:
        return FileSystem.from_uri(place)
    except (ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{place}: {reason}; expected a path, or a URI that pyarrow reads, such as s3://...") from None


def find(place: str) -> tuple[FileSystem, list[Found]]:
    """The file at a path or URI, those that a pattern in it matches, or the documents in a folder, in order.

    Raises:
        DataError: there are none.
    """
    filesystem, path = open_place(place)
    (info,) = filesystem.get_file_info([path])
    stamps: dict[str, str] = {}
    if info.type == FileType.File:
        stamps[path] = f"{info.size} {info.mtime}"
    elif info.type == FileType.Directory:
        for file in filesystem.get_file_info(FileSelector(path, recursive=True)):
            if file.type == FileType.File and is_document_in(PurePosixPath(path), PurePosixPath(file.path)):
                stamps[file.path] = f"{file.size} {file.mtime}"
        if not stamps:
            raise DataError(f"{place}: no documents ({' '.join(DOCUMENTS)}) in this folder")
    else:
        for name, about in ArrowFSWrapper(filesystem).glob(path, detail=True).items():
            if about["type"] == "file":
                stamps[name] = f"{about['size']} {about['mtime']}"
        if not stamps:
            raise DataError(f"{place}: no such file")
    return filesystem, [Found(_named(file, place, path), file, stamps[file]) for file in sorted(stamps)]


def _named(file: str, place: str, path: str) -> str:
    """A file's name in the form in which its place was named."""
    if file == path:
        return place
    if "://" in place:
        return f"{place.partition('?')[0].removesuffix(path)}{file}"
    return file if os.path.isabs(place) else os.path.relpath(file)


@contextmanager
def on_disk(filesystem: FileSystem, path: str) -> Iterator[Path]:
    """The file on this machine's disk: itself, or for as long as the block lasts a copy of the same name."""
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PurePosixPath(path).name)
        copy_files(path, str(copy), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
        yield copy


@contextmanager
def writing_at(filesystem: FileSystem, path: str) -> Iterator[IO[bytes]]:
    """As `writing`, in any file system."""
    if isinstance(filesystem, LocalFileSystem):
        with writing(Path(path)) as file:
            yield file
        return
    partial = str(PurePosixPath(path).with_name(f"{partial_path(Path(path))}{uuid.uuid4().hex}"))
    try:
        with filesystem.open_output_stream(partial) as file:
            yield file
        filesystem.move(partial, path)
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(partial)
        raise
