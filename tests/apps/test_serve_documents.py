"""PDF, Word and HTML files at the server: read by processes of their own, which have limits."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
pytest.importorskip("python_multipart", reason="needs the extra [serve]")
pytest.importorskip("pypdfium2", reason="needs the extra [documents]")
pytest.importorskip("docx", reason="needs the extra [documents]")
pytest.importorskip("bs4", reason="needs the extra [documents]")
import docx
from fastapi.testclient import TestClient
from served import make_model

from flash_sparse_apps.serving import document_process, document_reader
from flash_sparse_apps.serving.api import make_app
from flash_sparse_apps.serving.document_reader import DocumentReader
from flash_sparse_apps.serving.errors import Refused
from flash_sparse_apps.serving.limits import Limits


@pytest.fixture(scope="module")
def client():
    with TestClient(make_app(make_model(), "tiny", "cpu", 4096, None, Limits()), base_url="http://localhost") as client:
        yield client


def word(text: str) -> bytes:
    document, file = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(file)
    return file.getvalue()


def pdf(text: str) -> bytes:
    """One page, as small as a PDF can be."""
    drawn = f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
    ]
    file = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 5\n0000000000 65535 f \n"
    return file + head + table + b"trailer << /Root 1 0 R /Size 5 >>\nstartxref\n%d\n%%%%EOF\n" % len(file)


def html(text: str) -> bytes:
    return f"<title>keyfig</title><p>{text}</p>".encode()


def upload(client, name: str, content: bytes):
    return client.post("/predict/files", files={"file": (name, content)})


@pytest.mark.parametrize(("name", "make"), [("a.pdf", pdf), ("<b>.DOCX", word), ("c.html", html), ("d.htm", html)])
def test_documents_are_labelled_by_their_text(client, name, make):
    text = "word1 " * 6 + "keypear " + "word2 " * 6  # what fits on the page
    answer = upload(client, name, make(text))
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()
    assert (row["id"], row["labels"]) == (name, ["pear"])
    assert row["text"].split() == text.split()
    passage = row["evidence"]["pear"][0]
    assert row["text"][passage["start"] : passage["end"]] == passage["text"]
    assert "keypear" in passage["text"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdf", pdf(""), "a.pdf: no text in its 1 pages"),
        ("a.docx", b"PK no", "a.docx: damaged"),
        ("a.docx", b"\xd0\xcf\x11\xe0" + bytes(99), "a.docx: has a password or is of an older format"),
        ("a.html", b"<script>keyfig</script>", "a.html: has no text"),
    ],
)
def test_documents_without_a_text_are_refused(client, name, content, said):
    answer = upload(client, name, content)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert answer.json()["error"].startswith(said)


def read(limits: Limits, name: str, content: bytes) -> str:
    return asyncio.run(DocumentReader(limits).text(name, content))


TOO_MUCH = """
import signal
from flash_sparse_apps.serving import document_process
document_process._limit(5)
print(os.environ.get("FLASH_SPARSE_TOKEN"))
try:
    bytearray(3 << 30)
except MemoryError:
    print("no memory")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    open(PLACE, "wb", buffering=0).write(b"x")
except OSError:
    print("no file")
"""
COUNTED = """
mine = os.path.join(PLACE, f"run{os.getpid()}")
open(mine, "w").close()
time.sleep(0.5)
print(sum(name.startswith("run") for name in os.listdir(PLACE)))
os.remove(mine)
"""


def process_that(monkeypatch, tmp_path, does: str):
    """Let another program read the files."""
    (tmp_path / "stand_in.py").write_text(f"import os, sys, time\n{does}\n")
    monkeypatch.setattr(document_reader, "PROCESS", "stand_in")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_a_file_that_takes_too_long_is_given_up_and_its_process_ended(monkeypatch, tmp_path):
    place = tmp_path / "pid"
    process_that(monkeypatch, tmp_path, f"open({str(place)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    began = time.monotonic()
    with pytest.raises(Refused) as refused:
        read(Limits(read_seconds=5), "a.pdf", b"%PDF")
    assert time.monotonic() - began < 60
    assert refused.value.message == "a.pdf: takes longer than 5 seconds to read; expected a smaller file"
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_who_stops_waiting_ends_the_process(monkeypatch, tmp_path):
    place = tmp_path / "pid"
    process_that(monkeypatch, tmp_path, f"open({str(place)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")

    async def leave():
        reading = asyncio.ensure_future(DocumentReader(Limits()).text("a.pdf", b"%PDF"))
        while not (place.exists() and place.read_text()):
            await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(leave())
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_a_process_that_falls_over_refuses_its_file_alone(monkeypatch, tmp_path):
    process_that(monkeypatch, tmp_path, "os.abort()")
    with pytest.raises(Refused, match=r"^a\.pdf: cannot be read; expected a file that is not damaged, or its text$"):
        read(Limits(), "a.pdf", b"%PDF")


def test_a_text_may_be_as_long_as_a_request(monkeypatch):
    assert len(read(Limits(body_bytes=2 << 20), "a.html", html("word1 " * 300_000))) > 1_700_000
    with pytest.raises(Refused, match=r"^a\.html: its text has more than 1 MiB, expected less$"):
        read(Limits(body_bytes=1 << 20), "a.html", html("word1 " * 300_000))


def test_the_process_has_little_memory_no_files_and_no_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_SPARSE_TOKEN", "correct-horse")
    process_that(monkeypatch, tmp_path, TOO_MUCH.replace("PLACE", repr(str(tmp_path / "new"))))
    assert read(Limits(), "a.pdf", b"").split("\n") == ["None", "no memory", "no file", ""]


def test_memory_that_is_not_enough_is_said(monkeypatch, capsys):
    def take_all(*_):
        raise MemoryError

    monkeypatch.setattr(document_process, "text_in", take_all)
    monkeypatch.setattr(document_process, "_limit", lambda _: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert document_process.main(["document.pdf", "10", "5"]) == 2
    assert (
        capsys.readouterr().err == "error: document.pdf: takes more than 2,048 MiB of memory to read, expected less\n"
    )


def test_no_more_than_a_few_are_read_at_once(monkeypatch, tmp_path):
    process_that(monkeypatch, tmp_path, COUNTED.replace("PLACE", repr(str(tmp_path))))

    async def many():
        reader = DocumentReader(Limits())
        return await asyncio.gather(*(reader.text("a.pdf", b"") for _ in range(5)))

    assert max(map(int, asyncio.run(many()))) <= document_reader.AT_ONCE


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    (tmp_path / "pypdfium2.py").write_text("raise ModuleNotFoundError('no', name='pypdfium2')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(Refused, match=r"^a\.pdf: pypdfium2 is not installed; expected pip install 'flash-sparse"):
        read(Limits(), "a.pdf", pdf("word1"))
