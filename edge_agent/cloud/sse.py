"""Server-sent events from bytes (WHATWG HTML, "Server-sent events", §9.2.6)."""

from collections.abc import Iterator


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
