"""HTTP as RFC 9110 has it, around the whole app: request ids, HEAD, content codings.

Every response has an `x-request-id`: the client's own where it is sane, as OpenAI's and most
proxies have it, else a new one. Every refusal is counted and leaves a line in the daemon's log.
"""

import json
import logging
import re
import zlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from edge_agent.errors import EdgeAgentError
from server.errors import error_response

REQUEST_ID = "x-request-id"
REFUSAL = "refusal"
"""Key of a request's state: the EdgeAgentError that a stream told, because it had begun."""
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SAID = 2000
"""Bytes of an error's body that are looked at for the log."""

_log = logging.getLogger(__name__)


def request_id(given: str | None = None) -> str:
    """`given` if it can stand in a header and in a log, else a new one."""
    return given if given is not None and _SANE.fullmatch(given) else f"req_{ULID()}"


class Traced:
    """ASGI middleware, the outermost: an id for each response, and a trace of each refusal.

    `refused` is told of each the path of its route ("" where there is none) and the status.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[str, int], None]) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; HEAD (RFC 9110 9.3.2) as the GET whose body nobody sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = request_id(Headers(scope=scope).get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = asked
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        status, said = 0, b""

        async def sending(message: Message) -> None:
            nonlocal status, said
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (REQUEST_ID.encode(), asked.encode())]
                message = {**message, "headers": headers}
            elif status >= 400 and len(said) < _SAID:
                said += message.get("body", b"")
            await send(message)

        try:
            await self._app(inner, receive, sending)
        except Exception:
            status = 500  # the answer is written further out, see `errors`
            raise
        finally:
            refusal = scope["state"].get(REFUSAL)
            if refusal is not None:
                status, said = refusal.status, refusal.message.encode("utf-8", "replace")
            if status >= 400:
                self._refused(_route(inner), status)
                _log.log(
                    logging.DEBUG if status == 503 else logging.INFO,  # 503: health checks poll
                    *("%s %s answered with %d (%s): %s", scope["method"], _plain(scope["path"])),
                    *(status, asked, _plain(_message(said))),
                )


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "")


def _message(body: bytes) -> str:
    """What an error says, in any API's shape."""
    try:
        error = json.loads(body)["error"]
        return str(error if isinstance(error, str) else error["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def _plain(text: str) -> str:
    """One line without control characters."""
    return text[:300].encode("unicode_escape").decode("ascii")


_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_HEADER = zlib.MAX_WBITS | 32
"""gzip's or zlib's, told apart by zlib."""


class UnsupportedCoding(EdgeAgentError):
    """The request's content coding is none of those that are read here."""

    status = 415
    type = "invalid_request_error"


class Decoded:
    """ASGI middleware: reads compressed request bodies (RFC 9110 8.4), refuses other codings.

    The decoded body may have `limit` bytes, so a small request cannot become a large one. Bodies
    below `json_under` are JSON, whatever type they claim: the docs of that API send none.
    """

    def __init__(self, app: ASGIApp, limit: int, json_under: str) -> None:
        self._app = app
        self._limit = limit
        self._json_under = json_under

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body decoded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        codings = [
            coding.strip().lower()
            for value in headers.getlist("content-encoding")
            for coding in value.split(",")
            if coding.strip().lower() not in ("", "identity")
        ]
        if len(codings) > 1 or not _CODINGS.issuperset(codings):
            response = error_response(
                UnsupportedCoding(
                    f"the content coding {', '.join(codings)} is not supported; send gzip, or none",
                    param="Content-Encoding",
                ),
                scope["path"],
            )
            response.headers["Accept-Encoding"] = "gzip, deflate"
            await response(scope, receive, send)
            return
        dropped: set[bytes] = set()
        if codings:
            receive = _decoding(receive, self._limit)
            dropped |= {b"content-encoding", b"content-length"}
        added = []
        if scope["path"].startswith(self._json_under):
            dropped.add(b"content-type")
            added.append((b"content-type", b"application/json"))
        if dropped:
            kept = [(name, value) for name, value in scope["headers"] if name not in dropped]
            scope["headers"] = [*kept, *added]  # not in a copy: `Traced` reads the route from it
        await self._app(scope, receive, send)


def _decoding(receive: Receive, limit: int) -> Receive:
    """`receive` with the body decoded piece by piece, and refused once it has `limit` bytes."""
    decoder = zlib.decompressobj(_ANY_HEADER)
    size = 0

    def decode(piece: bytes) -> bytes:
        nonlocal decoder, size
        decoded = b""
        while piece:
            if decoder.eof:  # gzip may have several members
                decoder = zlib.decompressobj(_ANY_HEADER)
            decoded += decoder.decompress(piece, limit - size - len(decoded) + 1)
            if size + len(decoded) > limit:
                # FastAPI lets only its own exceptions out of its reading of the body.
                raise HTTPException(413, f"the decoded body is larger than {limit / 1e6:g} MB")
            piece = decoder.unused_data
        size += len(decoded)
        return decoded

    async def decoding() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        try:
            body = decode(message.get("body", b""))
        except zlib.error as error:
            raise HTTPException(400, "the body is not what its Content-Encoding says") from error
        if not message.get("more_body") and not decoder.eof:
            raise HTTPException(400, "the compressed body is cut short")
        return {**message, "body": body}

    return decoding
