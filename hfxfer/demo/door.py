"""What is turned away before gradio sees it: addresses to fetch, and bodies without a limit.

gradio (6.31) fetches any public address for whoever asks `/file=http…`, and reads a request's JSON to its end, however long it is.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse

from hfxfer.demo import limits, words

BODY_MB = 2
"""A request but an upload: room for a text of 20,000 characters in any script, and for the names of a thousand files."""

UPLOADS_MB = 20 * limits.UPLOAD_MB
"""All files of one upload."""


class Door:
    """ASGI middleware."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = refused(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)


def refused(scope: Any) -> PlainTextResponse | None:
    """The answer that turns a request away, or None."""
    path = scope["path"].lower()
    if any(f"/{route}={scheme}" in path for route in ("file", "proxy") for scheme in ("http:", "https:")):
        return PlainTextResponse(words.NO_ADDRESS, 403)
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        return PlainTextResponse(words.NO_LENGTH, 411)
    most = UPLOADS_MB if path.endswith("/upload") else BODY_MB
    return PlainTextResponse(words.BODY_TOO_BIG.format(most=most), 413) if int(length) > most * 10**6 else None
