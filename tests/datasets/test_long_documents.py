"""SCOTUS, 20 Newsgroups, Hyperpartisan, EURLEX57K and arXiv-11: small files of exactly the official form."""

import json
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flash_sparse_datasets import DataError, load

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
SPLITS = ("train", "validation", "test")
GROUPS = ["alt.atheism", "comp.graphics", "talk.religion.misc"]
SUBJECTS = "cs.AI cs.CE cs.cv cs.DS cs.IT cs.NE cs.PL cs.SY math.AC math.GR math.ST".split()  # noqa: SIM905
AREAS = [str(area) for area in range(1, 14)]


def rows(dataset):
    return {split: [(d.id, d.text, d.labels) for d in getattr(dataset, split)] for split in SPLITS}


def sizes(dataset):
    return [len(getattr(dataset, split)) for split in SPLITS]


def opinion(part, area):
    return f"{part} {area}: Opinion of the Court.\n\n\u2028“Certiorari”"


def write_scotus(root, number=str):
    rows = [
        {"text": opinion(part, area), "issueArea": number(area), "data_type": part}
        for area in AREAS
        for part in ("train", "dev", "test")
    ]
    (root / "scotus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_scotus_hub(root):
    (root / "scotus").mkdir()
    for name, part in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = [{"text": opinion(part, area), "label": label} for label, area in enumerate(AREAS)]
        pq.write_table(pa.Table.from_pylist(rows), root / "scotus" / f"{name}-00000-of-00001.parquet")


def write_newsgroups(root):
    for part, count in (("train", 10), ("test", 4)):
        for group in GROUPS:
            folder = root / f"20news-bydate-{part}" / group
            folder.mkdir(parents=True)
            for i in range(count):
                text = f"From: someone@somewhere\r\nSubject: Re: {i}\n\n{part} {group} {i} caf\xe9 \x85\n"
                (folder / str(51000 + i)).write_bytes(text.encode("latin-1"))
            (folder / ".51000.swp").write_bytes(b"\x00")


def article(i):
    return (
        f'<article id="{i:07}" published-at="2017-09-10" title="A title {i}"><p>First &amp; {i}, '
        f'<a href="https://example.org/{i}" type="external">a  link</a>\nhere.</p>\n\n'
        "<p>Second.</p> <p> </p>loose</article>\n"
    )


def write_hyperpartisan(root, count=40):
    articles = "".join(article(i) for i in range(count))
    (root / "articles-training-byarticle-20181122.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<articles>\n{articles}</articles>\n'
    )
    truth = "".join(
        f'<article hyperpartisan="{str(i % 4 == 0).lower()}" id="{i:07}" labeled-by="article" url="https://a.b/{i}"/>\n'
        for i in range(count)
    )
    (root / "ground-truth-training-byarticle-20181122.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<articles>\n{truth}</articles>\n'
    )


CONCEPTS = {"train": [["192", "2356"], ["0192"], []], "dev": [["192"], ["7777", "192"]], "test": [["8888"], ["2356"]]}


def law(part, i, concepts):
    return {
        "celex_id": f"3{part}R{i:04}",
        "uri": f"http://publications.europa.eu/resource/cellar/{i}",
        "type": "Regulation",
        "concepts": concepts,
        "title": "Not in the text on its own",
        "header": f"COMMISSION REGULATION {part} {i}",
        "recitals": ",\nHaving regard to the Treaty",
        "main_body": ["Article 1\nThis.", "Article 2\nThat."],
        "attachments": "" if i else "ANNEX",
    }


def write_eurlex57k(root):
    for part, concepts in CONCEPTS.items():
        (root / "dataset" / part).mkdir(parents=True)
        for i, labels in enumerate(concepts):
            (root / "dataset" / part / f"3{part}R{i:04}.json").write_text(json.dumps(law(part, i, labels)))


def write_arxiv11(root):
    for subject in SUBJECTS:
        (root / subject).mkdir()
        for i in range(10):
            (root / subject / f"1{i:03}.0001.txt").write_bytes(f"{subject} paper {i} é ".encode() + b"\xff\x0c\nend")
        (root / subject / "notes.pdf").write_bytes(b"%PDF")


WRITERS = {
    "scotus": write_scotus,
    "20newsgroups": write_newsgroups,
    "hyperpartisan": write_hyperpartisan,
    "eurlex57k": write_eurlex57k,
    "arxiv11": write_arxiv11,
}


# What is read


@pytest.mark.parametrize("form", ["strings", "integers", "hub", "hub's folder"])
def test_scotus(tmp_path, form):
    if form.startswith("hub"):
        write_scotus_hub(tmp_path)
    else:
        write_scotus(tmp_path, str if form == "strings" else int)
    dataset = load("scotus", tmp_path / "scotus" if form == "hub's folder" else tmp_path)
    assert (dataset.task, dataset.labels) == ("single-label", tuple(sorted(AREAS)))
    for part, documents in zip(("train", "dev", "test"), rows(dataset).values(), strict=True):
        assert [(text, labels) for _, text, labels in documents] == [(opinion(part, area), (area,)) for area in AREAS]
    assert dataset.notes[0] == "train: 13 documents, the release has 5,000"


def test_newsgroups(tmp_path):
    write_newsgroups(tmp_path)
    dataset = load("20newsgroups", tmp_path)
    assert (dataset.task, dataset.labels, sizes(dataset)) == ("single-label", tuple(GROUPS), [27, 3, 12])
    everything = rows(dataset)
    assert {id for id, *_ in everything["train"] + everything["validation"]} == {
        f"20news-bydate-train/{group}/{51000 + i}" for group in GROUPS for i in range(10)
    }
    for documents in everything.values():
        for id, text, (label,) in documents:
            folder, group, name = id.split("/")
            assert group == label
            part, i = folder.removeprefix("20news-bydate-"), int(name) - 51000
            expected = f"From: someone@somewhere\r\nSubject: Re: {i}\n\n{part} {group} {i} caf\xe9 \x85\n"
            assert text == expected
    assert Counter(labels for _, _, labels in everything["validation"]) == {(group,): 1 for group in GROUPS}
    assert (
        "the release has no validation part: validation (10%) drawn from the release's training documents with seed 0"
        in (dataset.notes)
    )
    assert "test: 12 documents, the release has 7,532" in dataset.notes


def test_hyperpartisan(tmp_path):
    write_hyperpartisan(tmp_path)
    dataset = load("hyperpartisan", tmp_path)
    assert (dataset.task, dataset.labels, sizes(dataset)) == ("single-label", ("false", "true"), [32, 4, 4])
    everything = rows(dataset)
    # Stratified: a tenth of the 30 and of the 10.
    for split in ("validation", "test"):
        assert Counter(labels for _, _, labels in everything[split]) == {("false",): 3, ("true",): 1}
    documents = sorted(document for split in everything.values() for document in split)
    assert documents == [
        (f"{i:07}", f"First & {i}, a link here.\n\nSecond.\n\nloose", (str(i % 4 == 0).lower(),)) for i in range(40)
    ]
    assert any(note.startswith("the release has no validation and no test part: ") for note in dataset.notes)


def test_articles_that_are_there_twice_stay_together(tmp_path):
    """The reason why another published split of these articles cannot be used."""
    write_hyperpartisan(tmp_path)
    path = tmp_path / "articles-training-byarticle-20181122.xml"
    path.write_text(re.sub(r"First &amp; (0|1|2|3|4), <a href=[^>]*>", "First &amp; same, <a>", path.read_text()))
    for seed in range(10):
        everything = rows(load("hyperpartisan", tmp_path, split_seed=seed))
        assert sum(any("same" in text for _, text, _ in documents) for documents in everything.values()) == 1


def test_eurlex57k(tmp_path):
    write_eurlex57k(tmp_path)
    dataset = load("eurlex57k", tmp_path)
    assert (dataset.task, dataset.labels) == ("multi-label", ("0192", "192", "2356"))
    main = "Article 1\nThis.\n\nArticle 2\nThat."
    head = "COMMISSION REGULATION {0} {1}\n\n,\nHaving regard to the Treaty\n\n" + main
    assert rows(dataset) == {
        "train": [
            ("3trainR0000", head.format("train", 0) + "\n\nANNEX", ("192", "2356")),
            ("3trainR0001", head.format("train", 1), ("0192",)),
            ("3trainR0002", head.format("train", 2), ()),
        ],
        "validation": [
            ("3devR0000", head.format("dev", 0) + "\n\nANNEX", ("192",)),
            ("3devR0001", head.format("dev", 1), ("192",)),
        ],
        "test": [
            ("3testR0000", head.format("test", 0) + "\n\nANNEX", ()),
            ("3testR0001", head.format("test", 1), ("2356",)),
        ],
    }
    for note in (
        "test: 1 labels, 1 different ones, are not among the 3 of this task and were dropped, from 1 documents",
        "test: 1 of 2 documents have no label",
        "train: 1 of 3 documents have no label",
        "test: 2 documents, the release has 6,000",
    ):
        assert note in dataset.notes
    assert rows(load("eurlex57k", tmp_path / "dataset")) == rows(dataset)


def test_arxiv11(tmp_path):
    write_arxiv11(tmp_path)
    dataset = load("arxiv11", tmp_path)
    assert (dataset.labels, sizes(dataset)) == (tuple(sorted(SUBJECTS)), [88, 11, 11])
    everything = rows(dataset)
    for split in ("validation", "test"):
        assert sorted(labels for _, _, labels in everything[split]) == sorted((subject,) for subject in SUBJECTS)
    documents = sorted(document for split in everything.values() for document in split)
    assert documents == sorted(
        (f"{subject}/1{i:03}.0001.txt", f"{subject} paper {i} é \ufffd\x0c\nend", (subject,))
        for subject in SUBJECTS
        for i in range(10)
    )
    assert dataset.notes[0] == "train: 110 documents, the release has 36,388"
    (tmp_path / "cs.cv").rename(tmp_path / "cs.CV")
    assert load("arxiv11", tmp_path).labels == tuple(sorted(subject.replace("cv", "CV") for subject in SUBJECTS))


@pytest.mark.parametrize("name", list(WRITERS))
def test_reading_again_and_elsewhere(tmp_path, name):
    WRITERS[name](tmp_path)
    dataset = load(name, tmp_path)
    everything = rows(dataset)
    assert rows(dataset) == everything
    assert rows(pickle.loads(pickle.dumps(dataset))) == everything
    assert [len(documents) for documents in everything.values()] == sizes(dataset)
    assert load(name, tmp_path).fingerprint == dataset.fingerprint
    files = sorted(file for file in tmp_path.rglob("*") if file.is_file() and not file.name.startswith("."))
    file = next(
        file for file in files if file.suffix != ".pdf" and "ground" not in file.name and "dev" not in str(file)
    )
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match="changed since it was first read"):
        rows(dataset)


