"""Trained and published tokenizers."""

import json
import re
import subprocess
import sys
import threading

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from flash_sparse_apps.tokens import tokenization
from flash_sparse_apps.tokens.tokenization import (
    Tokenizer,
    _even_sample,
    load_tokenizer,
    train_tokenizer,
    word_tokenizer,
)

PARTS = (
    *(" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\x1c", "\x85", "\u3000", "\ud800"),
    *(
        "it's",
        "'s",
        "'",
        "It",
        "na\u0131ve",
        "e\u0301",
        "\u0301",
        "\u0e33",
        "1",
        "22",
        "\u00bd",
        "_",
        "-",
        "...",
        "##s",
    ),
    *("\u65e5\u672c", "\U0001f469\u200d\U0001f4bb", "[CLS]", "\u0130", "\u03a3", "\u1e9e", "\0", "\ufffd"),
)

TEXTS = ["the cat sat on the mat\n" * 20, "def f(x):\n    return x + 1\n" * 20, "Straße naïve 東京 🙂\n" * 5]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, progress=False)


def test_documents_begin_with_cls_and_no_token_is_out_of_range(tokenizer):
    encoded = tokenizer.encode_batch([*TEXTS, "", "never seen: \x00 ﷽"])
    assert all(ids[0] == tokenizer.cls_id for ids in encoded)
    assert encoded[3] == [tokenizer.cls_id]
    assert max(max(ids) for ids in encoded) < tokenizer.vocab_size <= 400
    assert tokenizer.mask_id not in {None, tokenizer.cls_id}


def test_merges_shorten_texts(tokenizer):
    assert len(tokenizer.encode_batch([TEXTS[0]])[0]) < len(TEXTS[0]) / 3


def test_special_tokens_written_in_a_text_are_text(tokenizer):
    ids = tokenizer.encode_batch(["[CLS] and [MASK]"])[0]
    assert ids.count(tokenizer.cls_id) == 1
    assert tokenizer.mask_id not in ids


def test_lone_surrogates_count_as_replacement_characters(tokenizer):
    assert tokenizer.encode_batch(["é \ud800 a"]) == tokenizer.encode_batch(["é \ufffd a"])
    assert train_tokenizer(["é \ud800 a"] * 3, 300, progress=False).fingerprint


def test_spans_point_into_the_text(tokenizer):
    text = "naïve 🙂 the cat"
    ids, spans = tokenizer.encode_with_spans(text)
    assert ids == tokenizer.encode_batch([text])[0]
    assert spans[0] == (0, 0)
    covered = {i for start, end in spans for i in range(start, end)}
    assert covered == set(range(len(text)))
    assert text[spans[-1][0] : spans[-1][1]].strip() == "cat"


def word_pieces() -> Tokenizer:
    words = {token: row for row, token in enumerate(["[UNK]", "[CLS]", "it", "s", "##s", "na", "##ive", "é", "'", "."])}
    backend = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[UNK]", "[CLS]"])
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $0", special_tokens=[("[CLS]", 1)])
    return Tokenizer(backend)


@pytest.mark.parametrize("kind", ["own", "words", "word pieces"])
@hypothesis.given(parts=strategies.lists(strategies.sampled_from(PARTS), max_size=60))
@hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_pieces_of_a_long_text_have_the_ids_of_the_whole(kind, parts, tokenizer, monkeypatch):
    chosen = {"own": tokenizer, "words": word_tokenizer(["it", "na"]), "word pieces": word_pieces()}[kind]
    text = "".join(parts)
    whole, whole_spans = chosen.encode_with_spans(text)
    assert len(list(chosen._pieces(text))) == 1
    with monkeypatch.context() as small:
        small.setattr(tokenization, "_PIECE", 5)
        small.setattr(tokenization, "_AT_ONCE", 20)
        assert chosen.encode_batch(["", text, "it", text]) == [
            [chosen.cls_id],
            whole,
            chosen.encode_batch(["it"])[0],
            whole,
        ]
        assert chosen.encode_with_spans(text) == (whole, whole_spans)
        some, spans = chosen.encode_with_spans(text, 4)
        assert (whole[: len(some)], whole_spans[: len(some)]) == (some, spans)
        assert len(some) >= min(4, len(whole))


def test_a_file_over_which_the_library_panics_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    described = json.loads(path.read_text())
    described["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a tokenizer: ")):
        Tokenizer.from_folder(tmp_path)


def test_a_text_is_cut_into_pieces_where_words_end(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenization, "_PIECE", 8)
    assert list(tokenizer._pieces("one two  three-four\nfive")) == [(0, "one two  three-four"), (19, "\nfive")]
    assert list(tokenizer._pieces("x" * 100)) == [(0, "x" * 100)]


