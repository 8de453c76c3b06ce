"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API.

Content blocks become chat messages, `tool_use` and `tool_result` among them; thinking blocks pass
without effect. Tools that Anthropic runs or defines (web_search, bash …) are left out and named in
`edge_agent.ignored`. Caching needs no marks here: prompts always share their common prefix. A
cloud that wants one gets one for the whole prompt.

Source: https://platform.claude.com/docs/en/api/messages
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from edge_agent.errors import InvalidRequest
from server.doors.anthropic_render import PING, MessageRendering, error_event
from server.doors.common import LoadedAgentDep, answer, client_of, raw_body
from server.doors.query import check_encodable
from server.doors.render import Shape
from server.doors.schemas import DoorRequest, Extension
from server.doors.translation import (
    Part,
    Translation,
    chat_parts,
    document,
    parts_of,
    picture,
    refuse,
    require_kind,
    split_media,
    string,
    text_of,
    text_part,
)
from server.errors import NO_THREADS
from server.openapi.anthropic_shapes import AnthropicMessage, CountedTokens, MessageStreamEvent
from server.openapi.shapes import answers

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

router = APIRouter(tags=["Anthropic"])

_ROLES = ("user", "assistant", "system")
_TEXT = {"text": "text"}
_BLOCKS = {"user": {**_TEXT, "tool_result": ""}, "assistant": {**_TEXT, "tool_use": ""}}
_MEDIA = {"user": ("image", "document"), "assistant": ()}
_THINKING = frozenset({"thinking", "redacted_thinking"})
_SERVER_BLOCKS = ("server_tool_use", "_tool_result", "container_upload")
"""How the types of blocks end that tools wrote which Anthropic runs."""
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
"""Claude Code's first system block. It changes with every request and says nothing to a model;
left in, it would end the common prefix of all prompts behind their first tokens."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_PLACES = {
    "stop": "stop_sequences",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "tool_choice.function": "tool_choice",
}


class OutputConfig(DoorRequest):
    """`output_config`: the form of the answer."""

    format: dict[str, Any] | None = Field(None, description='{"type": "json_schema", "schema": …}')
    effort: str | None = Field(None, description="A hint, for the cloud")


class Metadata(DoorRequest):
    """`metadata`: who asks."""

    user_id: str | None = None


class CountRequest(DoorRequest):
    """Body of POST /v1/messages/count_tokens: what makes the prompt."""

    model: str = Field(min_length=1, description="edge (auto), edge-local or edge-cloud")
    messages: list[dict[str, Any]] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = Field(
        None, description="Those with input_schema; others are named in edge_agent.ignored"
    )
    tool_choice: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    thinking: dict[str, Any] | None = Field(
        None, description="A hint; enabled: what a cloud's model thinks is shown"
    )
    cache_control: dict[str, Any] | None = Field(None, description="A hint, for the cloud")
    context_management: dict[str, Any] | None = Field(None, description="A hint")
    speed: str | None = Field(None, description="A hint")


class MessagesRequest(CountRequest):
    """Body of POST /v1/messages."""

    edge_agent: Extension = Extension()
    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = Field(None, description="A hint")
    inference_geo: str | None = Field(None, description="A hint")
    diagnostics: dict[str, Any] | None = Field(None, description="A hint")
    user_profile_id: str | None = Field(None, description="A hint")
    thread: dict[str, Any] | None = Field(None, description="Refused: nothing is stored")
    mcp_servers: list[dict[str, Any]] | None = Field(
        None, description="Not called; named in edge_agent.ignored"
    )


@router.post(
    "/v1/messages",
    summary="A message, streamed or whole, in Anthropic's form",
    **answers(AnthropicMessage, MessageStreamEvent, headers=True),
)
async def messages(body: MessagesRequest, request: Request, agent: LoadedAgentDep) -> Response:
    """As Anthropic's; `edge_agent` steers and explains it as in a chat."""
    check_encodable(await raw_body(request))
    translation = translate(body)
    last = translation.messages[-1]
    if last["role"] == "assistant":
        place = f"messages[{len(body.messages) - 1}].role"
        raise refuse(place, "must not be assistant at the end: an answer cannot be begun here")
    # In a thread: a long prompt takes a while to tokenize, and other answers must go on.
    query = await asyncio.to_thread(translation.query, agent, client_of(request))
    thinks = (body.thinking or {}).get("type") not in (None, "disabled")

    def rendering(begun: "Answer") -> MessageRendering:
        return MessageRendering(begun, thinks=thinks, long_names=translation.long_names)

    return await answer(request, query, shape=Shape(rendering, rendering, error_event, idle=PING))


