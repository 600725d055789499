"""Files that were made to hang whoever opens them, to fill the memory, or to say more than they hold."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib

import openpyxl
import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.shared import text_files
from flash_sparse_datasets.shared.document_files import text_of
from flash_sparse_datasets.shared.drawn_splits import EarlierSplit
from flash_sparse_datasets.shared.gray_images import read_gray
from flash_sparse_datasets.shared.row_files import delimited, json_array

ROWS = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(12)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


def said(path, **options) -> str:
    """The one line that refuses a file."""
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


# Text


@pytest.fixture
def little_room(monkeypatch):
    for module in (text_files, delimited, json_array):
        monkeypatch.setattr(module, "MOST_CHARACTERS", 1000)
    before = delimited.csv.field_size_limit(100)
    yield
    delimited.csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl.gz",
            LINES + json.dumps({"text": "x" * 2000, "label": "a"}),
            ": a line of more than 1,000 characters",
        ),
        ("a.csv.gz", TABLE + f"{'x' * 2000},a\n", ": a line of more than 1,000 characters"),
        ("a.csv.gz", TABLE + '"' + "line\n" * 400 + '",a\n', ": 201 documents cannot be read, expected them mended"),
        ("a.txt.gz", "__label__a " + "x" * 2000, ": a line of more than 1,000 characters"),
        ("a.json.gz", json.dumps([{"text": "x" * 2000, "label": "a"}]), ": a line of more than 1,000 characters"),
        ("a.json.gz", json.dumps(ROWS * 9, indent=1), ": has more than 1,000 characters, expected them as one object"),
    ],
)
def test_gzip_that_unpacks_to_one_endless_line(tmp_path, little_room, name, content, message):
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert said(tmp_path / name).startswith(message)


def test_a_json_list_that_is_not_packed_may_be_long(tmp_path, little_room):
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    assert len(load(tmp_path / "a.json").labels) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_million_empty_lines(tmp_path, name):
    labelled = "".join(f"__label__{row['label']} {row['text']}\n" for row in ROWS)
    first, _, rest = {"a.jsonl": LINES, "a.csv": TABLE, "a.txt": labelled}[name].partition("\n")
    (tmp_path / name).write_text(first + "\n" * 500_000 + rest + "\n" * 500_000)
    dataset = load(tmp_path / name)
    assert sum(len(split) for split in (dataset.train, dataset.validation, dataset.test)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "folder"])
def test_a_line_of_200_megabytes(tmp_path, name):
    text = "0123456789" * 20_000_000
    path = tmp_path / name
    if name == "folder":
        for row in ROWS:
            (path / row["label"]).mkdir(parents=True, exist_ok=True)
            (path / row["label"] / f"{row['text']}.txt").write_text(row["text"])
        (path / "a" / "long.txt").write_text(text)
    else:
        long = {"text": text, "label": "a"}
        path.write_text(LINES + json.dumps(long) if name == "a.jsonl" else f'{TABLE}"{text}",a')
    dataset = load(path)
    lengths = [len(document.text) for split in (dataset.train, dataset.validation, dataset.test) for document in split]
    assert (len(lengths), max(lengths)) == (13, len(text))


# Office documents


def changed(content: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """The archive with something else in one of its files."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(written, "w") as other:
        for entry in archive.namelist():
            file = archive.read(entry)
            assert entry != name or old in file
            other.writestr(entry, file.replace(old, new, 1) if entry == name else file)
    return written.getvalue()


@pytest.fixture
def workbook() -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra [documents]")
    book = openpyxl.Workbook()
    for row in [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]:
        book.active.append(row)
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'<row r="5"', b'<row r="900000000"', ": has rows past number 1,048,576, expected no more than Excel writes"),
        (b't="inlineStr"><is><t>a</t></is>', b't="s"><v>99999</v>', ": damaged Excel workbook ('list index out of"),
        (b"<t>a</t>", b"<t>&c;</t>", ": damaged Excel workbook ("),
    ],
)
def test_a_workbook_that_counts_wrong(tmp_path, workbook, old, new, message):
    (tmp_path / "a.xlsx").write_bytes(changed(workbook, "xl/worksheets/sheet1.xml", old, new))
    assert said(tmp_path / "a.xlsx").startswith(message)


def test_a_cell_far_to_the_right_is_not_read(tmp_path, workbook):
    content = changed(workbook, "xl/worksheets/sheet1.xml", b'<c r="B5"', b'<c r="ZZZ5"')
    (tmp_path / "a.xlsx").write_bytes(content)
    assert said(tmp_path / "a.xlsx") == " row 5: 'label' is null, expected a value"
    assert len(load(tmp_path / "a.xlsx", bad_rows="skip").labels) == 2


