"""ECtHR: small files of exactly the form of each release, both tasks, both conventions, and what can be wrong."""

import gzip
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flash_sparse_datasets import DataError, load

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
SPLITS = ("train", "validation", "test")
HUB_ORDER = ["2", "3", "5", "6", "8", "9", "10", "11", "14", "P1-1"]

# Alleged and violated articles; 13, 38 and P4-2 are none of the ten.
CASES = [
    (["3", "13"], ["3"]),
    (["6"], []),
    (["13", "P4-2"], ["13"]),
    (["P1-1", "6", "10"], ["P1-1", "6"]),
    (["2", "38"], ["38"]),
]
ALLEGED = [("3",), ("6",), (), ("10", "6", "P1-1"), ("2",)]
VIOLATED = [("3",), (), (), ("6", "P1-1"), ()]


def facts(part, i):
    return [
        f"{5 + i}.  The applicant was born in 19{50 + i} ({part}).",
        '6.  She said "no".\u2028',
        f"{7 + i}.  É {part}",
    ]


def text(part, i):
    return "\n\n".join(facts(part, i))


def case_2021(part, i):
    alleged, violated = CASES[i]
    return {
        "case_id": f"001-{i}",
        "facts": facts(part, i),
        "allegedly_violated_articles": alleged,
        "violated_articles": violated,
        "silver_rationales": [1],
        "gold_rationales": [],
    }


def write_2021(root):
    for part in ("train", "dev", "test"):
        lines = [json.dumps(case_2021(part, i)) + "\n" for i in range(len(CASES))]
        (root / f"{part}.jsonl").write_text("".join(lines))


def write_lexglue(root, name="ecthr.jsonl"):
    # The parts are not in order in the file, as nothing says that they are.
    rows = [{**case_2021(part, i), "data_type": part} for i in range(len(CASES)) for part in ("test", "train", "dev")]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    with (gzip.open if name.endswith(".gz") else open)(root / name, "wt", encoding="utf-8") as file:
        file.write(content)


def hub_rows(part, labels):
    return [
        {"text": facts(part, i), "labels": [HUB_ORDER.index(label) for label in labels[i]]} for i in range(len(CASES))
    ]


