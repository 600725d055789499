"""Writing files whole: complete, or not there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes):
    """Write a file that is either complete or not there: a temporary one beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(value) -> bytes:
    """Readable JSON; numpy numbers become plain ones, and NaN is refused."""
    plain = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=lambda number: number.item())
    return (plain + "\n").encode(errors="backslashreplace")  # half a surrogate pair, from a file's name, as JSON has it
