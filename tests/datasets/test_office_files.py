"""Files as offices have them: Excel, PDF, Word and HTML, fastText lines, JSON lists, other encodings and delimiters."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flash_sparse_datasets import DataError, load
from flash_sparse_datasets.shared.document_files import text_of

ROWS = [(f"text {i}, long; and longer", "ab"[i % 2]) for i in range(20)]
EXPECTED = sorted((text, (label,)) for text, label in ROWS)


def everything(dataset):
    parts = (dataset.train, dataset.validation, dataset.test)
    return sorted((document.text, document.labels) for part in parts for document in part)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def lines(delimiter: str, header: str = "text{}label\n") -> str:
    quoted = ((f'"{text}"' if delimiter in text else text, label) for text, label in ROWS)
    return header.format(delimiter) + "".join(f"{text}{delimiter}{label}\n" for text, label in quoted)


# CSV and TSV


@pytest.mark.parametrize(
    ("delimiter", "name", "word"),
    [(";", "a.csv", "semicolon"), ("\t", "a.csv", "tab"), ("|", "a.csv", "pipe"), (",", "a.tsv", "comma")],
)
def test_what_a_table_looks_like_is_read_and_said(tmp_path, delimiter, name, word):
    dataset = load(write(tmp_path / name, lines(delimiter)))
    assert everything(dataset) == EXPECTED
    assert dataset.notes == (f"{tmp_path / name}: looks {word}-separated and is read so; --delimiter says otherwise",)
    assert not load(tmp_path / name, delimiter=delimiter).notes
    assert not load(tmp_path / name, delimiter=word).notes


def test_a_delimiter_that_is_said_is_not_guessed(tmp_path):
    message = error_of(write(tmp_path / "a.csv", lines(";")), delimiter=",")
    assert message.startswith("a.csv: no field 'text' (text_field); its fields are: 'text;label'; expected ")
    assert message.endswith("--delimiter where cells are separated otherwise")


@pytest.mark.parametrize("first", ["sep=;\n", "sep=;\r\n", '"sep=;"\n'])
def test_excels_line_with_the_delimiter_is_no_row(tmp_path, first):
    path = write(tmp_path / "a.csv", first + lines(";"))
    dataset = load(path)
    assert everything(dataset) == EXPECTED
    assert not dataset.notes
    message = error_of(write(path, first + lines(";") + ";a\n"))
    assert message == "a.csv row 22: 'text' is empty, expected a text"  # as Excel counts


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    path = write(tmp_path / "a.csv", lines(",").replace("long", "länger").encode(encoding))
    assert all("länger" in text for text, _ in everything(load(path)))


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be"])
def test_what_looks_like_utf_16_is_not_read_as_utf_8(tmp_path, name):
    path = write(tmp_path / "a.csv", lines(",").encode(name))
    assert error_of(path) == f"a.csv: looks like UTF-16, expected UTF-8 text or --encoding {name}"
    assert everything(load(path, encoding=name)) == EXPECTED


def test_another_encoding_can_be_said(tmp_path):
    path = write(tmp_path / "a.csv", lines(",").replace("long", "länger").encode("cp1252"))
    assert "(as cp1252 it reads 'länger;'), expected UTF-8 text or --encoding" in error_of(path)
    assert all("länger" in text for text, _ in everything(load(path, encoding="cp1252")))
    assert error_of(path, encoding="ascii").startswith("a.csv: is not ascii (ordinal not in range(128))")
    folder = tmp_path / "folder"
    for i in range(20):
        write(folder / "ab"[i % 2] / f"{i}.txt", f"café {i}".encode("latin-1"))
    assert "cannot be read" in error_of(folder)
    assert all("café" in text for text, _ in everything(load(folder, encoding="latin-1")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-9"}, "--encoding is 'utf-9', expected an encoding"),
        ({"encoding": "rot13"}, "--encoding is 'rot13', expected an encoding"),
        ({"delimiter": ";;"}, "--delimiter is ';;', expected one character"),
        ({"delimiter": '"'}, "--delimiter is '\"', expected one character"),
        ({"columns": ["a", "a"]}, "--columns is ['a', 'a'], expected different names"),
        ({"bad_rows": "drop"}, "bad_rows is 'drop', expected 'error' or 'skip'"),
        ({"label_field": "a", "label_fields": ["b"]}, "label_fields is ['b'], expected none beside label_field"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    path = write(tmp_path / "a.csv", lines(","))
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path, **options)


def test_a_file_without_header(tmp_path):
    path = write(tmp_path / "a.tsv", lines("\t", header=""))
    assert everything(load(path, columns=["text", "label"])) == EXPECTED
    assert "row 1: the row has 2 cells, expected 3 as in --columns" in error_of(path, columns=["text", "label", "c"])
    write(path, lines("\t"))  # the header that it has is none of the documents
    assert everything(load(path, columns=["text", "label"])) == EXPECTED
    write(path, "".join(f"{'word ' * 20}{i}\t{label}\n" for i, (_, label) in enumerate(ROWS)))
    assert error_of(path).endswith("; expected --columns where the first line is no header")
    write(path, lines("\t", header=""))
    assert error_of(path).endswith("; expected --columns where the first line is no header")


def test_empty_rows_and_cells_that_excel_leaves(tmp_path):
    content = "text,label,,\n" + "".join(f'"{text}",{label},,\n' for text, label in ROWS) + ",,,\n" * 5
    assert everything(load(write(tmp_path / "a.csv", content))) == EXPECTED
    content = "text,label\n" + "".join(f'"{text}",{label},,,\n' for text, label in ROWS)
    assert everything(load(write(tmp_path / "b.csv", content))) == EXPECTED


def test_stray_quotes_that_join_rows_are_noted(tmp_path):
    texts = [
        f'"Great, said number {i}' if i % 3 == 0 else f'number {i}"' if i % 3 == 2 else f"number {i}" for i in range(60)
    ]
    rows = [f"{text}\t{['good', 'bad'][i // 3 % 2]}\n" for i, text in enumerate(texts)]
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(rows))
    dataset = load(path)
    assert len(everything(dataset)) == 20
    note = dataset.notes[0]
    assert note.startswith(f"{path}: 20 of 20 rows hold lines that look like rows of their own (first: {path} row 2)")
    assert note.endswith("where stray quotes have joined them, --no-quotes helps")
    dataset = load(path, quotes=False)
    assert [text for text, _ in everything(dataset)] == sorted(texts)
    assert not dataset.notes
    poems = [(f"Roses are red,\nviolets, {i}, are blue,\nand so on", label) for i, (_, label) in enumerate(ROWS)]
    content = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in poems)
    assert not [note for note in load(write(tmp_path / "b.csv", content)).notes if "quotes" in note]


def test_a_broken_row_names_what_helps(tmp_path):
    path = write(tmp_path / "a.csv", lines(",") + '"he said" no,a\n' + 'x,"b\n')
    message = error_of(path)
    assert "a.csv: 2 documents cannot be read" in message
    assert "row 22: broken row (',' expected after '\"'), expected whole quotes, or --no-quotes where they" in message
    assert "row 23: broken row (a quoted cell that is never closed)" in message


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (
            b"PK\x03\x04",
            "is a zip archive, as Excel and Word files are, expected the ending of what it is, such as .xlsx",
        ),
        (b"\x1f\x8b\x08", "is packed by gzip, expected a name that ends in .gz"),
        (b"\xd0\xcf\x11\xe0", "is a file of an older Office or with a password, expected text, or .xlsx without a"),
        (b"%PDF-1.7", "is a PDF, expected text, or the ending .pdf"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_what_is_no_text_is_said(tmp_path, name, begin, what):
    assert error_of(write(tmp_path / name, begin + bytes(range(256)))).startswith(f"{name}: {what}")


def test_a_table_in_a_text_file_is_said(tmp_path):
    message = error_of(write(tmp_path / "a.txt", lines("\t")))
    assert message.endswith("of a table in a .txt file, its cells separated by tabs, the ending .tsv")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_that_is_repeated_is_no_document(tmp_path, mark):
    path = write(tmp_path / "a.csv", lines(",") + mark + lines(","))
    assert error_of(path) == "a.csv row 22: repeats the header, expected a document"
    assert set(everything(load(path, bad_rows="skip"))) == set(EXPECTED)
    rows = [("text", "label"), *ROWS, ("text", "label")]
    assert error_of(workbook(tmp_path / "a.xlsx", rows)) == "a.xlsx row 22: repeats the header, expected a document"


def test_spaces_after_delimiters(tmp_path):
    content = "label, text\n" + "".join(f'{label}, "{text}, and more"\n' for text, label in ROWS)
    expected = sorted((f"{text}, and more", (label,)) for text, label in ROWS)
    assert everything(load(write(tmp_path / "a.csv", content))) == expected
    path = write(
        tmp_path / "b.csv", "label,text\n" + "".join(f"{label}, {number}\n" for number, (_, label) in enumerate(ROWS))
    )
    assert (" 3", ("b",)) in everything(load(path))  # the header has none


def test_a_title_above_the_header(tmp_path):
    message = error_of(write(tmp_path / "a.csv", "Contracts 2024\n" + lines(",")))
    assert "its fields are: 'Contracts 2024'; expected the columns' names in the first row" in message


@pytest.mark.parametrize("text", ["\u200b", " \ufeff\u00a0", "\u00ad\u2060 \n"])
def test_texts_without_anything_to_see_are_empty(tmp_path, text):
    rows = [json.dumps({"text": text, "label": label}) for text, label in [*ROWS, (text, "a")]]
    assert error_of(write(tmp_path / "a.jsonl", "\n".join(rows))) == "a.jsonl line 21: 'text' is empty, expected a text"
    with pytest.raises(DataError, match="the text is empty, expected a text"):
        text_of(write(tmp_path / "a.txt", text))


def test_paths_as_windows_writes_them(tmp_path):
    for number, (text, _) in enumerate(ROWS):
        write(tmp_path / "scans" / f"{number}.txt", text)
    table = "file,label\n" + "".join(f"scans\\{number}.txt,{label}\n" for number, (_, label) in enumerate(ROWS))
    assert everything(load(write(tmp_path / "a.csv", table), file_field="file")) == EXPECTED


# JSON, fastText, Parquet


def test_json_lists_and_other_endings(tmp_path):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    for name, content in {
        "a.json": json.dumps(rows),
        "b.json": json.dumps(rows, indent=2),
        "c.json": "\n".join(map(json.dumps, rows)),
        "d.ndjson": "\n".join(map(json.dumps, rows)),
    }.items():
        assert everything(load(write(tmp_path / name, content))) == EXPECTED
    assert (
        error_of(write(tmp_path / "e.json", json.dumps([*rows, 3])))
        == "e.json entry 21: 3 is no JSON object, expected one"
    )
    assert error_of(write(tmp_path / "f.json", "[]")) == "f.json: an empty list, expected rows"
    message = error_of(write(tmp_path / "g.json", json.dumps({"text": {"0": "x"}}, indent=1)))
    assert message.startswith(
        "g.json: one object with the keys ['text'], expected a list of objects, or one object a line"
    )
    assert "h.json line 1: broken JSON" in error_of(write(tmp_path / "h.json", '[{"text": "x"'))


def test_the_first_broken_line_is_named_and_a_list_recognized(tmp_path):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    expected = "expected one object a line, or the ending .json of a JSON list"
    message = error_of(write(tmp_path / "a.jsonl", json.dumps(rows, indent=2)))
    assert message == f"a.jsonl line 1: broken JSON (Expecting value at column 2), {expected}"
    assert error_of(write(tmp_path / "b.jsonl", json.dumps(rows))).endswith(expected)
    message = error_of(write(tmp_path / "c.jsonl", "".join(f"{row}\n" for row in rows)))
    assert message.startswith("c.jsonl line 1: broken JSON (Expecting property name enclosed in double quotes")
    assert message.endswith("expected one object a line")


def test_fasttext_lines(tmp_path):
    content = "".join(f"__label__{label} {text}\n\n" for text, label in ROWS)
    dataset = load(write(tmp_path / "a.txt", content))
    assert (dataset.task, everything(dataset)) == ("single-label", EXPECTED)
    dataset = load(write(tmp_path / "b.train", content + "__label__a __label__b both\nnone of them\n"))
    assert dataset.task == "multi-label"
    assert {("both", ("a", "b")), ("none of them", ())} < set(everything(dataset))
    assert (
        error_of(write(tmp_path / "c.txt", content + "__label__a\n"))
        == "c.txt line 41: 'text' is empty, expected a text"
    )
    assert "unknown kind of file" in error_of(write(tmp_path / "d.txt", "a text\n"))
    for name in ("train.txt", "valid.txt", "test.txt"):
        write(tmp_path / "parts" / name, content)
    assert len(load(tmp_path / "parts").validation) == 20


def test_commas_between_fasttext_labels_are_no_part_of_them(tmp_path):
    content = "".join(f"__label__{label}, __label__all, {text}\n" for text, label in ROWS)
    assert load(write(tmp_path / "a.txt", content)).labels == ("a", "all", "b")


def test_whole_numbers_that_pandas_made_floats(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": [float(i % 2) for i in range(20)]}), path)
    assert load(path).labels == ("0", "1")
    pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": [0.0, float("nan")] * 10}), path)
    assert "row 2: 'label' has NaN, expected a label" in error_of(path)


def test_nested_fields(tmp_path):
    rows = [{"doc": {"text": text, "id": i}, "meta": {"topic": label}} for i, (text, label) in enumerate(ROWS)]
    options = {"text_field": "doc.text", "label_field": "meta.topic", "id_field": "doc.id"}
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert everything(load(path, **options)) == EXPECTED
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert everything(load(tmp_path / "a.parquet", **options)) == EXPECTED
    rows[3]["doc"] = {"body": "x", "id": 3}
    message = error_of(write(path, "\n".join(map(json.dumps, rows))), **options)
    assert message == "a.jsonl line 4, id '3': has no field 'doc.text'; its fields are: ['body', 'id']"
    assert "no field 'doc.text' (text_field)" in error_of(write(tmp_path / "b.csv", lines(",")), text_field="doc.text")


def test_several_text_fields(tmp_path):
    rows = [
        {"title": f"title {i}", "body": text if i % 2 else None, "label": label} for i, (text, label) in enumerate(ROWS)
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    texts = dict(everything(load(path, text_field=["title", "body"])))
    assert texts.keys() == {f"title {i}" + (f"\n\n{text}" if i % 2 else "") for i, (text, _) in enumerate(ROWS)}
    rows[3] |= {"title": " ", "body": ""}
    message = error_of(write(path, "\n".join(map(json.dumps, rows))), text_field=["title", "body"])
    assert message == "a.jsonl line 4: 'title' and 'body' are empty, expected a text"


# Excel


def workbook(path: Path, rows, *more_sheets: str) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra [documents]")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name in more_sheets:
        book.create_sheet(name)
    book.save(path)
    return path


def test_excel(tmp_path):
    rows = [("text", "label"), *ROWS, (None, None), ("", " ")]
    dataset = load(workbook(tmp_path / "a.xlsx", rows))
    assert (everything(dataset), dataset.notes) == (EXPECTED, ())
    numbers = [("id", "text", "label"), *((i, text, i % 2) for i, (text, _) in enumerate(ROWS))]
    dataset = load(workbook(tmp_path / "b.xlsx", numbers), id_field="id")
    assert dataset.labels == ("0", "1")
    message = error_of(workbook(tmp_path / "c.xlsx", [*rows[:5], (None, "a"), *rows[5:]]))
    assert message == "c.xlsx row 6: 'text' is null, expected a value"
    (note,) = load(workbook(tmp_path / "d.xlsx", rows, "notes")).notes
    assert note == f"{tmp_path / 'd.xlsx'}: the first sheet, 'Sheet', is read; the others are not: ['notes']"


def test_workbooks_that_cannot_be_read(tmp_path):
    assert error_of(workbook(tmp_path / "a.xlsx", [("text", "label")])) == "a.xlsx: a header and no rows"
    assert error_of(workbook(tmp_path / "b.xlsx", [])) == "b.xlsx: no rows in the sheet 'Sheet'"
    message = error_of(write(tmp_path / "c.xlsx", b"\xd0\xcf\x11\xe0" + bytes(600)))
    assert message == "c.xlsx: has a password or is of an older format, expected an Excel workbook without password"
    assert error_of(write(tmp_path / "d.xlsx", "text,label\n")).startswith("d.xlsx: damaged, or not an Excel workbook")
    whole = workbook(tmp_path / "e.xlsx", [("text", "label"), *ROWS]).read_bytes()
    assert error_of(write(tmp_path / "e.xlsx", whole[: len(whole) // 2])).startswith("e.xlsx: damaged, or not")
    with zipfile.ZipFile(tmp_path / "f.xlsx", "w") as archive:
        archive.writestr("nothing.xml", "<a/>")
    assert error_of(tmp_path / "f.xlsx").startswith("f.xlsx: damaged Excel workbook, or none")


def test_archives_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("flash_sparse_datasets.shared.zip_files.MOST_UNPACKED", 2**20)
    for name in ("a.xlsx", "a.docx"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("big.xml", bytes(2**22))
    assert error_of(tmp_path / "a.xlsx") == "a.xlsx: unpacks to 4 MiB, expected an Excel workbook of at most 1 MiB"
    pytest.importorskip("docx", reason="needs the extra [documents]")
    with pytest.raises(DataError, match=r"a\.docx: unpacks to 4 MiB, expected a Word document \(\.docx\) of at most"):
        text_of(tmp_path / "a.docx")


# Documents


def pdf(path: Path, *pages: str) -> Path:
    """A PDF of one line a page, written by hand: no library that is installed for tests makes any."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for page in pages:
        content = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET"
        kids.append(f"{len(objects) + 1} 0 R")
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        contents = f"{len(objects) + 2} 0 R"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font} /Contents {contents} >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    written, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(written)}\n%%EOF\n"
    return write(path, f"{written}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}")


