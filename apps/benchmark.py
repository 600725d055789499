"""Measure the attention operator beside PyTorch's: `python apps/benchmark.py --help`."""

import sys

from flash_sparse_apps.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
