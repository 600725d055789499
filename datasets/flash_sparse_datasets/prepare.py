"""Check a dataset's official files and print their statistics, or generate it.

python datasets/prepare.py ecthr --root data/ecthr             # checks the files, prints statistics
python datasets/prepare.py listops --output data/listops       # generates them
python datasets/prepare.py my.csv --text-field body            # your own file or folder
python datasets/prepare.py NAME --help                         # what a dataset is, and its flags
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

from flash_sparse_datasets import NAMED
from flash_sparse_datasets.shared.exit_codes import ending
from flash_sparse_datasets.shared.one_line_parser import OneLineParser

DOOR = "python datasets/prepare.py"


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command as the file `datasets/prepare.py` and return its exit code."""
    return prepare(arguments, DOOR)


def prepare(arguments: Sequence[str], door: str) -> int:
    """Run the command and return its exit code.

    Args:
        door: how it was started, for its help.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help(door))
        return 0

    file, fixed = _find(name, door)
    module = importlib.import_module(f"flash_sparse_datasets.{file}")
    parser = OneLineParser(f"{door} {name}", str(module.__doc__).replace(DOOR, door))
    return module.prepare(parser, [*fixed, *arguments[1:]])


def _find(name: str, door: str) -> tuple[str, list[str]]:
    """The file behind a name, and the arguments that the name stands for; ends the process for one that is none."""
    if name in NAMED:
        file, options = NAMED[name]
        return file, [f"--{option}={value}" for option, value in options.items()]
    if name in _files():
        return name, []
    if not os.path.lexists(os.path.expanduser(name)):
        names = ", ".join(_names())
        OneLineParser(door, "").error(f"{name!r}: no such file or folder, nor a dataset's name (those are: {names})")
    return "own_files", [name]


def _files() -> list[str]:
    return list(dict.fromkeys(file for file, _ in NAMED.values()))


def _names() -> list[str]:
    """What to call each file: a dataset's name where it has one alone."""
    alone = {file: name for name, (file, options) in NAMED.items() if not options}
    return [alone.get(file, file) for file in _files()]


def _help(door: str) -> str:
    """The module's docstring, and a line for each dataset."""
    lines = [f"usage: {door} NAME [flags of NAME]", "", __doc__.replace(DOOR, door).strip(), "", "NAME is one of"]
    for name, file in zip(_names(), _files(), strict=True):
        lines.append(f"  {name:<14}{_first_sentence(file)}")
    lines += [
        f"  {'FILE':<14}a file of your own (CSV, TSV, JSON, Parquet, Excel or fastText), or a folder of documents"
    ]
    return "\n".join(lines)


def _first_sentence(file: str) -> str:
    return str(importlib.import_module(f"flash_sparse_datasets.{file}").__doc__).splitlines()[0]
