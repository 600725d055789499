"""The page, and the page about the API: static files of the package, read once."""

from __future__ import annotations

import mimetypes
from importlib import resources

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route

PAGES = {"/": "index.html", "/docs": "docs.html"}
ASSETS = ("look.css", "index.js", "docs.js")


def add_to(app: FastAPI):
    """Give an application the pages and what they load."""
    paths = PAGES | {f"/static/{name}": name for name in ASSETS}
    app.router.routes += [Route(path, _serving(name)) for path, name in paths.items()]


def _serving(name: str):
    content = resources.files(__package__).joinpath("static", name).read_bytes()
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]

    async def serve(_) -> Response:
        return Response(content, media_type=kind)

    return serve
