"""From recorded reads to times: TTFT, ITL, TPOT, end-to-end.

TTFT   request sent → first non-empty token
ITL    gaps between arrivals of tokens, pooled over requests; tokens of one read have gap 0
TPOT   (end-to-end − TTFT) / (tokens − 1), one per request
e2e    request sent → last non-empty token
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Piece = tuple[float, bytes]
"""One read from the socket: perf_counter seconds, and what was read."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One request. Times are perf_counter seconds."""

    started: float
    ended: float
    """Last non-empty token; where there is none, the last read."""
    arrivals: tuple[float, ...] = ()
    """One per event that carried text."""
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    predicted_tokens: int = 0
    """Of the answer's, those that the server had computed in advance."""
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.arrivals[0] - self.started

    @property
    def e2e_s(self) -> float:
        """Time to the last token."""
        return self.ended - self.started

    @property
    def tpot_s(self) -> float | None:
        """Time per token after the first; None for an answer of one token."""
        if self.completion_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.completion_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Between successive tokens."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:])]  # noqa: B905


@dataclass(frozen=True, slots=True)
class Load:
    """All requests of one run, and its length from the first request to the last token."""

    timings: tuple[Timing, ...]
    seconds: float

    @property
    def good(self) -> tuple[Timing, ...]:
        """Requests that were answered."""
        return tuple(timing for timing in self.timings if timing.error is None)

    @property
    def errors(self) -> tuple[str, ...]:
        """Why the others were not."""
        return tuple(timing.error for timing in self.timings if timing.error is not None)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of all requests over the length of the run."""
        return sum(timing.completion_tokens for timing in self.good) / self.seconds

    def summary(self) -> dict[str, dict[str, float]]:
        """ "ttft" | "itl" | "tpot" | "e2e" → "mean" | "p50" | "p95" | "p99" → seconds.

        A quantity of which there is no value is left out.
        """
        pooled = {
            "ttft": [timing.ttft_s for timing in self.good],
            "itl": [gap for timing in self.good for gap in timing.gaps_s],
            "tpot": [tpot for timing in self.good if (tpot := timing.tpot_s) is not None],
            "e2e": [timing.e2e_s for timing in self.good],
        }
        return {name: spread(values) for name, values in pooled.items() if values}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles, interpolated between the nearest values."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def read_answer(started: float, pieces: Sequence[Piece]) -> Timing:
    """The timing of one streamed chat completion."""
    last = pieces[-1][0] if pieces else started
    raw = b"".join(data for _, data in pieces)
    head, _, rest = raw.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if " 200" not in status:
        said = rest[:300].decode("utf-8", "replace")
        return Timing(started, last, error=f"{status or 'no answer'}: {said}")
    arrivals: list[float] = []
    texts: list[str] = []
    usage: Mapping[str, Any] = {}
    for at, event in _events(pieces, len(head) + 4, chunked=_is_chunked(head)):
        if "error" in event:
            return Timing(started, last, error=json.dumps(event["error"])[:300])
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
            if text:
                arrivals.append(at)
                texts.append(text)
    if not arrivals:
        return Timing(started, last, error="an answer without text")
    details = usage.get("prompt_tokens_details") or {}
    answer = usage.get("completion_tokens_details") or {}
    return Timing(
        started,
        arrivals[-1],
        tuple(arrivals),
        "".join(texts),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or len(arrivals)),
        predicted_tokens=int(answer.get("accepted_prediction_tokens") or 0),
    )


def _is_chunked(head: bytes) -> bool:
    return b"transfer-encoding: chunked" in head.lower()


def _events(
    pieces: Sequence[Piece], head: int, *, chunked: bool
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Server-sent events as JSON objects, each with the time at which its line was complete."""
    lines = b""
    body = _body(pieces, head)
    for at, data in _unchunked(body) if chunked else body:
        *complete, lines = (lines + data).split(b"\n")
        for line in complete:
            name, _, value = line.strip().partition(b":")
            value = value.strip()
            if name == b"data" and value != b"[DONE]":
                yield at, json.loads(value)


def _body(pieces: Sequence[Piece], head: int) -> Iterator[Piece]:
    """The reads without the first `head` bytes."""
    for at, data in pieces:
        cut = min(head, len(data))
        head -= cut
        if data[cut:]:
            yield at, data[cut:]


def _unchunked(body: Iterator[Piece]) -> Iterator[Piece]:
    """Chunks of the transfer encoding (RFC 9112, section 7.1), each when it is complete."""
    buffer = b""
    for at, data in body:
        buffer += data
        while True:
            line, found, rest = buffer.partition(b"\r\n")
            if not found:
                break
            size = int(line.split(b";", 1)[0], 16)
            if size == 0:
                return
            if len(rest) < size + 2:
                break
            yield at, rest[:size]
            buffer = rest[size + 2 :]