def write_hub(root, form="parquet"):
    for folder, labels in (("ecthr_a", VIOLATED), ("ecthr_b", ALLEGED)):
        (root / folder).mkdir()
        for name, part in (("train", "train"), ("validation", "dev"), ("test", "test")):
            rows = hub_rows(part, labels)
            if form == "parquet":
                schema = pa.schema([("text", pa.list_(pa.string())), ("labels", pa.list_(pa.int64()))])
                pq.write_table(
                    pa.Table.from_pylist(rows, schema=schema), root / folder / f"{name}-00000-of-00001.parquet"
                )
            else:
                (root / folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def split_2019(articles):
    """Articles and paragraphs as the release of 2019 has them: of a protocol's article the protocol, P1, here, and the
    article, P1-1, there."""
    protocols = [article for article in articles if article.startswith("P")]
    return [article.split("-")[0] for article in articles], protocols + [f"{a}-1" for a in articles if a == "6"]


def write_2019(root, ending=""):
    for part in ("train", "dev", "test"):
        folder = root / f"EN_{part}{ending}"
        folder.mkdir(parents=True)
        for i, (alleged, violated) in enumerate(CASES):
            articles, paragraphs = split_2019(violated)
            others, other_paragraphs = split_2019([article for article in alleged if article not in violated])
            case = {
                "ITEMID": f"001-{57412 + i}",
                "LANGUAGEISOCODE": "ENG",
                "RESPONDENT": "GBR",
                "BRANCH": "CHAMBER",
                "DATE": "1988-01-01",
                "DOCNAME": "CASE OF SOMEBODY v. A STATE",
                "IMPORTANCE": "2",
                "CONCLUSION": "Violation",
                "JUDGES": "A; B",
                "TEXT": facts(part + ending, i),
                "VIOLATED_ARTICLES": articles,
                "VIOLATED_PARAGRAPHS": paragraphs,
                "VIOLATED_BULLETPOINTS": [],
                "NON_VIOLATED_ARTICLES": others,
                "NON_VIOLATED_PARAGRAPHS": other_paragraphs,
                "NON_VIOLATED_BULLETPOINTS": [],
            }
            (folder / f"001-{57412 + i}.json").write_text(json.dumps(case, indent=1))
        (folder / "._001-57412.json").write_bytes(b"\x00\x05\x16\x07 of some archivers")


WRITERS = {"2019": write_2019, "2021": write_2021, "lexglue": write_lexglue, "hub": write_hub}


def rows(dataset):
    return {split: [(d.id, d.text, d.labels) for d in getattr(dataset, split)] for split in SPLITS}


@pytest.mark.parametrize("task", ["a", "b"])
@pytest.mark.parametrize("release", list(WRITERS))
def test_every_release(tmp_path, release, task):
    WRITERS[release](tmp_path)
    dataset = load(f"ecthr-{task}", tmp_path)
    assert (dataset.name, dataset.task) == (f"ecthr-{task}", "multi-label")
    assert dataset.labels == tuple(sorted(HUB_ORDER))
    expected = VIOLATED if task == "a" else ALLEGED
    for part, documents in zip(("train", "dev", "test"), rows(dataset).values(), strict=True):
        assert [(t, labels) for _, t, labels in documents] == [(text(part, i), expected[i]) for i in range(len(CASES))]
    assert dataset.train.__len__() == len(CASES)
    assert f"task {task.upper()}, release {release}" in dataset.description
    assert "metric convention 10: " in dataset.description
    assert any("convention 10:" in note for note in dataset.notes)
    empty = sum(not labels for labels in expected)
    assert f"test: {empty} of 5 documents have no label" in dataset.notes
    assert f"train: 5 documents, the release has {'7,100' if release == '2019' else '9,000'}" in dataset.notes
    unused = "7 of the 10 labels: 10, 11, 14, 2, 5, ..." if task == "a" else "5 of the 10 labels: 11, 14, 5, 8, 9"
    assert f"no document of any part has {unused}" in dataset.notes
    if release != "hub":  # which no longer has them
        dropped = "2 labels, 2 different ones" if task == "a" else "4 labels, 3 different ones"
        assert any(note.startswith(f"train: {dropped}, are not among the 10") for note in dataset.notes)
    assert ("task b: the release of 2019 has no allegations" in "".join(dataset.notes)) == (
        (release, task) == ("2019", "b")
    )
    assert rows(pickle.loads(pickle.dumps(dataset))) == rows(dataset)


def test_a_protocol_of_2019_without_its_article_is_dropped_and_counted(tmp_path):
    write_2019(tmp_path)
    path = tmp_path / "EN_train" / "001-57415.json"
    change(path, '"P1-1"', '"P7-1"')  # of another protocol
    dataset = load("ecthr-a", tmp_path)
    assert [d.labels for d in dataset.train][3] == ("6",)
    assert [d.labels for d in dataset.test][3] == ("6", "P1-1")
    assert any(note.startswith("train: 3 labels, 3 different ones, are not among the 10") for note in dataset.notes)


def test_ids(tmp_path):
    write_2019(tmp_path)
    assert [d.id for d in load("ecthr-a", tmp_path).test] == [f"001-{57412 + i}" for i in range(5)]
    write_lexglue(tmp_path)
    assert [d.id for d in load("ecthr-a", tmp_path, release="lexglue").test] == [
        f"ecthr.jsonl:{3 * i + 1}" for i in range(5)
    ]


@pytest.mark.parametrize("release", list(WRITERS))
def test_ten_plus_one(tmp_path, release):
    WRITERS[release](tmp_path)
    ten, more = load("ecthr-a", tmp_path), load("ecthr-a", tmp_path, convention="10+1")
    assert (ten.none_label, more.none_label) == (None, "none")
    assert more.labels == ten.labels == tuple(sorted(HUB_ORDER))
    assert [d.labels for d in more.test] == VIOLATED  # scoring counts the eleventh, nothing learns it
    assert more.fingerprint == ten.fingerprint
    assert "metric convention 10+1" in more.description
    assert any("convention 10+1" in note for note in more.notes)
    assert "test: 3 of 5 documents have no label" in more.notes
    assert load("ecthr-a", tmp_path, convention=10).description == ten.description  # as YAML reads it


@pytest.mark.parametrize(
    ("place", "write"), [("ECHR_Dataset", write_2019), ("dataset", write_2021), ("ecthr", write_lexglue)]
)
def test_the_folder_above(tmp_path, place, write):
    (tmp_path / place).mkdir()
    write(tmp_path / place)
    assert rows(load("ecthr-b", tmp_path)) == rows(load("ecthr-b", tmp_path / place))


def test_gzip_and_the_hub_as_jsonl(tmp_path):
    write_lexglue(tmp_path, "ecthr.jsonl.gz")
    assert [d.labels for d in load("ecthr-b", tmp_path).test] == ALLEGED
    (tmp_path / "hub").mkdir()
    write_hub(tmp_path / "hub", "jsonl")
    assert [d.labels for d in load("ecthr-b", tmp_path / "hub").test] == ALLEGED


def test_a_folder_of_the_hub_is_of_its_task_alone(tmp_path):
    """Nothing in the files says which task they are of."""
    write_hub(tmp_path)
    assert [d.labels for d in load("ecthr-a", tmp_path / "ecthr_a").test] == VIOLATED
    with pytest.raises(DataError, match=r"ecthr_a: no files of ECtHR in it \(task b\)"):
        load("ecthr-b", tmp_path / "ecthr_a")


def test_anonymised(tmp_path):
    write_2019(tmp_path)
    write_2019(tmp_path, "_Anon")
    assert "train_Anon" in next(iter(load("ecthr-a", tmp_path, anonymised=True).train)).text
    assert "_Anon" not in next(iter(load("ecthr-a", tmp_path).train)).text
    (tmp_path / "other").mkdir()
    write_2021(tmp_path / "other")
    with pytest.raises(ValueError, match=r"anonymised is for the release of 2019, but the files are of .* 2021"):
        load("ecthr-a", tmp_path / "other", anonymised=True)


def test_several_releases_in_one_folder(tmp_path):
    write_2021(tmp_path)
    write_hub(tmp_path)
    with pytest.raises(DataError, match="files of the releases 2021 and hub, expected release to say which"):
        load("ecthr-a", tmp_path)
    assert "release hub" in load("ecthr-a", tmp_path, release="hub").description
    assert "release 2021" in load("ecthr-a", tmp_path, release=2021).description  # as YAML reads it
    with pytest.raises(DataError, match=r"no files of the release 2019 in it, but of 2021 and hub .*archive.org"):
        load("ecthr-a", tmp_path, release="2019")


def test_texts_that_are_in_training_too(tmp_path):
    write_2021(tmp_path)
    (tmp_path / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text() + json.dumps(case_2021("train", 0)))
    assert "test: 1 of 6 documents have a text that is also in training" in load("ecthr-a", tmp_path).notes


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"convention": "11"}, "convention is '11', expected one of 10, 10+1"),
        ({"release": "2020"}, "release is '2020', expected one of auto, 2019, 2021, lexglue, hub"),
        ({"task": "b"}, "ecthr-a has no option 'task'; it has: root, convention, release, anonymised"),
    ],
)
def test_bad_arguments(tmp_path, argument, message):
    write_2021(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        load("ecthr-a", tmp_path, **argument)


def change(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("release", "spoil", "message"),
    [
        (
            "2021",
            lambda root: (root / "dev.jsonl").unlink(),
            "dev.jsonl: missing, expected all of train.jsonl dev.jsonl",
        ),
        ("2021", lambda root: (root / "test.jsonl").write_text(""), "test.jsonl: the file is empty"),
        (
            "2021",
            lambda root: change(root / "test.jsonl", '"violated_articles": ["3"]', '"violated_articles": [["3"]]'),
            "test.jsonl line 1: 'violated_articles' has ['3'], expected a string, integer or boolean",
        ),
        (
            "2021",
            lambda root: change(root / "test.jsonl", '"violated_articles": ["3"]', '"violated_articles": null'),
            "test.jsonl line 1: 'violated_articles' is null, expected a value",
        ),
        (
            "2021",
            lambda root: (root / "train.jsonl").write_text('{"facts": ["a"]}\n'),
            "train.jsonl: no field 'violated_articles' (label_field); its fields are: 'facts'",
        ),
        (
            "2021",
            lambda root: (root / "train.jsonl").write_text(json.dumps({**case_2021("train", 0), "facts": []})),
            "train.jsonl line 1: 'facts' is empty, expected a text",
        ),
        (
            "2021",
            lambda root: (root / "train.jsonl").write_text('{"facts": ["a"], "violated_articles": []}\n{"facts'),
            "train.jsonl line 2: broken JSON (",
        ),
        (
            "lexglue",
            lambda root: change(root / "ecthr.jsonl", '"data_type": "dev"', '"data_type": "val"'),
            "ecthr.jsonl line 3: 'data_type' is 'val', expected train, dev or test",
        ),
        (
            "lexglue",
            lambda root: (root / "ecthr.jsonl").write_text(
                (root / "ecthr.jsonl").read_text().replace('"data_type": "dev"', '"data_type": "train"')
            ),
            "ecthr.jsonl: no row has the 'data_type' dev, expected some for validation",
        ),
        (
            "hub",
            lambda root: (root / "ecthr_a" / "test-00000-of-00001.parquet").unlink(),
            "ecthr_a: no test-00000-of-00001.parquet, expected it beside train-00000-of-00001.parquet",
        ),
        (
            "hub",
            lambda root: (root / "ecthr_a" / "test.jsonl").write_text("{}"),
            "ecthr_a: both test-00000-of-00001.parquet and test.jsonl, expected one file for test",
        ),
        (
            "hub",
            lambda root: pq.write_table(
                pa.Table.from_pylist([{"text": ["a"], "labels": [9]}, {"text": ["b"], "labels": [3, 10]}]),
                root / "ecthr_a" / "test-00000-of-00001.parquet",
            ),
            "ecthr_a/test-00000-of-00001.parquet row 2: the label is '10', expected 0 to 9",
        ),
        (
            "hub",
            lambda root: (root / "ecthr_a" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 not really"),
            "ecthr_a/test-00000-of-00001.parquet: damaged Parquet, or none (",
        ),
        (
            "2019",
            lambda root: (root / "EN_dev").rename(root / "dev"),
            "EN_dev: missing, expected all of EN_train EN_dev EN_test",
        ),
        (
            "2019",
            lambda root: [file.unlink() for file in (root / "EN_dev").iterdir()],
            "EN_dev: no .json files, expected one for each case",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text('{\n"ITEMID": "001",}'),
            "EN_test/001-57413.json line 2: broken JSON (",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text("[1]"),
            "EN_test/001-57413.json: [1] is no JSON object, expected one",
        ),
        (
            "2019",
            lambda root: change(root / "EN_test/001-57412.json", '"TEXT"', '"FACTS"'),
            "EN_test/001-57412.json: has no 'TEXT'; it has: ['ITEMID'",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text(
                json.dumps({"ITEMID": "1", "TEXT": [" "], "VIOLATED_ARTICLES": []})
            ),
            "EN_test/001-57413.json: 'TEXT' is empty, expected the facts",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text(
                json.dumps({"ITEMID": "1", "TEXT": ["a"], "VIOLATED_ARTICLES": [3]})
            ),
            "EN_test/001-57413.json: 'VIOLATED_ARTICLES' is [3], expected a list of strings",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text(
                json.dumps({"ITEMID": 1, "TEXT": ["a"], "VIOLATED_ARTICLES": ["3"]})
            ),
            "EN_test/001-57413.json: 'ITEMID' is 1, expected a string",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_text('{"TEXT": ["\\ud800"]}'),
            "EN_test/001-57413.json: 'TEXT' holds half a surrogate pair (U+D800), expected valid Unicode",
        ),
        (
            "2019",
            lambda root: (root / "EN_test/001-57413.json").write_bytes(b'{\n"TEXT": ["\xff"]}'),
            "EN_test/001-57413.json line 2: 0xff at its byte 11 is not UTF-8 (as cp1252",
        ),
    ],
)
def test_bad_files(tmp_path, release, spoil, message):
    WRITERS[release](tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path}/{message}")) as caught:
        load("ecthr-a", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("release", ["2019", "2021"])
def test_files_that_change(tmp_path, release):
    WRITERS[release](tmp_path)
    dataset = load("ecthr-a", tmp_path)
    for path in [*tmp_path.glob("EN_train/001*.json"), *tmp_path.glob("train.jsonl")]:
        path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="changed since it was first read"):
        list(dataset.train)


def test_where_to_get_it_and_the_script(tmp_path):
    for root, found in ((None, "ecthr-b: no root"), (tmp_path, "no files of ECtHR"), (tmp_path / "no", "no such")):
        with pytest.raises(
            DataError, match=f"{found}.*expected the folder .*archive.org.*zenodo.*huggingface"
        ) as caught:
            load("ecthr-b", root)
        assert "\n" not in str(caught.value)

    write_lexglue(tmp_path)

    def run(*options):
        command = [sys.executable, DOOR, "ecthr", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = run("--root", tmp_path, "--task", "a", "--convention", "10+1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ecthr-a: multi-label, 10 labels, fingerprint ")
    assert "metric convention 10+1" in done.stdout
    done = run("--root", tmp_path / "nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
