"""PDF, read by PDFium."""

import re
from contextlib import closing
from pathlib import Path

import pypdfium2

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import shortened

HYPHEN = "\ufffe"  # PDFium's mark for a hyphen at the end of a line, which the word does not have


def text_of(path: Path, content: bytes | None = None) -> str:
    """The text of all pages, an empty line between two."""
    try:
        document = pypdfium2.PdfDocument(path if content is None else content)
    except (pypdfium2.PdfiumError, OSError) as error:
        if "password" in str(error).lower():
            raise DataError(f"{path}: has a password, expected a PDF without") from None
        raise DataError(f"{path}: damaged PDF, or none ({shortened(str(error))})") from None

    texts = []
    with closing(document):
        try:
            for page in document:
                with closing(page), closing(page.get_textpage()) as text:
                    texts.append(text.get_text_bounded().strip())
        except pypdfium2.PdfiumError as error:
            raise DataError(f"{path}: page {len(texts) + 1} is damaged ({shortened(str(error))})") from None
    if not any(texts):
        raise DataError(
            f"{path}: no text in its {len(texts)} pages, expected some (of a scan, text recognition makes it)"
        )
    text = "\n\n".join(texts).replace("\r\n", "\n")
    return re.sub(f"{HYPHEN}\n?", "", text).replace("\0", "")