def test_a_tokenizer_that_may_join_across_words_gets_whole_texts(monkeypatch):
    monkeypatch.setattr(tokenization, "_PIECE", 8)
    pieces = word_pieces()
    pieces._backend.pre_tokenizer = pre_tokenizers.Metaspace()
    assert len(list(pieces._pieces("some words that go on"))) == 1
    joined = word_pieces()
    joined._backend.add_tokens(["that go"])
    assert len(list(joined._pieces("some words that go on"))) == 1
    assert len(list(word_pieces()._pieces("some words that go on"))) == 2


def test_other_threads_go_on_while_a_long_text_gets_its_spans():
    """A server answers meanwhile."""
    tokenizer, counted, done = word_tokenizer(["word"]), [], threading.Event()

    def count():
        while not done.wait(0.001):
            counted.append(1)

    counting = threading.Thread(target=count)
    counting.start()
    _, spans = tokenizer.encode_with_spans("&" * 1_000_000)  # a second
    done.set()
    counting.join()
    assert spans[1] == (0, 1_000_000)
    assert len(counted) >= 10


def test_the_same_texts_give_the_same_file_in_another_process(tmp_path):
    program = (
        "import sys; from flash_sparse_apps.tokens.tokenization import train_tokenizer\n"
        "texts = (f'{i % 97} tie{i % 13} wort{i % 7} 東{i % 5}' for i in range(2000))\n"
        "train_tokenizer(texts, 600, sys.argv[1], progress=False)"
    )
    for run in ("a", "b"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / run)], check=True)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_a_file_that_cannot_be_written_is_an_os_error(tokenizer, tmp_path):
    with pytest.raises(OSError, match=r"not there/tokenizer\.json"):
        tokenizer.save(tmp_path / "not there")


def test_saved_and_read_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for again in (Tokenizer.from_folder(tmp_path), load_tokenizer(tmp_path)):
        assert again.encode_batch([*TEXTS, "[CLS]"]) == tokenizer.encode_batch([*TEXTS, "[CLS]"])
        assert again.fingerprint == tokenizer.fingerprint
        assert again.cls_id == tokenizer.cls_id


def test_other_vocabulary_other_fingerprint(tokenizer):
    assert train_tokenizer(TEXTS, 300, progress=False).fingerprint != tokenizer.fingerprint


def test_no_texts_still_give_a_byte_tokenizer():
    tokenizer = train_tokenizer([], 300, progress=False)
    assert tokenizer.vocab_size == 258
    assert len(tokenizer.encode_batch(["abc"])[0]) == 4


def test_the_sample_is_even_and_bounded():
    texts = [f"{i:08d}" * 4096 for i in range(64)]  # one stretch of 32,768 characters each
    sample = _even_sample(iter(texts), 10 * 32768)
    assert [int(chunk[:8]) for chunk in sample] == list(range(0, 64, 8))
    assert _even_sample(iter(texts[:3]), 10 * 32768) == texts[:3]
    assert sum(map(len, _even_sample(iter(["x" * 10_000_000]), 1_000_000))) <= 1_000_000


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 257; expected at least 258"):
        train_tokenizer(TEXTS, 257, progress=False)


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="not a tokenizer"):
        Tokenizer.from_folder(tmp_path)


def published(folder, **special):
    """A tiny tokenizer as transformers saves them: with [SEP], truncation and padding of its own."""
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat"])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_published_tokenizer_neither_cuts_nor_pads_and_is_kept_whole(tmp_path):
    pytest.importorskip("transformers")
    published(tmp_path, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode_batch(["the cat the cat the cat", ""]) == [[2, 4, 5, 4, 5, 4, 5], [2]]
    saved = tmp_path / "saved"
    saved.mkdir()
    tokenizer.save(saved)
    assert Tokenizer.from_folder(saved).encode_batch(["the cat"]) == [[2, 4, 5]]


def test_a_published_tokenizer_without_a_first_token_is_refused(tmp_path):
    pytest.importorskip("transformers")
    published(tmp_path)
    with pytest.raises(ValueError, match="no cls_token and no bos_token"):
        load_tokenizer(tmp_path)


def test_an_unknown_name_is_refused_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="cannot be loaded; expected a folder or a name on the hub") as error:
        load_tokenizer(tmp_path / "nothing")
    assert "\n" not in str(error.value)


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install 'flash-sparse\\[hub\\]'"):
        load_tokenizer("some/name")
