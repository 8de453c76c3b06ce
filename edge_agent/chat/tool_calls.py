"""Tool calls in a model's output, found while it streams.

A parser takes the text of one choice piece by piece. What it has not yet decided about (half a
tag, an open call) it holds back; nothing is lost: what turns out to be no call is text.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

Call = tuple[str, str]
"""Name, and arguments as JSON text."""
Tools = Mapping[str, Mapping[str, Any]]
"""Name → JSON schema of its parameters, of the tools that may be called."""


class Parser(Protocol):
    """One choice's output. Yields text, and calls as they are complete."""

    def feed(self, text: str) -> Iterator[str | Call]:
        """Take the next piece of output."""
        ...

    def close(self) -> Iterator[str | Call]:
        """The output ends here: decide about what was held back."""
        ...


class TaggedParser:
    """Hermes and Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` within text.

    Qwen's newer form inside the tags, `<function=…><parameter=…>`, is read as well.
    """

    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self._inside = False
        self._called = False

    def feed(self, text: str) -> Iterator[str | Call]:
        self._held += text
        while True:
            tag = self._CLOSE if self._inside else self._OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            self._held = after
            if self._inside:
                yield from self._call(before, self._OPEN + before + self._CLOSE)
            elif before.strip():
                yield before.rstrip()
            self._inside = not self._inside
        if not self._inside:
            yield from self._release(len(self._held) - undecided(self._held, self._OPEN))

    def close(self) -> Iterator[str | Call]:
        held, self._held = self._held, ""
        if self._inside:
            yield from self._call(held, self._OPEN + held)
        elif held and not (self._called and held.isspace()):
            yield held

    def _release(self, length: int) -> Iterator[str]:
        text, self._held = self._held[:length], self._held[length:]
        if text:
            yield text

    def _call(self, body: str, raw: str) -> Iterator[str | Call]:
        calls = calls_in(body, self._tools) or xml_calls(body, self._tools)
        self._called = self._called or bool(calls)
        yield from calls
        if not calls:
            yield raw


