"""HTML, parsed by Beautiful Soup and lxml."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import bs4
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString

from flash_sparse_datasets.shared.text_files import reading

UNSEEN = ("script", "style", "template", "noscript", "head", "svg")
BLOCKS = (
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "fieldset", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option", "p"),
    *("pre", "section", "table", "tr", "ul"),
)
BETWEEN = dict.fromkeys(BLOCKS, ("\n", "\n")) | {"br": ("\n", ""), "td": ("", "\t"), "th": ("", "\t")}
LOGGER = "bs4.dammit"  # says that characters could not be decoded, not of which file: they stand as U+FFFD


def text_of(path: Path, content: bytes | None = None) -> str:
    """What a browser shows as text, a line for each block."""
    if content is None:
        with reading(path):
            content = path.read_bytes()
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    soup = bs4.BeautifulSoup(_decoded(content), "lxml")
    lines = (line.strip() for line in "".join(_pieces(soup)).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _decoded(content: bytes) -> str:
    """The page in the encoding that it says of itself, or else in UTF-8 or windows-1252, as browsers have it.

    lxml does not know every name of an encoding that a page may declare, and Beautiful Soup would guess by whatever
    library of that kind is installed.
    """
    likely = []
    if not EncodingDetector.strip_byte_order_mark(content)[1]:
        declared = EncodingDetector.find_declared_encoding(content, is_html=True)
        likely = [*([declared] if declared else []), "utf-8", "windows-1252"]
    return bs4.UnicodeDammit(content, likely, is_html=True).unicode_markup or ""


def _pieces(soup: bs4.BeautifulSoup) -> Iterator[str]:
    """The texts of a page, and what stands between them, in time linear in it however deep its tags are nested."""
    waiting: list[tuple[object, bool]] = [(soup, False)]  # what is still to come, and whether its spaces count
    while waiting:
        node, spaced = waiting.pop()
        if isinstance(node, bs4.Tag):
            if node.name in UNSEEN:
                continue
            before, after = BETWEEN.get(node.name, ("", ""))
            yield before
            waiting.append((after, True))
            waiting += [(child, spaced or node.name == "pre") for child in reversed(node.contents)]
        elif type(node) is NavigableString or type(node) is str:  # no comment, nor what declares the document
            yield node if spaced else re.sub(r"[ \t\r\n\f]+", " ", node)
