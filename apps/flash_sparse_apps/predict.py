"""Label new texts with a finished run.

    python apps/predict.py RUN letter.txt contract.txt
    python apps/predict.py RUN new.csv --text-field body --format table
    python apps/predict.py RUN letter.txt --evidence
    python apps/predict.py RUN folder --output labels.xlsx
    python apps/predict.py RUN letter.txt --linear  # by the linear model alone
    cat letter.txt | python apps/predict.py RUN -
    python apps/predict.py RUN pairs.jsonl          # a run on pairs: rows with the fields `text` and `second`
    python apps/predict.py RUN image.png more.npz   # a run on images: of its size, or what the generators write
    python apps/predict.py RUN 's3://bucket/folder/*.parquet' --ray auto --output DIR

One JSON object for each document on stdout: its id, the labels whose probability reaches their threshold (single-label:
the most probable one), how sure they are (`confidence`), the probabilities, its tokens and whether it was longer than
the model reads. With --evidence, for each label given also the passages that carry it: characters `start` to `end` of
the text (a byte-order mark before it is not counted; paragraphs of a list are two line breaks apart), and `drop`, how
far the label's probability falls without them. Where no passage alone carries a label, it is the one that does most,
with a drop below 0.01. The training data is not needed, and the run folder may be anywhere.

A document that cannot be read has an `error` in place of labels, and the others go on.

With --ray, a Ray cluster labels, and every document gets the same as without. Files may be patterns, and be wherever
pyarrow reads. DIR gets a file for each part of the collection; the same command again computes those that are missing.

Exit codes: 0 done, 1 done but for documents that could not be read, 2 something the user can mend (one line on stderr),
130 after Ctrl-C.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from flash_sparse_apps.console import plain_interrupt, print_anything, spoken
from flash_sparse_apps.files import remove_abandoned, room_to_write, writing
from flash_sparse_datasets.shared.exit_codes import Stopped, UserError, ending, stop
from flash_sparse_datasets.shared.naming import naming

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flash_sparse_apps.models.saved_model import SavedModel
    from flash_sparse_apps.prediction.new_documents import Reading
    from flash_sparse_apps.prediction.tally import Tally

NO_MATTER = ("run", "files", "output", "tokens_per_batch", "accelerator", "ray")  # what decides no label of a document


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    print_anything()
    given = _make_parser().parse_args(arguments)
    with plain_interrupt():  # it takes seconds, which --help need not pay
        from flash_sparse_apps.models.saved_model import SavedModel, model_folder
        from flash_sparse_apps.prediction.formats import format_for
        from flash_sparse_apps.prediction.new_documents import check_paths
        from flash_sparse_apps.prediction.tally import Tally
    output = None
    try:
        given.format = format_for(given.output, given.format)
        if given.format == "xlsx":
            import openpyxl  # noqa: F401, it may be missing, which should be said before documents are read
        model_folder(given.run)
        _check(given)
        if given.ray is None:
            check_paths(given.files)
            output = None if given.output is None else _check_output(given.output, given.files)
        model = SavedModel.load(given.run)
        if given.linear:
            model = model.by_linear_model()
        if given.evidence and (model.pairs or model.grid is not None):
            what = "pairs of texts" if model.pairs else "images"
            raise UserError(f"--evidence is given, but the run is on {what}; expected one on single texts")
        if given.ray is None:
            tally = Tally()
            _write(_predict(given, model, tally), output)
        else:
            tally = _label_on_ray(given, model)
    except ValueError as error:  # of files, which names arguments, or of a damaged run
        raise UserError(re.sub(r"\((\w+)_field\)", r"(--\1-field)", str(error))) from error
    except OSError as error:
        place = output or given.output
        if place is None or not (room := room_to_write(error, {"--output": place})):
            raise
        raise Stopped(f"error: {error}{room}", 2) from error
    except (MemoryError, RuntimeError) as error:
        stopped = stop(error, "a lower --tokens-per-batch")
        if stopped is None:
            raise
        raise stopped from error
    for note in tally.notes(model.seq_len):
        print(note, file=sys.stderr)
    return 1 if tally.unread else 0


def _make_parser() -> ArgumentParser:
    from flash_sparse_apps.command_line import OneLineParser

    parser = OneLineParser(
        prog=spoken("predict"), description="Label new texts with a finished run.", allow_abbrev=False
    )
    parser.optional = frozenset({"id_field", "output", "file_field", "encoding", "delimiter", "ray"})
    parser.add_argument("run", type=str, help="run folder, or its model/")
    parser.add_argument(
        "files",
        type=str,
        nargs="+",
        help="files of text, PDF, Word or HTML, folders of these, or tables; - is standard input",
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
    parser.add_argument("--encoding", type=str, default=None, help="encoding of text files; null: as in training")
    parser.add_argument(
        "--delimiter", type=str, default=None, help="between the cells of CSV and TSV files; null: as in training"
    )
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
        "column for each label; null: by the ending of --output, else jsonl",
    )
    parser.add_argument("--output", type=str, default=None, help="file to write; null: stdout")
    parser.add_argument(
        "--top-k",
        type=int | None,
        default=None,
        help="how many of the most probable labels to list, besides those given; null: all",
    )
    parser.add_argument("--evidence", action="store_true", help="name the passages that carry each label given")
    parser.add_argument(
        "--linear", action="store_true", help="label with the linear model of the run alone, which is fast"
    )
    parser.add_argument("--tokens-per-batch", type=int, default=65536, help="tokens that go through the model at once")
    parser.add_argument(
        "--ray",
        type=str,
        default=None,
        help="address of a Ray cluster that labels, such as auto, or local for one of this machine; files may then be "
        "URIs and patterns, and --output is a folder for the parts; null: no cluster",
    )
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help="where to compute")
    return parser


def _check(given: Namespace):
    """Raise UserError for flags that cannot be what is meant."""
    from flash_sparse_apps.machine import choose_device

    for name in ("top_k", "tokens_per_batch"):
        if given[name] is not None and given[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} is {given[name]}; expected at least 1")
    if given.output is None and sys.__stdout__ is None:
        raise UserError("standard output is closed; expected it open, or --output")
    if given.ray is not None:
        _check_for_ray(given)
    else:
        choose_device(given.accelerator)


def _check_for_ray(given: Namespace):
    """Raise UserError for what a cluster cannot do, ModuleNotFoundError where there is no Ray."""
    import ray.data  # noqa: F401

    if given.output is None:
        raise UserError("--ray is given; expected --output as well, a folder")
    if given.format in ("xlsx", "table"):
        raise UserError(f"--format is {given.format}; expected jsonl, csv or wide-csv with --ray, which writes parts")
    if "-" in given.files:
        raise UserError("the name of a file is -, standard input; expected files with --ray")


def _predict(given: Namespace, model: SavedModel, tally: Tally) -> Iterator[str] | Iterator[bytes]:
    """The predictions of all documents in the format that was asked for, a piece at a time, counted in `tally`."""
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
    pieces: Any = FORMATS[given.format](tally.counting(bar), model, given.top_k, given.evidence)
    utf8 = given.output is not None or codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    return pieces if utf8 or given.format != "jsonl" else map(in_ascii, pieces)


def _label_on_ray(given: Namespace, model: SavedModel) -> Tally:
    """Label a collection on the cluster that was asked for."""
    from flash_sparse_apps.files import sums
    from flash_sparse_apps.models.saved_model import model_folder
    from flash_sparse_apps.prediction.on_ray import label_collection

    if model.grid is not None:
        raise UserError("--ray is given, but the run is on images; expected one on texts")
    how = {name: value for name, value in vars(given).items() if name not in NO_MATTER}
    how["model"] = hashlib.sha256(sums(model_folder(given.run)).encode()).hexdigest()
    return label_collection(
        given.ray,
        model,
        given.files,
        _reading(given, model),
        given.output,
        how,
        given.tokens_per_batch,
        given.accelerator,
    )


def _reading(given: Namespace, model: SavedModel) -> Reading:
    """How files are read: as the flags say, otherwise as those that the run was trained on."""
    from flash_sparse_apps.models.description import READING
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

    from flash_sparse_apps.prediction.formats import in_utf8

    if output is None:
        for piece in pieces:
            with tqdm.external_write_mode(), naming("standard output"):  # the bar makes way
                sys.stdout.write(cast(str, piece))
                sys.stdout.flush()
        return
    remove_abandoned(output)
    is_device = output.exists() and not output.is_file()  # or a pipe: not to be replaced
    with naming(output), output.open("wb") if is_device else writing(output) as file:
        file.writelines(map(in_utf8, pieces))


def _check_output(output: str, files: Sequence[str]) -> Path:
    """Where to write, symbolic links followed; raises UserError for what cannot be written or is to be read."""
    path = Path(os.path.realpath(output))
    if not output or path.is_dir():
        raise UserError(f"--output is {output!r}; expected a file")
    if path.is_file() and any(Path(file).exists() and path.samefile(file) for file in files):
        raise UserError(f"--output is {output!r}, which is to be read; expected another file")
    return path