@router.post(
    "/v1/messages/count_tokens",
    summary="How many tokens a message's prompt has",
    **answers(CountedTokens),
)
async def count_tokens(
    body: CountRequest, request: Request, agent: LoadedAgentDep
) -> dict[str, int]:
    """Tokens of the local model."""
    check_encodable(await raw_body(request))
    return {"input_tokens": await asyncio.to_thread(translate(body).count, agent)}


def translate(request: CountRequest) -> Translation:
    """The chat completion of a request. Raises InvalidRequest, naming the field."""
    if isinstance(request, MessagesRequest) and request.thread is not None:
        why = "thread is not supported: nothing is stored here; send the whole conversation"
        raise InvalidRequest(why, param="thread", code=NO_THREADS)
    found = Translation("messages", {"model": request.model}, dict(_PLACES))
    system = _system(request.system)
    if system:
        found.say("system", system, "system")
    for index, message in enumerate(request.messages):
        _message(message, f"messages[{index}]", found)
    _tools(request, found)
    if request.output_config is not None and request.output_config.format is not None:
        found.chat["response_format"] = _response_format(request.output_config.format)
    if isinstance(request, MessagesRequest):
        found.chat |= _generation(request)
        mark = request.cache_control or _cache_mark(request)
        if mark is not None:
            found.chat["cache_control"] = mark
        for index, server in enumerate(request.mcp_servers or ()):
            found.ignore(f"mcp_servers[{index}]", "mcp", server.get("name"))
    return found


def _system(system: Any) -> str:
    if system is None or isinstance(system, str):
        return _BILLING.sub("", system or "")
    for part, kind, place in parts_of(system, "system"):
        require_kind(kind, _TEXT, place)
        string(part, "text", place)
    texts = [_BILLING.sub("", part["text"]) for part in system]
    return "\n".join(text for text in texts if text)


def _message(message: Mapping[str, Any], place: str, found: Translation) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise refuse(f"{place}.role", f"must be one of {', '.join(_ROLES)}, not {role!r}")
    if isinstance(content, str) or role == "system":
        _say(role, chat_parts(content, f"{place}.content", _TEXT, {}), place, found)
        return
    said: list[Part] = []
    shown: list[Part] = []
    for block, kind, here in parts_of(content, f"{place}.content"):
        if kind in _THINKING:
            continue
        if kind != "tool_result" and kind.endswith(_SERVER_BLOCKS):
            found.ignore(here, kind, block.get("name"))
        elif kind in _MEDIA[role]:
            said.append((_MEDIA_PARTS[kind](block, here), here))
        elif require_kind(kind, _BLOCKS[role], here) and kind == "text":
            said.append((text_part(string(block, "text", here)), here))
        else:
            _flush(role, said, place, found)
            if kind == "tool_use":
                _tool_use(block, here, found)
            else:
                shown += _tool_result(block, here, found)
    _flush(role, shown + said, place, found)
    if not found.messages or not content:
        found.say(role, "", place)


def _flush(role: str, said: list[Part], place: str, found: Translation) -> None:
    if said:
        _say(role, list(said), place, found)
        said.clear()


def _say(role: str, said: list[Part], place: str, found: Translation) -> None:
    """Turns of one role that follow each other are one turn, as the API has it."""
    last = found.messages[-1] if found.messages else None
    if role != "system" and last and last["role"] == role and "tool_calls" not in last:
        earlier = found.messages.pop()["content"]
        parts = [text_part(earlier)] if isinstance(earlier, str) and earlier else earlier or []
        number = len(found.messages)
        before = found.places.get(f"messages[{number}]", place)
        kept = [
            (part, found.places.get(f"messages[{number}].content[{index}]", before))
            for index, part in enumerate(parts)
        ]
        found.say(role, kept + said, before)
    else:
        found.say(role, said, place)


