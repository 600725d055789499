"""Serve a finished run, a page and a JSON API: `python apps/serve.py --help`."""

import sys

from flash_sparse_apps.serve import main

if __name__ == "__main__":
    sys.exit(main())
