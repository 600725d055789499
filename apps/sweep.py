"""Train and test over sequence lengths, or run Long Range Arena: `python apps/sweep.py --help`."""

import sys

from flash_sparse_apps.sweep import main

if __name__ == "__main__":
    sys.exit(main())
