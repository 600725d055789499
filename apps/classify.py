"""Train, test and report a classifier of long documents: `python apps/classify.py --help`."""

import sys

from flash_sparse_apps.classify import main

if __name__ == "__main__":
    sys.exit(main())
