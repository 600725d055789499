"""Discharge summaries of MIMIC-III with the ICD-9 codes of the stay: the task of CAML. (Mullenbach et al., NAACL 2018)

The official tables of version 1.4 are read, gzip or not: NOTEEVENTS.csv, DIAGNOSES_ICD.csv and PROCEDURES_ICD.csv, from
https://physionet.org/content/mimiciii/1.4 for those who have signed its data use agreement; and CAML's splits, which
are lists of admission ids (train_full_hadm_ids.csv, dev_..., test_..., and the same with 50), from the folder
mimicdata/mimic3 of https://github.com/jamesmullenbach/caml-mimic.

- A document is an admission: its discharge summaries and their addenda in the order of the file, in lower case, words
  of letters, digits and underscores alone, words of digits alone left out. (CAML then cuts after 2,500 words; this
  does not.)
- Its labels are the codes of diagnoses and procedures with their decimal point, which the tables lack: after three
  characters of a diagnosis (four if it begins with E), after two of a procedure. Codes are strings: 0117 is not 117.
- CAML's published data came from reading the procedures' codes as integers, which loses leading zeros and merges codes;
  `caml_compat` does so too. Results from the two are not comparable.
- mimic3-50 has the fifty codes that CAML published and drew its splits with; a count of codes read as strings gives
  another fifty.

NOTEEVENTS is streamed: of its 4 GB no more is in memory than the admissions whose addenda are still to come. Messages
never show a note's text.

    python datasets/prepare.py mimic3 --root data/mimic3 --codes 50  # checks the files, prints statistics
"""

import os
import re
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from flash_sparse_datasets.shared.documents import DataError, Dataset, Document
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.published_set import published_set
from flash_sparse_datasets.shared.row_files import RowFile, open_rows
from flash_sparse_datasets.shared.statistics_table import print_statistics
from flash_sparse_datasets.shared.text_files import file_stamp, open_text, reading, shortened

TOP_50 = (  # noqa: SIM905 (a list of strings would be fifty lines)
    "401.9 38.93 428.0 427.31 414.01 96.04 96.6 584.9 250.00 96.71 272.4 518.81 99.04 39.61 599.0 530.81 96.72 272.0 "
    "285.9 88.56 244.9 486 38.91 285.1 36.15 276.2 496 99.15 995.92 V58.61 507.0 038.9 88.72 585.9 403.90 311 305.1 "
    "37.22 412 33.24 39.95 287.5 410.71 276.1 V45.81 424.0 45.13 V15.82 511.9 37.23"
).split()
SIZES = {
    "full": {"train": 47_723, "validation": 1_631, "test": 3_372},
    "50": {"train": 8_066, "validation": 1_573, "test": 1_729},
}
PARTS = {"train": "train", "validation": "dev", "test": "test"}  # as CAML's files are named
TABLES = ("NOTEEVENTS", "DIAGNOSES_ICD", "PROCEDURES_ICD")
PLACES = ("", "mimic-iii-clinical-database-1.4", "mimic3", "mimiciii/1.4")
SOURCE = "https://physionet.org/content/mimiciii/1.4 (after signing its data use agreement)"
SPLIT_SOURCE = "the folder mimicdata/mimic3 of https://github.com/jamesmullenbach/caml-mimic"
CATEGORY = "Discharge summary"
WORD = re.compile(r"\w+")
DIAGNOSIS = re.compile(r"[EV]?[0-9]{2,5}")
PROCEDURE = re.compile(r"[0-9]{2,4}")