def word(path: Path, *paragraphs: str) -> Path:
    docx = pytest.importorskip("docx", reason="needs the extra [documents]")
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    path.parent.mkdir(parents=True, exist_ok=True)
    document.save(str(path))
    return path


def html(path: Path, *paragraphs: str) -> Path:
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return write(path, f"<html><head><title>t</title></head><body>{body}</body></html>")


@pytest.mark.parametrize(
    ("ending", "make", "library"), [("pdf", pdf, "pypdfium2"), ("docx", word, "docx"), ("html", html, "bs4")]
)
def test_class_folders_and_paths_of_documents(tmp_path, ending, make: Callable[..., Path], library):
    pytest.importorskip(library, reason="needs the extra [documents]")
    for i in range(20):
        make(tmp_path / "folder" / "ab"[i % 2] / f"{i}.{ending}", f"this is number {i}")
    expected = sorted((f"this is number {i}", ("ab"[i % 2],)) for i in range(20))
    assert everything(load(tmp_path / "folder")) == expected
    paths = "".join(f"folder/{'ab'[i % 2]}/{i}.{ending},{'ab'[i % 2]}\n" for i in range(20))
    table = write(tmp_path / "table.csv", "file,label\n" + paths)
    assert everything(load(table, file_field="file")) == expected
    (note,) = load(table, text_field="file").notes
    assert note.startswith(f"{table}: 20 of 20 texts look like the path of a file")
    write(table, "file,label\n" + paths + f"gone.{ending},a\n")
    message = error_of(table, file_field="file")
    assert message.startswith(f"table.csv row 22: gone.{ending}: cannot be read (No such file")
    write(tmp_path / "folder" / "a" / f"x.{ending}", b"" if ending == "html" else b"junk")
    assert f"x.{ending}: " in error_of(tmp_path / "folder")
    assert everything(load(tmp_path / "folder", bad_rows="skip")) == expected


