"""Label new texts with a finished run.

    python apps/predict.py RUN letter.txt contract.txt
    python apps/predict.py RUN new.csv --text-field body --format table
    python apps/predict.py RUN letter.txt --evidence
    cat letter.txt | python apps/predict.py RUN -

One JSON object for each document on stdout: its id, the labels whose probability reaches their threshold (single-label:
the most probable one), the probabilities, its tokens and whether it was longer than the model reads. With --evidence,
for each label given also the passages that carry it: characters `start` to `end` of the text, and `drop`, how far the
label's probability falls without them. The training data is not needed, and the run folder may be anywhere.

Exit codes: 0 done, 2 something the user can mend (one line on stderr), 130 after Ctrl-C.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from flash_sparse import BlockLayout
from flash_sparse_apps.console import print_anything
from flash_sparse_apps.evaluation import predict_labels
from flash_sparse_apps.evidence import find_passages
from flash_sparse_apps.lightning_module import to_probabilities
from flash_sparse_apps.new_documents import STDIN, NewDocument, check_paths, read_documents
from flash_sparse_apps.run_folder import SavedModel, write_atomically
from flash_sparse_apps.settings import OneLineParser

TOGETHER = 64  # documents that are read and sorted by length together


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    print_anything()
    parser = OneLineParser(prog="predict.py", description="Label new texts with a finished run.", allow_abbrev=False)
    parser.add_argument("run", type=str, help="run folder, or its model/")
    parser.add_argument(
        "files", type=str, nargs="+", help="text files, folders of .txt, .jsonl, .csv, .tsv, .parquet; - is stdin"
    )
    parser.add_argument("--text-field", type=str, default="text", help="key or column of the text")
    parser.add_argument("--id-field", type=str | None, default=None, help="key or column of the id; null: file and row")
    parser.add_argument("--format", type=Literal["jsonl", "csv", "table"], default="jsonl", help="what to write")
    parser.add_argument("--output", type=str | None, default=None, help="file to write; null: stdout")
    parser.add_argument("--top-k", type=int | None, default=None, help="most probable labels to list; null: all")
    parser.add_argument(
        "--evidence", action="store_true", help="name the passages that carry each label given (not for csv)"
    )
    parser.add_argument("--tokens-per-batch", type=int, default=65536, help="tokens that go through the model at once")
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help="where to compute")
    given = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        for name in ("top_k", "tokens_per_batch"):
            if given[name] is not None and given[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {given[name]}; expected at least 1")
        if given.evidence and given.format == "csv":
            raise ValueError("--evidence is given with --format csv; expected jsonl or table, which have room for it")
        if given.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("--accelerator is gpu; expected cpu or auto, since PyTorch finds no GPU")
        check_paths(given.files)
        output = None if given.output is None else _check_output(given.output, given.files)
        model = SavedModel.load(given.run)
        use_gpu = given.accelerator != "cpu" and torch.cuda.is_available()
        documents = itertools.chain.from_iterable(
            read_documents(file, given.text_field, given.id_field) for file in given.files
        )
        device = "cuda" if use_gpu else "cpu"
        predictions = predict_documents(model, documents, given.tokens_per_batch, device, given.evidence)
        predictions = _counting(
            tqdm(predictions, "predicting", unit=" documents", leave=False, disable=not sys.stderr.isatty()), model
        )
        lines = {"jsonl": _jsonl, "csv": _csv, "table": _table}[given.format](predictions, model, given.top_k)
        if output is not None and output.exists() and not output.is_file():  # a pipe or device: not to be replaced
            output.write_bytes("".join(lines).encode())
        elif output is not None:
            write_atomically(output, "".join(lines).encode())
        else:
            for line in lines:
                with tqdm.external_write_mode():  # the bar makes way
                    sys.stdout.write(line)
                    sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of stdout has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "can't allocate memory" not in reason:
            raise
        print(f"error: too little memory ({reason[-90:]}); expected a lower --tokens-per-batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _check_output(output: str, files: Sequence[str]) -> Path:
    """Where to write, symbolic links followed; raises ValueError for what cannot be written or is to be read."""
    path = Path(os.path.realpath(output))
    if not output or path.is_dir():
        raise ValueError(f"--output is {output!r}; expected a file")
    if path.is_file() and any(file != STDIN and Path(file).exists() and path.samefile(file) for file in files):
        raise ValueError(f"--output is {output!r}, which is to be read; expected another file")
    return path


def predict_documents(
    model: SavedModel, documents: Iterable[NewDocument], tokens_per_batch: int, device: str, evidence: bool = False
) -> Iterator[dict]:
    """For each document, in order: id, labels given, probabilities (L,) as a list, tokens, truncated; and evidence."""
    encoder = model.encoder.to(device)
    layout = model.layout()
    layout = layout.to(device) if layout is not None else None
    documents = iter(documents)
    while chunk := list(itertools.islice(documents, TOGETHER)):
        encoded = model.tokenizer.encode_batch([document.text for document in chunk])
        read = [torch.tensor(tokens[: model.seq_len], dtype=torch.int64) for tokens in encoded]
        probabilities = np.empty((len(chunk), len(model.labels)), dtype=np.float32)
        for rows in _batches([len(tokens) for tokens in read], tokens_per_batch):
            lengths = torch.tensor([0] + [len(read[row]) for row in rows])
            with torch.no_grad():
                logits = encoder(
                    torch.cat([read[row] for row in rows]).to(device),
                    lengths.cumsum(0).int().to(device),
                    int(lengths.max()),
                    layout,
                )
            probabilities[rows] = to_probabilities(logits, model.task).cpu().numpy()
        given = predict_labels(probabilities, model.thresholds, model.task)
        for document, tokens, shares, predicted in zip(chunk, encoded, probabilities, given, strict=True):
            indices = [int(predicted)] if model.task == "single-label" else np.flatnonzero(predicted).tolist()
            prediction = {
                "id": document.id,
                "labels": [model.labels[index] for index in indices],
                "probabilities": [float(share) for share in shares],
                "tokens": len(tokens),
                "truncated": len(tokens) > model.seq_len,
            }
            if evidence:
                prediction["evidence"] = _evidence(model, document.text, indices, layout, tokens_per_batch)
            yield prediction


def _evidence(
    model: SavedModel, text: str, labels: list[int], layout: BlockLayout | None, tokens_per_batch: int
) -> dict[str, list[dict]]:
    """For each label its passages as characters `start` to `end`, `drop`, and their `text`."""
    found = find_passages(
        model.encoder, model.tokenizer, text, labels, layout, model.task, model.seq_len, tokens_per_batch
    )
    return {
        model.labels[label]: [
            {"start": start, "end": stop, "drop": drop, "text": text[start:stop]} for start, stop, drop in passages
        ]
        for label, passages in found.items()
    }


def _batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows that go through the model together: of similar length, at most so many tokens, or one document."""
    rows, total = [], 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and total + lengths[row] > tokens_per_batch:
            yield rows
            rows, total = [], 0
        rows.append(row)
        total += lengths[row]
    yield rows


