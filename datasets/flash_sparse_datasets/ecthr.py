"""Cases of the European Court of Human Rights: which articles were violated (A), which the applicants invoked (B)?

Any of the releases is read; where the folder holds several, `release` says which:

    2019      EN_train, EN_dev and EN_test, a JSON file for each case; https://archive.org/details/ECHR-ACL2019
              (ECHR_Dataset.zip; Chalkidis, Androutsopoulos, Aletras, ACL 2019); `anonymised` takes EN_train_Anon ...
    2021      train.jsonl, dev.jsonl and test.jsonl; https://archive.org/details/ECtHR-NAACL2021 (dataset.zip;
              Chalkidis et al., NAACL 2021)
    lexglue   ecthr.jsonl, the cases of 2021 with all parts in one file; https://zenodo.org/record/5532997
    hub       ecthr_a or ecthr_b with train-00000-of-00001.parquet ...; https://huggingface.co/datasets/coastalcph/
              lex_glue

The labels are LexGLUE's ten articles; a case loses others and stays, even if none is left. Published F1 scores follow
two conventions, which are not comparable, and `convention` says which one this is: "10" counts the ten labels, "10+1"
counts an eleventh beside them, "none": a case that has none of the ten has it, and a case for which none of the ten is
predicted is given it (LexGLUE's own scores; Chalkidis et al., ACL 2022).

    python datasets/prepare.py ecthr --root data/ecthr --task b  # checks the files, prints statistics
"""

import os
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document
from flash_sparse_datasets.shared.file_per_document import FilePerDocument, read_json_object, string_of, strings_of
from flash_sparse_datasets.shared.labelled_sources import visible
from flash_sparse_datasets.shared.lexglue import SOURCE, Readers, hub_files, hub_readers, one_file, separate_files
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.statistics_table import print_statistics

ARTICLES = ("2", "3", "5", "6", "8", "9", "10", "11", "14", "P1-1")  # as the hub numbers them
NO_ARTICLE = "none"
TASKS = {"a": "violated_articles", "b": "allegedly_violated_articles"}
RELEASES = ("2019", "2021", "lexglue", "hub")
PARTS_2019 = {"train": "EN_train", "validation": "EN_dev", "test": "EN_test"}
FILES_2021 = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
SIZES = {"train": 9_000, "validation": 1_000, "test": 1_000}  # of all releases but the first
SIZES_2019 = {"train": 7_100, "validation": 1_380, "test": 2_998}
WHERE = (
    "the releases are https://archive.org/details/ECtHR-NAACL2021 (train.jsonl dev.jsonl test.jsonl), "
    "https://archive.org/details/ECHR-ACL2019 (EN_train EN_dev EN_test) and "
    + SOURCE.format("ecthr", "ecthr_a or ecthr_b")
)


def load(
    root: str | os.PathLike | None = None,
    task: str = "b",
    convention: str = "10",
    release: str = "auto",
    anonymised: bool = False,
) -> Dataset:
    """Prepare the dataset. A case's facts are one text, a paragraph each, with a blank line between them.

    Args:
        root: The folder of a release's files, or the one above it.
        task: "a" for the articles that the court found violated, "b" for those that were alleged to be. The release of
            2019 has no allegations: there "b" is every article that the court decided on, violated or not.
        convention: "10" or "10+1", see above.
        release: "2019", "2021", "lexglue", "hub", or "auto" for the one that is there.
        anonymised: Of the release of 2019, the files without names.

    Raises:
        DataError: for files that are missing or cannot be used; one line that names the file and the row.
        ValueError: for an argument's value.
    """
    convention, release = str(convention), str(release)  # YAML makes numbers of them
    for argument, value, known in (
        ("task", task, tuple(TASKS)),
        ("convention", convention, ("10", "10+1")),
        ("release", release, ("auto", *RELEASES)),
    ):
        if value not in known:
            raise ValueError(f"{argument} is {value!r}, expected one of {', '.join(known)}")
    found = _find(root, task, anonymised)
    release = _chosen(Path(cast(str, root)).expanduser(), found, release, task)  # None has found nothing
    if anonymised and release != "2019":
        raise ValueError(f"anonymised is for the release of 2019, but the files are of the release {release}")

    which = "violated" if task == "a" else "allegedly violated"
    notes = [f"labels and F1 scores follow the convention {convention}: compare them with such figures alone"]
    if release == "2019" and task == "b":
        notes.append("task b: the release of 2019 has no allegations; its violated and non-violated articles are taken")
    return published_set(
        f"ecthr-{task}",
        "multi-label",
        found[release](),
        f"Facts of cases of the European Court of Human Rights with the {which} articles of the Convention (ECtHR task "
        f"{task.upper()}, release {release}{', anonymised' if anonymised else ''}); metric convention {convention}: "
        + (
            "the ten articles of LexGLUE"
            if convention == "10"
            else "LexGLUE's ten articles, and none of them an eleventh"
        )
        + ".",
        labels=ARTICLES,
        none_label=NO_ARTICLE if convention == "10+1" else None,
        sizes=SIZES_2019 if release == "2019" else SIZES,
        notes=notes,
    )


