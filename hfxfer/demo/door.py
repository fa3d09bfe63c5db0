"""What is turned away before gradio sees it: addresses to fetch, bodies without a limit; and, by the browser, pictures from elsewhere.

gradio (6.31) fetches any public address for whoever asks `/file=http…`, and reads a request's JSON to its end, however long it is.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse

from hfxfer import console
from hfxfer.demo import limits, words
from hfxfer.demo.refusals import reason

BODY_MB = 2
"""A request but an upload: room for a text of 20,000 characters in any script, and for the names of a thousand files."""

UPLOADS_MB = 20 * limits.UPLOAD_MB
"""All files of one upload."""

POLICY = b"img-src 'self' data: blob:; media-src 'self' data: blob:"
"""What a browser may show: nothing from elsewhere, however a card asks for it, so that nobody learns who reads it."""


class Door:
    """ASGI middleware."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def sent(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), (b"content-security-policy", POLICY)]}
            await send(message)

        try:
            await (refused(scope) or self.app)(scope, receive, sent)
        except Exception as error:
            # Of a request that it cannot make out gradio raises, and uvicorn would log a traceback and hang up.
            console.error(f"a request for {scope['path'][:80]!a} failed: {reason(error)}")
            if not begun:
                await PlainTextResponse(words.UNUSABLE, 400)(scope, receive, sent)


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
