"""Files that nobody meant to write: read, or refused in one line that names the file; nothing else happens."""

from __future__ import annotations

import csv
import datetime
import functools
import gzip
import io
import json
import zipfile

import pytest
from hostile import damaged, files_below, is_one_line, names, slowly, values
from hypothesis import given
from hypothesis import strategies as st

from flash_sparse_datasets import DataError, load

pytestmark = pytest.mark.slow

GOOD = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(12)]

options = st.fixed_dictionaries(
    {},
    optional={
        "text_field": st.one_of(names, st.lists(names, max_size=2)),
        "label_field": names,
        "id_field": names,
        "label_fields": st.lists(names, max_size=2),
        "label_separator": names,
        "file_field": names,
        "encoding": st.one_of(
            names, st.sampled_from(["utf-16", "utf-7", "cp1252", "idna", "punycode", "unicode_escape"])
        ),
        "delimiter": names,
        "quotes": st.booleans(),
        "columns": st.lists(names, max_size=3),
        "task": st.sampled_from(["auto", "single-label", "multi-label", "other"]),
        "bad_rows": st.sampled_from(["error", "skip"]),
        "unseen_labels": st.sampled_from(["error", "ignore"]),
        "join_rows": st.booleans(),
        "stratify": st.booleans(),
        "split_seed": st.integers(0, 3),
        "folds": st.integers(-1, 20),
        "fold": st.integers(-1, 20),
        "validation_share": st.floats(),
    },
)
few_options = st.one_of(st.just({}), st.just({"bad_rows": "skip"}), options)


def read(path, **options):
    """Read all of it twice, as a run does, or have it refused; nothing is written."""
    before, refused = files_below(path.parent), None
    try:
        dataset = load(path, **options)
        for split in (dataset.train, dataset.validation, dataset.test):
            documents = list(split)
            assert len(documents) == len(split) > 0
            for document in documents:
                assert document.text.strip()
                document.text.encode()
                document.id.encode()
                assert set(document.labels) <= set(dataset.labels)
        assert all(is_one_line(note) for note in dataset.notes), dataset.notes
    except ValueError as error:
        refused = error
    assert files_below(path.parent) == before
    if refused is None:
        return
    assert is_one_line(str(refused)), refused
    assert type(refused) in (DataError, ValueError)
    if type(refused) is DataError:
        assert str(refused).startswith(str(path)), refused
    else:  # of an option
        assert "expected" in str(refused)
        assert any(name in str(refused) or name.replace("_", "-") in str(refused) for name in options), refused


@st.composite
def rows(draw):
    """Good rows, and among them some of any kind."""
    strange = st.one_of(values, st.fixed_dictionaries({"text": values, "label": values}, optional={"id": values}))
    found = [*GOOD]
    for row in draw(st.lists(strange, max_size=4)):
        found.insert(draw(st.integers(0, len(found))), row)
    return found


def as_json_lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_table(rows, delimiter) -> bytes:
    written = io.StringIO()
    lines = csv.writer(written, delimiter=delimiter)
    lines.writerow(["text", "label"])
    for row in rows:
        lines.writerow([str(cell) for cell in row.values()] if isinstance(row, dict) else [str(row)])
    return written.getvalue().encode(errors="surrogatepass")


def as_fasttext(rows) -> bytes:
    return "".join(
        f"__label__{row.get('label')} {row.get('text')}\n" if isinstance(row, dict) else f"{row}\n" for row in rows
    ).encode(errors="surrogatepass")


WRITERS = {
    "a.jsonl": as_json_lines,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "a.csv": lambda rows: as_table(rows, ","),
    "a.tsv": lambda rows: as_table(rows, "\t"),
    "a.txt": as_fasttext,
}


@pytest.mark.parametrize("name", WRITERS)
@slowly(200)
@given(data=st.data())
def test_rows_of_any_kind(name, data, tmp_path):
    content = WRITERS[name](data.draw(rows()))
    (tmp_path / name).write_bytes(data.draw(damaged(content, 2)))
    read(tmp_path / name, **data.draw(few_options))


@pytest.mark.parametrize("name", WRITERS)
@slowly(60)
@given(data=st.data())
def test_gzip(name, data, tmp_path):
    packed = gzip.compress(data.draw(damaged(WRITERS[name](GOOD))), mtime=0)
    (tmp_path / f"{name}.gz").write_bytes(data.draw(damaged(packed, 2)))
    read(tmp_path / f"{name}.gz", **data.draw(few_options))


@functools.cache
def workbook() -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra [documents]")
    book = openpyxl.Workbook()
    moment = datetime.datetime(2024, 2, 29)
    for row in [["text", "label"], *([row["text"], row["label"]] for row in GOOD), ["=1+1", 1.5], [moment, True]]:
        book.active.append(row)
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


@functools.cache
def word_document() -> bytes:
    docx = pytest.importorskip("docx", reason="needs the extra [documents]")
    document = docx.Document()
    document.add_paragraph("one paragraph\tof a text")
    document.add_table(1, 2).cell(0, 0).text = "in a table"
    written = io.BytesIO()
    document.save(written)
    return written.getvalue()


@st.composite
def damaged_archive(draw, content: bytes) -> bytes:
    """Damaged in one of its files, whose checksum is right, or as a whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw(
        st.sampled_from(sorted(files, key=lambda name: ("sheet1" not in name, "document.xml" not in name, name)))
    )
    files[name] = draw(damaged(files[name]))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return draw(damaged(written.getvalue(), 2)) if draw(st.booleans()) else written.getvalue()


@slowly(300)
@given(data=st.data())
def test_workbooks(data, tmp_path):
    (tmp_path / "a.xlsx").write_bytes(data.draw(damaged_archive(workbook())))
    read(tmp_path / "a.xlsx", **data.draw(few_options))


HTML = (
    b"<html><head><title>no</title></head><body><p>a text<br>in <b>two</b> lines<table><tr><td>1</table><pre> x </pre>"
)
PDF = b"""%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources <</Font <</F1 5 0 R>>>> /Contents 4 0 R>> endobj
4 0 obj <</Length 46>> stream
BT /F1 12 Tf 72 720 Td (a text in a PDF) Tj ET
endstream endobj
5 0 obj <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>> endobj
trailer <</Root 1 0 R>>
"""
CONTENTS = {
    "a.txt": b"a text\nof two lines",
    "a.txt.gz": gzip.compress(b"a text\nof two lines", mtime=0),
    "a.html": HTML,
    "a.pdf": PDF,
}


@pytest.mark.parametrize("name", [*CONTENTS, "a.docx"])
@slowly(100)
@given(data=st.data())
def test_class_folders(name, data, tmp_path):
    folder = tmp_path / "folder"
    for label in "ab":
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            (folder / label / f"{number}.txt").write_text(f"text {number} of {label}")
    strange = data.draw(damaged_archive(word_document()) if name == "a.docx" else damaged(CONTENTS[name]))
    (folder / "a" / name).write_bytes(strange)
    read(folder, **data.draw(few_options))
