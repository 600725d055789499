"""Plain text, gzip or not."""

from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import MOST_CHARACTERS, is_blank, open_text, reading


def plain_text(path: Path, encoding: str | None = None) -> str:
    """All of the file.

    Raises:
        DataError: it cannot be read, is no text or not in this encoding, is empty, or has more than half a billion
            characters.
    """
    with reading(path, encoding), open_text(path, encoding) as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise DataError(f"{path}: has more than {MOST_CHARACTERS:,} characters, expected one document")
    if "\0" in text[:1000]:
        raise DataError(f"{path}: holds NUL characters, which no text has, expected a text")
    if is_blank(text):
        raise DataError(f"{path}: the text is empty, expected a text")
    return text
