"""Train in stages, each beginning with the weights of the one before: `python apps/curriculum.py --help`."""

import sys

from flash_sparse_apps.curriculum import main

if __name__ == "__main__":
    sys.exit(main())
