"""Writing files whole: complete, or not there."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system that name no file, such as a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def room_to_write(error: BaseException, places: Mapping[str, str | Path]) -> str:
    """What to add to an error of a full disk, or one that may not be written to: the flag that chooses another place.

    Args:
        places: flag -> the folder or file that it names. Where the error names no file, it may be any of them.
    """
    cannot = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    if not isinstance(error, OSError) or error.errno not in cannot:
        return ""
    if error.filename is None:
        where = " and ".join(f"{flag} {place}" for flag, place in places.items())
        return f"; expected room and permission to write in {where}" if places and error.errno != errno.EACCES else ""
    path = Path(error.filename).absolute()
    for flag, place in places.items():
        if Path(place).absolute() in (path, *path.parents):
            return f"; expected room and permission to write, or another {flag}"
    return ""


def write_atomically(path: Path, content: bytes):
    """Write a file that is either complete or not there: a temporary one beside it, then renamed."""
    with naming(path):
        _write(path, content)


def _write(path: Path, content: bytes):
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
