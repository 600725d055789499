"""What the tests of the server share: a model made by hand, and a server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from flash_sparse.nn import Encoder
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.tokens.tokenization import word_tokenizer

LABELS = ("apple", "<img src=x onerror=alert(1)>", "pear")
KEYWORDS = ("keyapple", "keyfig", "keypear")
SERVE = Path(__file__).parents[2] / "apps" / "serve.py"


def make_model(**changes) -> SavedModel:
    """A model that gives a label where its keyword stands in the text, and reads 1,024 words of 40 and the keywords."""
    tokenizer = word_tokenizer([*(f"word{number}" for number in range(40)), *KEYWORDS])
    arguments = {"vocab_size": tokenizer.vocab_size, "width": 32, "depth": 1, "heads": 2}
    arguments |= {"num_outputs": len(LABELS), "pooling": "max"}
    torch.manual_seed(0)
    encoder = Encoder(**arguments).eval()
    with torch.no_grad():
        encoder.head.weight.zero_()
        encoder.head.bias.fill_(-4.0)
        for feature, keyword in enumerate(KEYWORDS):
            (_, token) = tokenizer.encode_batch([keyword])[0]
            encoder.embedding.weight[:, feature] = 0
            encoder.embedding.weight[token] = 20 * torch.eye(32)[feature]
            encoder.head.weight[feature, feature] = 1.6
    described = {
        "encoder": encoder,
        "encoder_arguments": arguments,
        "attention": {"sparse": False},
        "tokenizer": tokenizer,
        "labels": LABELS,
        "task": "multi-label",
        "thresholds": np.array([0.5, 0.5, 0.4]),
        "seq_len": 1024,
        "dataset": "by hand",
    }
    return SavedModel(**(described | changes))


@contextmanager
def serving(run: Path, *flags: str, **environment: str) -> Iterator[str]:
    """The address of a server in a process of its own, which is stopped at the end."""
    command = [sys.executable, str(SERVE), str(run), "--port", "0", "--accelerator", "cpu", *flags]
    environment = os.environ | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield found[0]
        assert process.poll() is None, process.stderr.read()
    finally:
        process.terminate()
        process.wait(timeout=60)
