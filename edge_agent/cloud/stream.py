"""The bytes of one cloud answer → Deltas, whatever pieces they come in. No network, no clock.

Server-sent events from bytes (WHATWG HTML, "Server-sent events", §9.2.6).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from edge_agent.cloud.objects import (
    CallReader,
    Malformed,
    json_object,
    message_of,
    read_delta,
    require_no_error,
)
from edge_agent.cloud.tool_turns import ToolTurn, ToolTurns
from edge_agent.cloud.usage import larger, read_usage, usage_of
from edge_agent.records.query import Delta, Usage


class SseDecoder:
    """Feed it bytes in any pieces; it gives the data of each event that is whole.

    Lines end in CR, LF or CRLF; comments and fields other than `data` are skipped. Bytes are
    decoded a line at a time, so a character cut between two pieces is never damaged.
    Raises UnicodeDecodeError on a line that is not UTF-8.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[str]:
        """Data of the events that `piece` completes."""
        self._buffer += piece
        while (line := self._take_line()) is not None:
            if line:
                self._field(line)
            else:
                yield from self._dispatch()

    def close(self) -> Iterator[str]:
        """The last event, where the stream ended without its blank line."""
        if self._buffer:
            self._field(bytes(self._buffer).rstrip(b"\r"))
            self._buffer.clear()
        yield from self._dispatch()

    def _take_line(self) -> bytes | None:
        buffer = self._buffer
        ends = [at for at in (buffer.find(b"\n", self._scanned), buffer.find(b"\r", self._scanned))
                if at >= 0]  # fmt: skip
        end = min(ends, default=-1)
        # A CR at the very end may be the first half of a CRLF: wait for the next piece.
        if end < 0 or (buffer[end] == 0x0D and end + 1 == len(buffer)):
            self._scanned = len(buffer) if end < 0 else end
            return None
        line = bytes(buffer[:end])
        del buffer[: end + (2 if buffer[end : end + 2] == b"\r\n" else 1)]
        self._scanned = 0
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8").partition(":")
        if name.lstrip("\ufeff") == "data":
            self._data.append(value.removeprefix(" "))

    def _dispatch(self) -> Iterator[str]:
        if self._data:
            yield "\n".join(self._data)
            self._data.clear()