def test_pdf(tmp_path):
    pytest.importorskip("pypdfium2", reason="needs the extra [documents]")
    assert text_of(pdf(tmp_path / "a.pdf", "first page", "", "third page")) == "first page\n\n\n\nthird page"
    with pytest.raises(DataError, match=r"b\.pdf: no text in its 2 pages, expected some \(of a scan, text recognition"):
        text_of(pdf(tmp_path / "b.pdf", "", ""))
    with pytest.raises(DataError, match=r"c\.pdf: damaged PDF, or none"):
        text_of(write(tmp_path / "c.pdf", b"%PDF-1.4\n" + bytes(100)))


def test_a_pdf_behind_a_password(tmp_path):
    pytest.importorskip("pypdfium2", reason="needs the extra [documents]")
    whole = pdf(tmp_path / "a.pdf", "secret").read_bytes()
    encryption = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >>"
    locked = whole.replace(b"trailer <<", b"trailer << /ID [<00> <00>] " + encryption)
    with pytest.raises(DataError, match=r"a\.pdf: has a password, expected a PDF without"):
        text_of(write(tmp_path / "a.pdf", locked))


def test_word(tmp_path):
    docx = pytest.importorskip("docx", reason="needs the extra [documents]")
    document = docx.Document()
    document.add_paragraph("before\tthe table")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    document.add_paragraph("after it")
    document.save(str(tmp_path / "a.docx"))
    assert text_of(tmp_path / "a.docx") == "before\tthe table\nleft\nright\nafter it"
    for name, content in (("b.docx", b"junk"), ("c.docx", b"\xd0\xcf\x11\xe0" + bytes(600))):
        with pytest.raises(DataError, match=rf"{name[0]}\.docx: (damaged|has a password), or|has a password or"):
            text_of(write(tmp_path / name, content))
    with pytest.raises(DataError, match=r"d\.docx: has no text"):
        text_of(word(tmp_path / "d.docx", " "))


