"""A chat completion's request → Anthropic's Messages API. Pure functions.

Not sent, because the API has no such thing: seed, log-probs, penalties, `n` of 1. What would make
another answer without a word is refused by name (`Unsuited`): several choices, a stop of white
space, JSON without a schema, a sound, a plain completion.

Sources: https://platform.claude.com/docs/en/api/messages,
https://platform.claude.com/docs/en/build-with-claude/structured-outputs,
https://platform.claude.com/docs/en/build-with-claude/extended-thinking
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Block = dict[str, Any]

_SYSTEM = ("system", "developer")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_BUDGETED = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[0-5])?(-\d{8}|-latest)?$)")
"""Models before Claude 4.6: they think within a budget of tokens, later ones by effort."""
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768}
_LEAST_BUDGET = 1024
_KEPT = frozenset({"type", "enum", "const", "required", "title", "description", "default", "$ref"})
"""Keywords of JSON schema that structured outputs take as they are."""
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "format": (
        *("date-time", "time", "date", "duration"),
        *("email", "hostname", "uri", "ipv4", "ipv6", "uuid"),
    ),
    "minItems": (0, 1),
}
"""Keywords that they take with these values."""
_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf"})


class Unsuited(ValueError):
    """The request asks for what this API cannot do; the message names the field."""


def messages_request(chat: Mapping[str, Any]) -> dict[str, Any]:
    """The body for /v1/messages. Raises Unsuited."""
    try:
        return _request(chat)
    except (KeyError, TypeError, AttributeError) as error:
        # Parts that only a cloud reads come as the client sent them.
        raise Unsuited(f"messages: a part is not in OpenAI's form ({error})") from error


def _request(chat: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" not in chat:
        raise Unsuited("prompt: Anthropic's API has no plain completions")
    if (chat.get("n") or 1) != 1:
        raise Unsuited("n: Anthropic's API gives one choice")
    limit = chat.get("max_completion_tokens") or chat["max_tokens"]
    found: dict[str, Any] = {"model": chat["model"], "max_tokens": limit, "stream": True}
    system = [block for m in chat["messages"] if m["role"] in _SYSTEM for block in _blocks(m)]
    if system:
        found["system"] = system
    found["messages"] = _turns(chat["messages"])
    if chat.get("cache_control"):
        found["cache_control"] = chat["cache_control"]
    if chat.get("tools"):
        found["tools"] = [_marked(_tool(tool["function"]), tool) for tool in chat["tools"]]
        choice = _tool_choice(chat.get("tool_choice"), chat.get("parallel_tool_calls"))
        if choice:
            found["tool_choice"] = choice
    if stops := _stops(chat.get("stop")):
        found["stop_sequences"] = stops
    if user := chat.get("safety_identifier") or chat.get("user"):
        found["metadata"] = {"user_id": user}
    config = _output_format(chat.get("response_format"))
    thinking, effort = _thinking(chat, found)
    if thinking:
        found["thinking"] = thinking
    if config | effort:
        found["output_config"] = config | effort
    if thinking.get("type") in (None, "disabled"):
        found |= _sampling(chat)  # a thinking model takes none
    return found


def _sampling(chat: Mapping[str, Any]) -> dict[str, float]:
    """One of the two: models since Claude 4.5 refuse both together. Temperatures end at 1."""
    temperature, top_p = chat.get("temperature"), chat.get("top_p")
    if temperature is not None and (temperature != 1 or top_p is None):
        return {"temperature": min(1.0, temperature)}
    return {} if top_p is None else {"top_p": top_p}


def _stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(text.strip() for text in stops):
        raise Unsuited("stop: Anthropic's API takes no stop sequence of white space")
    return stops


def _thinking(
    chat: Mapping[str, Any], request: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`thinking` and the effort that `reasoning_effort` asks for, as the model takes them."""
    effort = chat.get("reasoning_effort")
    forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
    budgeted = _BUDGETED.match(chat["model"])
    if effort is None or forced or (effort == "none" and budgeted):
        return {}, {}
    if effort == "none":
        return {"type": "disabled"}, {}  # some of the later models think unless told not to
    if not budgeted:
        effort = "low" if effort == "minimal" else effort
        return {"type": "adaptive", "display": "summarized"}, {"effort": effort}
    # Half of the limit stays for the answer, which the thinking counts against.
    budget = min(_BUDGETS.get(effort, _LEAST_BUDGET), request["max_tokens"] // 2)
    if budget < _LEAST_BUDGET or _lacks_thinking(request["messages"]):
        return {}, {}
    return {"type": "enabled", "budget_tokens": budget}, {}


def _lacks_thinking(turns: list[dict[str, Any]]) -> bool:
    """Whether the turn that calls a tool begins without the thinking it must begin with."""
    last = next((turn for turn in reversed(turns) if turn["role"] == "assistant"), None)
    kinds = [block["type"] for block in last["content"]] if last else []
    answered = bool(turns) and turns[-1]["content"][0]["type"] == "tool_result"
    return answered and "tool_use" in kinds and not kinds[0].endswith("thinking")


def _turns(messages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns of user and assistant in alternation; what a tool gave back is the user's."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] in _SYSTEM:
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = list(_blocks(message))
        if not blocks:
            continue
        blocks[-1] = _marked(blocks[-1], message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise Unsuited("messages: Anthropic's API wants one that says something")
    return turns


def _blocks(message: Mapping[str, Any]) -> Iterator[Block]:
    if message["role"] == "tool":
        result: Block = {"type": "tool_result", "tool_use_id": _call_id(message["tool_call_id"])}
        content = list(_contents(message.get("content")))
        yield {**result, "content": content} if content else result
        return
    for detail in message.get("reasoning_details") or ():
        yield from _thought(detail)
    yield from _contents(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield {
            "type": "tool_use",
            "id": _call_id(call.get("id")),
            "name": function["name"],
            "input": _arguments(function.get("arguments")),
        }


def _thought(detail: Mapping[str, Any]) -> Iterator[Block]:
    """A block of thinking, which counts only with the signature it came with."""
    if detail.get("signature"):
        text = detail.get("text") or ""
        yield {"type": "thinking", "thinking": text, "signature": detail["signature"]}
    elif detail.get("type") == "reasoning.encrypted" and detail.get("data"):
        yield {"type": "redacted_thinking", "data": detail["data"]}


def _contents(content: Any) -> Iterator[Block]:
    """Blocks of a message's content; texts of white space are refused there, so left out here."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    for part in parts:
        block = _content(part)
        if block is not None:
            yield _marked(block, part)


def _marked(block: Block, source: Mapping[str, Any]) -> Block:
    """`block` with the mark of its `source`: what the vendor is to cache up to there."""
    mark = source.get("cache_control")
    return block if mark is None else {**block, "cache_control": mark}


def _content(part: Mapping[str, Any]) -> Block | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = part.get(kind) or ""
        return {"type": "text", "text": text} if text.strip() else None
    if kind == "image_url":
        image = part["image_url"]
        url = image["url"] if isinstance(image, Mapping) else image
        return {"type": "image", "source": _source(url)}
    data = (part.get("file") or {}).get("file_data") if kind == "file" else None
    if data:
        return {"type": "document", "source": _source(data)}
    raise Unsuited(f"messages: Anthropic's API reads no part of type {kind!r} as it is sent")


def _source(url: str) -> dict[str, str]:
    inline = _DATA.fullmatch(url)
    if inline is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": inline[1], "data": inline[2]}


def _call_id(given: Any) -> str:
    """Ids of other vendors have characters that are refused here."""
    return _NO_ID.sub("_", str(given or "")) or "call"


def _arguments(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"arguments": value}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    found: dict[str, Any] = {"name": function["name"], "input_schema": parameters}
    for field in ("description", "strict"):
        if function.get(field):
            found[field] = function[field]
    return found


def _tool_choice(choice: Any, parallel: bool | None) -> dict[str, Any]:
    if isinstance(choice, Mapping):
        found = {"type": "tool", "name": choice["function"]["name"]}
    elif choice is None and parallel is not False:
        return {}
    else:
        found = {"type": _CHOICES[choice or "auto"]}
    if parallel is False and found["type"] != "none":
        return {**found, "disable_parallel_tool_use": True}
    return found


def _output_format(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """`output_config` for a response format."""
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return {}
    if kind != "json_schema":
        raise Unsuited(f"response_format: Anthropic's API wants a schema, not {kind}")
    schema = wanted["json_schema"].get("schema") or {}
    return {"format": {"type": "json_schema", "schema": _closed(schema)}}


def _closed(schema: Any) -> Any:
    """`schema` within the keywords that are taken: a narrower one, its bounds in words.

    Raises Unsuited for objects of any keys, which cannot be asked for.
    """
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, value in schema.items():
        name = "anyOf" if key == "oneOf" else key
        if name in _SCHEMAS:
            found[name] = {inner: _closed(item) for inner, item in value.items()}
        elif name in _LISTS:
            found[name] = [_closed(item) for item in value]
        elif name == "items":
            found[name] = _closed(value)
        elif name in _KEPT or value in _VALUES.get(name, ()):
            found[name] = value
        elif name not in ("additionalProperties", "$schema"):
            told[name] = value
    types = schema.get("type")
    if types == "object" or (isinstance(types, list) and "object" in types):
        if not schema.get("properties") or isinstance(schema.get("additionalProperties"), Mapping):
            raise Unsuited("response_format: Anthropic's API takes no object of any keys")
        found["additionalProperties"] = False
    if told:
        words = ", ".join(f"{name}: {json.dumps(value)}" for name, value in told.items())
        found["description"] = f"{found.get('description', '')} ({words})".strip()
    return found