class AnswerReader:
    """Reads one answer of `n` choices and remembers how far it is.

    `streamed` is False for a server that ignored `stream` and sends one JSON object. What is said
    beside tool calls is kept in `turns`. `stops` are the stop strings that were asked for.
    `feed` and `close` raise Malformed, or UpstreamError where the server sent an error object.
    """

    def __init__(
        self,
        n: int = 1,
        *,
        streamed: bool = True,
        turns: ToolTurns | None = None,
        stops: Collection[str] = (),
    ) -> None:
        self.model: str | None = None
        self.done = False
        """`[DONE]` has arrived, or the answer came as one object."""
        self.beside: dict[str, dict[str, Any]] = {}
        """What was said beside tool calls and is kept, by the ids of these."""
        self.seen_chars = 0
        """Length of all text so far."""
        self._n = n
        self._counted: Usage | None = None
        self._tier: str | None = None
        self._said = self._uncounted = False
        self._sse = SseDecoder() if streamed else None
        self._body = bytearray()
        self._part = "delta" if streamed else "message"
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._half: dict[int, str] = {}
        self._calls: defaultdict[int, CallReader] = defaultdict(CallReader)
        self._turns = turns
        self._stops = stops
        self._turn: defaultdict[int, ToolTurn] = defaultdict(ToolTurn)

    @property
    def usage(self) -> Usage | None:
        """As it was reported; None so far, or without. Partial where the answer went on after
        the count, or was counted as nothing: it is billed all the same."""
        if self._counted is None:
            return None
        counted = replace(self._counted, service_tier=self._tier)
        if not self._said:
            return counted
        partial = self._uncounted or not counted.completion_tokens
        return replace(counted, partial=partial or counted.partial)

    @property
    def complete(self) -> bool:
        """Every choice has ended; only usage may be missing."""
        return self.done or len(self._finished) >= self._n

    def feed(self, piece: bytes) -> Iterator[Delta]:
        """Deltas that the next bytes complete, each as it is read: what follows may raise."""
        if self._sse is None:
            self._body += piece
        else:
            yield from self._events(self._sse.feed(piece))

    def close(self) -> Iterator[Delta]:
        """Deltas that the end of the bytes completes. Raises Malformed if the answer is cut."""
        if self._sse is not None:
            yield from self._events(self._sse.close())
        else:
            yield from self._events(iter([_text(self._body)]))
            if self._open or self._finished:
                yield from self._finish()
        if not self.complete:
            raise Malformed("it was cut short")

    def _events(self, events: Iterator[str]) -> Iterator[Delta]:
        try:
            for data in events:
                if data.strip() == "[DONE]":
                    yield from self._finish()
                elif data.strip():
                    yield from self._deltas(data)
        except UnicodeDecodeError as error:
            raise Malformed("it is not UTF-8") from error

    def _finish(self) -> Iterator[Delta]:
        """The end, announced. One object is whole even without a finish reason.

        A stream is not: gateways announce the end of half an answer too. Raises Malformed.
        """
        if self._sse is not None and len(self._finished) < self._n:
            raise Malformed("it ended without a finish_reason")
        self.done = True
        for index in sorted(self._open):
            yield self._note(Delta(index, finish_reason="stop"))

    def _deltas(self, data: str) -> Iterator[Delta]:
        chunk = json_object(data)
        require_no_error(chunk)
        counted = read_usage(usage_of(chunk))
        self._counted = larger(self._counted, counted)
        self._uncounted = self._uncounted and counted is None
        if isinstance(chunk.get("service_tier"), str):
            self._tier = chunk["service_tier"]
        if isinstance(chunk.get("model"), str) and chunk["model"]:
            self.model = chunk["model"]
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise Malformed("choices is not a list")
        for choice in choices:
            delta = read_delta(choice, self._part)
            if delta.index >= self._n:
                raise Malformed(f"it has a choice {delta.index}, but {self._n} were asked for")
            if delta.index not in self._finished:
                if choice.get("stop_reason") in self._stops:  # vLLM
                    delta = replace(delta, stopped_by=choice["stop_reason"])
                noted = self._note(delta, counted=counted is not None)
                self._turn[delta.index].hear(message_of(choice, self._part), noted.tool_calls)
                if noted.finish_reason is not None and self._turns is not None:
                    self.beside |= self._turns.keep(self._turn.pop(delta.index))
                yield noted

    def _note(self, delta: Delta, *, counted: bool = True) -> Delta:
        if delta.tool_calls:
            calls = self._calls[delta.index].read(delta.tool_calls)
            delta = replace(delta, tool_calls=tuple(calls))
        if delta.finish_reason == "stop" and delta.index in self._calls:
            # Gemini, and OpenAI where one function was forced: clients go by the reason.
            delta = replace(delta, finish_reason="tool_calls")
        if delta.text or delta.index in self._half:
            delta = replace(delta, text=self._join(delta))
        self.seen_chars += len(delta.text)
        if delta.text or delta.reasoning or delta.tool_calls:
            self._said, self._uncounted = True, not counted
        if delta.finish_reason is None:
            self._open.add(delta.index)
        else:
            self._open.discard(delta.index)
            self._finished.add(delta.index)
        return delta

    def _join(self, delta: Delta) -> str:
        """Text without lone surrogates: servers that cut by UTF-16 unit halve an emoji."""
        text = self._half.pop(delta.index, "") + delta.text
        if text and "\ud800" <= text[-1] <= "\udbff" and delta.finish_reason is None:
            self._half[delta.index], text = text[-1], text[:-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(body: bytearray) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("it is not UTF-8") from error