def _find(root: str | os.PathLike | None, task: str, anonymised: bool) -> dict[str, Callable[[], Readers]]:
    """For each release that is there, what makes its readers."""
    if root is None:
        raise DataError(f"ecthr-{task}: no root, expected the folder of a release's files; {WHERE}")
    root = Path(root).expanduser()
    found: dict[str, Callable[[], Readers]] = {}
    for folder in (root, root / "ECHR_Dataset"):
        names = {split: name + "_Anon" * anonymised for split, name in PARTS_2019.items()}
        if any((folder / name).exists() for name in names.values()):
            found.setdefault("2019", partial(_readers_2019, folder, names, task))
    for folder in (root, root / "dataset", root / "ecthr"):
        files = {split: folder / name for split, name in FILES_2021.items()}
        # The hub's form may have a train.jsonl and a test.jsonl too, but no dev.jsonl.
        if files["validation"].exists() or (files["train"].exists() and root.name not in ("ecthr_a", "ecthr_b")):
            found.setdefault("2021", partial(_readers_2021, files, task))
        for name in ("ecthr.jsonl", "ecthr.jsonl.gz"):
            if (folder / name).exists():
                found.setdefault("lexglue", partial(one_file, folder / name, "facts", TASKS[task], "multi-label"))
    if (hub := hub_files(root, f"ecthr_{task}")) is not None:
        found["hub"] = partial(hub_readers, hub, "labels", "multi-label", ARTICLES)
    return found


def _chosen(root: Path, found: dict, release: str, task: str) -> str:
    if not found or (release != "auto" and release not in found):
        there = "no files of ECtHR in it" if root.is_dir() else "no such folder"
        if found:
            there = f"no files of the release {release} in it, but of {' and '.join(found)}"
        raise DataError(f"{root}: {there} (task {task}), expected the folder of a release's files; {WHERE}")
    if release == "auto" and len(found) > 1:
        raise DataError(f"{root}: files of the releases {' and '.join(found)}, expected release to say which to read")
    return next(iter(found)) if release == "auto" else release


def _readers_2021(files: dict[str, Path], task: str) -> Readers:
    for path in files.values():
        if not path.exists():
            raise DataError(f"{path}: missing, expected all of {' '.join(FILES_2021.values())}; {WHERE}")
    return separate_files(files, "facts", TASKS[task], "multi-label")


def _readers_2019(folder: Path, names: dict[str, str], task: str) -> Readers:
    readers: Readers = {}
    for split, name in names.items():
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: missing, expected all of {' '.join(names.values())}; {WHERE}")
        files = [f"{name}/{path.name}" for path in visible(folder / name) if path.name.endswith(".json")]
        if not files:
            raise DataError(f"{folder / name}: no .json files, expected one for each case; {WHERE}")
        readers[split] = FilePerDocument(folder, files, partial(_case_2019, task))
    return readers


def _case_2019(task: str, root: Path, name: str) -> Document:
    path = root / name
    case = read_json_object(path)
    text = "\n\n".join(strings_of(path, case, "TEXT"))
    if not text.strip():
        raise DataError(f"{path}: 'TEXT' is empty, expected the facts")
    articles = _articles_2019(path, case, "VIOLATED")
    if task == "b":
        articles |= _articles_2019(path, case, "NON_VIOLATED")
    return Document(string_of(path, case, "ITEMID"), text, tuple(sorted(articles)))


def _articles_2019(path: Path, case: dict, which: str) -> set[str]:
    """The articles as the later releases name them: P1-1 for the first article of the first protocol.

    The release of 2019 has the protocol alone, P1, among the articles, and its article among the paragraphs.
    """
    articles = set(strings_of(path, case, f"{which}_ARTICLES"))
    protocols = {article for article in articles if article.startswith("P")}
    if protocols:
        paragraphs = set(strings_of(path, case, f"{which}_PARAGRAPHS"))
        for protocol in protocols:
            named = {paragraph for paragraph in paragraphs if paragraph.startswith(f"{protocol}-")}
            if named:
                articles = articles - {protocol} | named
    return articles


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of a release's files, or the one above it")
    parser.add_argument(
        "--task", default="b", choices=TASKS, help="articles violated (a) or invoked by the applicants (b, the default)"
    )
    parser.add_argument(
        "--convention", default="10", choices=("10", "10+1"), help="labels that are counted, see above (default: 10)"
    )
    parser.add_argument(
        "--release",
        default="auto",
        choices=("auto", *RELEASES),
        help="auto (the default): the one that is in the folder",
    )
    parser.add_argument("--anonymised", action="store_true", help="of the release of 2019, the files without names")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
