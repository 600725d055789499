"""Serve a finished run: a page to drop documents on, and a JSON API.

    python apps/serve.py RUN
    FLASH_SPARSE_TOKEN=... python apps/serve.py RUN --host 0.0.0.0

Only this machine is served; for another --host a token is needed, which clients send as `Authorization: Bearer TOKEN`.
The API is that of text-embeddings-inference; /docs describes it. No document is written to disk or into a log.

Exit codes: 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flash_sparse_apps.console import plain_interrupt, print_anything, spoken
from flash_sparse_apps.serving import LOCAL
from flash_sparse_datasets.shared.exit_codes import Stopped, UserError, ending

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

TOKEN = "FLASH_SPARSE_TOKEN"


@ending
def main(arguments: Sequence[str]) -> int:
    """Serve until the process is stopped, and return its exit code."""
    print_anything()
    given = _make_parser().parse_args(arguments)
    token = given.token or os.environ.get(TOKEN)
    _check(given, token)
    with plain_interrupt():  # it takes seconds, which --help need not pay
        _check_installed()
        from flash_sparse_apps.machine import choose_device
        from flash_sparse_apps.models.saved_model import SavedModel
    try:
        model = SavedModel.load(given.run)
    except ValueError as error:  # of a damaged run
        raise UserError(str(error)) from error
    _serve(given, model, choose_device(given.accelerator), token)
    return 0


def _make_parser() -> ArgumentParser:
    from flash_sparse_apps.command_line import OneLineParser

    parser = OneLineParser(
        prog=spoken("serve"),
        description="Serve a finished run: a page to drop documents on, and a JSON API.",
        allow_abbrev=False,
    )
    parser.optional = frozenset({"token"})  # taken as typed: read as YAML, one that begins with # would be none at all
    parser.add_argument("run", type=str, help="run folder, or its model/")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at; another one needs a token")
    parser.add_argument("--port", type=int, default=8000, help="port; 0: a free one")
    parser.add_argument(
        "--token", type=str, default=None, help=f"what clients must send; null: the variable {TOKEN}, if set"
    )
    parser.add_argument("--max-megabytes", type=int, default=32, help="largest request that is taken, in MiB")
    parser.add_argument("--max-seconds", type=float, default=300, help="longest time for an answer, in seconds")
    parser.add_argument("--tokens-per-batch", type=int, default=16384, help="tokens that go through the model at once")
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help="where to compute")
    return parser


def _check(given: Namespace, token: str | None):
    """Raise UserError for flags that cannot be what is meant."""
    for name in ("max_megabytes", "max_seconds", "tokens_per_batch"):
        if given[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} is {given[name]}; expected at least 1")
    if not 0 <= given.port <= 65535:
        raise UserError(f"--port is {given.port}; expected 0 to 65535")
    if token is None and given.host not in LOCAL:
        raise UserError(
            f"--host is {given.host}, which others can reach; expected a --token as well, or the variable {TOKEN}"
        )
    if token is not None and not (token.isascii() and token.isprintable() and len(token) >= 8 and " " not in token):
        raise UserError("--token is too short or has other characters; expected 8 or more ASCII letters and digits")


def _check_installed():
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise Stopped(f"error: {error.name} is not installed; expected pip install 'flash-sparse[serve]'", 2) from None


def _serve(given: Namespace, model, device: str, token: str | None):
    import logging

    import torch
    import uvicorn

    from flash_sparse_apps.models.logits import compute_logits
    from flash_sparse_apps.serving.api import make_app
    from flash_sparse_apps.serving.connections import bounded
    from flash_sparse_apps.serving.limits import Limits

    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what strangers send is no news
    text = torch.zeros(1, dtype=torch.int64)  # read once, so that kernels are compiled before somebody waits
    compute_logits(model.encoder.to(device), [[text] * (1 + model.pairs)], None, 1)
    limits = Limits(
        body_bytes=given.max_megabytes << 20, seconds=given.max_seconds, connections=_most_connections(Limits())
    )
    app = make_app(model, Path(given.run).resolve().name, device, given.tokens_per_batch, token, limits)
    config = uvicorn.Config(
        app,
        http=bounded(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
    with _listen(given.host, given.port) as listening:
        address, port = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"serving {given.run} at http://{shown}:{port} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise UserError(f"--host is {host}, --port is {port}: {error.strerror}; expected an address to serve") from None
    return listening


def _most_connections(limits) -> int:
    """As many as this process may have open, some files aside."""
    if sys.platform == "win32":
        return limits.connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return limits.connections if soft == resource.RLIM_INFINITY else min(limits.connections, max(64, soft - 256))
