"""POST /v1/responses and /v1/responses/input_tokens: OpenAI's Responses API, without its state.

Nothing is stored between requests: the whole conversation comes as `input`, as Codex and the
Agents SDK send it with `store: false`. Tools that OpenAI would run (web_search, namespace,
custom …) are left out and named in `edge_agent.ignored`.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from edge_agent.errors import InvalidRequest
from server.doors.common import LoadedAgentDep, answer, client_of, raw_body
from server.doors.query import check_encodable
from server.doors.render import Shape
from server.doors.responses_render import ResponseRendering, error_event
from server.doors.schemas import DoorRequest, Extension
from server.doors.translation import (
    Part,
    Translation,
    chat_parts,
    document,
    parts_of,
    picture,
    refuse,
    split_media,
    string,
)
from server.openapi.openai_shapes import InputTokens
from server.openapi.responses_shapes import ResponseObject, ResponseStreamEvent
from server.openapi.shapes import answers

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

router = APIRouter(tags=["OpenAI"])

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_NOT_STORED = "is not supported: nothing is stored here; send the data itself"
_ASIDE = ("_call", "_call_output", "_call_result", "_list_tools", "_request", "_response")
"""How the types of items end that belong to tools which are not run here."""
_DROPPED = frozenset({"compaction", "compaction_summary", "additional_tools", "tool_search_output"})
_REFUSED = {
    "previous_response_id": "nothing is stored here; send the whole conversation as input",
    "conversation": "nothing is stored here; send the whole conversation as input",
    "prompt": "no prompts are stored here; send it as instructions and input",
    "moderation": "nothing is moderated here",
}
_PLACES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "tool_choice.function": "tool_choice",
    "logprobs": "include",
}


class TextConfig(DoorRequest):
    """`text`: the form of the answer."""

    format: dict[str, Any] | None = Field(None, description="text, json_object or json_schema")
    verbosity: str | None = Field(None, description="A hint, for the cloud")


class InputTokensRequest(DoorRequest):
    """Body of POST /v1/responses/input_tokens: what makes the prompt."""

    model: str = Field("edge", min_length=1, description="edge (auto), edge-local or edge-cloud")
    input: str | list[dict[str, Any]] | None = Field(
        None, description="A text, or messages, function calls and their outputs"
    )
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = Field(
        None, description="Those of type function; others are named in edge_agent.ignored"
    )
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    previous_response_id: Any = Field(None, description="Refused: nothing is stored")
    conversation: Any = Field(None, description="Refused: nothing is stored")
    reasoning: dict[str, Any] | None = Field(None, description="A hint, for the cloud")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="A hint: nothing is cut off"
    )
    personality: str | None = Field(None, description="A hint")


class ResponsesRequest(InputTokensRequest):
    """Body of POST /v1/responses."""

    model: str = Field(min_length=1, description="edge (auto), edge-local or edge-cloud")
    edge_agent: Extension = Extension()
    stream: bool | None = None
    stream_options: dict[str, Any] | None = Field(None, description="A hint")
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = Field(
        None, description="message.output_text.logprobs; the others are hints"
    )
    metadata: dict[str, str] | None = Field(None, max_length=16)
    user: str | None = None
    safety_identifier: str | None = None
    store: bool | None = Field(None, description="A hint, for the cloud: nothing is stored here")
    background: Literal[False] | None = None
    prompt: Any = Field(None, description="Refused: no prompts are stored")
    moderation: Any = Field(None, description="Refused: nothing is moderated")
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = Field(None, description="A hint")
    prompt_cache_retention: str | None = Field(None, description="A hint, for the cloud")
    service_tier: str | None = Field(None, description="A hint; a dearer tier is not asked for")
    max_tool_calls: int | None = Field(None, description="A hint: of tools that OpenAI would run")
    context_management: list[dict[str, Any]] | None = Field(None, description="A hint")
    client_metadata: dict[str, Any] | None = Field(None, description="A hint")


@router.post(
    "/v1/responses",
    summary="An answer, streamed or whole, in OpenAI's newer form",
    **answers(ResponseObject, ResponseStreamEvent, headers=True),
)
async def responses(body: ResponsesRequest, request: Request, agent: LoadedAgentDep) -> Response:
    """As OpenAI's, without state; `edge_agent` steers and explains it as in a chat."""
    check_encodable(await raw_body(request))
    translation = translate(body)
    # In a thread: a long prompt takes a while to tokenize, and other answers must go on.
    query = await asyncio.to_thread(translation.query, agent, client_of(request))
    echo = _echo(body, translation)

    def rendering(begun: "Answer") -> ResponseRendering:
        return ResponseRendering(begun, echo, translation.long_names)

    return await answer(request, query, shape=Shape(rendering, rendering, error_event))


@router.post(
    "/v1/responses/input_tokens",
    summary="How many tokens a request's prompt has",
    **answers(InputTokens),
)
async def input_tokens(
    body: InputTokensRequest, request: Request, agent: LoadedAgentDep
) -> dict[str, Any]:
    """Tokens of the local model."""
    check_encodable(await raw_body(request))
    count = await asyncio.to_thread(translate(body).count, agent)
    return {"object": "response.input_tokens", "input_tokens": count}


def translate(request: InputTokensRequest) -> Translation:
    """The chat completion of a request. Raises InvalidRequest, naming the field."""
    for name, why in _REFUSED.items():
        if getattr(request, name, None) is not None:
            raise InvalidRequest(f"{name} is not supported: {why}", param=name)
    found = Translation("responses", {"model": request.model}, dict(_PLACES))
    if request.instructions:
        found.say("system", request.instructions, "instructions")
    if isinstance(request.input, str):
        found.say("user", request.input, "input")
    shown: list[Part] = []
    for index, item in enumerate(request.input if isinstance(request.input, list) else ()):
        place = f"input[{index}]"
        if shown and item.get("type") != "function_call_output":
            found.say("user", shown, shown[0][1])
            shown = []
        shown += _item(item, place, found)
    if shown:
        found.say("user", shown, shown[0][1])
    if not found.messages:
        raise InvalidRequest("input is required", param="input")
    _tools(request, found)
    if request.text is not None and request.text.format is not None:
        found.chat["response_format"] = _response_format(request.text.format)
    if isinstance(request, ResponsesRequest):
        found.chat |= _generation(request)
    return found


