"""Strategies of hypothesis that make hostile input, and what must hold of every answer to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

WORDS = (
    *("", " ", "\t", "a", "text", "label", "labels", "None", "nan", "=1+1", "-1", "0", "1", "[]", "{}", "[a", '["a"]'),
    *("['a' 'b']", "__label__", "__label__a", "../../etc/passwd", "<script>alert(1)</script>", "\x1b[2J", "日本", "😀"),
    *("e\u0301", "\u00e9", "\ufeff", "\u2028", "\u202e", "\ud800", "\x85", "\x0b", "\x00", '"', "'", '""', '"a', ";"),
    *(",", "|", "\\", "\r", "\n", "\r\n", "9" * 5000, "[" * 600 + "]" * 600, "x" * 70_000, "1e999", "\\d", "é" * 300),
)


def slowly(cases: int) -> Callable:
    """What every fuzz has in common: so many cases, the same ones in each run, for CI to find nothing by chance."""
    return hypothesis.settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
names = st.one_of(st.sampled_from([word for word in WORDS if len(word) < 40]), st.text(max_size=8))
scalars = st.one_of(words, st.none(), st.booleans(), st.integers(), st.floats(), st.integers(-2, 2))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)

_pieces = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from([b"\0", b"\xff", b"\n", b"\r", b'"', b",", b"\t", b"{", b"[" * 500, b"\xef\xbb\xbf", b"\xff\xfe"]),
)
_changes = st.tuples(st.sampled_from(["flip", "put", "insert", "drop", "cut", "repeat"]), st.floats(0, 1), _pieces)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """The content after a few changes: bytes flipped, overwritten, inserted, dropped or repeated, the end cut off."""
    changed = bytearray(content)
    for how, share, piece in draw(st.lists(_changes, max_size=most)):
        place = int(share * len(changed))
        if how == "flip" and place < len(changed):
            changed[place] ^= piece[0] or 1
        elif how == "put":
            changed[place : place + len(piece)] = piece
        elif how == "insert":
            changed[place:place] = piece
        elif how == "drop":
            del changed[place : place + 1 + piece[0]]
        elif how == "cut":
            del changed[place:]
        elif how == "repeat":
            changed[place:place] = changed[place : place + 100]
    return bytes(changed)


def is_one_line(message: str, most: int = 3000) -> bool:
    """Whether it can stand in one line of a terminal, and does not hold a whole document."""
    return bool(message.strip()) and len(message.splitlines()) == 1 and len(message) < most


def files_below(folder: Path) -> dict[str, str]:
    """Names and contents of all files, as hashes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
