"""Label new texts with a finished run.

    python apps/predict.py RUN letter.txt contract.txt
    python apps/predict.py RUN new.csv --text-field body --format table
    python apps/predict.py RUN letter.txt --evidence
    python apps/predict.py RUN folder --output labels.xlsx
    python apps/predict.py RUN letter.txt --linear  # by the linear model alone
    cat letter.txt | python apps/predict.py RUN -
    python apps/predict.py RUN pairs.jsonl          # a run on pairs: rows with the fields `text` and `second`
    python apps/predict.py RUN image.png more.npz   # a run on images: of its size, or what the generators write

One JSON object for each document on stdout: its id, the labels whose probability reaches their threshold (single-label:
the most probable one), how sure they are (`confidence`), the probabilities, its tokens and whether it was longer than
the model reads. With --evidence, for each label given also the passages that carry it: characters `start` to `end` of
the text (a byte-order mark before it is not counted; paragraphs of a list are two line breaks apart), and `drop`, how
far the label's probability falls without them. Where no passage alone carries a label, it is the one that does most,
with a drop below 0.01. The training data is not needed, and the run folder may be anywhere.

A document that cannot be read has an `error` in place of labels, and the others go on.

Exit codes: 0 done, 1 done but for documents that could not be read, 2 something the user can mend (one line on stderr),
130 after Ctrl-C.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from flash_sparse_apps.console import plain_interrupt, print_anything, spoken
from flash_sparse_apps.files import room_to_write, write_atomically
from flash_sparse_datasets.shared.exit_codes import Stopped, UserError, ending, stop

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flash_sparse_apps.models.saved_model import SavedModel
    from flash_sparse_apps.prediction.new_documents import Reading


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    print_anything()
    given = _make_parser().parse_args(arguments)
    with plain_interrupt():  # it takes seconds, which --help need not pay
        from flash_sparse_apps.models.saved_model import SavedModel, model_folder
        from flash_sparse_apps.prediction.formats import format_for
        from flash_sparse_apps.prediction.new_documents import check_paths
    output = None
    try:
        given.format = format_for(given.output, given.format)
        if given.format == "xlsx":
            import openpyxl  # noqa: F401, it may be missing, which should be said before documents are read
        _check(given)
        model_folder(given.run)
        check_paths(given.files)
        output = None if given.output is None else _check_output(given.output, given.files)
        model = SavedModel.load(given.run)
        if given.linear:
            model = model.by_linear_model()
        if given.evidence and (model.pairs or model.grid is not None):
            what = "pairs of texts" if model.pairs else "images"
            raise UserError(f"--evidence is given, but the run is on {what}; expected one on single texts")
        unread: list[str] = []
        _write(_predict(given, model, unread), output)
    except ValueError as error:  # of files, which names arguments, or of a damaged run
        raise UserError(re.sub(r"\((\w+)_field\)", r"(--\1-field)", str(error))) from error
    except OSError as error:
        if output is None or not (room := room_to_write(error, {"--output": output})):
            raise
        raise Stopped(f"error: {error}{room}", 2) from error
    except (MemoryError, RuntimeError) as error:
        stopped = stop(error, "a lower --tokens-per-batch")
        if stopped is None:
            raise
        raise stopped from error
    return 1 if unread else 0


def _make_parser() -> ArgumentParser:
    from flash_sparse_apps.command_line import OneLineParser

    parser = OneLineParser(
        prog=spoken("predict"), description="Label new texts with a finished run.", allow_abbrev=False
    )
    parser.optional = frozenset({"id_field", "output", "file_field", "encoding", "delimiter"})
    parser.add_argument("run", type=str, help="run folder, or its model/")
    parser.add_argument(
        "files", type=str, nargs="+", help="texts, PDF, Word and HTML, folders of these, tables; - is stdin"
    )
    parser.add_argument(
        "--text-field",
        type=list[str] | str | None,
        default=None,
        help="key or column of the text, or a list such as '[title, body]'; null: as in training",
    )
    parser.add_argument(
        "--file-field", type=str, default=None, help="key or column of a document's file; null: as in training"
    )
    parser.add_argument(
        "--second-field", type=str, default="second", help="key or column of the second text, where a run is on pairs"
    )
    parser.add_argument("--id-field", type=str, default=None, help="key or column of the id; null: file and row")
    parser.add_argument("--encoding", type=str, default=None, help="of files of text; null: as in training")
    parser.add_argument("--delimiter", type=str, default=None, help="of CSV and TSV; null: as in training")
    parser.add_argument(
        "--columns",
        type=list[str] | None,
        default=None,
        help="names of the columns of a CSV or TSV file without a header, such as '[id, text]'; null: as in training",
    )
    parser.add_argument(
        "--format",
        type=Literal["jsonl", "csv", "wide-csv", "xlsx", "table"] | None,
        default=None,
        help="what to write: csv has a row for each document and label, wide-csv and xlsx one for each document, and a "
        "column for each label; null: what the name of --output promises, else jsonl",
    )
    parser.add_argument("--output", type=str, default=None, help="file to write; null: stdout")
    parser.add_argument(
        "--top-k", type=int | None, default=None, help="most probable labels to list, beside those given; null: all"
    )
    parser.add_argument("--evidence", action="store_true", help="name the passages that carry each label given")
    parser.add_argument(
        "--linear", action="store_true", help="label with the linear model of the run alone, which is fast"
    )
    parser.add_argument("--tokens-per-batch", type=int, default=65536, help="tokens that go through the model at once")
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help="where to compute")
    return parser


def _check(given: Namespace):
    """Raise UserError for flags that cannot be what is meant."""
    from flash_sparse_apps.machine import choose_device

    for name in ("top_k", "tokens_per_batch"):
        if given[name] is not None and given[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} is {given[name]}; expected at least 1")
    choose_device(given.accelerator)


def _predict(given: Namespace, model: SavedModel, unread: list[str]) -> Iterator[str] | Iterator[bytes]:
    """The predictions of all documents in the format that was asked for, a piece at a time; why some could not be read
    is added to `unread`."""

    from flash_sparse_apps.machine import choose_device
    from flash_sparse_apps.prediction.formats import FORMATS, in_ascii
    from flash_sparse_apps.prediction.labelling import predict_documents
    from flash_sparse_apps.prediction.new_documents import NewDocument, read_all, read_documents
    from flash_sparse_apps.prediction.new_images import read_images
    from flash_sparse_datasets.shared.progress import Progress

    reading = _reading(given, model)

    def read(file: str) -> Iterator[NewDocument]:
        if model.grid is not None:
            return read_images(file, model.grid)
        return read_documents(file, reading)

    documents = read_all(given.files, read)
    device = choose_device(given.accelerator)
    predictions = predict_documents(model, documents, given.tokens_per_batch, device, given.evidence)
    bar = Progress(predictions, "predicting")
    pieces: Any = FORMATS[given.format](_counting(bar, model, unread), model, given.top_k, given.evidence)
    utf8 = given.output is not None or codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    return pieces if utf8 or given.format != "jsonl" else map(in_ascii, pieces)


def _reading(given: Namespace, model: SavedModel) -> Reading:
    """How files are read: as the flags say, otherwise as those that the run was trained on."""
    from flash_sparse_apps.models.saved_model import READING
    from flash_sparse_apps.prediction.new_documents import Reading
    from flash_sparse_datasets.shared.row_files import ReaderOptions

    known = dict(model.reading)
    if given.text_field is not None:
        known["file_field"] = None
    known |= {name: given[name] for name in READING if name in given and given[name] is not None}
    try:
        options = ReaderOptions(
            **{name: known[name] for name in ("encoding", "delimiter", "quotes", "columns") if name in known}
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return Reading(
        text=known.get("text_field", "text"),
        file=known.get("file_field"),
        id=given.id_field,
        second=given.second_field if model.pairs else None,
        options=options,
    )


def _write(pieces: Iterable[str | bytes], output: Path | None):
    """To stdout piece by piece, or to a file that is whole or not there."""
    from tqdm import tqdm

    if output is None:
        for piece in pieces:
            with tqdm.external_write_mode():  # the bar makes way
                sys.stdout.write(cast(str, piece))
                sys.stdout.flush()
        return
    content = b"".join(
        piece if isinstance(piece, bytes) else piece.encode(errors="backslashreplace") for piece in pieces
    )
    if output.exists() and not output.is_file():  # a pipe or device: not to be replaced
        output.write_bytes(content)
    else:
        write_atomically(output, content)


def _check_output(output: str, files: Sequence[str]) -> Path:
    """Where to write, symbolic links followed; raises UserError for what cannot be written or is to be read."""
    path = Path(os.path.realpath(output))
    if not output or path.is_dir():
        raise UserError(f"--output is {output!r}; expected a file")
    if path.is_file() and any(Path(file).exists() and path.samefile(file) for file in files):
        raise UserError(f"--output is {output!r}, which is to be read; expected another file")
    return path


def _counting(predictions: Iterable[dict], model: SavedModel, unread: list[str]) -> Iterator[dict]:
    """Pass the predictions on and say at the end how many documents were cut, have words that nobody knows, or could
    not be read, which adds to `unread`."""
    count = cut = 0
    unknown = []
    for prediction in predictions:
        count += 1
        if "error" in prediction:
            unread.append(prediction["error"])
            yield prediction
            continue
        cut += prediction["truncated"]
        if (word := prediction.pop("unknown")) is not None:
            unknown.append(f"{word!r} in {prediction['id']}")
        yield prediction
    if unknown:
        print(
            f"note: {len(unknown)} of {count} documents have words that the run does not know, such as {unknown[0]}; "
            "white space separates words",
            file=sys.stderr,
        )
    if cut:
        print(
            f"note: {cut} of {count} documents are longer than {model.seq_len:,} tokens and were cut", file=sys.stderr
        )
    if unread:
        print(f"{len(unread)} of {count} documents could not be read, such as: {unread[0]}", file=sys.stderr)
