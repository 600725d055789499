"""MIMIC-III: invented tables of exactly the official form, with every trap of the real ones."""

import csv
import gzip
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.mimic3 import TOP_50, with_point, words

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
SPLITS = ("train", "validation", "test")
NOTES = ("ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION CGID ISERROR TEXT").split()  # noqa: SIM905
CODES = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "SEQ_NUM", "ICD9_CODE"]
SUMMARY = "Discharge summary"
TEXT = 'Admission Date:  [**2118-6-2**]\n\nHe said "no", took 250mg (500 ml).\nNaïve O\'Neil_x, follow-up.'
WORDS = "admission date he said no took 250mg ml naïve o neil_x follow up"

# Admission, category, description, text, in the order of the file: an addendum far from its summary and a summary that
# follows another admission's, a category that is none, a summary without admission.
EVENTS = [
    (100002, SUMMARY, "Report", TEXT),
    (100001, SUMMARY, "Report", "first of ONE"),
    ("", SUMMARY, "Report", "nobody's"),
    (100002, "Nursing", "Report", "not to be read"),
    (100003, SUMMARY, "Report", "three"),
    (100001, SUMMARY, "Addendum", "second, of one: 12 ²"),
    (100004, SUMMARY, "Report", "four"),
    (100005, SUMMARY, "Report", "five has no codes"),
    (100006, SUMMARY, "Report", "six is of no split"),
    ("", "Radiology", "CHEST", "not to be read"),
    (100007, SUMMARY, "Report", "seven"),
]
DIAGNOSES = [
    (100001, "4019"), (100001, "0117"), (100001, "E8790"), (100001, "4019"),
    (100002, "117"), (100002, "V5861"), (100002, "E000"), (100002, ""),
    (100003, "4280"), (100004, "486"), (100006, "25000"), (100007, "0389"), (100007, "99999"), (100009, "4019"),
]  # fmt: skip
PROCEDURES = [(100001, "0066"), (100001, "3893"), (100002, "66"), (100003, "9604"), (100007, "0331"), (100004, "331")]
FULL = {
    100001: ("00.66", "011.7", "38.93", "401.9", "E879.0"),
    100002: ("117", "66", "E000", "V58.61"),
    100003: ("428.0", "96.04"),
    100004: ("33.1", "486"),
    100007: ("03.31", "038.9", "999.99"),
}
SPLIT_IDS = {"train": (100002, 100001, 100005), "dev": (100003,), "test": (100007, 100008, 100004)}


def write_table(path, header, rows):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as file:
        file.write(",".join(f'"{name}"' for name in header) + "\n")
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        writer.writerows(rows)


def note_row(number, admission, category, description, text):
    return (number, 17, admission, "2118-06-14", "", "", category, description, "", "", text)


def write(root, ending=".csv", case=str.upper, events=EVENTS, diagnoses=DIAGNOSES, procedures=PROCEDURES):
    root.mkdir(exist_ok=True)
    write_table(
        root / f"NOTEEVENTS{ending}", [case(name) for name in NOTES], [note_row(i, *e) for i, e in enumerate(events, 1)]
    )
    for name, codes in (("DIAGNOSES_ICD", diagnoses), ("PROCEDURES_ICD", procedures)):
        rows = [(i, 17, admission, i, code) for i, (admission, code) in enumerate(codes, 1)]
        write_table(root / f"{name}{ending}", [case(column) for column in CODES], rows)
    write_splits(root)


def write_splits(root):
    for part, members in SPLIT_IDS.items():
        for codes in ("full", "50"):
            (root / f"{part}_{codes}_hadm_ids.csv").write_text("".join(f"{member}\n" for member in members))


def rows(dataset):
    return {split: [(d.id, d.text, d.labels) for d in getattr(dataset, split)] for split in SPLITS}


@pytest.mark.parametrize(("ending", "case"), [(".csv", str.upper), (".csv.gz", str.upper), (".csv", str.lower)])
def test_full(tmp_path, ending, case):
    write(tmp_path, ending, case)
    dataset = load("mimic3-full", tmp_path)
    assert (dataset.name, dataset.task) == ("mimic3-full", "multi-label")
    # An admission comes when its last note was read; labels are those of training alone.
    assert rows(dataset) == {
        "train": [("100002", WORDS, FULL[100002]), ("100001", "first of one second of one", FULL[100001])],
        "validation": [("100003", "three", ())],
        "test": [("100004", "four", ()), ("100007", "seven", ())],
    }
    assert dataset.labels == tuple(sorted(FULL[100001] + FULL[100002]))
    for note in (
        "DIAGNOSES_ICD.csv" + ".gz" * (ending == ".csv.gz") + ": 1 rows without ICD9_CODE were left out",
        "NOTEEVENTS: 1 discharge summaries without HADM_ID were left out",
        "train: left out 1 of 3 admissions that have none of the codes, as in CAML",
        "test: left out 1 of 3 admissions that have no discharge summary",
        "train: 2 documents, the release has 47,723",
        "test: 5 labels, 5 different ones, are not among the 9 of this task and were dropped, from 2 documents",
        "test: 2 of 2 documents have no label",
        "labels are the training documents' codes; published scores count other codes of the test as missed",
    ):
        assert note in dataset.notes
    assert "codes read as strings (not CAML's integers)" in dataset.description
    assert rows(pickle.loads(pickle.dumps(dataset))) == rows(dataset)


