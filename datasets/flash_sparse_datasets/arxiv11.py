"""arXiv papers in full: which of eleven subjects? (He et al. 2019)

The release's folders are read, unpacked: cs.AI cs.CE cs.cv (or cs.CV) cs.DS cs.IT cs.NE cs.PL cs.SY math.AC math.GR
math.ST, with a .txt file, made from the PDF, for each paper. Bytes in them that are not UTF-8 become the replacement
character U+FFFD. The release has no splits; validation and test are drawn, a share of each subject, equal texts
together.

    python datasets/prepare.py arxiv11 --root data/arxiv11  # checks the files, prints statistics
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial

from flash_sparse_datasets.shared.documents import DataError, Dataset
from flash_sparse_datasets.shared.file_per_document import FilePerDocument, files_of_classes, text_of_class
from flash_sparse_datasets.shared.official_files import official_folder
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics

SUBJECTS = "cs.AI cs.CE cs.DS cs.IT cs.NE cs.PL cs.SY math.AC math.GR math.ST".split()  # noqa: SIM905
VISION = ("cs.cv", "cs.CV")  # the eleventh subject, as the release and as arXiv write it
SIZES = {"train": 36_388}  # all papers
SOURCE = "https://github.com/LiqunW/Long-document-dataset"


def load(
    root: str | os.PathLike | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder of the subjects' folders, or the one above it if it is named arxiv11.
        validation_share, test_share: Of the papers of each subject.
        split_seed: Another seed draws others.

    Raises:
        DataError: for files that are missing or cannot be used.
        ValueError: for an argument's value.
    """
    folder = official_folder("arxiv11", root, ("arxiv11", "Long-document-dataset"), SUBJECTS, SOURCE)
    vision = next((name for name in VISION if (folder / name).exists()), None)
    if vision is None:
        raise DataError(f"{folder / VISION[0]}: missing, expected it beside {' '.join(SUBJECTS)}; get it from {SOURCE}")
    subjects = sorted((*SUBJECTS, vision))
    return published_set(
        "arxiv11",
        "single-label",
        {
            "train": FilePerDocument(
                folder, files_of_classes(folder, subjects, ".txt"), partial(text_of_class, "utf-8", "replace")
            )
        },
        "Full texts of arXiv papers by subject (arXiv-11);",
        labels=subjects,
        sizes=SIZES,
        split_seed=split_seed,
        validation_share=validation_share,
        test_share=test_share,
    )


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of the subjects' folders")
    parser.add_argument("--validation-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--test-share", type=float, default=0.1, help="of all documents (default: 0.1)")
    parser.add_argument("--split-seed", type=int, default=0, help="seed with which splits are drawn")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
