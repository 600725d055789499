"""Where generated data is kept between runs."""

import os
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError


def cache_folder(given: str | os.PathLike | None = None) -> Path:
    """The given folder, or flash-sparse in $XDG_CACHE_HOME or ~/.cache; it need not exist.

    Raises:
        DataError: there is no home directory.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "flash-sparse")
    try:
        return Path(default if given is None else given).expanduser()
    except RuntimeError:  # pathlib's word for it
        raise DataError("no folder for the cache, as there is no home directory; expected --cache-dir") from None
