"""From text to token ids: a byte-level BPE trained on the training split, the tokenizer of a published model, or the
words of a generated language.

All are one `Tokenizer` from the `tokenizers` library, kept in one file, `tokenizer.json`; `byte_tokenizer.py` has the
one for data that is bytes already.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from flash_sparse_apps.tokens import byte_tokenizer
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.hub import fetch
from flash_sparse_datasets.shared.progress import Progress

CLS, MASK = "[CLS]", "[MASK]"  # no [PAD]: batches are packed; no [UNK]: every byte has a token
UNKNOWN = "[UNK]"  # for words outside a fixed vocabulary
FILE_NAME = "tokenizer.json"
SAMPLE_BYTES = 8_000_000  # twice as many shorten texts by 0.5% and double the time
_CHUNK = 1 << 15  # characters that are kept or left out of the training sample together
_PIECE = 1 << 16  # characters of a piece of a long text, at least
_AT_ONCE = 1 << 20  # characters that are tokenized together, about: each takes some 160 bytes meanwhile
_SHOWN = 80  # characters of an unknown word
_SURROGATE = re.compile("[\ud800-\udfff]")
_BORDER = re.compile(
    r"\w(?=[ \n])"
)  # every pre-tokenizer that `_cuts_at_spaces` knows cuts behind it, whatever follows


_SPLITTERS = (pre_tokenizers.WhitespaceSplit, pre_tokenizers.Whitespace, pre_tokenizers.BertPreTokenizer)


class Tokenizer:
    """Text to token ids, the same way for trained and published tokenizers.

    Every document begins with the token `cls_id`, so no document is empty. Special tokens written out in a text, such
    as "[CLS]", are read as plain text. Lone surrogates, which no UTF-8 file can hold, count as U+FFFD.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        """Take a tokenizer whose post-processor puts one token first, as `train_tokenizer` and `load_tokenizer` do.

        Raises:
            ValueError: an empty text does not become exactly one token.
        """
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        first = backend.encode("").ids
        if len(first) != 1:
            raise ValueError(f"tokenizer makes {len(first)} tokens of an empty text; expected 1, the [CLS] token")
        self._backend = backend
        self.cls_id = first[0]

    @property
    def vocab_size(self) -> int:
        """Number of token ids: every id is below it."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK] or <mask>, None where the tokenizer has neither."""
        ids = (self._backend.token_to_id(token) for token in (MASK, "<mask>"))
        return next((token for token in ids if token is not None), None)

    @property
    def has_fixed_words(self) -> bool:
        """Whether it knows the words of a generated language and no others."""
        return isinstance(self._backend.model, models.WordLevel) and self._backend.token_to_id(UNKNOWN) is not None

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides the ids."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, in parallel and untruncated, `cls_id` first.

        A long text is tokenized in pieces, which bounds the memory and changes no id.
        """
        encoded: list[list[int]] = [[] for _ in texts]
        pieces = ((row, piece) for row, text in enumerate(texts) for _, piece in self._pieces(text))
        for group in _groups(pieces):
            found = self._backend.encode_batch_fast([piece for _, piece in group])
            for (row, _), encoding in zip(group, found, strict=True):
                encoded[row] += encoding.ids[1:] if encoded[row] else encoding.ids
        return encoded

    def encode_with_spans(self, text: str, at_most: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of one text and for each the characters (start, end) it stands for; (0, 0) for `cls_id`.

        A span may begin with the space before a word; the bytes of one character that fell into several tokens all
        have that character's span.

        Args:
            at_most: tokens that are asked for; of a long text there may be more.
        """
        ids, spans = [self.cls_id], [(0, 0)]
        for start, piece in self._pieces(text):
            (encoding,) = self._backend.encode_batch([piece])  # unlike `encode`, it lets other threads go on
            ids += encoding.ids[1:]
            spans += [(start + first, start + last) for first, last in encoding.offsets[1:]]
            if at_most is not None and len(ids) >= at_most:
                break
        return ids, spans

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        """A text in pieces that have the ids of the whole, and where each begins: itself, unless it is long."""
        text, start = _without_surrogates(text), 0
        while len(text) - start > _PIECE and self._cuts_at_spaces:
            border = _BORDER.search(text, start + _PIECE)
            if border is None:
                break
            yield start, text[start : border.end()]
            start = border.end()
        yield start, text[start:] if start else text

    @functools.cached_property
    def _cuts_at_spaces(self) -> bool:
        """Whether what follows a `_BORDER` never changes the ids before it, nor what precedes it those after it."""
        cutter, normalizer = self._backend.pre_tokenizer, self._backend.normalizer
        if isinstance(cutter, pre_tokenizers.ByteLevel):
            cuts = cutter.use_regex and not cutter.add_prefix_space
        else:
            cuts = isinstance(cutter, _SPLITTERS)
        special = all(token.special for token in self._backend.get_added_tokens_decoder().values())
        return cuts and special and (normalizer is None or isinstance(normalizer, normalizers.BertNormalizer))

    def first_unknown(self, tokens: Sequence[int], text: str) -> str | None:
        """The first word of a text, whose `tokens` are given, that is none of a fixed vocabulary's; of a very long one
        its beginning."""
        unknown = self._backend.token_to_id(UNKNOWN)
        if not self.has_fixed_words or unknown is None or unknown not in tokens:
            return None
        place = list(tokens).index(unknown)
        _, spans = self.encode_with_spans(text, place + 1)
        start, stop = spans[place]
        return text[start : min(stop, start + _SHOWN)]

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into an existing folder.

        Raises:
            OSError: it cannot be written.
        """
        path = Path(folder) / FILE_NAME
        try:
            self._backend.save(str(path))
        except Exception as error:  # the library raises plain Exception
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is not None:
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ValueError: no such file, or it is not a tokenizer.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected a tokenizer that was saved there")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except BaseException as error:  # the library raises plain Exception, and Rust's panics, which are none
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"{path}: not a tokenizer: {error}") from error


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    path: str | Path | None = None,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    total: int | None = None,
    progress: bool = True,
) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) on the training split alone.

    The same texts give the same file, byte for byte. `texts` is gone through once; of more than `sample_bytes` only an
    even sample is learnt from: stretches of 32,768 characters at regular distances over all texts.

    Args:
        texts: training documents. Their order counts, so give them in a fixed one.
        vocab_size: token ids at most, the 256 bytes and 2 special tokens included; small texts give fewer.
        path: folder to save it in, made where missing.
        sample_bytes: bytes to learn from, at most; also bounds the memory taken.
        total: how many texts there are.
        progress: say how far it is.

    Raises:
        ValueError: `vocab_size` is too small.
    """
    specials = [CLS, MASK]
    least = 256 + len(specials)
    if vocab_size < least:
        raise ValueError(f"vocab_size is {vocab_size}; expected at least {least}: 256 bytes, {' and '.join(specials)}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = _even_sample(Progress(texts, "reading for the tokenizer", total, shown=progress), sample_bytes)
    bar = Progress(sample, "training the tokenizer", unit=" texts", shown=progress)
    backend.train_from_iterator(bar, trainer)
    backend.post_processor = _cls_first(backend, CLS)
    tokenizer = Tokenizer(backend)
    if path is not None:
        Path(path).mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return tokenizer


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokenizer of a published model, by its name on the Hugging Face hub or by folder; no code of its own is run.

    Its first-token is its [CLS], or its beginning-of-text token; [SEP] and the like are left out, since documents are
    cut at any length.

    Raises:
        ValueError: transformers is not installed, the name cannot be found or fetched, or the tokenizer is of a kind
            that the `tokenizers` library does not run or has neither first-token.
    """
    if os.path.isfile(Path(name_or_folder) / FILE_NAME) and not _is_transformers_folder(name_or_folder):
        return Tokenizer.from_folder(name_or_folder)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            f"tokenizer {str(name_or_folder)!r} needs the transformers library: pip install 'flash-sparse[hub]'"
        ) from error
    published = fetch(AutoTokenizer.from_pretrained, "tokenizer", str(name_or_folder))
    backend = getattr(published, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"tokenizer {str(name_or_folder)!r} is {type(published).__name__}; expected a fast tokenizer")
    first = published.cls_token or published.bos_token
    if first is None:
        raise ValueError(f"tokenizer {str(name_or_folder)!r} has no cls_token and no bos_token; expected one of them")
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    if set(backend.get_vocab(with_added_tokens=False)) <= set(published.all_special_tokens):  # made up by the library
        raise ValueError(f"tokenizer {str(name_or_folder)!r} has no words; expected files of a tokenizer there")
    backend.post_processor = _cls_first(backend, first)
    return Tokenizer(backend)


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A token for each word of a fixed vocabulary; white space separates words, and any other word is unknown."""
    ids = {word: index for index, word in enumerate([UNKNOWN, *vocabulary])}
    backend = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([CLS, MASK])
    backend.post_processor = _cls_first(backend, CLS)
    return Tokenizer(backend)


def open_saved(folder: str | Path) -> Tokenizer | ByteTokenizer:
    """Read what the `save` of either kind wrote.

    Raises:
        ValueError: no such file, or it is not a tokenizer.
    """
    if (Path(folder) / byte_tokenizer.FILE_NAME).is_file():
        return ByteTokenizer()
    return Tokenizer.from_folder(folder)


def _is_transformers_folder(folder: str | Path) -> bool:
    return (Path(folder) / "tokenizer_config.json").is_file()


def _cls_first(backend: tokenizers.Tokenizer, token: str) -> processors.TemplateProcessing:
    token_id = cast(int, backend.token_to_id(token))
    return processors.TemplateProcessing(single=f"{token} $0", special_tokens=[(token, token_id)])


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _groups(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Pieces that are tokenized together, one after the other."""
    group: list[tuple[int, str]] = []
    size = 0
    for row, piece in pieces:
        group.append((row, piece))
        size += len(piece)
        if size >= _AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _even_sample(texts: Iterable[str], most_bytes: int) -> list[str]:
    """Every n-th stretch of the texts, n the least power of two with which they are at most `most_bytes` bytes."""
    kept, size, stride, position = [], 0, 1, 0
    for text in texts:
        for start in range(0, len(text), _CHUNK):
            if position % stride == 0:
                chunk = _without_surrogates(text[start : start + _CHUNK])
                kept.append(chunk)
                size += len(chunk.encode())
                if size > most_bytes and len(kept) > 1:
                    stride *= 2
                    kept = kept[::2]
                    size = sum(len(chunk.encode()) for chunk in kept)
            position += 1
    return kept