def _image(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    source, kind, here = _source(block, place)
    if kind == "url":
        return picture(string(source, "url", here))
    if kind != "base64":
        raise refuse(f"{here}.type", f"must be base64 or url, not {kind!r}: nothing is stored here")
    return picture(_inline(source, here))


def _document(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    source, kind, here = _source(block, place)
    if kind == "text":
        return text_part(string(source, "data", here))
    if kind == "content":
        return text_part(text_of(source.get("content"), f"{here}.content", _TEXT))
    if kind != "base64":
        raise refuse(f"{here}.type", f"must be base64, text or content, not {kind!r}")
    title = block.get("title")
    return document(_inline(source, here), title if isinstance(title, str) else "document.pdf")


_MEDIA_PARTS = {"image": _image, "document": _document}


def _source(block: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], str, str]:
    source, here = block.get("source"), f"{place}.source"
    if not isinstance(source, Mapping):
        raise refuse(here, "must be an object")
    return source, string(source, "type", here), here


def _inline(source: Mapping[str, Any], place: str) -> str:
    """A URL that holds the data (RFC 2397)."""
    return f"data:{string(source, 'media_type', place)};base64,{string(source, 'data', place)}"


def _tool_use(block: Mapping[str, Any], place: str, found: Translation) -> None:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise refuse(f"{place}.input", "must be an object")
    text = json.dumps(arguments, ensure_ascii=False)
    found.call(string(block, "id", place), string(block, "name", place), text, place)


def _tool_result(block: Mapping[str, Any], place: str, found: Translation) -> list[Part]:
    """Add what a tool gave back; its pictures, which the user shows afterwards."""
    content = block.get("content")
    parts = [] if content is None else chat_parts(content, f"{place}.content", _TEXT, _MEDIA_PARTS)
    text, media = split_media(parts)
    found.answer(string(block, "tool_use_id", place), text, place)
    return media


def _tools(request: CountRequest, found: Translation) -> None:
    """Tools with a schema of their own, and the choice among them."""
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(request.tools or ()):
        place, kind = f"tools[{index}]", tool.get("type")
        if kind not in (None, "custom"):
            found.ignore(place, str(kind), tool.get("name"))
            continue
        found.places |= {
            f"tools[{len(tools)}].function.parameters": f"{place}.input_schema",
            f"tools[{len(tools)}].function": place,
        }
        name = found.tool_name(string(tool, "name", place), place)
        given = {**tool, "name": name, "parameters": tool.get("input_schema")}
        fields = ("name", "description", "parameters", "strict")
        function = {name: given[name] for name in fields if given.get(name) is not None}
        tools.append({"type": "function", "function": function})
    choice = request.tool_choice or {}
    if tools:
        found.chat["tools"] = tools
        if choice.get("disable_parallel_tool_use") is True:
            found.chat["parallel_tool_calls"] = False
    kind = choice.get("type", "auto")
    if kind == "tool":
        name = found.tool_name(string(choice, "name", "tool_choice"), "tool_choice")
        found.chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _CHOICES:
        found.chat["tool_choice"] = _CHOICES[kind]
    else:
        raise refuse("tool_choice.type", f"must be auto, any, tool or none, not {kind!r}")


def _response_format(given: Mapping[str, Any]) -> dict[str, Any]:
    """`output_config.format` as `response_format`, whose schema has a name."""
    if given.get("type") != "json_schema":
        raise InvalidRequest(
            "output_config.format.type must be json_schema", param="output_config.format.type"
        )
    schema = {"schema": given["schema"]} if given.get("schema") is not None else {}
    return {"type": "json_schema", "json_schema": {"name": "output", **schema}}


def _generation(request: MessagesRequest) -> dict[str, Any]:
    """The fields that a chat completion has as well."""
    fields = ("max_tokens", "stream", "temperature", "top_p", "top_k")
    given = {name: getattr(request, name) for name in fields} | {
        "stop": request.stop_sequences,
        "reasoning_effort": _effort(request),
        "user": request.metadata.user_id if request.metadata else None,
    }
    found = {name: value for name, value in given.items() if value is not None}
    return {**found, "edge_agent": request.edge_agent.model_dump()}


def _cache_mark(request: MessagesRequest) -> dict[str, Any] | None:
    """The first mark of what a cloud is to cache. There is one for the whole of a chat."""
    blocks = [*(request.system if isinstance(request.system, list) else ()), *(request.tools or ())]
    for message in request.messages:
        content = message.get("content")
        blocks += content if isinstance(content, list) else []
    marks = (block.get("cache_control") for block in blocks if isinstance(block, dict))
    return next((mark for mark in marks if isinstance(mark, dict)), None)


def _effort(request: MessagesRequest) -> str | None:
    """How much a cloud's model may think; None leaves it to the model."""
    kind = (request.thinking or {}).get("type")
    if kind == "disabled":
        return "none"
    asked = request.output_config.effort if request.output_config else None
    return asked or ("medium" if kind in ("enabled", "adaptive") else None)
