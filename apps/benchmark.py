"""Speed and memory of the attention operator, beside PyTorch's own: `python apps/benchmark.py`.

Every cell is checked against the textbook formula in float64, on a sample of its rows, before it is timed. `--device`
says where: each kind of device asks its own questions, with its own flags (`--device cuda --help`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flash_sparse_apps.benchmarking import cpu, gpu


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--device", nargs="?")  # whatever is wrong with it, the device's own parser says
    device = first.parse_known_args(arguments)[0].device
    return (gpu if device == "cuda" else cpu).main(arguments)


if __name__ == "__main__":
    sys.exit(main())
