"""Tool calls in text that no grammar holds to a form: models forget tags, or write around calls."""

import json
import re
from collections.abc import Iterator

from edge_agent.chat.tool_calls import (
    Call,
    Tools,
    calls_in,
    calls_of,
    may_begin,
    undecided,
    whole_calls,
    xml_calls,
)

_TAG, _END_TAG, _MISTRAL = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
_FENCE, _PYTHON = "```", "<|python_tag|>"
_OPENING = re.compile(
    r"(?P<tag><tool_call>)|(?P<mistral>\[TOOL_CALLS\]\s*)|"
    r"(?P<line>^[ \t]*(?:;\s*)?(?:<\|python_tag\|>\s*)?(?P<fence>```(?:json)?\s*)?(?=[\[{]))",
    re.MULTILINE,
)
_LINES = tuple(f"{mark}{tag}{_FENCE}json" for mark in ("", ";") for tag in ("", _PYTHON))
"""What may stand in a line before a call, without spaces."""
_NAMED = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{)")
_NEARLY_NAMED = re.compile(r"[\w.-]*(?:\[[A-Z_]*\]?\w*){0,2}\s*")
_BETWEEN = re.compile(r"[;,\s]*")
_KEYS = ("name", "type", "function", "id", "tool_call", "tool_calls")
"""With one of these a call begins."""
_WAIT, _NONE = -1, 0


class FreeParser:
    """Calls within text, tagged or not.

    `<tool_call>` and Mistral's `[TOOL_CALLS]` count anywhere; JSON, bare or in a code fence, where
    a line begins with it, as Llama 3 and Qwen2.5-Coder write it. All else is text.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self._fresh = True
        """What is held begins the output, or follows a call."""
        self._called = False

    def feed(self, text: str) -> Iterator[str | Call]:
        self._held += text
        yield from self._read(ended=False)

    def close(self) -> Iterator[str | Call]:
        yield from self._read(ended=True)
        held, self._held = self._held, ""
        if held and not (self._called and self._fresh and held.isspace()):
            yield held

    def _read(self, *, ended: bool) -> Iterator[str | Call]:
        """What is certain by now."""
        at = 0
        while match := _OPENING.search(self._held, at):
            at = match.start() + 1
            if match["line"] is not None and match.start() == 0 and not self._fresh:
                continue
            calls, end = self._calls(match, ended)
            if calls:
                before = self._held[: match.start()].rstrip()
                if before:
                    yield before
                yield from calls
                self._held, self._fresh, self._called, at = self._held[end:], True, True, 0
            elif end == _WAIT:
                yield from self._release(match.start())
                return
        if not ended:
            yield from self._release(self._decided())

    def _release(self, end: int) -> Iterator[str]:
        """The text held up to `end`, without the spaces at its end: they go if a call follows."""
        text = self._held[:end].rstrip()
        if text:
            self._held, self._fresh = self._held[len(text) :], False
            yield text

    def _decided(self) -> int:
        """Up to where no call can begin in what is held."""
        held = self._held
        end = len(held) - max(undecided(held, tag) for tag in (_TAG, _MISTRAL))
        line = held.rstrip().rfind("\n") + 1
        said = "".join(held[line:].split())
        if (line or self._fresh) and any(before.startswith(said) for before in _LINES):
            return min(line, end)
        return end

    def _calls(self, opening: re.Match[str], ended: bool) -> tuple[list[Call], int]:
        """The calls behind `opening`, and where they end.

        Without calls: _WAIT if what follows may be one, else _NONE.
        """
        if opening["tag"] is not None:
            return self._tagged(opening.end(), ended)
        if opening["mistral"] is not None and self._held[opening.end() :][:1] not in ("[", "{"):
            return self._named(opening.end(), ended)
        return self._json(opening.end(), ended, fenced=opening["fence"] is not None)

    def _tagged(self, start: int, ended: bool) -> tuple[list[Call], int]:
        end = self._held.find(_END_TAG, start)
        if end < 0 and not ended:
            return [], _WAIT
        body = self._held[start:end] if end >= 0 else self._held[start:]
        calls = calls_in(body, self._tools) or xml_calls(body, self._tools)
        return calls, end + len(_END_TAG) if end >= 0 else len(self._held)

    def _named(self, start: int, ended: bool) -> tuple[list[Call], int]:
        """Mistral's newer form: `name[ARGS]{…}`."""
        name = _NAMED.match(self._held, start)
        if name is None:
            nearly = _NEARLY_NAMED.fullmatch(self._held, start)
            return [], _WAIT if nearly and not ended else _NONE
        try:
            arguments, end = _DECODER.raw_decode(self._held, name.end())
        except (ValueError, RecursionError):
            return [], _NONE if ended else _WAIT
        return calls_of({"name": name[1], "arguments": arguments}, self._tools), end

    def _json(self, start: int, ended: bool, *, fenced: bool) -> tuple[list[Call], int]:
        """A JSON call or list of calls; in a fence several, and the fence's end."""
        held, found, end = self._held, list[Call](), start
        while True:
            at = _BETWEEN.match(held, end).end()  # type: ignore[union-attr]  # matches ""
            if found:
                if held.startswith(_FENCE, at):
                    return found, at + len(_FENCE)
                if _FENCE.startswith(held[at:]) and not ended:
                    return [], _WAIT
            rest = held[at:]
            if not may_begin(rest.removeprefix("["), _KEYS):
                return found, end
            try:
                value, stop = _DECODER.raw_decode(held, at)
            except (ValueError, RecursionError):
                if not ended:
                    return [], _WAIT
                cut = [] if found else whole_calls(rest, self._tools)
                return found or cut, len(held) if cut else end
            calls = calls_of(value, self._tools)
            if not calls or not fenced:
                return found + calls, stop if calls else end
            found, end = found + calls, stop


_DECODER = json.JSONDecoder()