@pytest.mark.parametrize(("name", "newer"), [("a.doc", ".docx"), ("a.RTF", ".docx"), ("a.xls", ".xlsx")])
def test_older_formats_are_refused(tmp_path, name, newer):
    with pytest.raises(DataError, match=rf"{name}: {name[1:]} cannot be read, expected it saved as {newer}"):
        text_of(write(tmp_path / name, "{\\rtf1 hello}"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_html_that_declares_no_encoding(tmp_path, encoding):
    pytest.importorskip("bs4")
    page = write(tmp_path / "a.html", "<html><body><p>f\u00fcr \u20ac 5</p></body></html>".encode(encoding))
    assert text_of(page) == "f\u00fcr \u20ac 5"


def test_html_that_declares_a_wrong_encoding(tmp_path):
    pytest.importorskip("bs4")
    page = "<html><head><meta charset='utf-8'></head><body>f\u00fcr</body></html>"
    assert text_of(write(tmp_path / "a.html", page.encode("cp1252"))) == "f\u00fcr"


def test_html(tmp_path):
    pytest.importorskip("bs4", reason="needs the extra [documents]")
    page = (
        "<!DOCTYPE html><html><head><meta charset='latin-1'><title>no</title><style>p {}</style></head><body>"
        "<script>var no = 1;</script><!-- no --><h1>A  head</h1>"
        "<p>Caf\xe9 with <b>b</b>old\nand<br>a break &amp; more</p>"
        "<table><tr><td>left</td><td>right</td></tr></table><pre>kept\n  as it is</pre></body></html>"
    )
    text = text_of(write(tmp_path / "a.html", page.encode("latin-1")))
    assert text == "A head\n\nCafé with bold and\na break & more\n\nleft\tright\n\nkept\nas it is"
    with pytest.raises(DataError, match=r"b\.html: has no text"):
        text_of(write(tmp_path / "b.html", "<script>only()</script>"))
