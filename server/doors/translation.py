"""Requests of other APIs as the chat completion that they amount to.

A door translates its request; what a chat completion may hold is checked once, in `query`. An
error names the field as the client sent it: each part of the translation knows its place there.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_agent.errors import ContextLengthExceeded, EdgeAgentError, InvalidRequest
from edge_agent.records.query import Query
from server.doors import query as queries
from server.doors.schemas import ChatRequest
from server.validation import validated

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent


Part = tuple[dict[str, Any], str]
"""A part of a chat's content, and its place in the request."""
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
"""A tool's name in these APIs; in a chat completion it has 64 characters at most."""
_LONGEST, _DIGEST = 64, 8


@dataclass
class Translation:
    """A chat completion in the making."""

    door: str
    """As in `Query.door`."""
    chat: dict[str, Any]
    """Its body."""
    places: dict[str, str]
    """Field of `chat` → where it stands in the request: "max_tokens" → "max_output_tokens"."""
    ignored: list[str] = field(default_factory=list)
    """As in `Query.ignored`."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    long_names: dict[str, str] = field(default_factory=dict)
    """Name of a tool in the chat → the client's own, where that is too long for one."""

    def say(self, role: str, content: str | list[Part], place: str) -> None:
        """Add a message; texts alone become one text, as the local model gets them."""
        if isinstance(content, str):
            self._add({"role": role, "content": content}, place)
            return
        parts = [part for part, _ in content]
        if all(part["type"] == "text" for part in parts):
            texts = [part["text"] for part in parts]
            self._add({"role": role, "content": "\n".join(texts)}, place)
            return
        number = len(self.messages)
        for index, (_, here) in enumerate(content):
            self.places[f"messages[{number}].content[{index}]"] = here
        self._add({"role": role, "content": parts}, place)

    def answer(self, call_id: str, text: str, place: str) -> None:
        """Add what a tool gave back."""
        self._add({"role": "tool", "tool_call_id": call_id, "content": text}, place)

    def call(self, call_id: str, name: str, arguments: str, place: str) -> None:
        """Add a tool call: to the assistant's message before it, as it was said there."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._add({"role": "assistant", "content": None}, place)
        function = {"name": self._short(name), "arguments": arguments}
        calls = self.messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def tool_name(self, name: str, place: str) -> str:
        """What a tool of the request is called in the chat. Raises InvalidRequest."""
        if not _TOOL_NAME.fullmatch(name):
            raise refuse(f"{place}.name", "must be 1 to 128 letters, digits, _ or -")
        return self._short(name)

    def _short(self, name: str) -> str:
        """`name` with a digest for its end where it is too long, the same each time.

        Names made from those of MCP servers are longer than models of OpenAI's API take.
        """
        if len(name) <= _LONGEST:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
        short = f"{name[: _LONGEST - _DIGEST - 1]}_{digest}"
        self.long_names[short] = name
        return short

    def _add(self, message: dict[str, Any], place: str) -> None:
        self.places[f"messages[{len(self.messages)}]"] = place
        self.messages.append(message)

    def ignore(self, place: str, kind: str, name: Any = None) -> None:
        """Leave out what nothing here runs, and say so in the answer."""
        self.ignored.append(f"{place}: {kind}" + (f" {name}" if isinstance(name, str) else ""))

    def query(self, agent: "Agent", client: str) -> Query:
        """The query. Raises InvalidRequest or NotFound, naming the field of the request."""
        try:
            query = self._query(self.chat, agent, client)
        except EdgeAgentError as error:
            raise self._as_asked(error) from error
        return dataclasses.replace(query, door=self.door, ignored=tuple(self.ignored))

    def count(self, agent: "Agent") -> int:
        """How many tokens of the local model the prompt has. Raises as `query` does."""
        try:
            queries.model_route(self.chat["model"], cloud=agent.cloud is not None)
            own = {"model": "edge-local", "edge_agent": {}}
            return len(self._query({**self.chat, **own}, agent, "").prompt_ids)
        except EdgeAgentError as error:
            raise self._as_asked(error) from error

    def _query(self, chat: dict[str, Any], agent: "Agent", client: str) -> Query:
        body = {**chat, "messages": self.messages}
        try:
            return queries.from_chat(validated(ChatRequest, body), body, agent, client)
        except RecursionError:
            raise InvalidRequest("the request is nested too deeply", param="messages") from None

    def _as_asked(self, error: EdgeAgentError) -> EdgeAgentError:
        """`error` with the field's name in the request."""
        param = error.param or ""
        for ours in sorted(self.places, key=len, reverse=True):
            rest = param[len(ours) :]
            if param.startswith(ours) and rest[:1] in ("", ".", "["):
                if isinstance(error, ContextLengthExceeded):
                    return error.of(self.places[ours] + rest)
                error.param = self.places[ours] + rest
                error.message = error.message.replace(param, error.param, 1)
                error.args = (error.message,)
                break
        return error


