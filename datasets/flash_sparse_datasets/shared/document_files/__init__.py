"""The text of a file that is one document: plain text, PDF, Word or HTML; a module for each format."""

import importlib
from collections.abc import Callable
from pathlib import Path, PurePath

from flash_sparse_datasets.shared.document_files.plain import plain_text
from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import file_stamp, is_blank

PLAIN = (".txt", ".txt.gz")
LIBRARIES = {  # ending -> the module here, and what it imports
    ".pdf": ("pdf", "pypdfium2"),
    ".docx": ("word", "docx"),
    ".html": ("html", "bs4"),
    ".htm": ("html", "bs4"),
}
OLDER = {".doc": ".docx", ".odt": ".docx", ".rtf": ".docx", ".xls": ".xlsx", ".ods": ".xlsx"}
DOCUMENTS = (*PLAIN, *LIBRARIES)


def is_document(path: PurePath) -> bool:
    """Whether the name ends as that of a document."""
    return path.name.lower().endswith(DOCUMENTS)


def is_document_in(folder: PurePath, path: PurePath) -> bool:
    """Whether a file in a folder, or in one within it, is a document that is not hidden."""
    return is_document(path) and not is_hidden(folder, path)


def is_hidden(folder: PurePath, path: PurePath) -> bool:
    """Whether a file in a folder is hidden, or a folder on the way to it; so is what macOS adds to archives."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def text_of(path: Path, encoding: str | None = None) -> str:
    """The text of one document; a file of any other ending is plain text.

    Raises:
        DataError: one line with the file: it cannot be read, is damaged, has a password or no text.
        ModuleNotFoundError: the extra [documents] is not installed.
    """
    file_stamp(path)  # says what is no file, and what is empty
    if newer := OLDER.get(path.suffix.lower()):
        raise DataError(f"{path}: {path.suffix} cannot be read, expected it saved as {newer}")
    if path.suffix.lower() not in LIBRARIES:
        return plain_text(path, encoding)
    return text_in(path)


def text_in(path: Path, content: bytes | None = None) -> str:
    """The text of a PDF, Word or HTML file.

    Args:
        content: of a file that is not on disk, where the path is a name alone.

    Raises:
        DataError, ModuleNotFoundError: as of `text_of`.
    """
    module = LIBRARIES[path.suffix.lower()][0]
    read: Callable[[Path, bytes | None], str] = importlib.import_module(f"{__name__}.{module}").text_of
    text = read(path, content)
    if is_blank(text):
        raise DataError(f"{path}: has no text, expected some (of a scan, text recognition makes it)")
    return text
