"""What SDKs and apps send along that asks for nothing, in OpenAI's chat and plain completions.

Fields that an earlier answer carried come back with the history; a limit of -1 is none; a sampler
may be sent with the value that turns it off; how much a model may think is a hint. `asked` leaves
all of it out, and `left_out` names what of it was more than null, empty or a default.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_OFF: Mapping[str, tuple[Any, ...]] = {
    "max_tokens": (-1,),
    "max_completion_tokens": (-1,),
    "n_probs": (0,),
    "id_slot": (-1,),
    "timings_per_token": (False,),
    "return_progress": (False,),
    "top_k": (-1,),
    "typical_p": (1,),
    "typ_p": (1,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "mirostat": (0,),
    "stop": ("",),
}
"""Field → the values with which llama-server, vLLM and LM Studio turn it off."""
_THINKING = ("thinking", "enable_thinking", "think", "reasoning", "include_reasoning")
"""Hints on how much to think, and whether to show it, in other vendors' words. They stay here: a
reservation holds for what `reasoning_effort` may cost."""
_SAME = {"repetition_penalty": "repeat_penalty"}
"""vLLM's name → llama-server's."""

_MESSAGE = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content"}
    | {"cache_control"}
)
_CALL = frozenset({"id", "type", "function", "index"})
_FUNCTION = frozenset({"name", "arguments"})
_PART = frozenset({"type", "text", "refusal", "cache_control"})
_ASKS = frozenset({"prefix", "partial", "function_call", "audio"})
"""Fields of an assistant's message that change what is asked."""
_NOTES = frozenset(
    {"id", "type", "status", "metadata", "timestamp", "created", "created_at", "createdAt"}
    | {"provider_specific_fields"}
)
"""What apps note in the messages that they keep."""
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_TEXTS = frozenset({"input_text", "output_text"})
"""Types of a text part in the Responses API, whose messages some apps send here."""


def asked(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` without what asks for nothing, in the names that the schemas know."""
    found = dict(body)
    for field, values in _OFF.items():
        if field in found and any(_equal(found[field], value) for value in values):
            del found[field]
    for theirs, ours in _SAME.items():
        value = found.pop(theirs, None)
        if value is not None:
            found.setdefault(ours, value)
    if found.get("top_logprobs") == 0 and not found.get("logprobs"):
        del found["top_logprobs"]
    if isinstance(found.get("model"), str):
        found["model"] = found["model"].removesuffix(":latest")  # as Ollama lists it
    for field in _THINKING:
        found.pop(field, None)
    if isinstance(found.get("messages"), list):
        found["messages"] = [_message(message) for message in found["messages"]]
    _choose(found)
    _name_schema(found)
    return found


def left_out(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Where `asked` leaves something out of `body`: each field once, at its first place."""
    found = {field: field for field in _THINKING if body.get(field) is not None}
    for index, message in enumerate(body.get("messages", ())):
        for where, field, value in _extras(message):
            if value not in (None, "", [], {}) and (where or field != "reasoning"):
                found.setdefault(field, f"messages[{index}]{where}.{field}")
    return tuple(found.values())


def _equal(given: Any, value: Any) -> bool:
    """1 and 1.0 are the same number, 1 and true are not the same."""
    return isinstance(given, bool) == isinstance(value, bool) and bool(given == value)


def _choose(body: dict[str, Any]) -> None:
    """`tool_choice` as a mode or one function: Mistral's word, and OpenAI's allowed tools."""
    choice = body.get("tool_choice")
    if choice == "any":
        body["tool_choice"] = "required"
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return
    allowed = choice.get("allowed_tools")
    if not isinstance(allowed, dict):
        return
    listed = allowed.get("tools")
    if isinstance(listed, list) and isinstance(body.get("tools"), list):
        names = [_name(tool) for tool in listed]
        body["tools"] = [tool for tool in body["tools"] if _name(tool) in names]
        body["tool_choice"] = allowed.get("mode", "auto")


def _name_schema(body: dict[str, Any]) -> None:
    """The name of a schema is a label: SDKs take it from a class, e.g. "Page[int]"."""
    shape = body.get("response_format")
    schema = shape.get("json_schema") if isinstance(shape, dict) else None
    name = schema.get("name") if isinstance(schema, dict) else None
    if isinstance(shape, dict) and isinstance(schema, dict) and isinstance(name, str):
        label = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:64] or "answer"
        body["response_format"] = {**shape, "json_schema": {**schema, "name": label}}


def _name(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    said = message.get("role") == "assistant"
    found = _known(message, _MESSAGE, said)
    if said and isinstance(message.get("reasoning"), str):
        found.setdefault("reasoning_content", message["reasoning"])
    content = found.get("content")
    if isinstance(content, list):
        found["content"] = [_part(part, said) for part in content if not _thought(part, said)]
    if found.get("content") == [] or (found.get("content") is None and found.get("role") == "tool"):
        found["content"] = ""
    if said and isinstance(message.get("tool_calls"), list):
        found["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return found


def _thought(part: Any, said: bool) -> bool:
    return said and isinstance(part, dict) and part.get("type") in _THOUGHTS


def _part(part: Any, said: bool) -> Any:
    if not isinstance(part, dict):
        return part
    found = _known(part, _PART, said)
    return {**found, "type": "text"} if part.get("type") in _TEXTS else found


def _call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    found = _known(call, _CALL, said=True)
    if found.get("type") is None:
        found.pop("type", None)
    if isinstance(found.get("function"), dict):
        function = _known(found["function"], _FUNCTION, said=True)
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        found["function"] = function
    return found


def _extras(message: Any) -> Iterator[tuple[str, str, Any]]:
    """Each field that is left out of `message`: its place there, its name and its value."""
    if not isinstance(message, dict):
        return
    said = message.get("role") == "assistant"
    yield from _unknown("", message, _MESSAGE, said)
    content = message.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and not _thought(part, said):
            yield from _unknown(f".content[{index}]", part, _PART, said)
    calls = message.get("tool_calls")
    for index, call in enumerate(calls if said and isinstance(calls, list) else ()):
        if isinstance(call, dict):
            place, function = f".tool_calls[{index}]", call.get("function")
            yield from _unknown(place, call, _CALL, said)
            if isinstance(function, dict):
                yield from _unknown(f"{place}.function", function, _FUNCTION, said)


def _unknown(
    where: str, holder: Mapping[str, Any], known: frozenset[str], said: bool
) -> Iterator[tuple[str, str, Any]]:
    for field, value in holder.items():
        if not _stays(field, value, known, said):
            yield where, field, value


def _known(holder: Mapping[str, Any], known: frozenset[str], said: bool) -> dict[str, Any]:
    return {k: value for k, value in holder.items() if _stays(k, value, known, said)}


def _stays(field: str, value: Any, known: frozenset[str], said: bool) -> bool:
    """Whether a field is more than what an earlier answer carried or an app noted."""
    if field in known:
        return True
    return value is not None and (field in _ASKS or not (said or field in _NOTES))
