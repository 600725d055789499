"""Word's .docx, opened by python-docx."""

import io
from pathlib import Path

import docx
from docx.oxml.ns import qn

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import shortened
from flash_sparse_datasets.shared.zip_files import checked_zip

PARAGRAPH, TEXT, TAB, BREAK = qn("w:p"), qn("w:t"), qn("w:tab"), qn("w:br")
WRITTEN = {TAB: "\t", BREAK: "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
OLD_COPY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"


def text_of(path: Path, content: bytes | None = None) -> str:
    """The text of the body, a line for each paragraph: those in tables, forms and text boxes and what tracked changes
    insert too, but no headers, footers or footnotes."""
    checked_zip(path, "a Word document (.docx)", content)
    try:
        body = docx.Document(str(path) if content is None else io.BytesIO(content)).element.body
    except Exception as error:  # python-docx names no kinds of its own for what can be wrong inside
        raise DataError(f"{path}: damaged Word document, or none ({shortened(str(error))})") from None
    if body is None:
        raise DataError(f"{path}: damaged Word document, without a body")

    lines: dict = {}  # paragraph -> its pieces; a paragraph may hold others, in text boxes
    for node in body.iter(PARAGRAPH, TEXT, *WRITTEN):
        if next(node.iterancestors(OLD_COPY), None) is not None:
            continue
        if node.tag == PARAGRAPH:
            lines[node] = []
            continue
        piece = (node.text or "") if node.tag == TEXT else WRITTEN[node.tag]
        paragraph = next(node.iterancestors(PARAGRAPH), None)
        if paragraph in lines and node.getparent().tag != qn("w:tabs"):  # where tabs stop is no text
            lines[paragraph].append(piece)
    return "\n".join("".join(pieces) for pieces in lines.values())