def _item(item: Mapping[str, Any], place: str, found: Translation) -> list[Part]:
    """Add one item. Its id, status and the like are an earlier answer's and say nothing here.

    The pictures that a tool gave back are returned: the user shows them once all have answered.
    """
    kind = item.get("type") or "message"
    if kind == "message":
        role = item.get("role")
        if role not in _ROLES:
            raise refuse(f"{place}.role", f"must be one of {', '.join(_ROLES)}, not {role!r}")
        media = _MEDIA if role == "user" else {}
        said = chat_parts(item.get("content"), f"{place}.content", _TEXTS, media)
        found.say(role, said, place)
    elif kind == "function_call":
        call_id, name = string(item, "call_id", place), string(item, "name", place)
        found.call(call_id, name, string(item, "arguments", place), place)
    elif kind == "function_call_output":
        parts = chat_parts(item.get("output"), f"{place}.output", _TEXTS, _MEDIA)
        output, media_shown = split_media(parts)
        found.answer(string(item, "call_id", place), output, place)
        return media_shown
    elif kind == "reasoning":
        pass
    elif isinstance(kind, str) and (kind.endswith(_ASIDE) or kind in _DROPPED):
        found.ignore(place, kind, item.get("name"))
    else:
        raise refuse(f"{place}.type", f"{kind!r} is not supported")
    return []


def _image(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        raise refuse(f"{place}.file_id", _NOT_STORED)
    detail = {"detail": part["detail"]} if part.get("detail") else {}
    return picture(string(part, "image_url", place), **detail)


def _file(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise refuse(f"{place}.{name}", _NOT_STORED)
    return document(string(part, "file_data", place), part.get("filename") or "file")


_MEDIA = {"input_image": _image, "input_file": _file}


def _tools(request: InputTokensRequest, found: Translation) -> None:
    """Function tools and the choice among them."""
    choice: Any = request.tool_choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    allowed: set[str] | None = None
    if kind == "allowed_tools":
        listed = parts_of(choice.get("tools"), "tool_choice.tools")
        allowed = {
            string(tool, "name", place) for tool, type_, place in listed if type_ == "function"
        }
        choice = choice.get("mode")
    elif kind == "function":
        name = found.tool_name(string(choice, "name", "tool_choice"), "tool_choice")
        choice = {"type": "function", "function": {"name": name}}
    elif kind is not None:
        raise refuse("tool_choice.type", f"{kind!r} is not run here")
    tools: list[dict[str, Any]] = []
    for tool, type_, place in parts_of(request.tools or [], "tools"):
        if type_ != "function":
            found.ignore(place, type_, tool.get("name") or tool.get("server_label"))
        elif allowed is None or tool.get("name") in allowed:
            found.places[f"tools[{len(tools)}].function"] = place
            fields = ("name", "description", "parameters", "strict")
            function = {name: tool[name] for name in fields if tool.get(name) is not None}
            function["name"] = found.tool_name(string(tool, "name", place), place)
            tools.append({"type": "function", "function": function})
    if tools:
        found.chat["tools"] = tools
        if request.parallel_tool_calls is not None:
            found.chat["parallel_tool_calls"] = request.parallel_tool_calls
    if choice is not None:
        found.chat["tool_choice"] = choice


def _response_format(given: Mapping[str, Any]) -> dict[str, Any]:
    """`text.format` as `response_format`, which holds the schema one level deeper."""
    if given.get("type") != "json_schema":
        return dict(given)
    fields = ("name", "description", "schema", "strict")
    schema = {name: given[name] for name in fields if given.get(name) is not None}
    return {"type": "json_schema", "json_schema": schema}


def _generation(request: ResponsesRequest) -> dict[str, Any]:
    """The fields that a chat completion has as well."""
    given = {
        "max_tokens": request.max_output_tokens,
        "stream": request.stream,
        **{
            name: getattr(request, name)
            for name in (
                *("temperature", "top_p", "top_logprobs"),
                *("user", "safety_identifier", "service_tier"),
                *("prompt_cache_key", "prompt_cache_retention"),
            )
        },
        **({"store": True, "metadata": request.metadata} if request.store else {}),
        "verbosity": request.text.verbosity if request.text else None,
    }
    effort = (request.reasoning or {}).get("effort")
    if isinstance(effort, str):
        given["reasoning_effort"] = effort
    wanted = "message.output_text.logprobs" in (request.include or ())
    if wanted or request.top_logprobs:
        given["logprobs"] = True
    else:
        given["top_logprobs"] = None
    found = {name: value for name, value in given.items() if value is not None}
    return {**found, "edge_agent": request.edge_agent.model_dump()}


def _echo(request: ResponsesRequest, translation: Translation) -> dict[str, Any]:
    """The fields of a response that repeat the request."""
    choice, long_names = request.tool_choice, translation.long_names
    text = request.text.model_dump(exclude_none=True) if request.text else {}
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None} | (request.reasoning or {}),
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}} | text,
        "tool_choice": "auto" if choice is None else choice,
        "tools": [
            {"type": "function", **function, "name": long_names.get(name, name)}
            for tool in translation.chat.get("tools", ())
            for function in [tool["function"]]
            for name in [function["name"]]
        ],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }
