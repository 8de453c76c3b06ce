"""GET / and its files: a web page on this daemon, from this daemon alone.

The files are plain ES modules; nothing is built, and the policy below lets a browser load nothing
from anywhere else, run no inline script, and turn no text into markup. What the page shows it asks
of the API, under the same checks as every client (`server.guard`).
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from edge_agent import __version__
from edge_agent.errors import NotFound
from server.guard import PAGE

router = APIRouter(include_in_schema=False)
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, but asked about each time: the answer is mostly a 304
}
_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Name → file; some tens of kilobytes, read once."""
    found = {}
    for file in (files("server.page") / "assets").iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            found[file.name] = Asset(
                content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            )
    return found


@router.get("/")
async def root(request: Request) -> Response:
    """The page for a browser; a line of text for a client that looks for a server."""
    if "text/html" in request.headers.get("accept", ""):
        return _response(_INDEX, request)
    return PlainTextResponse(
        f"edge-agent {__version__} is running; the API is at /docs\n", headers={"Vary": "Accept"}
    )


@router.get(PAGE + "{name}")
async def file(name: str, request: Request) -> Response:
    """One of the page's files."""
    return _response(name, request)


def _response(name: str, request: Request) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise NotFound(f"no such file: {PAGE}{name}")
    headers = {**_HEADERS, "ETag": asset.etag, "Vary": "Accept"}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
