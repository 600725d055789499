"""HTML, parsed by Beautiful Soup and lxml."""

import re
from pathlib import Path

import bs4
from bs4.element import NavigableString

from flash_sparse_datasets.shared.text_files import reading

UNSEEN = ("script", "style", "template", "noscript", "head", "svg")
BLOCKS = (
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "fieldset", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option", "p"),
    *("pre", "section", "table", "tr", "ul"),
)


def text_of(path: Path, content: bytes | None = None) -> str:
    """What a browser shows as text, a line for each block. The encoding is what the file says of itself."""
    if content is None:
        with reading(path):
            content = path.read_bytes()
    # decoded here: lxml does not know every name of an encoding that a page may declare
    soup = bs4.BeautifulSoup(bs4.UnicodeDammit(content, is_html=True).unicode_markup or "", "lxml")
    for tag in soup.find_all(UNSEEN):
        tag.decompose()
    for string in soup.find_all(string=True):
        if type(string) is not NavigableString:  # a comment, or what declares the document
            string.extract()
        elif string.find_parent("pre") is None:
            string.replace_with(re.sub(r"[ \t\r\n\f]+", " ", string))
    for tag in soup.find_all("br"):
        tag.replace_with("\n")
    for tag in soup.find_all(("td", "th")):
        tag.append("\t")
    for tag in soup.find_all(BLOCKS):
        tag.insert(0, "\n")
        tag.append("\n")
    lines = (line.strip() for line in soup.get_text().split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
