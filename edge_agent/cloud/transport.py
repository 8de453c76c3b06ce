"""HTTP to one cloud. The only file that knows httpx, whose errors become ours here.

`first_byte_timeout_s` bounds each silence, `connect_timeout_s` connecting; the deadline of a whole
exchange is the caller's. The key goes into the header where the vendor reads it, nowhere else.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from edge_agent import __version__
from edge_agent.cloud.answer import Body
from edge_agent.cloud.anthropic_request import Unsuited
from edge_agent.cloud.kinds import KINDS, Dialect, kind_of
from edge_agent.cloud.objects import Malformed, UpstreamError
from edge_agent.cloud.retry import is_retryable
from edge_agent.config.settings import CloudSettings
from edge_agent.errors import (
    CloudBroken,
    CloudBusy,
    CloudError,
    CloudRefused,
    CloudTimeout,
    CloudUnreachable,
    ConfigError,
)

ANSWERS = ("text/event-stream", "application/json", "")
"""Content types of an answer: events, one object, or it does not say."""
_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer whose head is there. Its body is read, or closed, by whoever gets it."""

    status: int
    headers: Mapping[str, str]
    """Looked up in any case."""
    body: Body

    @property
    def content_type(self) -> str:
        """Without parameters, in small letters; "" if there is none."""
        return content_type(self.headers)


def content_type(headers: Mapping[str, str]) -> str:
    """As `Response.content_type`."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class Transport:
    """Connections to the cloud at `url`, all kept in one event loop."""

    def __init__(
        self,
        url: str,
        settings: CloudSettings,
        *,
        api_key: str | None,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives the seconds that deadlines are in. Raises ConfigError for a bad `url`."""
        self.url = url
        base, _, self._query = url.partition("?")
        self._base = base.rstrip("/")
        self.host = _host(url)
        """Host and port, as messages name the cloud."""
        self.has_key = bool(api_key)
        self._key = SecretStr(api_key) if api_key else None
        self._kind = KINDS[kind_of(settings)]
        self._dialect = self._kind.dialect
        if self._dialect is not None and not self._base.endswith(self._dialect.base):
            self._base += self._dialect.base
        self._clock = clock
        self._limit_bytes = int(settings.max_answer_mb * 1e6)
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            timeout=httpx.Timeout(
                settings.first_byte_timeout_s,
                connect=settings.connect_timeout_s,
            ),
            limits=httpx.Limits(max_connections=None),  # the budget limits calls, not a pool
            headers={
                "User-Agent": f"edge-agent/{__version__}",
                "Accept": "text/event-stream, application/json",
                "Accept-Encoding": "identity",
                **self._kind.headers,
            },
        )

    async def get(self, path: str, *, deadline: float) -> Response:
        """GET {url}/`path`, before the query that `url` may have. Raises CloudError."""
        return await self._send("GET", path, None, deadline)

    async def post(self, path: str, payload: Mapping[str, Any], *, deadline: float) -> Response:
        """POST `payload` as JSON to {url}/`path`, and answer as OpenAI's API would.

        Raises CloudError; `sent` is False only if no byte of the query has left.
        """
        dialect = self._dialect
        if dialect is None:
            return await self._send("POST", path, json.dumps(payload).encode(), deadline)
        try:
            payload = dialect.request(payload)
        except Unsuited as error:
            raise CloudRefused(f"{self.host} was not asked: {error}", sent=False) from error
        content = json.dumps(payload).encode()
        return await self._send("POST", dialect.path, content, deadline, dialect)

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        deadline: float,
        dialect: Dialect | None = None,
    ) -> Response:
        sent = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal sent
            sent = sent or event.endswith("send_request_headers.started")

        sends = {} if content is None else {"Content-Type": "application/json"}
        if self._key:
            secret = self._key.get_secret_value()
            bearer = self._kind.key_header == "Authorization"
            sends[self._kind.key_header] = f"Bearer {secret}" if bearer else secret
        request = self._http.build_request(
            method,
            self._at(path),
            content=content,
            headers=sends,
            extensions={"trace": trace},
        )
        with self._boundary(lambda: sent):
            async with asyncio.timeout(deadline - self._clock()):
                response = await self._http.send(request, stream=True)
        # As it comes: decompressing it could make a thousand times as much of it at once.
        pieces, headers = self._at_most(response.aiter_raw()), response.headers
        if dialect is not None and response.status_code != 200:
            pieces = dialect.error(pieces)
        elif dialect is not None and content_type(headers) in ANSWERS:
            pieces = dialect.stream(pieces, whole=content_type(headers) == "application/json")
            headers = httpx.Headers({**headers, "content-type": "text/event-stream"})
        body = Body(
            pieces,
            close=response.aclose,
            remaining_s=lambda: deadline - self._clock(),
            boundary=lambda: self._boundary(lambda: True),
        )
        return Response(response.status_code, headers, body)

    def _at(self, path: str) -> str:
        path, _, query = path.partition("?")
        query = "&".join(filter(None, (query, self._query)))
        return f"{self._base}/{path}" + (f"?{query}" if query else "")

    async def _at_most(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of a body that is no larger than allowed. Raises Malformed where it is."""
        left = self._limit_bytes
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise Malformed("it is larger than cloud.max_answer_mb")
            yield piece

    @contextlib.contextmanager
    def _boundary(self, sent: Callable[[], bool]) -> Iterator[None]:
        """Errors of the network, of time and of the bytes become ours."""
        try:
            yield
        except (TimeoutError, httpx.TimeoutException) as error:
            what = {
                httpx.ConnectTimeout: "no connection",
                TimeoutError: "no end of the answer",
            }.get(type(error), "nothing came")
            raise CloudTimeout(f"{self.host}: {what} in time", sent=sent()) from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise CloudUnreachable(
                f"cannot connect to {self.host}: {error}", sent=sent()
            ) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            message = f"{self.host} broke the connection: {error or type(error).__name__}"
            raise CloudBroken(self.scrub(message), sent=sent()) from error
        except Malformed as error:
            message = f"{self.host} sent something that is not an answer: {error}"
            raise CloudBroken(message, sent=True) from error
        except UpstreamError as error:
            raise self._upstream(error) from error

    def _upstream(self, error: UpstreamError) -> CloudError:
        message = f"{self.host} reported: {self.scrub(str(error))}"
        if error.status is None:
            return CloudBroken(message, sent=True)
        if is_retryable(error.status):
            return CloudBusy(message, sent=True)
        return CloudRefused(message, sent=True, said=self.without_key(error.said))

    def without_key(self, text: str) -> str:
        """A server's words, without our key should they repeat it."""
        return text.replace(self._key.get_secret_value(), "[key]") if self._key else text

    def scrub(self, text: str) -> str:
        """The same in one short line."""
        line = " ".join(self.without_key(text).split())
        return line if len(line) <= _MESSAGE_CHARS else line[: _MESSAGE_CHARS - 1] + "…"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _host(url: str) -> str:
    """Host and port. Raises ConfigError for a URL without a host, or with a password in it."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"cloud.url is not a URL: {error}") from error
    if not parsed.host:
        raise ConfigError("cloud.url names no host")
    if parsed.userinfo:
        raise ConfigError("cloud.url must not hold a password: use the environment or keyring")
    return parsed.netloc.decode("ascii")
