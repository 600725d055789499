"""What a request that cannot be answered gets: the form and the codes of text-embeddings-inference."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

STATUS = {"Validation": 413, "Tokenizer": 422, "Backend": 424, "Overloaded": 429, "Unhealthy": 503, "Empty": 400}


class Refused(Exception):
    """A request that is not answered, and why.

    Args:
        kind: one of `STATUS`, the error's `error_type`.
        status: another HTTP status than that of its kind.
    """

    def __init__(self, message: str, kind: str = "Validation", status: int | None = None):
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.status = STATUS[kind] if status is None else status

    def response(self) -> Response:
        return answer({"error": self.message, "error_type": self.kind}, self.status)


def answer(content: Any, status: int = 200) -> Response:
    """JSON in ASCII, which also holds half a surrogate pair; floats have all their digits."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")