def test_fifty(tmp_path):
    write(tmp_path)
    dataset = load("mimic3-50", tmp_path)
    assert len(TOP_50) == len(set(TOP_50)) == 50
    assert dataset.labels == tuple(sorted(TOP_50))
    assert {id: labels for documents in rows(dataset).values() for id, _, labels in documents} == {
        "100001": ("38.93", "401.9"),
        "100002": ("V58.61",),
        "100003": ("428.0", "96.04"),
        "100004": ("486",),
        "100007": ("038.9",),
    }
    assert "train: 2 documents, the release has 8,066" in dataset.notes
    compat = load("mimic3-50", tmp_path, caml_compat=True)
    assert rows(compat) == rows(dataset)  # none of the fifty is touched by the lost zeros


def test_caml_compat(tmp_path):
    write(tmp_path)
    correct, compat = load("mimic3-full", tmp_path), load("mimic3-full", tmp_path, caml_compat=True)
    assert {d.id: d.labels for d in compat.train} == {
        "100001": ("011.7", "38.93", "401.9", "66.", "E879.0"),
        "100002": ("117", "66.", "E000", "V58.61"),
    }
    assert len(compat.labels) == len(correct.labels) - 1  # 0066 and 66 became one
    assert compat.fingerprint != correct.fingerprint
    assert "caml_compat" in compat.description
    assert any(note.startswith("caml_compat: ") for note in compat.notes)


def test_points():
    for code, point in {
        "4019": "401.9", "25000": "250.00", "486": "486", "0389": "038.9", "0117": "011.7", "117": "117",
        "V5861": "V58.61", "V10": "V10", "E8790": "E879.0", "E000": "E000",
    }.items():  # fmt: skip
        assert with_point(code, True) == with_point(code, True, caml_compat=True) == point
    for code, point, compat in (
        ("3893", "38.93", "38.93"),
        ("0066", "00.66", "66."),
        ("0331", "03.31", "33.1"),
        ("331", "33.1", "33.1"),
        ("66", "66", "66."),
    ):
        assert (with_point(code, False), with_point(code, False, caml_compat=True)) == (point, compat)


def test_words():
    assert words(TEXT) == WORDS
    assert words("½ ٣ 3.5 x1 _ 12_3") == "x1 _ 12_3"


def test_zeros_that_were_lost_before(tmp_path):
    write(tmp_path, procedures=[(100001, "66"), (100003, "9604")])
    notes = load("mimic3-full", tmp_path).notes
    assert [note.split(":")[0] for note in notes if "no code begins with 0" in note] == ["PROCEDURES_ICD.csv"]


def test_splits_elsewhere_and_the_folder_above(tmp_path):
    write(tmp_path / "mimic3")
    expected = rows(load("mimic3-50", tmp_path / "mimic3"))
    (tmp_path / "ids").mkdir()
    for file in (tmp_path / "mimic3").glob("*_hadm_ids.csv"):
        file.rename(tmp_path / "ids" / file.name)
    assert rows(load("mimic3-50", tmp_path, splits=tmp_path / "ids")) == expected


@pytest.mark.slow
def test_notes_stay_on_disk(tmp_path):
    long = "word " * 20_000
    events = [(100001 + i % 3, "Radiology", "CHEST", long) for i in range(100)]
    events += [(200000 + i, SUMMARY, "Report", long) for i in range(100)]
    write(tmp_path, events=EVENTS + events)
    for part, members in SPLIT_IDS.items():
        if part == "train":
            ids = [*members, *range(200000, 200100)]
            (tmp_path / "train_full_hadm_ids.csv").write_text("".join(f"{id}\n" for id in ids))
    labelled = [(1, 1, admission, 1, "0389") for admission in [*range(200000, 200100), 100003, 100004]]
    write_table(tmp_path / "DIAGNOSES_ICD.csv", CODES, labelled)
    load("mimic3-full", tmp_path)
    tracemalloc.start()
    try:
        dataset = load("mimic3-full", tmp_path)
        assert sum(len(document.text) for document in dataset.train) > 9e6
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="mimic3-50 has no option 'codes'; it has: root, caml_compat, splits"):
        load("mimic3-50", tmp_path, codes="full")


