"""Keep results of runs and sweeps, and write their tables: `python apps/results.py --help`."""

import sys

from flash_sparse_apps.results import main

if __name__ == "__main__":
    sys.exit(main())
