"""Finding the files of a published release below the folder that the user names."""

import os
from collections.abc import Sequence
from pathlib import Path

from flash_sparse_datasets.shared.documents import DataError

LRA_RELEASE = (
    "lra_release.gz of Long Range Arena (a tar.gz; Google's address answers 403, a mirror is "
    "https://huggingface.co/datasets/OpenNLPLab/lra)"
)


def official_folder(
    name: str, root: str | os.PathLike | None, places: Sequence[str], files: Sequence[str], source: str
) -> Path:
    """The first of `places` below root, then root itself, that holds any of the files.

    Args:
        name: The dataset's name.
        root: The folder that the user names.
        places: Folders below root, with "/".
        files: What has to be in the folder: names of files or folders.
        source: Where to get the release, for the message.

    Raises:
        DataError: if there is no root, no such folder, or if one of the files is missing in it.
    """
    if root is None:
        raise DataError(f"{name}: no root, expected the folder that holds {places[0]}; get it from {source}")
    root = Path(root).expanduser()
    folder = next(
        (root / place for place in (*places, "") if any((root / place / file).exists() for file in files)), None
    )
    if folder is None:
        found = f"{root}: no {files[0]} in it" if root.is_dir() else f"{root}: no such folder"
        raise DataError(f"{found}, expected the folder {places[0]} or the one above it; get it from {source}")
    for file in files:
        if not (folder / file).exists():
            raise DataError(f"{folder / file}: missing, expected all of {' '.join(files)}; get them from {source}")
    return folder
