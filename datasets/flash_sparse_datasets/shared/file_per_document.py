"""Documents that a release has in a file each: plain text or JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError, Document
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.row_texts import encodable
from flash_sparse_datasets.shared.text_files import file_stamp, open_text, reading, shortened


class FilePerDocument:
    """Reads one document of each file, in the given order; each call starts a reading.

    Args:
        root: The folder.
        names: The files below it, with "/".
        parse: Makes a document of root and name; can be pickled.
    """

    def __init__(self, root: Path, names: Sequence[str], parse: Callable[[Path, str], Document]):
        self._root = root
        self._stamps = {name: file_stamp(root / name) for name in names}
        self._parse = parse

    def __call__(self, wanted: bytes | None = None) -> Iterator[Document]:
        for index, (name, stamp) in enumerate(self._stamps.items()):
            if wanted is not None and not wanted[index]:
                continue
            if file_stamp(self._root / name) != stamp:
                raise DataError(f"{self._root / name}: changed since it was first read")
            yield self._parse(self._root, name)


def read_json_object(path: Path) -> dict:
    """The one JSON object that the file holds."""
    with reading(path), open_text(path) as file:
        content = file.read()
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}: broken JSON ({error.msg} at column {error.colno}), expected one object"
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: JSON that cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: {shortened(value)} is no JSON object, expected one")
    return value


def strings_of(path: Path, value: dict, key: str) -> list[str]:
    """A list of strings in a JSON object."""
    found = _existing(path, value, key)
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise DataError(f"{path}: {key!r} is {shortened(found)}, expected a list of strings")
    return [_checked(path, entry, key) for entry in found]


def string_of(path: Path, value: dict, key: str) -> str:
    """A string in a JSON object."""
    found = _existing(path, value, key)
    if not isinstance(found, str):
        raise DataError(f"{path}: {key!r} is {shortened(found)}, expected a string")
    return _checked(path, found, key)


def _existing(path: Path, value: dict, key: str) -> object:
    if key not in value:
        raise DataError(f"{path}: has no {key!r}; it has: {shortened(list(value))}")
    return value[key]


def _checked(path: Path, text: str, key: str) -> str:
    try:
        return encodable(text, key)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def files_of_classes(root: Path, classes: Sequence[str], ending: str = "") -> list[str]:
    """The files in the folders of classes, given as paths below root with "/", sorted in each, without hidden ones."""
    names = []
    for folder in classes:
        files = [file.name for file in visible(root / folder) if file.is_file() and file.name.endswith(ending)]
        if not files:
            raise DataError(f"{root / folder}: no {ending + ' ' if ending else ''}files, expected a class's documents")
        names += [f"{folder}/{file}" for file in files]
    return names


def text_of_class(encoding: str, errors: str, root: Path, name: str) -> Document:
    """The text of one file, its folder's name the label."""
    path = root / name
    with reading(path), open(path, encoding=encoding, errors=errors, newline="") as file:
        text = file.read()
    if not text.strip():
        raise DataError(f"{path}: the text is empty, expected a text")
    return Document(name, text, (path.parent.name,))
