"""Prompts of a wanted length that share no beginning: common words in random order.

The load generator: streamed chat requests, c at a time, with the time of every read.

It shares the machine with what it measures, so while a request runs it only keeps what arrives
and when; everything is parsed after the run. TTFT counts from the moment a request is sent on an
open connection.
"""

import asyncio
import json
import random
import re
import ssl
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.runtime.timings import Load, Piece, Timing, read_answer

_WORDS = re.findall(
    r"\w+",
    """
    time year people way day man thing woman life child world school state family student group
    country problem hand part place case week company system program question work government
    number night point home water room mother area money story fact month lot right study book eye
    job word business issue side kind head house service friend father power hour game line end
    member law car city name president team minute idea kid body information back parent face
    others level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education foot boy age policy music
    """,
)

Messages = list[dict[str, str]]


@dataclass
class Prompts:
    """Prompts by seed. A word is about one token; what it came to is in the answer's usage."""

    seed: int

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311

    def text(self, words: int) -> str:
        """`words` random words."""
        return " ".join(self._rng.choices(_WORDS, k=words))

    def cold(self, words: int) -> Messages:
        """A prompt that shares its beginning with no other."""
        return [_user(self.text(words))]

    def warm(self, shared: str, words: int) -> Messages:
        """The long text `shared`, then a question of its own."""
        return [{"role": "system", "content": shared}, _user(self.text(words))]

    def second_turn(self, first: str, answer: str, words: int) -> Messages:
        """The conversation that began with `first`, and its next question."""
        return [
            _user(first),
            {"role": "assistant", "content": answer},
            _user(self.text(words)),
        ]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Target:
    """A server to ask. `model` and `fields` go into every request."""

    name: str
    url: str
    """"http://127.0.0.1:3343", without "/v1"."""
    model: str
    api_key: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def request(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> bytes:
        """A whole HTTP request, ready to be sent."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        payload = json.dumps(body).encode()
        parts = urllib.parse.urlsplit(self.url)
        head = [
            f"POST {parts.path.rstrip('/')}{_PATH} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            "Connection: close",
            f"Content-Length: {len(payload)}",
        ]
        if self.api_key:
            head.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join([*head, "", ""]).encode() + payload


class _Recorder(asyncio.Protocol):
    """Keeps every read with its time until the server closes or the last chunk is there."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """One read."""
        self.pieces.append((time.perf_counter(), data))
        if data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed."""
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def run(
    target: Target,
    requests: Sequence[bytes],
    concurrency: int,
    *,
    timeout_s: float,
    pause_s: float = 0.0,
) -> Load:
    """Send `requests`, `concurrency` at a time: as one ends, its worker sends the next.

    With `pause_s`, a worker waits before each request.
    """
    return asyncio.run(_run(target, requests, concurrency, timeout_s, pause_s))


async def _run(
    target: Target, requests: Sequence[bytes], concurrency: int, timeout_s: float, pause_s: float
) -> Load:
    waiting = iter(requests)
    recorded: list[tuple[float, list[Piece], str | None]] = []

    async def ask(request: bytes) -> None:
        await asyncio.sleep(pause_s)
        recorded.append(await _send(target.url, request, timeout_s))

    async def work() -> None:
        for request in waiting:
            await ask(request)

    await asyncio.gather(*(work() for _ in range(min(concurrency, len(requests)))))
    timings = tuple(_timing(started, pieces, error) for started, pieces, error in recorded)
    began = min(timing.started for timing in timings)
    return Load(timings, max(timing.ended for timing in timings) - began)


async def _send(
    url: str, request: bytes, timeout_s: float
) -> tuple[float, list[Piece], str | None]:
    """When it was sent, what arrived, and what went wrong on the way."""
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    started = time.perf_counter()
    try:
        transport, recorder = await asyncio.get_running_loop().create_connection(
            _Recorder,
            parts.hostname or "",
            parts.port or (443 if secure else 80),
            ssl=ssl.create_default_context() if secure else None,
        )
    except OSError as error:
        return started, [], f"no connection: {error}"
    try:
        started = time.perf_counter()
        transport.write(request)
        await asyncio.wait_for(recorder.ended, timeout_s)
        return started, recorder.pieces, None
    except TimeoutError:
        return started, recorder.pieces, f"no end within {timeout_s:g} s"
    finally:
        transport.abort()


def _timing(started: float, pieces: Sequence[Piece], error: str | None) -> Timing:
    if error is not None:
        return Timing(started, ended=time.perf_counter(), error=error)
    return read_answer(started, pieces)
