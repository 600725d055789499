"""How much is taken from the network: the size of a body, its time, and the memory of all bodies together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_sparse_apps.serving.errors import Refused

DOCUMENTS = 64  # of one request, at most


@dataclass(frozen=True)
class Limits:
    """Attributes:
    body_bytes: of one request.
    all_bytes: of all requests that are read or answered at the same time.
    body_seconds: from a request's head to the end of its body.
    waiting: documents that wait for the model, of all requests.
    read_seconds: for a PDF, Word or HTML file to become text.
    seconds: from a request's body to its answer.
    connections: open ones.
    head_seconds: for the head of a request, and for the rest of a body that was refused.
    """

    body_bytes: int = 32 << 20
    all_bytes: int = 512 << 20
    body_seconds: float = 60
    waiting: int = 512
    read_seconds: float = 60
    seconds: float = 300
    connections: int = 4096
    head_seconds: float = 10


class WholeBodies:
    """Reads each body before the application sees the request, so that a slow client holds nothing but its bytes."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app = app
        self.limits = limits
        self.held = 0  # bytes of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            if await asyncio.wait_for(self._read(scope, receive, body), self.limits.body_seconds):
                await self.app(scope, _once(bytes(body), receive), send)
        except asyncio.TimeoutError:
            refused = Refused(f"the body took longer than {self.limits.body_seconds:g} seconds", status=408)
            await refused.response()(scope, receive, send)
        except Refused as refused:
            await refused.response()(scope, receive, send)
        finally:
            self.held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Whether the body came whole; its client may have left."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        self._check(int(declared) if declared.isdigit() else 0)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            chunk = message.get("body", b"")
            self._check(len(body) + len(chunk))
            if self.held + len(chunk) > self.limits.all_bytes:
                raise Refused("too many large requests at the same time; try again", "Overloaded")
            body += chunk
            self.held += len(chunk)
            if not message.get("more_body", False):
                return True

    def _check(self, size: int):
        if size > self.limits.body_bytes:
            raise Refused(f"the body has more than {self.limits.body_bytes >> 20} MiB, the most that is taken")


def _once(body: bytes, receive: Receive) -> Receive:
    """A body that is there already, then whatever the client does: leave."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        given, message = message, None
        return given

    return replayed
