"""Word and Excel files are zip archives: checked before a library unpacks them."""

import io
import zipfile
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError

MOST_UNPACKED = 2**29  # bytes: more than any office document has, less than what ends a machine
ENCRYPTED_OFFICE = b"\xd0\xcf\x11\xe0"  # how a compound file begins: old formats, and new ones behind a password


def checked_zip(path: Path, what: str, content: bytes | None = None):
    """Raise DataError for a file that is no zip archive, or that unpacks to more than half a gibibyte.

    Args:
        content: of a file that is not on disk.
    """
    try:
        with open(path, "rb") if content is None else io.BytesIO(content) as file:
            if file.read(4) == ENCRYPTED_OFFICE:
                raise DataError(f"{path}: has a password or is of an older format, expected {what} without password")
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged, or not {what} ({error})") from None
    if unpacked > MOST_UNPACKED:
        raise DataError(
            f"{path}: unpacks to {unpacked / 2**20:,.0f} MiB, expected {what} of at most {MOST_UNPACKED >> 20} MiB"
        )
