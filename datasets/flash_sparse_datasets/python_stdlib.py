"""The default dataset: which modules does this source file import?

The documents are the source files of the running Python's standard library, as long as real documents are and on every
machine, with nothing to download. Their import statements are removed; the top-level modules that these named are the
labels. Comments, docstrings and all uses of the modules stay, so the answer has to be found anywhere in the text: by
`os.path` in one line, or by what `OrderedDict` tells about `collections`.

    python datasets/prepare.py python-stdlib  # prints documents, words and labels of each split
"""

import ast
import hashlib
import os
import re
import sys
import sysconfig
import tokenize
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document, Documents
from flash_sparse_datasets.shared.statistics_table import print_statistics

MIN_WORDS = 100  # shorter files are mostly empty packages and lists of names
MIN_FILES = 200  # fewer is no usable standard library (Debian's, which comes without tests, gives 463)
LABEL_SHARE = 0.04  # a module is a label if this share of the training documents imports it

# Not documents: other people's packages, generated tables, and files that are broken on purpose.
SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "encodings",
    "pydoc_data",
    "lib2to3/tests/data",
    "test/test_lib2to3/data",
    "test/tokenizedata",
}
SKIPPED_FILES = re.compile(r"_sysconfigdata.*|(site|user)customize\.py|bad_?syntax.*|bad_coding.*")

# `import` is a keyword that occurs in import statements alone, so each one outside of strings and comments is part of
# one. Strings and comments are matched first, which carries the search over them. (Parsing every file into a syntax
# tree finds the same statements, in ten times the time; a test compares the two on the running Python.) Every
# alternative begins with a plain character, because the search is then three times as fast.
STRING_COMMENT_OR_IMPORT = re.compile(
    r"""
    \#[^\n]*
    | \"\"\"(?:[^"\\]|\\.|"(?!""))*\"\"\"
    | '''(?:[^'\\]|\\.|'(?!''))*'''
    | "(?:[^"\\\n]|\\.)*"
    | '(?:[^'\\\n]|\\.)*'
    | from(?<=\bfrom)(?:[ \t\f.]|\\\n)(?:[ \t\f.\w]|\\\n)*?\bimport\b
      (?:[ \t\f]*\((?:[^()\#]|\#[^\n]*)*\) | (?:[^\n;\#\\]|\\\n)*)
    | import(?<=\bimport)\b(?:[^\n;\#\\]|\\\n)*
    """,
    re.VERBOSE | re.DOTALL,
)


def load(root: str | os.PathLike | None = None) -> Dataset:
    """Prepare the dataset; takes a few seconds.

    Args:
        root: The folder of a standard library; None is the running Python's.

    A document goes to training, validation or test (80/10/10) by the SHA-256 of its path, so that a file of the next
    Python version stays where it was; files of equal words stay together. Files of fewer than 100 words are left out;
    files whose imports are no labels stay, without labels.

    Raises:
        DataError: if the folder holds too few source files, as when the library is in a zip file.
    """
    of_what = "of Python {}.{}".format(*sys.version_info) if root is None else f"in {root}"
    root = Path(sysconfig.get_path("stdlib") if root is None else root)
    paths: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    modules: dict[str, frozenset[str]] = {}
    split_of_words: dict[bytes, str] = {}
    digest, lengths = hashlib.sha256(), []
    for path in _source_files(root):
        try:
            text, imported = remove_imports(_read(root, path))
        except (SyntaxError, UnicodeDecodeError):  # an encoding that Python itself would not read
            continue
        words = text.split()
        if len(words) < MIN_WORDS:
            continue
        same_words = hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).digest()
        split = split_of_words.setdefault(same_words, _split(path))
        paths[split].append(path)
        modules[path] = imported
        lengths.append(len(words))
        digest.update(repr((path, text, sorted(imported), split)).encode("utf-8", "surrogatepass"))

    if len(modules) < MIN_FILES:
        raise DataError(
            f"{root}: {len(modules)} usable source files of the standard library, expected at least {MIN_FILES}; "
            "this Python seems to come without its sources (in a zip file, perhaps)"
        )

    counts = Counter(module for path in paths["train"] for module in modules[path])
    labels = sorted(module for module, n in counts.items() if n >= LABEL_SHARE * len(paths["train"]))
    digest.update(repr(labels).encode())
    splits = {}
    for split, members in paths.items():
        labelled = [(path, tuple(sorted(modules[path].intersection(labels)))) for path in members]
        splits[split] = Documents(partial(_documents, root, labelled), len(labelled))

    lengths.sort()
    sizes = " / ".join(f"{len(documents):,}" for documents in splits.values())
    return Dataset(
        name="python-stdlib",
        task="multi-label",
        labels=tuple(labels),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        fingerprint=digest.hexdigest(),
        description=(
            f"Source files of the standard library {of_what} as long documents, their import statements removed; the "
            "labels are the imported top-level modules that at least "
            f"{LABEL_SHARE:.0%} of the training documents import ({len(labels)} of {len(counts)}). "
            f"{len(lengths):,} documents of {MIN_WORDS} words or more, {sizes} for training, validation and test by a "
            f"hash of the path; median {lengths[len(lengths) // 2]:,} words, longest {lengths[-1]:,}."
        ),
    )


