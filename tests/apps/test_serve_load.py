"""Many clients at the same time: each gets its own answer, and none is lost.

As a script it measures: `python tests/apps/test_serve_load.py RUN DOCUMENTS.jsonl --seconds 60`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.labelling import predict_documents
from flash_sparse_apps.prediction.new_documents import NewDocument

CLIENTS = 200


async def keep_asking(address: str, texts: list[str], until: float, seed: int) -> list[tuple[int, float, list | None]]:
    """The place of each text that a client sent, one after the other over one connection, the seconds until its answer,
    and the answer; None for one that was lost."""
    draw, asked = random.Random(seed), []
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
    while time.perf_counter() < until:
        place = draw.randrange(len(texts))
        body = json.dumps({"inputs": texts[place], "truncate": True}).encode()
        head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}"
        begun = time.perf_counter()
        try:
            writer.write(head.encode() + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in answer.split(b"\r\n") if line.startswith(b"content-length: "))
            content = await reader.readexactly(length)
            found = json.loads(content) if answer.startswith(b"HTTP/1.1 200") else None
        except (OSError, asyncio.IncompleteReadError):
            asked.append((place, 0.0, None))
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
            continue
        asked.append((place, time.perf_counter() - begun, found))
    writer.close()
    return asked


async def play(address: str, texts: list[str], seconds: float) -> list[tuple[int, float, list | None]]:
    until = time.perf_counter() + seconds
    found = await asyncio.gather(*(keep_asking(address, texts, until, seed) for seed in range(CLIENTS)))
    return [one for asked in found for one in asked]


@pytest.mark.slow
def test_two_hundred_clients_lose_nothing(tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
    from served import make_model, serving

    model = make_model()
    model.save(tmp_path / "tiny" / "model", "")
    draw = random.Random(3)
    words = ["keyapple", "keyfig", *(f"word{number}" for number in range(40))]
    texts = [" ".join(draw.choice(words) for _ in range(draw.choice([3, 50, 200]))) for _ in range(50)]
    expected = [
        sorted(row["probabilities"], reverse=True)
        for row in predict_documents(model, [NewDocument("", text) for text in texts], 65536, "cpu")
    ]
    with serving(tmp_path / "tiny") as address:
        asked = asyncio.run(play(address, texts, 5))
    assert len(asked) > CLIENTS
    for place, _, answer in asked:
        assert answer is not None
        assert [row["score"] for row in answer] == expected[place]


def measure(run: Path, documents: Path, seconds: float):
    """Print the rate of the server beside that of `predict_documents` alone, on the same texts."""
    from served import serving

    rows = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    model = SavedModel.load(run)
    kept = [NewDocument("", text) for text in texts]
    begun = time.perf_counter()
    tokens = [min(row["tokens"], model.seq_len) for row in predict_documents(model, kept, 16384, "cpu")]
    alone = time.perf_counter() - begun
    print(f"{len(texts)} texts, {sum(tokens) / len(tokens):.0f} tokens each in the mean")
    print(f"predict alone: {len(texts) / alone:.1f} documents/s, {sum(tokens) / alone:,.0f} tokens/s")
    with serving(run) as address:
        begun = time.perf_counter()
        asked = asyncio.run(play(address, texts, seconds))
        took = time.perf_counter() - begun
    times = sorted(one[1] for one in asked)
    lost = sum(one[2] is None for one in asked)
    read = sum(tokens[place] for place, _, _ in asked)
    print(f"served, {CLIENTS} clients: {len(asked)} requests in {took:.0f} s, {lost} lost")
    print(f"served: {len(asked) / took:.1f} requests/s, {read / took:,.0f} tokens/s")
    print(f"p50 {times[len(times) // 2]:.2f} s, p99 {times[len(times) * 99 // 100]:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    measure(given.run, given.documents, given.seconds)