def _counting(predictions: Iterable[dict], model: SavedModel) -> Iterator[dict]:
    """Pass the predictions on and say at the end how many documents were cut."""
    count = cut = 0
    for prediction in predictions:
        count += 1
        cut += prediction["truncated"]
        yield prediction
    if cut:
        print(
            f"note: {cut} of {count} documents are longer than {model.seq_len:,} tokens and were cut", file=sys.stderr
        )


def _ranked(prediction: dict, model: SavedModel, top_k: int | None) -> list[tuple[str, float]]:
    """Labels and probabilities, the most probable first."""
    order = sorted(range(len(model.labels)), key=lambda index: -prediction["probabilities"][index])[:top_k]
    return [(model.labels[index], prediction["probabilities"][index]) for index in order]


def _jsonl(predictions: Iterable[dict], model: SavedModel, top_k: int | None) -> Iterator[str]:
    for prediction in predictions:
        yield (
            json.dumps(prediction | {"probabilities": dict(_ranked(prediction, model, top_k))}, ensure_ascii=False)
            + "\n"
        )


def _csv(predictions: Iterable[dict], model: SavedModel, top_k: int | None) -> Iterator[str]:
    """One line for each document and listed label: the shape that spreadsheets and data frames filter well."""
    yield _csv_line(["id", "label", "probability", "predicted", "tokens", "truncated"])
    for prediction in predictions:
        for label, share in _ranked(prediction, model, top_k):
            given = label in prediction["labels"]
            yield _csv_line([prediction["id"], label, share, given, prediction["tokens"], prediction["truncated"]])


def _csv_line(values: list) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def _table(predictions: Iterable[dict], model: SavedModel, top_k: int | None) -> Iterator[str]:
    """Aligned columns: the labels given and their probabilities; with --top-k the most probable, those given marked."""
    rows, below = [("document", "labels", "tokens")], [[]]
    for prediction in predictions:
        ranked = _ranked(prediction, model, top_k)
        if top_k is None:
            ranked = [(label, share) for label, share in ranked if label in prediction["labels"]]
        marks = [
            f"{label} {share:.3f}{'' if top_k is None or label not in prediction['labels'] else '*'}"
            for label, share in ranked
        ]
        tokens = f"{prediction['tokens']:,}{' (cut)' if prediction['truncated'] else ''}"
        rows.append((_one_line(prediction["id"]), _one_line(", ".join(marks) or "none"), tokens))
        below.append([
            f"    {_one_line(label)} -{passage['drop']:.3f} without {passage['start']:,} to {passage['end']:,}: "
            f"{textwrap.shorten(passage['text'], 100)}\n"
            for label, passages in prediction.get("evidence", {}).items()
            for passage in passages
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row, lines in zip(rows, below, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        yield from lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
