"""Label new documents with a finished run: `python apps/predict.py --help`."""

import sys

from flash_sparse_apps.predict import main

if __name__ == "__main__":
    sys.exit(main())
