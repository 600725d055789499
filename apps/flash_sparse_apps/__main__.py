"""All commands behind one name: `flash-sparse classify ...`, as `python apps/classify.py ...` in a checkout."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from flash_sparse_datasets.shared.exit_codes import ending

COMMANDS = {
    "classify": "train, test and report a classifier of long documents",
    "predict": "label new documents with a finished run",
    "serve": "serve a finished run: a page and a JSON API",
    "sweep": "train and test over sequence lengths, or run Long Range Arena",
    "curriculum": "train in stages, each beginning with the weights of the one before",
    "benchmark": "measure the attention operator beside PyTorch's",
    "results": "keep what runs measured, and write one page of tables from it",
    "prepare": "check a dataset's files and print their statistics, or generate it",
}


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, and return its exit code."""
    name, *others = [*arguments, "--help"]
    others = others[:-1]
    if name == "--version":
        print(f"flash-sparse {importlib.metadata.version('flash-sparse')}")
        return 0
    if name in ("-h", "--help"):
        lines = (f"  {command:<12}{what}" for command, what in COMMANDS.items())
        print("usage: flash-sparse COMMAND [flags of COMMAND]", "", "COMMAND is one of", *lines, sep="\n")
        return 0
    if name not in COMMANDS:
        print(f"error: {name!r} is no command; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if name == "prepare":
        from flash_sparse_datasets.prepare import prepare

        return prepare(others, "flash-sparse prepare")
    return importlib.import_module(f"flash_sparse_apps.{name}").main(others)


if __name__ == "__main__":
    sys.exit(main())
