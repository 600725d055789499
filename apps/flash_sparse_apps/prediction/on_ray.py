"""Collections that no disk and no process holds, labelled on a Ray cluster.

Ray Data reads files in tasks and labels their documents in actors, each of which holds the model. What goes from one to
the other, and comes out as one file, is a part: neighbouring documents of a source, which is a table, or some files of
one text each. Where a part ends depends on its source alone, so parts that are written need not be computed again:

    DIR/collection.json            what is labelled, by which model, and how
    DIR/0000012-00000.jsonl        the first part of source 12
    DIR/0000012-00001-last.jsonl   the second, after which there is none
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from flash_sparse_apps.cluster import PAIR, connected, machines
from flash_sparse_apps.files import to_json
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.formats import FORMATS, in_utf8
from flash_sparse_apps.prediction.labelling import TOGETHER, predict_documents
from flash_sparse_apps.prediction.new_documents import NewDocument, Reading, printable, read_documents, read_tried
from flash_sparse_apps.prediction.places import find, on_disk, open_place, writing_at
from flash_sparse_apps.prediction.tally import Tally
from flash_sparse_apps.settings import dashed
from flash_sparse_datasets.shared.exit_codes import UserError
from flash_sparse_datasets.shared.naming import naming
from flash_sparse_datasets.shared.progress import Progress
from flash_sparse_datasets.shared.row_files import format_of

DOCUMENTS, CHARACTERS = 4096, 2**24  # with so many of either a part ends, at a multiple of TOGETHER documents
TEXTS = 1024  # files of one text that are a source
STOPPING = (OSError, MemoryError, RuntimeError)  # what the user can mend: a full disk, too little memory
COLLECTION = "collection.json"
CHANGED = dict.fromkeys(("files", "fingerprint"), "the files to label are others") | {
    "model": "the run has other weights"
}
PART = re.compile(r"(\d+)-(\d+)(-last)?\.\w+")
ENDINGS = {"jsonl": "jsonl", "csv": "csv", "wide-csv": "csv"}  # of parts, by their format


class Source(NamedTuple):
    """What one task reads.

    Attributes:
        files: name and path of each.
        done: the parts that are written.
    """

    number: int
    filesystem: FileSystem
    files: list[tuple[str, str]]
    done: frozenset[int] = frozenset()


class Part(NamedTuple):
    """What one call of an actor labels."""

    name: str
    documents: list[NewDocument]


@dataclass(frozen=True)
class Job:
    """What every actor is told; `folder` is where parts are written in `filesystem`."""

    model: SavedModel
    filesystem: FileSystem
    folder: str
    format: str
    top_k: int | None
    evidence: bool
    tokens_per_batch: int
    device: str


def label_collection(
    address: str,
    model: SavedModel,
    places: Sequence[str],
    reading: Reading,
    output: str,
    how: dict[str, Any],
    tokens_per_batch: int,
    accelerator: str,
) -> Tally:
    """Label the documents of a collection on a cluster, but for the parts that are written.

    Args:
        address: as `connected` takes it.
        places: files, patterns and folders, as `find` takes them.
        output: folder for the parts, or a URI of one.
        how: all else that decides what is written, by the names of their flags; `format`, `top_k` and `evidence` among
            them.

    Returns:
        What was counted now.

    Raises:
        UserError: the folder holds something else, or there is no such cluster.
        DataError: there are no such files.
    """
    filesystem, folder = open_place(output)
    sources, listing = _sources(places)
    if reading.file is not None and not all(isinstance(source.filesystem, LocalFileSystem) for source in sources):
        raise UserError(f"--file-field is {reading.file}; expected paths in place of URIs, for tables that name files")
    done = _open_folder(filesystem, folder, output, how | listing)
    sources = [source._replace(done=frozenset(done.get(source.number, {}))) for source in sources]
    waiting = [source for source in sources if not _is_whole(done.get(source.number, {}))]
    if not waiting:
        return Tally()
    with connected(address):
        resources, most = _actors(accelerator)
        device = "cuda" if "num_gpus" in resources else "cpu"
        options = (how["format"], how["top_k"], how["evidence"])
        job = Job(model, filesystem, folder, *options, tokens_per_batch, device)
        return _run(job, waiting, reading, resources, most)


def _sources(places: Sequence[str]) -> tuple[list[Source], dict[str, Any]]:
    """What is to be read, and how a later run knows that it is the same: the number of files and their fingerprint."""
    sources: list[Source] = []
    digest, count = hashlib.sha256(), 0
    for place in places:
        filesystem, files = find(place)
        texts: list[tuple[str, str]] = []
        for file in files:
            count += 1
            digest.update(f"{file.name}\n{file.stamp}\n".encode(errors="surrogateescape"))
            if format_of(Path(file.path)) is None:
                texts.append((file.name, file.path))
            else:
                sources.append(Source(len(sources), filesystem, [(file.name, file.path)]))
        for first in range(0, len(texts), TEXTS):
            sources.append(Source(len(sources), filesystem, texts[first : first + TEXTS]))
    return sources, {"files": count, "fingerprint": digest.hexdigest()}


def _open_folder(filesystem: FileSystem, folder: str, output: str, described: dict) -> dict[int, dict[int, bool]]:
    """The parts that are written, by source: whether each is the last. Makes a new folder.

    Raises:
        UserError: it holds something else, or parts of another collection, of another model or labelled otherwise.
    """
    try:
        inside = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    except NotADirectoryError:
        raise UserError(f"--output is {output}, a file; expected a folder") from None
    path = f"{folder}/{COLLECTION}"
    if not any(file.base_name == COLLECTION for file in inside):
        if inside:
            raise UserError(
                f"--output is {output}, which has no {COLLECTION}; expected a new folder, or one to go on in"
            )
        filesystem.create_dir(folder)
        with writing_at(filesystem, path) as file:
            file.write(to_json(described))
        return {}
    with filesystem.open_input_stream(path) as file:
        before = json.loads(file.readall())
    for name, value in described.items():
        if before.get(name) != value:
            what = f"--{dashed(name)} is {json.dumps(value)}, but {json.dumps(before.get(name))}"
            if name in CHANGED:
                what = f"{CHANGED[name]} than those"
            raise UserError(f"{what} in {output}/{COLLECTION}; expected the same, or another --output")
    done: dict[int, dict[int, bool]] = {}
    for file in inside:
        if found := PART.fullmatch(file.base_name):
            done.setdefault(int(found[1]), {})[int(found[2])] = found[3] is not None
    return done


def _is_whole(parts: dict[int, bool]) -> bool:
    """Whether all parts of a source are there, the last one among them."""
    return any(last and len(parts) == number + 1 for number, last in parts.items())


def _actors(accelerator: str) -> tuple[dict[str, Any], int]:
    """What an actor asks for, a GPU or a pair of cores, and how many of them the cluster has room for now."""
    there = machines()
    gpus = int(sum(machine.gpus for machine in there))
    if accelerator != "cpu" and gpus:
        return {"num_gpus": 1}, gpus
    if accelerator == "gpu":
        raise UserError("--accelerator is gpu; expected cpu or auto, since the cluster has no GPU")
    cores = max(1, min(PAIR, max(machine.cpus for machine in there)))
    return {"num_cpus": cores}, int(sum(machine.cpus // cores for machine in there))


def _run(job: Job, sources: Sequence[Source], reading: Reading, resources: dict[str, Any], most: int) -> Tally:
    """Read and label what is waiting, in whatever order it comes."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # bytes: each part is a block, which goes to an actor of its own
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come here, for one line

    rows = [{"source": pickle.dumps(source)} for source in sources]
    read: Any = _read  # Ray's types know no function with more arguments
    parts = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        read,
        fn_kwargs={"reading": reading, "format": job.format, "documents": DOCUMENTS, "characters": CHARACTERS},
        batch_size=1,
        num_cpus=0,  # it waits for a disk or a network, and the cores are the actors'
        concurrency=most,
    )
    counted = parts.map_batches(
        _Labeller,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=most),
        **resources,
    )
    tally = Tally()
    with Progress(None, "labelling") as bar:
        for row in counted.iter_rows():
            more = pickle.loads(row["counted"])
            if isinstance(more, Exception):
                raise more
            tally.add(more)
            bar.update(more.documents)
    return tally