def load(
    root: str | os.PathLike | None = None,
    codes: str = "50",
    caml_compat: bool = False,
    splits: str | os.PathLike | None = None,
) -> Dataset:
    """Prepare the dataset.

    Args:
        root: The folder of the official tables.
        codes: "50" for CAML's fifty codes, "full" for all that the training documents have.
        caml_compat: Read procedures' codes as integers, as CAML's published data did.
        splits: The folder of the lists of admission ids; None is the root.

    Raises:
        DataError: for files that are missing or cannot be used; one line that names the file and the row.
        ValueError: for an argument's value.
    """
    codes = str(codes)  # YAML makes a number of it
    if codes not in SIZES:
        raise ValueError(f"codes is {codes!r}, expected '50' or 'full'")
    name = f"mimic3-{codes}"
    tables = _tables(name, root)
    admissions = _splits(Path(cast(str, root) if splits is None else splits).expanduser(), codes)
    notes = []

    labels: dict[int, set[str]] = {}
    for table, pattern, is_diagnosis in (("DIAGNOSES_ICD", DIAGNOSIS, True), ("PROCEDURES_ICD", PROCEDURE, False)):
        notes += _read_codes(tables[table], pattern, is_diagnosis, caml_compat, labels)
    if codes == "50":
        labels = {admission: found.intersection(TOP_50) for admission, found in labels.items()}

    counts, without_admission = _count_summaries(tables["NOTEEVENTS"])
    if without_admission:
        notes.append(f"NOTEEVENTS: {without_admission:,} discharge summaries without HADM_ID were left out")
    readers = {}
    for split, members in admissions.items():
        written = [admission for admission in members if admission in counts]
        usable = {admission: tuple(sorted(labels[admission])) for admission in written if labels.get(admission)}
        for many, why in (
            (len(members) - len(written), "that have no discharge summary"),
            (len(written) - len(usable), "that have none of the codes, as in CAML"),
        ):
            if many:
                notes.append(f"{split}: left out {many:,} of {len(members):,} admissions {why}")
        if not usable:
            raise DataError(f"{tables['NOTEEVENTS'].path}: no discharge summary of an admission for {split}")
        readers[split] = _Admissions(
            tables["NOTEEVENTS"], usable, {admission: counts[admission] for admission in usable}
        )

    how = "read as integers, as CAML did (caml_compat)" if caml_compat else "read as strings (not CAML's integers)"
    if caml_compat:
        notes.append("caml_compat: procedures' codes have lost leading zeros, and different ones became the same")
    if codes == "full":
        notes.append(
            "labels are the training documents' codes; published scores count other codes of the test as missed"
        )
    return published_set(
        name,
        "multi-label",
        readers,
        f"Discharge summaries of MIMIC-III with ICD-9 codes, preprocessed and split as CAML did, codes {how}, "
        + ("its fifty codes:" if codes == "50" else "all codes of the training documents:"),
        labels=TOP_50 if codes == "50" else None,
        sizes=SIZES[codes],
        notes=notes,
    )


def words(text: str) -> str:
    """CAML's preprocessing of a note."""
    return " ".join(word for word in WORD.findall(text.lower()) if not word.isnumeric())


def with_point(code: str, is_diagnosis: bool, caml_compat: bool = False) -> str:
    """A code of the tables, such as 4019, as it is written elsewhere: 401.9."""
    if caml_compat and not is_diagnosis:
        code = str(int(code))
        return f"{code[:2]}.{code[2:]}"  # 66. of 0066, as CAML has it
    before = (4 if code.startswith("E") else 3) if is_diagnosis else 2
    return code if len(code) <= before else f"{code[:before]}.{code[before:]}"


class _Table:
    """An official table, whose columns may be named in capitals (MIMIC-III) or not (its demo)."""

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self.path = path
        file = open_rows(path)
        self._names = {name.upper(): name for name in file.fields}
        self._stamp = file.stamp
        for column in columns:
            if column not in self._names:
                raise DataError(f"{path}: no column {column}, expected it in the header: {shortened(file.fields)}")
        self._columns = columns

    def rows(self) -> Iterator[tuple[RowFile, int, list[str]]]:
        """Yield file and number, for messages, and the columns' values."""
        if file_stamp(self.path) != self._stamp:
            raise DataError(f"{self.path}: changed since it was first read")
        file = open_rows(self.path)
        names = [self._names[column] for column in self._columns]
        for _, number, row in file.rows(names):
            yield file, number, [row[name] for name in names]


def _tables(name: str, root: str | os.PathLike | None) -> dict[str, _Table]:
    files = " ".join(f"{table}.csv" for table in TABLES)
    if root is None:
        raise DataError(f"{name}: no root, expected the folder that holds {files} (or .csv.gz); get them from {SOURCE}")
    root = Path(root).expanduser()
    columns = {"NOTEEVENTS": ("HADM_ID", "CATEGORY", "TEXT")}
    folders = [root / place for place in PLACES]
    endings = (".csv", ".csv.gz")
    folder = next((f for f in folders if any((f / f"{t}{e}").exists() for t in TABLES for e in endings)), None)
    if folder is None:
        found = f"{root}: no NOTEEVENTS.csv in it" if root.is_dir() else f"{root}: no such folder"
        raise DataError(f"{found}, expected the folder that holds {files} (or .csv.gz); get them from {SOURCE}")
    tables = {}
    for table in TABLES:
        path = next((folder / f"{table}{ending}" for ending in endings if (folder / f"{table}{ending}").exists()), None)
        if path is None:
            missing = folder / f"{table}.csv"
            raise DataError(f"{missing}: missing, expected all of {files} (or .csv.gz); get them from {SOURCE}")
        tables[table] = _Table(path, columns.get(table, ("HADM_ID", "ICD9_CODE")))
    return tables


