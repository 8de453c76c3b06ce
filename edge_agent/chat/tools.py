"""`tools` and `tool_choice` of a request, checked.

Form of the input: OpenAI's chat completion API.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_agent.chat.json_schema import Schema, read_schema
from edge_agent.chat.schema_size import SchemaError
from edge_agent.errors import InvalidRequest

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """One function the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments, an object."""
    schema: Schema
    """The same as the grammar of a call follows it."""
    definition: Mapping[str, Any]
    """As the client sent it; what templates render."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tools the model may call, and whether it must."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None
    """With "required": the one tool it must call."""


def parse_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Check `tools`. Raises InvalidRequest that names the wrong field."""
    if not isinstance(tools, (list, tuple)):
        raise InvalidRequest("tools must be a list", param="tools")
    found: dict[str, Tool] = {}
    for i, definition in enumerate(tools):
        tool = _tool(definition, f"tools[{i}]")
        if tool.name in found:
            param = f"tools[{i}].function.name"
            raise InvalidRequest(f"{param}: {tool.name!r} is there twice", param=param)
        found[tool.name] = tool
    return tuple(found.values())


def _tool(definition: Any, path: str) -> Tool:
    if not isinstance(definition, Mapping):
        raise InvalidRequest(f"{path} must be an object", param=path)
    if definition.get("type") != "function":
        param = f"{path}.type"
        raise InvalidRequest(
            f'{param} must be "function", not {definition.get("type")!r}', param=param
        )
    function = definition.get("function")
    where = f"{path}.function"
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"{where} must be an object", param=where)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        param = f"{where}.name"
        raise InvalidRequest(f"{param} must be 1 to 64 letters, digits, _ or -", param=param)
    description = function.get("description") or ""
    if not isinstance(description, str):
        param = f"{where}.description"
        raise InvalidRequest(f"{param} must be a string", param=param)
    strict = function.get("strict") is True
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    schema = _read_parameters(parameters, f"{where}.parameters", strict=strict)
    return Tool(name, description, parameters, schema, definition)


def _read_parameters(parameters: Any, param: str, *, strict: bool) -> Schema:
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidRequest(f'{param} must be a JSON schema of type "object"', param=param)
    try:
        return read_schema({"type": "object", **parameters}, strict=strict)
    except SchemaError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error


def parse_choice(choice: Any, tools: Sequence[Tool]) -> Choice:
    """Check `tool_choice` (None: the default). Raises InvalidRequest that names the field."""
    if choice is None or choice in ("auto", "none"):
        return Choice("auto" if tools and choice != "none" else "none")
    if not tools:
        raise InvalidRequest("tool_choice needs tools", param="tool_choice")
    if choice == "required":
        return Choice("required")
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        raise InvalidRequest(
            "tool_choice must be none, auto, required, or "
            '{"type": "function", "function": {"name": …}}',
            param="tool_choice",
        )
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in {tool.name for tool in tools}:
        raise InvalidRequest(
            f"tool_choice.function.name: there is no tool {name!r}",
            param="tool_choice.function.name",
        )
    return Choice("required", str(name))