def _read(batch: Any, reading: Reading, format: str, documents: int, characters: int) -> Iterator[dict]:
    """The parts of a source that are not written; an error, such as of a network, in place of what it leaves unread."""
    source: Source = pickle.loads(batch["source"][0])
    try:
        for number, (part, last) in enumerate(_cut(_documents(source, reading), documents, characters)):
            if number not in source.done:
                name = f"{source.number:07}-{number:05}{'-last' * last}.{ENDINGS[format]}"
                yield {"part": [pickle.dumps(Part(name, part))]}
    except STOPPING as error:
        yield {"part": [pickle.dumps(error)]}


def _documents(source: Source, reading: Reading) -> Iterator[NewDocument]:
    """Those of all its files, called by the names of these."""
    for name, path in source.files:
        try:
            with on_disk(source.filesystem, path) as file:
                here = printable(str(file))
                for document in read_tried(str(file), lambda place: read_documents(place, reading)):
                    error = None if document.error is None else document.error.replace(here, printable(name))
                    yield document._replace(id=document.id.replace(here, printable(name)), error=error)
        except (FileNotFoundError, PermissionError) as error:
            yield NewDocument(printable(name), error=f"{printable(name)}: cannot be read ({error})")


def _cut(stream: Iterable[NewDocument], documents: int, characters: int) -> Iterator[tuple[list[NewDocument], bool]]:
    """Documents in parts, and whether each is the last."""
    part: list[NewDocument] = []
    length = 0
    for document in stream:
        if part and len(part) % TOGETHER == 0 and (len(part) >= documents or length >= characters):
            yield part, False
            part, length = [], 0
        part.append(document)
        length += len(document.text) + len(document.second or "")
    yield part, True


class _Labeller:
    """An actor: it labels parts with the model that it holds, writes them, and says what it counted."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self, batch: Any) -> dict:
        return {"counted": [pickle.dumps(self._tried(pickle.loads(part))) for part in batch["part"]]}

    def _tried(self, part: Part | Exception) -> Tally | Exception:
        if isinstance(part, Exception):
            return part
        try:
            return self._label(part)
        except STOPPING as error:
            return error

    def _label(self, part: Part) -> Tally:
        job, tally = self.job, Tally()
        predictions = predict_documents(job.model, part.documents, job.tokens_per_batch, job.device, job.evidence)
        pieces = FORMATS[job.format](tally.counting(predictions), job.model, job.top_k, job.evidence)
        path = f"{job.folder}/{part.name}"
        with naming(Path(path)), writing_at(job.filesystem, path) as file:
            file.writelines(map(in_utf8, pieces))
        return tally
