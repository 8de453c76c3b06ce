"""Chat messages: what each role may carry, and what the local model's template gets to see."""

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.errors import InvalidRequest
from server.schemas import Message


def check(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest, naming the field, where a message lacks or has what it must not."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_role(message, where)
        if isinstance(message.content, list):
            _check_parts(message.content, message.role, f"{where}.content")


def _check_role(message: Message, where: str) -> None:
    assistant = message.role == "assistant"
    if message.content is None and not (assistant and (message.tool_calls or message.refusal)):
        raise InvalidRequest(f"{where}.content is required", param=f"{where}.content")
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequest(
            f"{where}.tool_call_id is required in a tool message", param=f"{where}.tool_call_id"
        )
    if message.role != "tool" and message.tool_call_id is not None:
        raise InvalidRequest(
            f"{where}.tool_call_id belongs in a tool message", param=f"{where}.tool_call_id"
        )
    for field in ("tool_calls", "refusal"):
        if getattr(message, field) is not None and not assistant:
            raise InvalidRequest(
                f"{where}.{field} belongs in an assistant message", param=f"{where}.{field}"
            )


def _check_parts(parts: Sequence[Mapping[str, Any]], role: str, where: str) -> None:
    if not parts:
        raise InvalidRequest(f"{where} is empty", param=where)
    for index, part in enumerate(parts):
        kind, here = part.get("type"), f"{where}[{index}]"
        if kind == "text" or (kind == "refusal" and role == "assistant"):
            if set(part) - {"type", kind}:
                extra = min(set(part) - {"type", kind})
                raise InvalidRequest(f"{here}.{extra} is not supported", param=f"{here}.{extra}")
            if not isinstance(part.get(kind), str):
                raise InvalidRequest(f"{here}.{kind} must be a string", param=f"{here}.{kind}")
        elif not (kind in ("image_url", "input_audio", "file") and role == "user"):
            raise InvalidRequest(
                f"{here}.type: {kind!r} is not supported in a {role} message", param=f"{here}.type"
            )


def unreadable(messages: Sequence[Message]) -> str | None:
    """The first part that is no text, as a field name: only a cloud model can read it."""
    for i, message in enumerate(messages):
        if isinstance(message.content, list):
            for j, part in enumerate(message.content):
                if part["type"] not in ("text", "refusal"):
                    return f"messages[{i}].content[{j}].type"
    return None


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: text content, and `system` for `developer`."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        content = "".join(part[part["type"]] for part in content)
    plain: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content if content is not None else message.refusal or "",
    }
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [call.model_dump(exclude={"index"}) for call in message.tool_calls]
    return plain
