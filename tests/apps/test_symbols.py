"""Data whose tokens are given: the words of a generated language, the pixels of images, bytes."""

import json
import re

import numpy as np
import pytest
import yaml

import flash_sparse_datasets
from flash_sparse_apps import classify, predict
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import MASK, Tokenizer, open_saved, word_tokenizer

SMALL = (
    *("--width", "16", "--depth", "1", "--batch-size", "8", "--tokens-per-batch", "4096", "--accelerator", "cpu"),
    *("--epochs", "1", "--bootstrap-samples", "20", "--compare-documents", "2", "--pooling", "max"),
)
LISTOPS = "{train_size: 24, validation_size: 8, test_size: 8, min_length: 4, max_length: 30, max_depth: 3}"


def run(tmp_path, *flags):
    output, cache = tmp_path / "run", tmp_path / "cache"
    code = classify.main([*SMALL, "--output", str(output), "--cache-dir", str(cache), *flags])
    return code, output


@pytest.fixture
def cifar10(tmp_path):
    """The official binary files, 20 images each, whose class is told by their brightness."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        classes = np.arange(20) % 10
        pixels = 25 * classes[:, None] + rng.integers(0, 20, (20, 3 * 1024))
        np.hstack([classes[:, None], pixels]).astype(np.uint8).tofile(folder / name)
    return folder


class TestWords:
    VOCABULARY = ("[MAX", "]", "1", "2")

    def test_each_word_is_a_token(self, tmp_path):
        tokenizer = word_tokenizer(self.VOCABULARY)
        (one, other) = tokenizer.encode_batch(["[MAX 1 2 ]", "2\n[MAX"])
        assert len(one) == 5
        assert one[0] == other[0] == tokenizer.cls_id
        assert one[1] == other[2]
        assert one[3] == other[1]
        assert tokenizer.vocab_size == 7
        tokenizer.save(tmp_path)
        again = open_saved(tmp_path)
        assert isinstance(again, Tokenizer)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode_batch(["[MAX 1 2 ]"]) == [one]

    def test_other_words_and_special_tokens_written_out_are_unknown(self):
        tokenizer = word_tokenizer(self.VOCABULARY)
        (tokens,) = tokenizer.encode_batch([f"1 7 {MASK} [CLS]"])
        assert len(set(tokens[2:])) == 1
        assert tokens[2] not in (tokenizer.cls_id, tokenizer.mask_id, tokens[1])

    def test_listops_from_the_command_to_a_prediction(self, tmp_path, capsys):
        code, output = run(tmp_path, "--dataset", "listops", "--dataset-options", LISTOPS, "--seq-len", "32")
        assert code == 0
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["data"]["truncation"]["train"]["max_length"] <= 30  # 29 words and [CLS]
        dataset = flash_sparse_datasets.load("listops", cache_dir=tmp_path / "cache", **yaml.safe_load(LISTOPS))
        answers = [document.labels[0] for document in dataset.train]
        often = min(set(answers), key=lambda answer: (-answers.count(answer), answer))
        rules = metrics["rule_baselines"]
        assert rules["majority class"] == np.mean([document.labels == (often,) for document in dataset.test])
        shown, page = capsys.readouterr().out, (output / "report.html").read_text()
        for name, value in rules.items():
            assert re.search(rf"{name} alone, micro-F1 +{value:.2f}", shown)
            assert re.search(rf"{name} alone, micro-F1</td><td[^>]*>{value:.2f}", page)
        assert "by the root operator alone: the best guess, from training, of what sees nothing else" in page
        new = tmp_path / "new.txt"
        new.write_text("[MAX 1 [MIN 3 4 ] ]")
        capsys.readouterr()
        assert predict.main([str(output), str(new)]) == 0
        prediction = json.loads(capsys.readouterr().out)
        assert prediction["tokens"] == 8
        assert prediction["labels"][0] in list("0123456789")
        new.write_text("[MAX 1 [MIN 3 4]]")
        assert predict.main([str(output), str(new)]) == 0
        out, err = capsys.readouterr()
        assert "unknown" not in json.loads(out)
        assert f"1 of 1 documents have words that the run does not know, such as '4]]' in {new};" in err


class TestBytes:
    def test_values_are_tokens(self, tmp_path):
        tokenizer = ByteTokenizer()
        encoded = tokenizer.encode_batch([bytes([0, 255, 7]), "é"])
        assert [tokens.tolist() for tokens in encoded] == [[0, 255, 7], [0xC3, 0xA9]]
        assert max(max(tokens) for tokens in encoded) < tokenizer.mask_id < tokenizer.vocab_size
        with pytest.raises(ValueError, match="a text is empty"):
            tokenizer.encode_batch([b"a", b""])
        tokenizer.save(tmp_path)
        assert isinstance(open_saved(tmp_path), ByteTokenizer)

    @pytest.mark.parametrize("pattern", ["neighborhood_2d", "axial", "butterfly"])
    def test_images_keep_their_grid(self, tmp_path, cifar10, pattern):
        flags = ("--sparse", "--pattern", pattern, "--block-size", "16", "--window", "2", "--rotary", "2d")
        code, output = run(tmp_path, "--dataset", "cifar10", "--root", str(cifar10), "--seq-len", "1024", *flags)
        assert code == 0
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["model"]["encoder"]["grid"] == [32, 32]
        assert metrics["model"]["density"] < 0.6
        assert metrics["data"]["truncation"]["train"]["median_length"] == 1024
        assert "positions in two dimensions" in (output / "report.html").read_text()

    def test_what_images_cannot_have(self, tmp_path, cifar10, capsys):
        code, output = run(tmp_path, "--dataset", "cifar10", "--root", str(cifar10), "--tokenizer", "some/name")
        assert code == 2
        assert "--tokenizer is some/name; expected none for cifar10" in capsys.readouterr().err
        assert not output.exists()

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--rotary", "2d"), "--rotary is 2d, which needs images; listops has none"),
            (("--sparse", "--pattern", "axial", "--block-size", "16", "--seq-len", "32"), "--pattern is axial"),
            (("--dataset-options", "{level: 3}"), "listops has no option 'level'"),
        ],
    )
    def test_what_texts_cannot_have(self, tmp_path, capsys, flags, said):
        small = ("--dataset", "listops", "--dataset-options", LISTOPS, "--seq-len", "32")
        code, output = run(tmp_path, *small, *flags)
        err = capsys.readouterr().err
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
        assert not output.exists()
