"""The door: Host, Origin, API key and body size are checked before anything else runs.

A web page can make a browser talk to a server on localhost: through DNS rebinding (its own name
resolving to 127.0.0.1; Ollama's CVE-2024-28224) or by a plain cross-origin POST. The first is
told by the Host header, the second by Origin. Neither depends on an API key being set.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.config.settings import ServerSettings
from edge_agent.errors import EdgeAgentError, Forbidden, Unauthorized
from server.errors import BodyTooLarge, error_response

OPEN_PATHS = frozenset({"/", "/health"})
"""Answered without a key; so is the page, which is the same for everyone and asks for the key."""
PAGE = "/page/"
"""Beginning of the paths of its files."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names and addresses that only this machine reaches us by."""
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognised, not bound
_EXPOSED = ", ".join(
    f"X-Edge-Agent-{name}"
    for name in ("Id", "Route", "Source", "Reason", "P-Offload", "Adapter", "Cost-Usd")
)
_EXPOSED += ", X-Request-Id"


class Guard:
    """Pure ASGI middleware. Puts who asks into `request.state.client` ("" = anonymous)."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, api_keys: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in settings.allowed_hosts}
        self._hosts |= LOOPBACK | {settings.host.strip("[]").lower()}
        self._any_address = settings.host in _WILDCARDS
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}
        self._keys = [key.encode() for key in api_keys]
        self._max_body = int(settings.max_body_mb * 1_000_000)
        self._max_body_mb = settings.max_body_mb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it with 401, 403 or 413."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            origin = self._check_origin(headers)
            if origin is not None:
                send = _with_cors(send, origin)
                if scope["method"] == "OPTIONS":
                    await _preflight(headers)(scope, receive, send)
                    return
            scope.setdefault("state", {})["client"] = self._check_key(scope["path"], headers)
            self._check_length(headers)
        except EdgeAgentError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) == 1 and self._is_ours(_hostname(hosts[0])):
            return
        raise Forbidden(
            f"the Host header {', '.join(hosts)!r} is not one of ours; "
            "add it to server.allowed_hosts if it is",
            code="host_not_allowed",
        )

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        # Rebinding needs a name: an address in Host cannot have come from one.
        return self._any_address and _is_address(name)

    def _check_origin(self, headers: Headers) -> str | None:
        """The allowed foreign origin that asks; None for ourselves and for no browser at all."""
        origin = headers.get("origin")
        if origin is None:
            return None
        folded = origin.rstrip("/").lower()
        if folded in self._origins:
            return origin
        if folded.partition("://")[2] == headers["host"].lower():
            return None
        raise Forbidden(
            f"the origin {origin!r} may not call this server; "
            "add it to server.allowed_origins if it should",
            code="origin_not_allowed",
        )

    def _check_key(self, path: str, headers: Headers) -> str:
        if not self._keys or path in OPEN_PATHS or path.startswith(PAGE):
            return ""
        for key in _keys_in(headers):
            # Every key is compared, so that the time taken does not say which one was near.
            matches = [hmac.compare_digest(key, known) for known in self._keys]
            if any(matches):
                return hashlib.sha256(key).hexdigest()[:12]
        raise Unauthorized(
            "send one of the server's API keys as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
            code="invalid_api_key",
        )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that refuses a chunked body once it has grown too long."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_body:
                    # FastAPI lets only its own exceptions out of its reading of the body.
                    raise HTTPException(413, self._too_large().message)
            return message

        return limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the request body is larger than {self._max_body_mb:g} MB (server.max_body_mb)",
            code="body_too_large",
        )


def _keys_in(headers: Headers) -> list[bytes]:
    """What may be a key: as OpenAI's clients send it, then as Anthropic's do."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    keys = [given.strip()] if scheme.lower() == "bearer" else []
    keys += [headers["x-api-key"].strip()] if "x-api-key" in headers else []
    return [key.encode("utf-8", "surrogateescape") for key in keys]


def _hostname(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    if host.startswith("["):
        address, _, rest = host[1:].partition("]")
        return address.lower() if rest[:1] in ("", ":") else host
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_cors(send: Send, origin: str) -> Send:
    added = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED.encode()),
        (b"vary", b"Origin"),
    ]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


def _preflight(headers: Headers) -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
            "Access-Control-Allow-Headers": headers.get(
                "access-control-request-headers", "Authorization, Content-Type"
            ),
            "Access-Control-Max-Age": "600",
        },
    )
