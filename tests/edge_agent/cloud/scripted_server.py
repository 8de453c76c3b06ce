"""A scripted HTTP server on loopback: real sockets, and every byte chosen by the test."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Script = Callable[[asyncio.StreamWriter], Awaitable[None]] | bytes


@dataclass
class ScriptedServer:
    """Answers the k-th request with `scripts[k]`, and further ones with the last script."""

    scripts: list[Script] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.paths.append(first.split()[1])
            self.headers.append(headers)
            self.requests.append(json.loads(body) if body else {})
            script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
            if isinstance(script, bytes):
                writer.write(script)
                await writer.drain()
            else:
                await script(writer)
                await reader.read()
                self.hung_up.set()
        finally:
            writer.close()


@dataclass
class Time:
    """A clock that only `sleep` moves."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def head(kind: str = "text/event-stream", status: str = "200 OK", extra: str = "") -> bytes:
    """The head of an HTTP answer whose body ends when the connection does."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n{extra}\r\n".encode()


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def chunk(text: str | None = None, *, index: int = 0, finish: str | None = None) -> bytes:
    """One chat completion chunk as a server-sent event."""
    delta = {} if text is None else {"content": text}
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"
WHOLE = head() + chunk("Hello ") + chunk("world") + chunk(finish="stop") + USAGE + DONE
BODY = {"model": "edge", "messages": [{"role": "user", "content": "hi"}]}
