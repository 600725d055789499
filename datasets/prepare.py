"""Check a dataset's files and print their statistics, or generate it: `python datasets/prepare.py NAME --help`."""

import sys

from flash_sparse_datasets.prepare import main

if __name__ == "__main__":
    sys.exit(main())