@pytest.mark.parametrize("name", ["20newsgroups", "hyperpartisan", "arxiv11"])
def test_drawn_splits(tmp_path, name):
    WRITERS[name](tmp_path)
    dataset, other = load(name, tmp_path), load(name, tmp_path, split_seed=1)
    assert sizes(other) == sizes(dataset)
    assert rows(other)["validation"] != rows(dataset)["validation"]
    assert other.fingerprint != dataset.fingerprint
    assert len(load(name, tmp_path, validation_share=0.3).validation) == 3 * len(dataset.validation)
    with pytest.raises(ValueError, match="validation_share is 1, expected a share between 0 and 1"):
        load(name, tmp_path, validation_share=1)
    if name != "20newsgroups":
        with pytest.raises(ValueError, match=r"are 0.5 and 0.5, expected a sum below 1"):
            load(name, tmp_path, validation_share=0.5, test_share=0.5)


# What can be wrong


def change(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


ARTICLES = "articles-training-byarticle-20181122.xml"
TRUTH = "ground-truth-training-byarticle-20181122.xml"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "scotus",
            lambda root: change(root / "scotus.jsonl", '"issueArea": "1"', '"issueArea": "14"'),
            "scotus.jsonl line 1: the label is '14', expected 1 to 13",
        ),
        (
            "scotus",
            lambda root: change(root / "scotus.jsonl", '"issueArea": "1"', '"issueArea": ["1", "2"]'),
            "scotus.jsonl line 1: 'issueArea' is ['1', '2'], expected exactly one label",
        ),
        (
            "scotus",
            lambda root: change(root / "scotus.jsonl", '"data_type": "dev"', '"data_type": null'),
            "scotus.jsonl line 2: 'data_type' is None, expected train, dev or test",
        ),
        (
            "scotus",
            lambda root: (
                write_scotus_hub(root),
                (root / "scotus.jsonl").rename(root / "scotus/scotus.jsonl"),
            ),
            "scotus: both scotus.jsonl and train-00000-of-00001.parquet, expected one form",
        ),
        (
            "20newsgroups",
            lambda root: (root / "20news-bydate-test/alt.atheism").rename(root / "20news-bydate-test/alt.other"),
            "20news-bydate-train/alt.other: missing, expected the group as in 20news-bydate-test",
        ),
        (
            "20newsgroups",
            lambda root: (root / "20news-bydate-test").rename(root / "test"),
            "20news-bydate-test: missing, expected all of 20news-bydate-train 20news-bydate-test; get them from http",
        ),
        (
            "20newsgroups",
            lambda root: [file.unlink() for file in (root / "20news-bydate-test/alt.atheism").iterdir()],
            "20news-bydate-test/alt.atheism: no files, expected a class's documents",
        ),
        (
            "20newsgroups",
            lambda root: (root / "20news-bydate-train/alt.atheism/51001").write_text(" \n"),
            "20news-bydate-train/alt.atheism/51001: the text is empty, expected a text",
        ),
        ("hyperpartisan", lambda root: (root / TRUTH).unlink(), f"{TRUTH}: missing, expected all of articles-"),
        ("hyperpartisan", lambda root: (root / TRUTH).write_text(""), f"{TRUTH}: the file is empty"),
        (
            "hyperpartisan",
            lambda root: change(root / ARTICLES, "<p>Second.</p>", "<p>Second."),
            f"{ARTICLES} line 6: broken XML (mismatched tag at column 27)",
        ),
        (
            "hyperpartisan",
            lambda root: change(root / TRUTH, 'hyperpartisan="false"', 'hyperpartisan="mixed"'),
            f"{TRUTH} article '0000001': 'hyperpartisan' is 'mixed', expected true or false",
        ),
        (
            "hyperpartisan",
            lambda root: change(root / ARTICLES, article(3), article(77)),
            f"{ARTICLES} article '0000077': not in {TRUTH}, expected its label there",
        ),
        (
            "hyperpartisan",
            lambda root: change(root / ARTICLES, article(3), ""),
            f"{TRUTH} article '0000003': not in {ARTICLES}, expected its text there",
        ),
        (
            "hyperpartisan",
            lambda root: change(root / ARTICLES, article(3), article(3) * 2),
            f"{ARTICLES} article '0000003': there twice, expected it once",
        ),
        (
            "hyperpartisan",
            lambda root: change(root / ARTICLES, article(3), '<article id="0000003"><p> </p></article>'),
            f"{ARTICLES} article '0000003': the text is empty, expected an article",
        ),
        (
            "eurlex57k",
            lambda root: change(root / "dataset/test/3testR0001.json", '"main_body": [', '"main_body": [1, '),
            "dataset/test/3testR0001.json: 'main_body' is [1, 'Article 1",
        ),
        (
            "eurlex57k",
            lambda root: change(root / "dataset/test/3testR0001.json", '"concepts"', '"labels"'),
            "dataset/test/3testR0001.json: has no 'concepts'; it has: ['celex_id', ",
        ),
        (
            "eurlex57k",
            lambda root: (root / "dataset/test/3testR0001.json").write_text(
                json.dumps({**law("", 1, []), "header": "", "recitals": " ", "main_body": []})
            ),
            "dataset/test/3testR0001.json: header, recitals, main_body and attachments are empty, expected a text",
        ),
        (
            "eurlex57k",
            lambda root: [file.unlink() for file in (root / "dataset/dev").iterdir()],
            "dataset/dev: no .json files, expected one for each law; get them from http",
        ),
        (
            "arxiv11",
            lambda root: (root / "cs.cv").rename(root / "vision"),
            "cs.cv: missing, expected it beside cs.AI cs.CE",
        ),
        (
            "arxiv11",
            lambda root: (root / "cs.PL").rename(root / "languages"),
            "cs.PL: missing, expected all of cs.AI cs.CE",
        ),
        (
            "arxiv11",
            lambda root: [file.unlink() for file in (root / "cs.PL").glob("*.txt")],
            "cs.PL: no .txt files, expected a class's documents",
        ),
        (
            "arxiv11",
            lambda root: (root / "cs.PL/1003.0001.txt").write_bytes(b""),
            "cs.PL/1003.0001.txt: the file is empty",
        ),
    ],
)
def test_bad_files(tmp_path, name, spoil, message):
    WRITERS[name](tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path}/{message}")) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_too_few_to_split(tmp_path):
    write_hyperpartisan(tmp_path, count=1)
    with pytest.raises(DataError, match="hyperpartisan: 1 documents are too few to split, validation would be empty"):
        load("hyperpartisan", tmp_path)


@pytest.mark.parametrize(
    ("name", "script", "source"),
    [
        ("scotus", "scotus", "https://zenodo.org/record/5532997"),
        ("20newsgroups", "newsgroups20", "http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz"),
        ("hyperpartisan", "hyperpartisan", "https://zenodo.org/record/1489920"),
        ("eurlex57k", "eurlex57k", "http://nlp.cs.aueb.gr/software_and_datasets/EURLEX57K"),
        ("arxiv11", "arxiv11", "https://github.com/LiqunW/Long-document-dataset"),
    ],
)
def test_where_to_get_it_and_the_script(tmp_path, name, script, source):
    for root in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"expected the folder .*{re.escape(source)}") as caught:
            load(name, root)
        assert "\n" not in str(caught.value)

    def run(root):
        command = [sys.executable, DOOR, script, "--root", root]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    WRITERS[name](tmp_path)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: ")
    totals = [int(n.replace(",", "")) for n in re.findall(r"^(?:train|validation|test) +([\d,]+)", done.stdout, re.M)]
    assert totals == sizes(load(name, tmp_path))
