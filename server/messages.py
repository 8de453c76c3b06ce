"""Chat messages: which fields each role may carry, and which parts a content may have.

What the local model's template makes of them is `edge_agent.formats.messages`' work; here is what
must not be ignored silently, by either model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.errors import InvalidRequest
from server.schemas import Message

_ONLY_IN = {
    "tool_calls": "assistant",
    "refusal": "assistant",
    "reasoning_content": "assistant",
    "tool_call_id": "tool",
}
_MEDIA = frozenset({"image_url", "input_audio", "file"})
"""Parts of a user message that a cloud model may know how to read."""


def check(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest, naming the field, where a message lacks or has what it must not."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_fields(message, where)
        if isinstance(message.content, list):
            _check_parts(message.content, message.role, f"{where}.content")


def _check_fields(message: Message, where: str) -> None:
    if message.content is None and not (message.tool_calls or message.refusal):
        raise _invalid(f"{where}.content", "is required")
    if message.role == "tool" and message.tool_call_id is None:
        raise _invalid(f"{where}.tool_call_id", "is required in a tool message")
    for field, role in _ONLY_IN.items():
        if getattr(message, field) is not None and message.role != role:
            raise _invalid(f"{where}.{field}", f"belongs in a message with role {role!r}")


def _check_parts(parts: Sequence[Mapping[str, Any]], role: str, where: str) -> None:
    if not parts:
        raise _invalid(where, "must not be empty")
    for index, part in enumerate(parts):
        kind, here = part.get("type"), f"{where}[{index}]"
        if kind in _MEDIA and role == "user":
            continue
        if kind != "text" and not (kind == "refusal" and role == "assistant"):
            raise _invalid(f"{here}.type", f"{kind!r} is not supported in a {role} message")
        for field in sorted(set(part) - {"type", kind}):
            raise _invalid(f"{here}.{field}", "is not supported")
        if not isinstance(part.get(kind), str):
            raise _invalid(f"{here}.{kind}", "must be a string")


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {problem}", param=param)
