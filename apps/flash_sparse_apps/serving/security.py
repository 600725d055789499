"""Who may ask, and what a browser may do with the answers.

Without a token only this machine is served. A web page elsewhere could still make a browser here send requests, so the
name that the browser was given must be this machine's own, and pages of other origins are refused.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_sparse_apps.serving import LOCAL
from flash_sparse_apps.serving.errors import Refused

OPEN = ("/", "/health", "/docs", "/openapi.json")  # hold nothing of the run or its documents
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
log = logging.getLogger("flash_sparse_apps.serving")


class Guard:
    """Refuses strangers, adds the headers, and lets no error's words, which may quote a document, into the log."""

    def __init__(self, app: ASGIApp, token: str | None):
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_guarded(message: Message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, send_guarded)
        except Refused as refused:
            await refused.response()(scope, receive, send_guarded)
        except Exception as error:
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("a request failed: %s\n%s", type(error).__name__, places)
            if not begun:
                await Refused("an error of the server", "Backend", 500).response()(scope, receive, send_guarded)

    def _check(self, scope: Scope):
        headers, open_to_all = Headers(scope=scope), scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")
        host = headers.get("host", "")
        if self.token is None and _split(f"//{host}").hostname not in LOCAL:
            raise Refused("the request names another host; expected 127.0.0.1 or localhost", status=403)
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            raise Refused("the request comes from a page elsewhere; expected this server's own", status=403)
        if self.token is not None and not open_to_all and not scope["path"].startswith("/static/"):
            given = headers.get("authorization", "").encode()
            if not secrets.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refused("the token is missing or wrong; expected Authorization: Bearer TOKEN", status=401)


def _split(address: str) -> SplitResult:
    """An address in its parts, all of them empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:  # such as [::1 without its second bracket
        return urlsplit("")
