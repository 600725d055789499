"""A server among strangers: who may ask, and what cannot bring it down."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
import uvicorn
from fastapi.testclient import TestClient
from served import make_model, serving

from flash_sparse_apps import serve
from flash_sparse_apps.serving.api import make_app
from flash_sparse_apps.serving.connections import bounded
from flash_sparse_apps.serving.limits import Limits

TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    make_model().save(folder / "model", "")
    return folder


@pytest.fixture(scope="module")
def server(run):
    with serving(run) as address:
        yield address


def client_with(token: str | None, **changes) -> TestClient:
    return TestClient(
        make_app(make_model(), "tiny", "cpu", 4096, token, Limits(**changes)), base_url="http://localhost"
    )


def post(address: str, text: str = "word1 keyapple", timeout: float = 60) -> list:
    head = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/predict", json.dumps({"inputs": text}).encode(), head)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def test_without_a_token_only_this_machine_is_asked_and_asks():
    client = client_with(None)
    for host, status in [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 403)]:
        assert client.get("/info", headers={"host": host}).status_code == status
    assert client.get("/info", headers={"host": "[::1"}).status_code == 403  # no address
    for origin, status in [("http://localhost", 200), ("http://evil.example", 403), ("null", 403), ("http://[", 403)]:
        assert client.post("/predict", json={"inputs": "a"}, headers={"origin": origin}).status_code == status


def test_a_form_of_another_page_cannot_send_json():
    body = json.dumps({"inputs": "word1"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client_with(None).post("/predict", content=body, headers={"content-type": kind}).status_code == 422


def test_a_token_is_asked_for():
    client = client_with(TOKEN)
    for given in (None, "Bearer", "Bearer wrong", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for method, path in [("GET", "/info"), ("GET", "/metrics"), ("POST", "/predict"), ("POST", "/")]:
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error_type"]) == (401, "Validation"), (given, path)
    right = {"authorization": f"Bearer {TOKEN}", "host": "models.example"}
    assert client.post("/predict", json={"inputs": "word1"}, headers=right).status_code == 200
    for path in ("/", "/health", "/docs", "/openapi.json", "/static/index.js"):
        assert client.get(path).status_code == 200


def test_every_answer_has_the_policy_and_pages_have_no_inline_script():
    client = client_with(None)
    for path in ("/", "/docs", "/static/index.js", "/info", "/nothing"):
        answer = client.get(path)
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/docs"):
        html = client.get(path).text
        assert re.findall(r"<script(?![^>]*src=)", html) == []
        assert re.findall(r"\son\w+=|style=|https?://", html) == []
    for path in ("/static/index.js", "/static/docs.js"):
        code = client.get(path).text
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", code) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "--host is 0.0.0.0, which others can reach; expected a --token"),
        (["--token", "short"], "--token"),
        (["--port", "70000"], "--port is 70000"),
        (["--max-megabytes", "0"], "--max-megabytes is 0"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "--host is no.such.host.invalid"),
    ],
)
def test_mistakes_are_one_line(run, flags, said, capsys, monkeypatch):
    monkeypatch.delenv("FLASH_SPARSE_TOKEN", raising=False)
    assert serve.main([str(run), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert serve.main(["/not/there"]) == 2
    assert "expected the folder of a finished run" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["#a-comment", "12345678", "a:mapping", "[list,of]", "'quoted'"])
def test_a_token_is_taken_as_it_is_typed(run, token, monkeypatch):
    """Read as YAML, some would be another token, and one that begins with # none at all."""
    monkeypatch.setenv("FLASH_SPARSE_TOKEN", "of-the-environment")
    taken = []
    monkeypatch.setattr(serve, "_serve", lambda given, model, device, token: taken.append(token))
    assert serve.main([str(run), "--token", token]) == 0
    assert taken == [token]


def test_a_port_in_use_is_one_line(run, server, capsys):
    assert serve.main([str(run), "--port", str(urlsplit(server).port)]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_without_the_extra_a_line_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert serve.main([str(run)]) == 2
    assert capsys.readouterr().err == "error: fastapi is not installed; expected pip install 'flash-sparse[serve]'\n"


@pytest.mark.slow
def test_another_host_with_the_token_of_the_environment(run):
    with serving(run, "--host", "0.0.0.0", FLASH_SPARSE_TOKEN=TOKEN) as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(address)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_a_gigabyte_is_refused(server, declared):
    """Where its length is declared, at once; else when the limit is reached. The client reads why."""
    with connect(server) as client:
        kind = f"content-length: {1 << 30}" if declared else "transfer-encoding: chunked"
        client.sendall(f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{kind}\r\n\r\n".encode())
        piece = b"x" * (1 << 20)
        try:
            for _ in range(1024):
                client.sendall(piece if declared else b"100000\r\n" + piece + b"\r\n")
        except OSError:
            pass  # cut off before the end
        answer = client.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"32 MiB" in answer
    assert post(server)[0]["label"] == "apple"


def test_all_bodies_together_are_bounded():
    with client_with(None, all_bytes=1000) as client:
        answer = client.post("/predict", json={"inputs": "word1 " * 500})
        assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
        assert client.post("/predict", json={"inputs": "word1"}).status_code == 200


def test_no_http_and_half_a_request(server):
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{",
    ):
        with connect(server) as client:
            client.sendall(sent)
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert post(server)[0]["label"] == "apple"


def test_a_killed_client_takes_its_documents_along(server):
    body = json.dumps({"inputs": [["word1 keyapple " * 500]] * 64, "detail": True}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    for _ in range(5):
        with connect(server) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(0.05)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with a reset
    assert post(server, timeout=30)[0]["label"] == "apple"  # 320 searches for evidence would take longer


def play(limits: Limits, part) -> list:
    """What `part(port)` returns beside a server with these limits, in one event loop."""

    async def both():
        app = make_app(make_model(), "tiny", "cpu", 4096, None, limits)
        server = uvicorn.Server(uvicorn.Config(app, http=bounded(limits), log_config=None, ws="none"))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            running = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                return await asyncio.wait_for(part(listening.getsockname()[1]), 60)
            finally:
                server.should_exit = True
                await running

    return asyncio.run(both())


async def send_slowly(port: int, first: bytes, then: bytes) -> bytes:
    """What is answered to a client that sends `then` ten times a second until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    writer.write(first)
    while not answer.done():
        writer.write(then)
        await asyncio.wait({answer}, timeout=0.1)
    writer.close()
    return b"" if answer.exception() else answer.result()


def test_slow_clients_are_given_up():
    """One sends a head byte by byte, one nothing, one a body byte by byte."""

    async def part(port: int):
        post = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10000\r\n\r\n"
        return await asyncio.gather(
            send_slowly(port, b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
            send_slowly(port, b"", b""),
            send_slowly(port, post, b"x"),
        )

    head, nothing, body = play(Limits(head_seconds=0.5, body_seconds=0.5), part)
    assert (head, nothing) == (b"", b"")
    assert body.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_of_too_many_idle_connections_the_oldest_make_way():
    async def part(port: int):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        open_still = sum(not reader.at_eof() and reader.exception() is None for reader, _ in idle)
        first, last = idle[0][0], idle[-1][0]
        for _, writer in idle:
            writer.close()
        return answer, open_still, first.at_eof() or first.exception() is not None, last.at_eof()

    answer, open_still, first_ended, last_ended = play(Limits(connections=50), part)
    assert answer.startswith(b"HTTP/1.1 200")
    assert open_still <= 50
    assert first_ended
    assert not last_ended