def _splits(folder: Path, codes: str) -> dict[str, list[int]]:
    """The admission ids of each split."""
    splits: dict[str, list[int]] = {}
    seen: dict[int, str] = {}
    for split, part in PARTS.items():
        path = folder / f"{part}_{codes}_hadm_ids.csv"
        if not path.exists():
            raise DataError(f"{path}: missing, expected CAML's list of admission ids; get it from {SPLIT_SOURCE}")
        file_stamp(path)  # raises for an empty file or a folder
        splits[split] = []
        with reading(path), open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                place = f"{path} line {number}"
                admission = _admission(line.strip(), place)
                if admission in seen:
                    raise DataError(f"{place}: admission {admission} is also at {seen[admission]}, expected it once")
                seen[admission] = place
                splits[split].append(admission)
    return splits


def _admission(cell: str, place: str) -> int:
    if not (cell.isascii() and cell.isdigit()):
        # Not shown: in a row that is broken it may be any text.
        raise DataError(f"{place}: HADM_ID is not made of digits alone, expected an integer")
    return int(cell)


def _read_codes(
    table: _Table, pattern: re.Pattern, is_diagnosis: bool, caml_compat: bool, labels: dict[int, set[str]]
) -> list[str]:
    """Add the table's codes to the labels of each admission; returns notes."""
    empty, leading_zero = 0, False
    for file, number, (admission, code) in table.rows():
        code = code.strip()
        if not code:
            empty += 1
            continue
        if not pattern.fullmatch(code):
            kind = "diagnosis (4019, V5861, E8790)" if is_diagnosis else "procedure (3893, 0066)"
            raise DataError(
                f"{file.place(number)}: ICD9_CODE is {shortened(code)}, expected the code of a {kind} without point"
            )
        leading_zero = leading_zero or code.startswith("0")
        point = with_point(code, is_diagnosis, caml_compat)
        labels.setdefault(_admission(admission, file.place(number)), set()).add(point)
    notes = []
    if empty:
        notes.append(f"{table.path.name}: {empty:,} rows without ICD9_CODE were left out")
    if not leading_zero:
        notes.append(
            f"{table.path.name}: no code begins with 0; has the file been saved again with its codes as numbers? The "
            "official one has such codes"
        )
    return notes


def _summaries(table: _Table) -> Iterator[tuple[int | None, str]]:
    """Admission, None if there is none, and text of each discharge summary and addendum."""
    for file, number, (admission, category, text) in table.rows():
        if category == CATEGORY:
            yield (_admission(admission, file.place(number)) if admission.strip() else None), text


def _count_summaries(table: _Table) -> tuple[Counter[int], int]:
    """How many summaries and addenda each admission has, and how many have no admission."""
    counts: Counter[int] = Counter()
    without = 0
    for admission, _ in Progress(_summaries(table), f"counting in {table.path.name}"):
        if admission is None:
            without += 1
        else:
            counts[admission] += 1
    return counts, without


class _Admissions:
    """Reads the admissions that `labels` has, each as soon as its last note was read."""

    def __init__(self, table: _Table, labels: dict[int, tuple[str, ...]], counts: dict[int, int]):
        self._table, self._labels, self._counts = table, labels, counts

    def __call__(self) -> Iterator[Document]:
        pending: dict[int, list[str]] = {}
        left = len(self._labels)
        for admission, text in _summaries(self._table):
            if admission not in self._labels:
                continue
            notes = pending.setdefault(admission, [])
            notes.append(words(text))
            if len(notes) == self._counts[admission]:
                document = " ".join(filter(None, pending.pop(admission)))
                if not document:
                    raise DataError(f"{self._table.path}: admission {admission} has no words, expected a summary")
                yield Document(str(admission), document, self._labels[admission])
                left -= 1
                if not left:
                    return


def prepare(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Check the files and print their statistics; the exit code."""
    parser.add_argument("--root", help="the folder of the official tables")
    parser.add_argument(
        "--codes", default="50", choices=tuple(SIZES), help="all codes, or the fifty that CAML published (the default)"
    )
    parser.add_argument("--caml-compat", action="store_true", help="read procedures' codes as integers, as CAML did")
    parser.add_argument("--splits", help="the folder of the lists of admission ids (default: the root)")
    return print_statistics(partial(load, **vars(parser.parse_args(arguments))))
