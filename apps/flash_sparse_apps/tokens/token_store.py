"""One split's tokens on disk, memory-mapped: built once for a dataset and tokenizer, read at any length.

A store is one file, so that one rename puts it in place whole: the sections below end to end, each from a multiple of
8 bytes on, then a JSON footer that says where each section is, then the footer's length, the CRC-32 of all before it
(8 bytes each) and `_MAGIC`. The checksum is compared at each opening, in about a quarter of a second for a gigabyte: a
byte that the disk changed would train on other tokens without a word.

    tokens          uint16 or uint32, all documents end to end
    token_offsets   int64 (N + 1,), where each document begins
    labels          int32, label positions of all documents end to end, ascending within each
    label_offsets   int64 (N + 1,)
    ids             UTF-8 bytes end to end
    id_offsets      int64 (N + 1,)
    first_lengths   int64 (N,), of pairs alone: the tokens of the first text; the second's follow them
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.sparse import csr_matrix

from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import Tokenizer
from flash_sparse_datasets import Document
from flash_sparse_datasets.shared.naming import naming
from flash_sparse_datasets.shared.progress import Progress

FORMAT_VERSION = 2
_MAGIC = b"TOKSTORE"
_SECTIONS = {"tokens", "token_offsets", "labels", "label_offsets", "ids", "id_offsets"}
_OF_PAIRS = "first_lengths"
_END = 24  # bytes after the footer
_SUFFIX, _TEMPORARY_SUFFIX = ".tokens", ".tokens-partial"
_BATCH_CHARACTERS = 4_000_000  # of text tokenized together: enough to keep all cores busy, some 100 MB with its tokens


def store_key(dataset_fingerprint: str, tokenizer_fingerprint: str, split: str) -> str:
    """Hex sha256 that names a store: other content, tokenizer, split or file format, other name."""
    parts = [dataset_fingerprint, tokenizer_fingerprint, split, FORMAT_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class TokenStore:
    """Tokens, labels and ids of one split, N documents. Whole documents; `tokens` cuts them when they are read.

    A document may be a pair of texts; all of a store are, or none is.

    Attributes:
        lengths: (N,) int64, tokens of each whole document, at least 1; those of a pair are both texts'.
        text_lengths: (N,) int64, tokens of each whole text; of a pair, the longer one's.
        pairs: whether the documents are pairs.
        num_labels: how many labels there are, given to some document or not.
    """

    def __init__(self, path: str | Path):
        """Open a finished store; `build_or_open` also makes it.

        Raises:
            ValueError: the file is not a whole store.
            OSError: it cannot be read.
        """
        sections, self.num_labels = _read_footer(Path(path))
        with naming(path):
            data = np.memmap(path, np.uint8, "r")
        _check_sum(path, data)

        def section(name: str) -> np.ndarray:
            start, count, dtype = sections[name]
            return data[start : start + count * np.dtype(dtype).itemsize].view(dtype)

        self._tokens, self._token_offsets = section("tokens"), np.array(section("token_offsets"))
        self._labels, self._label_offsets = np.array(section("labels")), np.array(section("label_offsets"))
        self._ids, self._id_offsets = section("ids"), section("id_offsets")
        self.lengths = np.diff(self._token_offsets)
        for values, offsets in (
            (self._tokens, self._token_offsets),
            (self._labels, self._label_offsets),
            (self._ids, self._id_offsets),
        ):
            if len(offsets) != len(self._token_offsets) or offsets[0] != 0 or offsets[-1] != len(values):
                raise ValueError(f"{path}: damaged token store: its sections do not agree")
        self.pairs = _OF_PAIRS in sections
        self._first_lengths = np.array(section(_OF_PAIRS)) if self.pairs else self.lengths
        if len(self._first_lengths) != len(self.lengths) or (self._first_lengths > self.lengths).any():
            raise ValueError(f"{path}: damaged token store: its sections do not agree")
        self.text_lengths = np.maximum(self._first_lengths, self.lengths - self._first_lengths)

    @classmethod
    def build_or_open(
        cls,
        folder: str | Path,
        documents: Iterable[Document],
        tokenizer: Tokenizer | ByteTokenizer,
        labels: Sequence[str],
        key: str,
        *,
        progress: bool = True,
    ) -> TokenStore:
        """Open the store `key` in `folder`; tokenize `documents` into it first where it is missing, or damaged, which a
        line on stderr says.

        Safe against being killed at any moment and against other processes that do the same at the same time: the file
        appears under its name only when it is whole and on disk. What killed builds left behind is removed.

        Args:
            folder: cache folder, made where missing.
            documents: gone through once, if at all; texts are held a few megabytes at a time.
            labels: all labels of the task; a document's labels are stored as positions in it.
            key: from `store_key`.
            progress: show a progress bar while building.

        Raises:
            ValueError: a document has a label that is not in `labels`.
            OSError: the folder cannot be written or the disk is full; nothing partial is left.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{key}{_SUFFIX}"
        try:
            return cls(path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            print(f"note: {error}; it is made anew", file=sys.stderr, flush=True)
        _remove_leftovers(folder)
        with naming(path), _replacing(path) as file:
            _write_store(_Summed(file), documents, tokenizer, labels, progress)
        return cls(path)

    def __len__(self) -> int:
        return len(self.lengths)

    def texts(self, index: int, seq_len: int) -> list[np.ndarray]:
        """The first `seq_len` tokens of a document's text, or of each of its two, (n,) int64."""
        start, first, whole = self._token_offsets[index], self._first_lengths[index], self.lengths[index]
        parts = ((start, first), (start + first, whole - first)) if self.pairs else ((start, whole),)
        return [self._tokens[begin : begin + min(length, seq_len)].astype(np.int64) for begin, length in parts]

    def tokens(self, index: int, seq_len: int) -> np.ndarray:
        """The same end to end, (n,) int64."""
        return np.concatenate(self.texts(index, seq_len))

    def each_length(self, seq_len: int) -> np.ndarray:
        """(N,) tokens of each text as it is read; of pairs (2 N,), first all first texts."""
        parts = [self._first_lengths, self.lengths - self._first_lengths]
        return np.minimum(np.concatenate(parts if self.pairs else parts[:1]), seq_len)

    def read_lengths(self, seq_len: int) -> np.ndarray:
        """(N,) tokens of each document as it is read."""
        return self.each_length(seq_len).reshape(1 + self.pairs, len(self)).sum(0)

    def label_indices(self, index: int) -> np.ndarray:
        """The labels of a document, (k,) int32 ascending, positions in `labels`."""
        return self._labels[self._label_offsets[index] : self._label_offsets[index + 1]]

    def label_matrix(self) -> csr_matrix:
        """(N, L) uint8, 1 where the document has the label."""
        ones = np.ones(len(self._labels), np.uint8)
        return csr_matrix((ones, self._labels, self._label_offsets), shape=(len(self), self.num_labels))

    def ids(self, index: int) -> str:
        """The document's id."""
        return bytes(self._ids[self._id_offsets[index] : self._id_offsets[index + 1]]).decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Truncation:
    """What `seq_len` cuts from a split. Shares are from 0 to 1.

    The last three are tokens of whole documents; of pairs, of the longer of the two texts. A pair is cut where one of
    its texts is.
    """

    seq_len: int
    documents: int
    documents_cut: int
    documents_cut_share: float
    tokens: int
    tokens_cut: int
    tokens_cut_share: float
    median_length: float
    p95_length: float
    max_length: int


def truncation(store: TokenStore, seq_len: int) -> Truncation:
    """Count the documents and tokens that reading at most `seq_len` tokens of each document leaves out."""
    lengths = store.text_lengths if len(store) else np.zeros(1, np.int64)
    documents_cut = int((lengths > seq_len).sum())
    tokens = int(store.lengths.sum())
    tokens_cut = tokens - int(store.read_lengths(seq_len).sum())
    return Truncation(
        seq_len=seq_len,
        documents=len(store),
        documents_cut=documents_cut,
        documents_cut_share=documents_cut / max(len(store), 1),
        tokens=tokens,
        tokens_cut=tokens_cut,
        tokens_cut_share=tokens_cut / max(tokens, 1),
        median_length=float(np.median(lengths)),
        p95_length=float(np.quantile(lengths, 0.95)),
        max_length=int(lengths.max()),
    )


class _Summed:
    """Writes to a file, and knows the CRC-32 of all that it has written."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sum = 0
        self.tell = file.tell

    def write(self, content: bytes | memoryview):
        self.sum = zlib.crc32(content, self.sum)
        self._file.write(content)


def _write_store(
    file: _Summed,
    documents: Iterable[Document],
    tokenizer: Tokenizer | ByteTokenizer,
    labels: Sequence[str],
    progress: bool,
) -> None:
    encode: Callable[[Sequence], list] = tokenizer.encode_batch  # a split's texts are all of the kind that it takes
    position = {label: i for i, label in enumerate(labels)}
    token_dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    lengths: list[int] = []
    first_lengths: list[int] = []  # of pairs
    label_counts, label_indices, ids = [], [], []
    sections = {}
    total = len(documents) if isinstance(documents, Sized) else None

    def write(name: str, values: np.ndarray) -> None:
        file.write(b"\0" * (-file.tell() % 8))
        sections[name] = (file.tell(), len(values), values.dtype.str)
        file.write(values.data)

    with Progress(None, "tokenizing", total, shown=progress) as bar:
        for batch in _batches(documents):
            for document in batch:
                try:
                    indices = sorted({position[label] for label in document.labels})
                except KeyError as error:
                    raise ValueError(
                        f"document {document.id!r} has the label {error.args[0]!r}; expected one of the {len(labels)}"
                        " labels of the training split"
                    ) from None
                label_indices.extend(indices)
                label_counts.append(len(indices))
                ids.append(document.id.encode("utf-8", "surrogatepass"))
            encoded = encode([document.text for document in batch])
            if batch[0].second is not None:
                seconds = encode([document.second for document in batch])
                first_lengths.extend(map(len, encoded))
                encoded = [np.concatenate((one, other)) for one, other in zip(encoded, seconds, strict=True)]
            for tokens in encoded:
                file.write(np.array(tokens, token_dtype).data)
            lengths.extend(map(len, encoded))
            bar.update(len(batch))
    sections["tokens"] = (0, sum(lengths), np.dtype(token_dtype).str)
    write("token_offsets", _offsets(lengths))
    write("labels", np.array(label_indices, np.int32))
    write("label_offsets", _offsets(label_counts))
    write("ids", np.frombuffer(b"".join(ids), np.uint8))
    write("id_offsets", _offsets([len(name) for name in ids]))
    if first_lengths:
        write(_OF_PAIRS, np.array(first_lengths, np.int64))
    footer = json.dumps({"version": FORMAT_VERSION, "num_labels": len(labels), "sections": sections}).encode()
    file.write(footer + len(footer).to_bytes(8, "little"))
    file.write(file.sum.to_bytes(8, "little") + _MAGIC)


def _offsets(counts: list[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text) + len(document.second or "")
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_footer(path: Path) -> tuple[dict[str, tuple[int, int, str]], int]:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END, 0))
        tail = file.read()
        if len(tail) != _END or tail[16:] != _MAGIC:
            raise ValueError(f"{path}: damaged token store: no end mark")
        length = min(int.from_bytes(tail[:8], "little"), size - _END)
        file.seek(size - _END - length)
        try:
            footer = json.loads(file.read(length))
            sections = {name: (start, count, dtype) for name, (start, count, dtype) in footer["sections"].items()}
            ends = [start + count * np.dtype(dtype).itemsize for start, count, dtype in sections.values()]
            version, num_labels = footer["version"], footer["num_labels"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged token store: unreadable footer") from error
    if version != FORMAT_VERSION or sections.keys() - {_OF_PAIRS} != _SECTIONS or max(ends) != size - _END - length:
        raise ValueError(f"{path}: damaged token store: its size is not what its footer says")
    return sections, num_labels


def _check_sum(path: str | Path, data: np.ndarray):
    """Raise ValueError for content (n,) uint8 that is not what its checksum says."""
    kept = int.from_bytes(data[-16:-8].tobytes(), "little")
    found = zlib.crc32(data[:-16].data)
    if found != kept:
        raise ValueError(f"{path}: damaged token store: its checksum is {found:08x}; expected {kept:08x}")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and is gone when it does not.

    It is locked for as long as it is written, which tells `_remove_leftovers` that its writer is alive.
    """
    file, temporary = _open_locked(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def _open_locked(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        temporary = path.with_name(f"{path.stem}-{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")
        file = open(temporary, "xb", buffering=1 << 20)  # noqa: SIM115  (the caller closes it)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody can take leftovers away either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, temporary
        file.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), open(leftover, "r+b") as file:  # locked: somebody is writing it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()
