"""Which of one's own documents are for training, for validation and for the test, where no files say so.

A seed draws them: by the texts alone, with each label's share, or as one fold of a cross-validation. What an earlier
split has had keeps its part, so that nothing is tested on that a model was trained on before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.exit_codes import one_line
from flash_sparse_datasets.shared.row_groups import RowGroups
from flash_sparse_datasets.shared.seeded_split import TEST, TRAIN, VALIDATION, seeded_split
from flash_sparse_datasets.shared.stratified_split import fold_split, stratified_split

SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


class EarlierSplit:
    """The parts of another run, whose weights training begins with.

    Args:
        path: RUN/split.npz.

    Attributes:
        run: the folder that it is in.
        texts: split -> (texts,) S16, as `DocumentTable.texts` has them.

    Raises:
        DataError: the file is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.run = Path(path).parent
        try:
            with np.load(path, allow_pickle=False) as file:
                self.texts = {split: np.asarray(file[split], "S16") for split in SPLITS}
        except MemoryError:  # of this machine: the file may be whole
            raise
        except Exception as error:  # damaged archives raise many kinds
            raise DataError(
                f"{path}: no split of a run ({one_line(error)}), expected what that run wrote there"
            ) from None

    def parts(self, texts: np.ndarray) -> np.ndarray:
        """(rows,) int: the part that each of these texts has had, training before others; -1 for new ones."""
        parts = np.full(len(texts), -1)
        for split in ("test", "validation", "train"):
            parts[np.isin(texts, self.texts[split])] = SPLITS[split]
        return parts

    def note_trained_on(self, split: str, texts: np.ndarray) -> list[str]:
        """What to say of texts that files of their own give to a split, and that were trained on."""
        count = int((self.parts(texts) == TRAIN).sum())
        if not count:
            return []
        return [f"{split}: {count} of {len(texts)} documents were in the training of {self.run}: scores flatter there"]


@dataclass(frozen=True)
class Draw:
    """How splits are drawn.

    Attributes:
        shares: VALIDATION and TEST -> share of the rows; 0 for one that has files of its own.
        folds, fold: of a cross-validation, and which of them (from 1 on) is the test; None without.
        earlier: whose texts keep their parts.
    """

    shares: Mapping[int, float]
    folds: int | None = None
    fold: int | None = None
    earlier: EarlierSplit | None = None


class Drawn(NamedTuple):
    """(rows,) uint8 of `SPLITS`; what the seed did, in words; and what else to say."""

    split: np.ndarray
    words: str
    notes: tuple[str, ...] = ()


def draw_splits(groups: RowGroups, draw: Draw) -> Drawn:
    """Deal out rows; single-label ones by their labels too, where `groups` knows these and each has enough texts."""
    if draw.folds is not None and draw.fold is not None:
        return _folded(groups, draw.folds, draw.fold, draw.shares[VALIDATION])
    words = f"drew {' and '.join(name for name, part in SPLITS.items() if draw.shares.get(part))}"
    split = None if groups.classes is None else stratified_split(groups, draw.shares)
    if split is not None:
        words += ", each with every label's share"
    else:
        split = seeded_split(groups.keys, groups.offsets, groups.label_ids, draw.shares[VALIDATION], draw.shares[TEST])
    drawn = Drawn(split, words)
    return drawn if draw.earlier is None else _as_before(groups, drawn, draw.shares, draw.earlier)


def _folded(groups: RowGroups, folds: int, fold: int, validation_share: float) -> Drawn:
    split, untested = fold_split(groups, folds, fold, validation_share)
    notes: tuple[str, ...] = ()
    if untested:
        notes = (
            f"fold {fold} of {folds}: {untested} documents are trained on, not tested, since no others have their "
            "labels",
        )
    return Drawn(split, f"cut {folds} folds, of which number {fold} is the test", notes)


def _as_before(groups: RowGroups, drawn: Drawn, shares: Mapping[int, float], earlier: EarlierSplit) -> Drawn:
    """The same, but texts of an earlier split in the part that they had there."""
    parts = earlier.parts(groups.texts)  # (rows,)
    drawn_parts = [TRAIN, *(part for part, share in shares.items() if share)]
    kept = np.isin(parts, drawn_parts)  # (rows,)
    split = np.where(kept, parts, drawn.split).astype(np.uint8)
    split = groups.split_of_rows(split[groups.first_rows])
    moved = kept & (split != drawn.split)
    if not moved.any():
        return drawn._replace(split=split)
    counts = ", ".join(f"{(split[moved] == SPLITS[name]).sum()} in {name}" for name in SPLITS)
    note = (
        f"{int(moved.sum())} documents stay in the part that they had in {earlier.run}, from which the seed would have "
        f"moved them: {counts}"
    )
    return Drawn(split, drawn.words, (*drawn.notes, note))