PRIVATE = "patient text that no message may show"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "PROCEDURES_ICD.csv").unlink(),
            "PROCEDURES_ICD.csv: missing, expected all of NOTEEVENTS.csv DIAGNOSES_ICD.csv PROCEDURES_ICD.csv",
        ),
        (
            lambda root: (root / "dev_full_hadm_ids.csv").unlink(),
            "dev_full_hadm_ids.csv: missing, expected CAML's list of admission ids; get it from the folder mimicdata",
        ),
        (lambda root: (root / "dev_full_hadm_ids.csv").write_text(""), "dev_full_hadm_ids.csv: the file is empty"),
        (
            lambda root: (root / "dev_full_hadm_ids.csv").write_text("HADM_ID\n100003\n"),
            "dev_full_hadm_ids.csv line 1: HADM_ID is not made of digits alone, expected an integer",
        ),
        (
            lambda root: (root / "dev_full_hadm_ids.csv").write_text("100003\n100001\n"),
            "dev_full_hadm_ids.csv line 2: admission 100001 is also at ",
        ),
        (
            lambda root: write(root, procedures=[(100001, "9604.0")]),
            "PROCEDURES_ICD.csv row 2: ICD9_CODE is '9604.0', expected the code of a procedure (3893, 0066) without",
        ),
        (
            lambda root: write(root, diagnoses=[(100001, "4019"), (100001, "I10")]),
            "DIAGNOSES_ICD.csv row 3: ICD9_CODE is 'I10', expected the code of a diagnosis (4019, V5861, E8790)",
        ),
        (
            lambda root: write(root, diagnoses=[("", "4019")]),
            "DIAGNOSES_ICD.csv row 2: HADM_ID is not made of digits alone, expected an integer",
        ),
        (
            lambda root: write(root, events=[*EVENTS, (PRIVATE, SUMMARY, "Report", "a")]),
            "NOTEEVENTS.csv row 13 (line 16): HADM_ID is not made of digits alone, expected an integer",
        ),
        (lambda root: write(root, events=[]), "NOTEEVENTS.csv: a header and no rows"),  # as the public demo
        (
            lambda root: write(root, events=EVENTS[:4]),
            "NOTEEVENTS.csv: no discharge summary of an admission for validation",
        ),
        (
            lambda root: write(root, events=[*EVENTS[:4], (100003, SUMMARY, "Report", "12 34"), *EVENTS[5:]]),
            "NOTEEVENTS.csv: admission 100003 has no words, expected a summary",
        ),
        (
            lambda root: (root / "NOTEEVENTS.csv").write_text(
                (root / "NOTEEVENTS.csv").read_text() + f'12,17,100001,,,,"Discharge summary",Report,,,"{PRIVATE}'
            ),
            "NOTEEVENTS.csv row 13 (line 16): broken row (a quoted cell that is never closed)",
        ),
        (
            lambda root: (root / "NOTEEVENTS.csv").write_text(
                (root / "NOTEEVENTS.csv").read_text() + f'12,17,100001,"{PRIVATE}"\n'
            ),
            "NOTEEVENTS.csv row 13 (line 16): the row has 4 cells, expected 11 as in the header",
        ),
        (
            lambda root: (root / "NOTEEVENTS.csv").write_text(
                (root / "NOTEEVENTS.csv").read_text().replace("CATEGORY", "KIND", 1)
            ),
            "NOTEEVENTS.csv: no column CATEGORY, expected it in the header: ['ROW_ID', ",
        ),
    ],
)
def test_bad_files(tmp_path, spoil, message):
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        load("mimic3-full", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)
    assert "patient" not in str(caught.value)


def test_a_cut_off_gzip_and_a_file_that_changes(tmp_path):
    write(tmp_path, ".csv.gz")
    dataset = load("mimic3-full", tmp_path)
    path = tmp_path / "NOTEEVENTS.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="changed since it was first read"):
        list(dataset.train)
    with pytest.raises(DataError, match=r"NOTEEVENTS.csv.gz: damaged or cut off gzip after line"):
        load("mimic3-full", tmp_path)


def test_where_to_get_it_and_the_script(tmp_path):
    for root, found in (
        (None, "mimic3-50: no root"),
        (tmp_path, "no NOTEEVENTS.csv in it"),
        (tmp_path / "no", "no such"),
    ):
        with pytest.raises(DataError, match=f"{found}.*expected the folder that holds .*physionet.org") as caught:
            load("mimic3-50", root)
        assert "\n" not in str(caught.value)
    write(tmp_path)

    def run(*options):
        command = [sys.executable, DOOR, "mimic3", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = run("--root", tmp_path, "--codes", "full", "--caml-compat")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mimic3-full: multi-label, 8 labels, fingerprint ")
    assert re.search(r"^train +2 +19 ", done.stdout, re.MULTILINE)
    done = run("--root", tmp_path / "nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
