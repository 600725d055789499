"""Embeddings of long texts by a sentence-transformers model whose attention is exact and, on request, block-sparse.

`python examples/sentence_transformer.py` makes a tiny BERT with random weights and embeds made-up texts of 2,000 words
with PyTorch's attention, with ours, dense, which gives the same, and with a band of blocks. `--model NAME_OR_FOLDER`
takes a pretrained model.
"""

import argparse
import tempfile

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import flash_sparse

WORDS = [f"word{number}" for number in range(100)]


def make_model(folder: str) -> SentenceTransformer:
    """A tiny one, saved to the folder first, as sentence-transformers loads from there."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    encoder = Transformer(folder)
    return SentenceTransformer(modules=[encoder, Pooling(64, "mean")], device="cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint's name or folder; without it a tiny model is made")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a text, at most")
    options = parser.parse_args()

    torch.manual_seed(0)
    texts = [" ".join(WORDS[torch.randint(100, ())] for _ in range(options.length - 100)) for _ in range(2)]
    texts.append(texts[0][:200])
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(folder) if options.model is None else SentenceTransformer(options.model)
    flash_sparse.huggingface.extend_positions(model.transformers_model, options.length)
    model.max_seq_length = options.length

    expected = model.encode(texts)
    flash_sparse.huggingface.enable(model)  # finds the transformers model inside
    dense = model.encode(texts)
    layout = flash_sparse.patterns.local(options.length, 64, window=128)
    flash_sparse.huggingface.enable(model, layout)
    sparse = model.encode(texts)
    print(f"dense and PyTorch's attention differ by at most {abs(dense - expected).max():.1e}")
    print(f"{layout.density:.0%} of the blocks differ by at most {abs(sparse - expected).max():.1e}")


if __name__ == "__main__":
    main()
