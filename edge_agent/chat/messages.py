"""Chat messages as clients send them, checked and brought into the form templates expect.

Form of the input: OpenAI's chat completion API, `messages`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.errors import InvalidRequest

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = {"text": "text", "refusal": "refusal"}


def unsupported_part(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Path of the first part that only a multimodal model can read, or None.

    The path is that of its type, e.g. "messages[0].content[1].type".
    """
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, (list, tuple)):
            for j, part in enumerate(content):
                if isinstance(part, Mapping) and part.get("type") not in _TEXT_PARTS:
                    return f"messages[{i}].content[{j}].type"
    return None


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copies with text content, known roles, and tool arguments as objects.

    Raises InvalidRequest that names the offending field.
    """
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Mapping[str, Any], path: str) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{path} must be an object", param=path)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{path}.role must be one of {', '.join(ROLES)}, not {role!r}", param=f"{path}.role"
        )
    result: Message = {"role": role}
    calls = message.get("tool_calls")
    if calls:
        if role != "assistant":
            raise InvalidRequest(
                "only assistant messages have tool_calls", param=f"{path}.tool_calls"
            )
        result["tool_calls"] = _tool_calls(calls, f"{path}.tool_calls")
    content = message.get("content")
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    if content is None and role != "assistant":
        raise InvalidRequest(f"{path}.content is missing", param=f"{path}.content")
    result["content"] = "" if content is None else _text(content, f"{path}.content")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if message.get(key) is not None:
            result[key] = _string(message[key], f"{path}.{key}")
    return result


def _text(content: Any, path: str) -> str:
    if isinstance(content, str):
        return _string(content, path)
    if not isinstance(content, (list, tuple)):
        raise InvalidRequest(f"{path} must be a string or a list of parts", param=path)
    return "\n".join(_part(part, f"{path}[{j}]") for j, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        raise InvalidRequest(
            f"the local model reads text only; {path}.type is {kind!r}", param=f"{path}.type"
        )
    field = _TEXT_PARTS[kind]
    return _string(part.get(field), f"{path}.{field}")


def _tool_calls(calls: Any, path: str) -> list[Message]:
    if not isinstance(calls, (list, tuple)):
        raise InvalidRequest(f"{path} must be a list", param=path)
    result = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        where = f"{path}[{i}].function"
        if not isinstance(function, Mapping):
            raise InvalidRequest(f"{where} must be an object", param=where)
        name = _string(function.get("name"), f"{where}.name")
        arguments = function.get("arguments", {})
        if not isinstance(arguments, Mapping):
            arguments = _object_or_text(_string(arguments, f"{where}.arguments"))
        result.append(
            {
                "id": _string(call.get("id") or "", f"{path}[{i}].id"),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )
    return result


def _object_or_text(arguments: str) -> Any:
    """Templates print arguments as JSON themselves; what a model got wrong stays as it is."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{path} must be a string", param=path)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path} is not valid Unicode (lone surrogate)", param=path) from None
    return value


def system_into_user(messages: Sequence[Message]) -> list[Message]:
    """Put system text before the next user message, for models without a system role."""
    result: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message["role"] in ("system", "developer"):
            pending.append(message["content"])
        elif message["role"] == "user" and pending:
            text = "\n\n".join([*pending, message["content"]])
            result.append({**message, "content": text})
            pending = []
        else:
            result.append(message)
    if pending:
        result.append({"role": "user", "content": "\n\n".join(pending)})
    return result


def tool_history_as_text(messages: Sequence[Message]) -> list[Message]:
    """Tool calls and tool results as plain text, for templates that know no tools.

    Calls take the form in which the generic tool format asks the model for them.
    """
    result: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = [call["function"] for call in message["tool_calls"]]
            wrapped = {"tool_call": calls[0]} if len(calls) == 1 else {"tool_calls": calls}
            text = json.dumps(wrapped, ensure_ascii=False)
            content = f"{message['content']}\n{text}" if message["content"] else text
            result.append({"role": "assistant", "content": content})
        elif message["role"] == "tool":
            response = {"tool_response": message["content"]}
            if message.get("name"):
                response = {"name": message["name"], **response}
            text = json.dumps(response, ensure_ascii=False)
            if result and result[-1].get("from_tool"):
                result[-1]["content"] += "\n" + text
            else:
                result.append({"role": "user", "content": text, "from_tool": True})
        else:
            result.append(message)
    return [{k: v for k, v in m.items() if k != "from_tool"} for m in result]
