"""Writing files whole: complete, or not there; and folders whose files can be checked."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flash_sparse_datasets.shared.naming import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUMS = "SHA256SUMS"


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


def partial_path(path: Path) -> str:
    """How the name of something begins that is to become `path` when it is complete."""
    return f".{path.name}.partial-"


def is_partial(path: Path) -> bool:
    """Whether something is what a process that was killed while it wrote has left behind."""
    return path.name.startswith(".") and ".partial-" in path.name


def remove_partial(folder: Path):
    """Remove what killed processes left in a folder, at any depth; nobody else may be writing there."""
    for path in [*folder.rglob(".*.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_abandoned(path: Path):
    """Remove what processes have left beside a file that were killed while they wrote it by `writing`."""
    if fcntl is None:
        return
    for left in path.parent.glob(f"{glob.escape(partial_path(path))}*"):
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError where a process is still writing it
            left.unlink()


def _write(path: Path, content: bytes):
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write piece by piece: it takes its name when the block ends, and goes away if that ends in an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=partial_path(path))
    try:
        with os.fdopen(handle, "wb") as file:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_sums(folder: Path):
    """Write `SHA256SUMS`, the checksums of the other files in a folder, in the form that `sha256sum --check` reads."""
    write_atomically(folder / _SUMS, sums(folder).encode())


def sums(folder: Path) -> str:
    """What `write_sums` writes; a README, which anybody may edit, is left out."""
    left_out = (_SUMS, "README.md")
    paths = sorted(path for path in folder.iterdir() if path.name not in left_out and not path.name.startswith("."))
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in paths)


def check_sums(folder: Path):
    """Compare the files of a folder with what `write_sums` wrote there, if it did.

    Raises:
        ValueError: a file is missing or has changed, or the checksums themselves are damaged.
    """
    sums = folder / _SUMS
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        expected, separator, name = line.partition("  ")
        path = folder / Path(name).name
        if not separator or not path.is_file():
            raise ValueError(f"{sums}: {line[:100]!r}; expected the checksum and name of a file that is there")
        if _sha256(path) != expected:
            raise ValueError(
                f"{path}: damaged: its sha256 is not the one in {_SUMS}; expected it as it was written "
                f"(if you changed it yourself, delete {_SUMS})"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(value) -> bytes:
    """Readable JSON; numpy numbers become plain ones, and NaN is refused."""
    plain = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=lambda number: number.item())
    return (plain + "\n").encode(errors="backslashreplace")  # half a surrogate pair, from a file's name, as JSON has it
