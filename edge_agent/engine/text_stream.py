"""From token bytes to text that can be shown: whole UTF-8 characters, cut at stop strings."""

import codecs


class TextStream:
    """Assembles one choice's text. What it returns is final: no later stop can take it back."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False
        """True once a stop string was seen; it and what follows is dropped."""

    def push(self, piece: bytes) -> str:
        """Text that is final after `piece`."""
        text = self._decoder.decode(piece)
        if not self._stop:
            return text
        return self._filter(self._held + text) if text else ""

    def close(self) -> str:
        """What is left at the end of the answer; a broken character becomes U+FFFD."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return "" if self.stopped else self._cut(text)

    def _filter(self, text: str) -> str:
        final = self._cut(text)
        if self.stopped:
            return final
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _cut(self, text: str) -> str:
        """`text` up to the first stop string in it."""
        starts = [i for i in (text.find(stop) for stop in self._stop) if i >= 0]
        if not starts:
            return text
        self.stopped = True
        self._held = ""
        return text[: min(starts)]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
