"""Where generated data is kept between runs."""

import os
from pathlib import Path


def cache_folder(given: str | os.PathLike | None = None) -> Path:
    """The given folder, or flash-sparse in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "flash-sparse")
    return Path(default if given is None else given).expanduser()
