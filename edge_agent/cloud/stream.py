"""The bytes of one cloud answer → Deltas, whatever pieces they come in. No network, no clock."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from edge_agent.cloud.calls import CallReader
from edge_agent.cloud.objects import Malformed, json_object, read_delta, require_no_error
from edge_agent.cloud.sse import SseDecoder
from edge_agent.cloud.usage import larger, read_usage
from edge_agent.records import Delta, Usage


class AnswerReader:
    """Reads one answer of `n` choices and remembers how far it is.

    `streamed` is False for a server that ignored `stream` and sends one JSON object.
    `feed` and `close` raise Malformed, or UpstreamError where the server sent an error object.
    """

    def __init__(self, n: int = 1, *, streamed: bool = True) -> None:
        self.model: str | None = None
        self.done = False
        """`[DONE]` has arrived, or the answer came as one object."""
        self.seen_chars = 0
        """Length of all text so far."""
        self._n = n
        self._counted: Usage | None = None
        self._said = self._uncounted = False
        self._sse = SseDecoder() if streamed else None
        self._body = bytearray()
        self._part = "delta" if streamed else "message"
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._half: dict[int, str] = {}
        self._calls: defaultdict[int, CallReader] = defaultdict(CallReader)

    @property
    def usage(self) -> Usage | None:
        """As it was reported; None so far, or without. Partial where the answer went on after
        the count, or was counted as nothing: it is billed all the same."""
        counted = self._counted
        if counted is None or not self._said:
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
        counted = read_usage(chunk.get("usage"))
        self._counted = larger(self._counted, counted)
        self._uncounted = self._uncounted and counted is None
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
                yield self._note(delta, counted=counted is not None)

    def _note(self, delta: Delta, *, counted: bool = True) -> Delta:
        if delta.tool_calls:
            calls = self._calls[delta.index].read(delta.tool_calls)
            delta = replace(delta, tool_calls=tuple(calls))
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