def remove_imports(source: str) -> tuple[str, frozenset[str]]:
    """Remove all import statements, nested ones too, from Python source code.

    A line that held nothing else goes as a whole; everything else stays as it is. Returns the text and the top-level
    modules that were imported, without `__future__`, which is no module to find, and without relative imports, which
    name none.
    """
    kept, end = [], 0
    modules: set[str] = set()
    for match in STRING_COMMENT_OR_IMPORT.finditer(source):
        if match[0][0] not in "fi":  # from, import
            continue
        statement = match[0].rstrip(" \t\f")
        imported = _imported_modules(statement)
        if imported is None:
            continue
        modules |= imported
        start, stop = match.start(), match.start() + len(statement)
        line_start = source.rfind("\n", 0, start) + 1
        line_end = source.find("\n", stop) + 1 or len(source)
        if not source[line_start:start].strip() and not source[stop:line_end].strip():
            start, stop = line_start, line_end
        kept.append(source[end:start])
        end = stop
    kept.append(source[end:])
    return "".join(kept), frozenset(modules)


@cache
def _imported_modules(statement: str) -> frozenset[str] | None:
    """The top-level modules of one import statement; None if it is not one."""
    try:
        node = ast.parse(statement).body[0]
    except (SyntaxError, ValueError):
        return None
    if isinstance(node, ast.ImportFrom):
        names = [] if node.level else [str(node.module)]
    else:
        names = [alias.name for alias in cast(ast.Import, node).names]
    return frozenset(name.split(".")[0] for name in names) - {"__future__"}


def _source_files(root: Path) -> list[str]:
    """Paths relative to the root, with "/", sorted: the same on every file system."""
    found = []
    for folder, subfolders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        subfolders[:] = [
            name
            for name in subfolders
            if name not in SKIPPED_FOLDERS
            and (relative / name).as_posix() not in SKIPPED_FOLDERS
            and not name.startswith("config-")  # generated when Python was built
        ]
        found += [
            (relative / name).as_posix() for name in files if name.endswith(".py") and not SKIPPED_FILES.fullmatch(name)
        ]
    return sorted(found)


def _split(path: str) -> str:
    hundredth = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8], "big") % 100
    return "train" if hundredth < 80 else "validation" if hundredth < 90 else "test"


def _read(root: Path, path: str) -> str:
    with tokenize.open(root / path) as file:  # honours the file's coding line
        return file.read()


def _documents(root: Path, labelled: list[tuple[str, tuple[str, ...]]]) -> Iterator[Document]:
    for path, labels in labelled:
        yield Document(path, remove_imports(_read(root, path))[0], labels)


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="folder of a standard library (default: the running Python's)")
    return print_statistics(partial(load, parser.parse_args(arguments).root))