class BareParser:
    """The whole output is `{"name": …, "parameters": {…}}`, or no call: where a grammar holds."""

    _KEYS: ClassVar[tuple[str, ...]] = ("name", "type", "function")
    """With one of these a call begins."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self._is_text = False

    def feed(self, text: str) -> Iterator[str | Call]:
        if self._is_text:
            yield text
            return
        self._held += text
        if not may_begin(self._held, self._KEYS):
            self._is_text = True
            held, self._held = self._held, ""
            yield held

    def close(self) -> Iterator[str | Call]:
        held, self._held = self._held, ""
        if held:
            yield from _calls_or_text(held, self._tools)


class WrappedParser(BareParser):
    """Our own form beside a schema: `{"tool_call": …}`, `{"tool_calls": …}`, else the answer."""

    _KEYS = ("tool_call", "tool_calls")


class GenericParser:
    """Our own form: `{"response": "…"}`, `{"tool_call": {…}}` or `{"tool_calls": […]}`.

    The response streams, unescaped, as it arrives. Its grammar allows no escaped surrogates.
    """

    _RESPONSE = re.compile(r'\s*\{\s*"response"\s*:\s*"')
    _ESCAPES = {  # noqa: RUF012
        "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", '"': '"', "\\": "\\",
    }  # fmt: skip
    _UNIT = re.compile(
        r'(?P<text>[^"\\]+)|\\u(?P<code>[0-9a-fA-F]{4})|\\(?P<escape>[^u])|(?P<end>")'
    )

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self._state = "start"

    def feed(self, text: str) -> Iterator[str | Call]:
        if self._state == "done":
            return
        self._held += text
        if self._state == "start" and (match := self._RESPONSE.match(self._held)):
            self._held = self._held[match.end() :]
            self._state = "response"
        if self._state == "response":
            unescaped = "".join(self._unescape())
            if unescaped:
                yield unescaped

    def close(self) -> Iterator[str | Call]:
        held, self._held = self._held, ""
        if self._state == "start" and held:
            yield from _calls_or_text(held, self._tools)

    def _unescape(self) -> Iterator[str]:
        while match := self._UNIT.match(self._held):
            self._held = self._held[match.end() :]
            if match["end"]:
                self._state, self._held = "done", ""
                return
            if match["code"]:
                code = int(match["code"], 16)
                yield "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
            else:
                yield match["text"] or self._ESCAPES.get(match["escape"], match["escape"])


def may_begin(text: str, keys: Iterable[str]) -> bool:
    """Whether an object whose first key is one of `keys` may begin with `text`."""
    squeezed = "".join(text.split())
    begins = [f'{{"{key}"' for key in keys]
    return any(b.startswith(squeezed) or squeezed.startswith(b) for b in begins)


def undecided(text: str, tag: str) -> int:
    """Length of the tail that may belong to a call: spaces, and a beginning of `tag`."""
    for k in range(min(len(tag) - 1, len(text)), -1, -1):
        if text.endswith(tag[:k]):
            return k + len(text[: len(text) - k]) - len(text[: len(text) - k].rstrip())
    return 0


def _calls_or_text(text: str, tools: Tools) -> Iterator[str | Call]:
    calls = calls_in(text, tools) or whole_calls(text, tools)
    yield from calls
    if not calls:
        yield text


def calls_in(text: str, tools: Tools) -> list[Call]:
    """Calls in JSON text: one object, a list, or objects with ";" or the ends of code fences
    between. [] if it is not all calls of known tools."""
    found: list[Call] = []
    decoder = json.JSONDecoder()
    text = _BETWEEN.sub("", text, count=1)
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        text = _BETWEEN.sub("", text[end:], count=1)
        calls = calls_of(value, tools)
        if not calls:
            return []
        found += calls
    return found


def calls_of(value: Any, tools: Tools) -> list[Call]:
    """The calls that a JSON value is: one, or a list. [] if it is not all calls of known tools."""
    calls = [_call(item, tools) for item in _unwrapped(value)]
    return [] if None in calls else [call for call in calls if call is not None]


def whole_calls(text: str, tools: Tools) -> list[Call]:
    """The calls that are whole in a list of our own form that was cut, by max_tokens say."""
    found: list[Call] = []
    match = _LIST.match(text)
    decoder, rest = json.JSONDecoder(), text[match.end() :] if match else ""
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            break
        call = _call(value, tools)
        if call is None:
            break
        found.append(call)
        rest = rest[end:].lstrip(", \n\t\r")
    return found


def _unwrapped(value: Any) -> list[Any]:
    if isinstance(value, dict):
        if set(value) == {"tool_calls"} and isinstance(value["tool_calls"], list):
            return list(value["tool_calls"])
        if set(value) == {"tool_call"}:
            return [value["tool_call"]]
    return value if isinstance(value, list) else [value]


def _call(value: Any, tools: Tools) -> Call | None:
    """A call of a known tool, whose arguments are an object, or none at all."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or value.get("name") not in tools:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if arguments is None and not value.keys() <= _WITHOUT_ARGUMENTS:
        return None
    if isinstance(arguments, str):
        return (value["name"], arguments) if _is_object(arguments) else None
    if arguments is not None and not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments or {}, ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


_WITHOUT_ARGUMENTS = frozenset({"name", "type", "id", "index", "arguments", "parameters"})
"""Keys of a call that has none; with others it is some object that has a name."""
_BETWEEN = re.compile(r"\A(?:[;\s]|```(?:json\b)?)*")
_LIST = re.compile(r'\s*\{\s*"tool_calls"\s*:\s*\[\s*')
_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>)?\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


def xml_calls(text: str, tools: Tools) -> list[Call]:
    """The call in Qwen's newer form, or []."""
    match = _FUNCTION.fullmatch(text)
    if not match or match[1] not in tools:
        return []
    schemas = tools[match[1]].get("properties", {})
    arguments = {
        name: _xml_value(value, schemas.get(name)) for name, value in _PARAMETER.findall(match[2])
    }
    return [(match[1], json.dumps(arguments, ensure_ascii=False))]


def _xml_value(text: str, schema: Any) -> Any:
    """This form writes strings without quotes: "12" is a string only if the schema says so."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
