"""News articles: hyperpartisan or not? (SemEval-2019 task 4, by article; Kiesel et al. 2019)

The official pair of files is read: articles-training-byarticle-20181122.xml and
ground-truth-training-byarticle-20181122.xml. A text is an article's paragraphs without their markup and without the
title. Validation and test are drawn from these 645 articles, a share of each class, equal texts together. (The split
of Longformer's release is not used: 51 of its 65 test articles are also in its training part.)

    python datasets/prepare.py hyperpartisan --root data/hyperpartisan  # checks the files, prints statistics
"""

import os
import xml.etree.ElementTree as ElementTree
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.text_files import file_stamp, reading, shortened

ARTICLES = "articles-training-byarticle-20181122.xml"
TRUTH = "ground-truth-training-byarticle-20181122.xml"
LABELS = ("false", "true")
SIZES = {"train": 645}
SOURCE = "https://zenodo.org/record/1489920 (articles- and ground-truth-training-byarticle-20181122.zip)"


def load(
    root: str | os.PathLike | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Prepare the dataset: the label "true" says that an article is hyperpartisan.

    Args:
        root: The folder of the two files.
        validation_share, test_share: Of the articles of each class.
        split_seed: Another seed draws others.

    Raises:
        DataError: for files that are missing or cannot be used; one line that names the file and the article.
        ValueError: for an argument's value.
    """
    folder = official_folder("hyperpartisan", root, ("hyperpartisan",), (ARTICLES, TRUTH), SOURCE)
    stamps = (file_stamp(folder / ARTICLES), file_stamp(folder / TRUTH))
    return published_set(
        "hyperpartisan",
        "single-label",
        {"train": partial(_documents, folder, stamps)},
        "News articles, hyperpartisan (true) or not (SemEval-2019 task 4, by article);",
        labels=LABELS,
        sizes=SIZES,
        split_seed=split_seed,
        validation_share=validation_share,
        test_share=test_share,
    )


def _documents(folder: Path, stamps: tuple, wanted: bytes | None = None) -> Iterator[Document]:
    for file, stamp in zip((ARTICLES, TRUTH), stamps, strict=True):
        if file_stamp(folder / file) != stamp:
            raise DataError(f"{folder / file}: changed since it was first read")
    labels: dict[str, str] = {}
    for article in _articles(folder / TRUTH):
        id, label = article.get("id"), article.get("hyperpartisan")
        if label not in LABELS:
            place = f"{folder / TRUTH} article {shortened(id)}"
            raise DataError(f"{place}: 'hyperpartisan' is {shortened(label)}, expected true or false")
        labels[str(id)] = str(label)
    seen: set[str] = set()
    for index, article in enumerate(_articles(folder / ARTICLES)):
        id = article.get("id")
        place = f"{folder / ARTICLES} article {shortened(id)}"
        if id is None or id not in labels:
            raise DataError(f"{place}: not in {TRUTH}, expected its label there")
        if id in seen:
            raise DataError(f"{place}: there twice, expected it once")
        seen.add(id)
        text = _text(article)
        if not text:
            raise DataError(f"{place}: the text is empty, expected an article")
        if wanted is None or wanted[index]:
            yield Document(id, text, (labels[id],))
    if lacking := sorted(labels.keys() - seen):
        raise DataError(f"{folder / TRUTH} article {shortened(lacking[0])}: not in {ARTICLES}, expected its text there")


def _articles(path: Path) -> Iterator[ElementTree.Element]:
    try:
        with reading(path), open(path, "rb") as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == "article":
                    yield element
                    element.clear()
    except ElementTree.ParseError as error:
        line, column = error.position
        cause = str(error).split(":")[0]
        raise DataError(f"{path} line {line}: broken XML ({cause} at column {column + 1})") from None


def _text(article: ElementTree.Element) -> str:
    """The paragraphs, with a blank line between them, and what stands outside any; spaces as HTML has them."""
    paragraphs, loose = [], [article.text or ""]
    for child in article:
        inside = "".join(child.itertext())
        if child.tag == "p":
            paragraphs += ["".join(loose), inside]
            loose = [child.tail or ""]
        else:
            loose += [inside, child.tail or ""]
    paragraphs.append("".join(loose))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of the two files")
    parser.add_argument("--validation-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--test-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--split-seed", type=int, default=0, help="seed with which splits are drawn")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
