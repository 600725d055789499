"""The JSON API: text-embeddings-inference's routes, whose clients need no change, and files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response
from starlette.types import ASGIApp

import flash_sparse
from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction.new_documents import NewDocument
from flash_sparse_apps.serving import page
from flash_sparse_apps.serving.document_reader import DocumentReader
from flash_sparse_apps.serving.errors import Refused, answer
from flash_sparse_apps.serving.files import read_file
from flash_sparse_apps.serving.labelling import Labeller
from flash_sparse_apps.serving.limits import DOCUMENTS, Limits, WholeBodies
from flash_sparse_apps.serving.schema import Detail, Error, PredictRequest, Score
from flash_sparse_apps.serving.security import Guard
from flash_sparse_apps.serving.traffic import Traffic

Errors: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "no JSON, or an empty text"},
    413: {"model": Error, "description": "too long, too many, too large"},
    422: {"model": Error, "description": "not of the form that is expected, or a file that cannot be read"},
    429: {"model": Error, "description": "too much waits already; try again later"},
    503: {"model": Error, "description": "no answer in time"},
}
NO_JSON = "the body is no JSON, or not in UTF-8"


def make_app(
    model: SavedModel, name: str, device: str, tokens_per_batch: int, token: str | None, limits: Limits
) -> ASGIApp:
    """The application that `serve.py` gives to uvicorn.

    Args:
        name: what `/info` and the page call the run.
        token: what requests must bring; None serves this machine alone.
    """
    traffic = Traffic()
    labeller = Labeller(model, device, tokens_per_batch, limits, traffic)
    reader = DocumentReader(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        labeller.batcher.close()

    app = FastAPI(
        title="flash_sparse",
        version=flash_sparse.__version__,
        description="Labels for documents by a trained run, in the form of text-embeddings-inference.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    async def timed(request: Request, answering: Awaitable[Any]) -> Response:
        """The answer, unless the client leaves before or it takes too long."""
        traffic.requests.inc()
        begun = time.perf_counter()
        content = await _unless_gone(request, answering, limits.seconds)
        traffic.successes.inc()
        traffic.seconds.observe(time.perf_counter() - begun)
        return answer(content)

    @app.post("/", include_in_schema=False)
    @app.post("/predict", response_model=list[Score] | list[list[Score]] | Detail | list[Detail], responses=Errors)
    async def predict(body: PredictRequest, request: Request) -> Response:
        """Scores of all labels, the highest first; for a batch a list of such lists. With `detail` what predict.py
        prints, as an object or a list of objects."""
        return await timed(request, _predict(labeller, body))

    @app.post("/predict/files", response_model=list[Detail], responses=Errors, openapi_extra=FILES)
    async def predict_files(request: Request) -> Response:
        """The same as `detail`, for files that are uploaded as a form. One file that cannot be read refuses all."""
        files, truncate, evidence = await _read_form(request, limits)
        return await timed(request, _label_files(labeller, reader, files, truncate, evidence))

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: {"model": Error}})
    async def health() -> Response:
        """200 while the model answers."""
        if not labeller.batcher.alive:
            raise Refused("unhealthy", "Unhealthy")
        return Response()

    @app.head("/info", include_in_schema=False)
    @app.get("/info")
    async def info() -> Response:
        """The run, its labels and thresholds, and the limits."""
        return answer(_describe(model, name, tokens_per_batch, limits))

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(traffic.render(labeller.batcher.waiting), media_type=CONTENT_TYPE_LATEST)

    page.add_to(app)
    _answer_errors(app, traffic)
    return Guard(WholeBodies(app, limits), token)


def _answer_errors(app: FastAPI, traffic: Traffic):
    """Let each kind of error be answered as `Refused` is."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        traffic.failures.labels(error.kind.lower()).inc()
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, _malformed(error))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        unread = error.status_code == 400  # a body in another encoding, or nested too deep
        response = Refused(NO_JSON if unread else str(error.detail), status=error.status_code).response()
        response.headers.update(error.headers or {})  # the methods that are allowed
        return response

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return await refused(request, Refused("an error of the server", "Backend", 500))  # `Guard` logs it


async def _predict(labeller: Labeller, body: PredictRequest) -> Any:
    inputs: Any = body.inputs
    batch = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], list)
    rows = inputs if batch else [[inputs] if isinstance(inputs, str) else inputs]
    documents = [_document(str(number), row, labeller.model) for number, row in enumerate(rows)]
    how = (bool(body.truncate), body.truncation_direction.lower())
    if body.detail:
        found: list = await labeller.details(documents, body.evidence, *how)
    else:
        found = await labeller.scores(documents, body.raw_scores, *how)
    return found if batch else found[0]