def test_what_else_is_in_a_workbook_is_no_news(tmp_path, workbook, recwarn):
    extension = b'<extLst><ext uri="{CCE6A557-97BC-4B89-ADB6-D9C93CAAB3DF}"></ext></extLst></worksheet>'
    content = changed(workbook, "xl/worksheets/sheet1.xml", b"</worksheet>", extension)
    (tmp_path / "a.xlsx").write_bytes(content)
    load(tmp_path / "a.xlsx")
    assert not recwarn.list


@pytest.fixture
def word_document() -> bytes:
    docx = pytest.importorskip("docx", reason="needs the extra [documents]")
    document = docx.Document()
    document.add_paragraph("one paragraph")
    written = io.BytesIO()
    document.save(written)
    return written.getvalue()


def test_a_word_document_without_a_body(tmp_path, word_document):
    content = changed(word_document, "word/document.xml", b"<w:body>", b"<w:bodies>")
    (tmp_path / "a.docx").write_bytes(content.replace(b"</w:body>", b"</w:bodies>"))
    content = changed(content, "word/document.xml", b"</w:body>", b"</w:bodies>")
    (tmp_path / "a.docx").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.docx: damaged Word document, without a body"):
        text_of(tmp_path / "a.docx")


def test_entities_are_neither_multiplied_nor_fetched(tmp_path, word_document):
    (tmp_path / "secret").write_text("do not read this")
    tens = ["<!ENTITY e0 'ten letters'>"] + [f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 10)]
    many = f"<!DOCTYPE x [{''.join(tens)}]><w:document".encode()
    other = f"<!DOCTYPE x [<!ENTITY e9 SYSTEM '{(tmp_path / 'secret').as_uri()}'>]><w:document".encode()
    for doctype in (many, other):
        content = changed(word_document, "word/document.xml", b"<w:document", doctype)
        content = changed(content, "word/document.xml", b"one paragraph", b"one &e9; paragraph")
        (tmp_path / "a.docx").write_bytes(content)
        try:
            text = text_of(tmp_path / "a.docx")
        except DataError as error:
            text = str(error)
        assert len(text) < 1000
        assert "do not read this" not in text


# Pages and images


def test_tags_may_be_nested_as_deep_as_a_page_is_long(tmp_path):
    pytest.importorskip("bs4", reason="needs the extra [documents]")
    (tmp_path / "a.html").write_text("<div>" * 100_000 + "in the middle")
    assert text_of(tmp_path / "a.html") == "in the middle"


def test_bytes_that_a_page_should_not_have_are_no_news(tmp_path, caplog):
    pytest.importorskip("bs4", reason="needs the extra [documents]")
    (tmp_path / "a.html").write_bytes(b"<meta charset=utf-8><p>a \x81 byte \xff\xfe\x9d")
    assert text_of(tmp_path / "a.html").startswith("a ")
    assert not caplog.records


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "chunks",
    [
        [head(2**20, 2**11), (b"IDAT", b""), (b"IEND", b"")],  # 2 billion pixels
        [head(8, 8), (b"\0\1.\xb8", b""), (b"IEND", b"")],  # a chunk without a name
        [head(8, 8), (b"zTXt", b"a\0\1xx"), (b"IEND", b"")],  # packed in a way that there is not
        [head(8, 8), (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))), (b"IEND", b"")],
        [head(8, 8), (b"IDAT", b"no zlib"), (b"IEND", b"")],
    ],
)
def test_damaged_images_are_one_line(tmp_path, chunks):
    (tmp_path / "a.png").write_bytes(png(chunks))
    with pytest.raises(DataError) as caught:
        read_gray(tmp_path / "a.png")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "a.png"))
    assert message.endswith(", expected a PNG image") or message.endswith("; expected a PNG image")
    assert "\n" not in message


# Too little memory is no fault of the file


def no_memory(*given, **named):
    raise MemoryError


def test_an_image_is_not_called_damaged_for_want_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", no_memory)
    with pytest.raises(MemoryError):
        read_gray(tmp_path / "a.png")


def test_nor_is_the_split_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("numpy.load", no_memory)
    with pytest.raises(MemoryError):
        EarlierSplit(tmp_path / "split.npz")


def test_nor_is_a_workbook(tmp_path, monkeypatch):
    book = openpyxl.Workbook()
    for row in (("text", "label"), *((row["text"], row["label"]) for row in ROWS)):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    monkeypatch.setattr(
        "openpyxl.worksheet._read_only.ReadOnlyWorksheet.iter_rows", lambda *given, **named: map(no_memory, [None])
    )
    with pytest.raises(MemoryError):
        load(tmp_path / "a.xlsx")