def text_of(content: Any, place: str, kinds: Mapping[str, str]) -> str:
    """The text of a content: a string, or parts of `kinds` (type → field that holds the text).

    Raises InvalidRequest naming the part that is none.
    """
    return "\n".join(part["text"] for part, _ in chat_parts(content, place, kinds, {}))


def chat_parts(
    content: Any,
    place: str,
    kinds: Mapping[str, str],
    media: Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]],
) -> list[Part]:
    """A content as a chat's parts: texts as in `text_of`, and what a cloud may know how to read.

    media: type → that part as a chat has it, of the part and its place. Raises InvalidRequest.
    """
    if isinstance(content, str):
        return [(text_part(content), place)]
    return [
        (
            media[kind](part, here)
            if kind in media
            else text_part(string(part, kinds[kind], here)),
            here,
        )
        for part, kind, here in parts_of(content, place)
        if kind in media or require_kind(kind, kinds, here)
    ]


def split_media(parts: list[Part]) -> tuple[str, list[Part]]:
    """The text of what a tool gave back, and its pictures: a chat's tool can only say a text."""
    text = "\n".join(part["text"] for part, _ in parts if part["type"] == "text")
    media = [(part, place) for part, place in parts if part["type"] != "text"]
    return text or ("See the next message." if media else ""), media


def text_part(text: str) -> dict[str, Any]:
    """A text as a chat's part."""
    return {"type": "text", "text": text}


def picture(url: str, **more: Any) -> dict[str, Any]:
    """A picture as a chat's part; `url` may hold the data."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def document(data: str, name: str) -> dict[str, Any]:
    """A file as a chat's part; `data` is a URL that holds it."""
    return {"type": "file", "file": {"filename": name, "file_data": data}}


def parts_of(content: Any, place: str) -> list[tuple[Mapping[str, Any], str, str]]:
    """Each part with its type and its place. Raises InvalidRequest."""
    if not isinstance(content, list):
        raise refuse(place, "must be a string or a list of parts")
    found = []
    for index, part in enumerate(content):
        here = f"{place}[{index}]"
        if not isinstance(part, Mapping):
            raise refuse(here, "must be an object")
        found.append((part, string(part, "type", here), here))
    return found


def require_kind(kind: str, kinds: Mapping[str, str], place: str) -> bool:
    """True, or InvalidRequest: pictures, sounds and files are not read here."""
    if kind not in kinds:
        raise refuse(f"{place}.type", f"{kind!r} is not supported: only text is read here")
    return True


def string(item: Mapping[str, Any], name: str, place: str) -> str:
    """A field that must be a string. Raises InvalidRequest."""
    value = item.get(name)
    if not isinstance(value, str):
        problem = "is required" if value is None else "must be a string"
        raise refuse(f"{place}.{name}", problem)
    return value


def refuse(param: str, problem: str) -> InvalidRequest:
    """The error for one field."""
    return InvalidRequest(f"{param} {problem}", param=param)