def _document(place: str, row: list[str], model: SavedModel) -> NewDocument:
    """A text or a pair of them, as the run reads it."""
    expected = "two texts, as the run is on pairs" if model.pairs else "one text; a batch is [[text], [text]]"
    if model.grid is not None:
        raise Refused("inputs are texts, but the run is on images; expected POST /predict/files", status=422)
    if len(row) != 1 + model.pairs:
        raise Refused(f"inputs has {len(row)} texts for a document; expected {expected}", status=422)
    if not all(text.strip() for text in row):
        raise Refused("inputs has an empty text", "Empty")
    return NewDocument(place, row[0], row[1] if model.pairs else None)


async def _read_form(request: Request, limits: Limits) -> tuple[list[tuple[str, bytes]], bool, bool]:
    """The names and contents of the files of a form, and its fields `truncate` and `evidence`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused("no form; expected multipart/form-data with files named `file`", status=422)
    parser = MultiPartParser(request.headers, request.stream(), max_files=DOCUMENTS, max_fields=8)
    parser.spool_max_size = limits.body_bytes + 1  # in memory: no document is written to disk
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # the parser's own are the latter, until Starlette 1
        raise Refused(f"a form that cannot be read: {error}", status=422) from None
    files = [file for file in form.getlist("file") if not isinstance(file, str)]
    if not files:
        raise Refused("no file in the form; expected files named `file`", "Empty")
    flags = {key: str(form.get(key, default)) for key, default in (("truncate", "false"), ("evidence", "true"))}
    for key, value in flags.items():
        if value not in ("true", "false"):
            raise Refused(f"{key} is {value[:20]!r}; expected true or false", status=422)
    try:
        contents = [(file.filename or "file", await file.read()) for file in files]
    finally:
        await form.close()
    return contents, flags["truncate"] == "true", flags["evidence"] == "true"


async def _label_files(
    labeller: Labeller, reader: DocumentReader, files: list[tuple[str, bytes]], truncate: bool, evidence: bool
) -> list[dict]:
    documents = [await read_file(name, content, labeller.model, reader) for name, content in files]
    found = await labeller.details(documents, evidence, truncate, "right")
    return [
        row | ({"text": document.text} if isinstance(document.text, str) else {})
        for row, document in zip(found, documents, strict=True)
    ]


FILES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "truncate": {"type": "boolean", "default": False},
                        "evidence": {"type": "boolean", "default": True},
                    },
                }
            }
        },
    }
}


async def _unless_gone(request: Request, answering: Awaitable[Any], seconds: float) -> Any:
    """Wait for an answer; where its client leaves, or after some time, it is given up."""
    answered = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({answered, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        if gone.done():
            raise Refused("the client left", status=499)
        raise Refused(f"no answer within {seconds:g} seconds", "Overloaded", 503)
    finally:
        answered.cancel()
        gone.cancel()


async def _wait_until_gone(request: Request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _malformed(error: RequestValidationError) -> Refused:
    """In words, without the value that was sent."""
    first, *others = error.errors()
    where = ".".join(map(str, first["loc"][1:]))  # behind "body"
    if first["type"] == "json_invalid":
        return Refused(NO_JSON, status=400)
    if not where:
        expected = '{"inputs": a text} with content-type: application/json'
        return Refused(f"the body is missing or no JSON object; expected {expected}", status=422)
    if not where.startswith("inputs"):
        return Refused(f"{where}: {first['msg']}", status=422)
    for context in (other.get("ctx", {}) for other in others):
        if context.get("max_length") == DOCUMENTS:
            size = context["actual_length"]
            return Refused(f"batch size {size} > maximum allowed batch size {DOCUMENTS}")
    expected = "a text, a pair of texts or a batch [[text], [text]]"
    return Refused(f"inputs is missing or of another form; expected {expected}", status=422)


def _describe(model: SavedModel, name: str, tokens_per_batch: int, limits: Limits) -> dict:
    kind = "images" if model.grid is not None else "pairs" if model.pairs else "texts"
    thresholds = None
    if model.thresholds is not None:
        thresholds = dict(zip(model.labels, model.thresholds.tolist(), strict=True))
    numbered = {str(index): label for index, label in enumerate(model.labels)}
    return {
        "model_id": name,
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": {"classifier": {"id2label": numbered, "label2id": {v: int(k) for k, v in numbered.items()}}},
        "max_concurrent_requests": limits.waiting,
        "max_input_length": model.seq_len,
        "max_batch_tokens": tokens_per_batch,
        "max_batch_requests": None,
        "max_client_batch_size": DOCUMENTS,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": flash_sparse.__version__,
        "sha": None,
        "docker_label": None,
        "flash_sparse": {
            "task": model.task,
            "reads": kind,
            "image_size": None if model.grid is None else list(model.grid),
            "thresholds": thresholds,
            "max_body_bytes": limits.body_bytes,
        },
    }
