"""What the answer to a chat may be, and the prompt that asks for it: one to serve and to train."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.chat.guidance import schema_grammar
from edge_agent.chat.json_schema import Schema
from edge_agent.chat.messages import Message
from edge_agent.chat.response_format import from_response_format
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tool_format import ToolFormat
from edge_agent.records.generation import Grammar, TokenEvent
from edge_agent.records.query import Transcript


@dataclass(frozen=True)
class AnswerForm:
    """Text, JSON of a schema, calls of tools, or one of these."""

    tools: tuple[Mapping[str, Any], ...] = ()
    """As the client sent them."""
    tool_format: ToolFormat | None = None
    """None: no tool may be called."""
    schema: Schema | None = None
    """That of `response_format`."""

    @classmethod
    def of(
        cls,
        chat: ChatTemplate,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: Any = None,
        parallel: bool | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> "AnswerForm":
        """The form that a request's fields of these names ask for (`parallel_tool_calls`).

        Raises InvalidRequest that names the wrong field.
        """
        schema = None if response_format is None else from_response_format(response_format)
        tool_format = ToolFormat.choose(chat, tools, tool_choice, parallel, schema)
        return cls(tuple(tools), tool_format, schema)

    @property
    def grammar(self) -> Grammar | None:
        """What holds the output to the form; None if nothing has to."""
        if self.tool_format is not None:
            return self.tool_format.grammar
        return None if self.schema is None else schema_grammar(self.schema.json)

    @property
    def ignored(self) -> tuple[str, ...]:
        """What the grammar leaves out of the schemas."""
        found = () if self.schema is None else self.schema.ignored
        return found if self.tool_format is None else (*found, *self.tool_format.ignored)

    @property
    def rendered_tools(self) -> tuple[Mapping[str, Any], ...]:
        """Those that the template shows; the generic form has put them into the messages."""
        native = self.tool_format is not None and self.tool_format.style != "generic"
        return self.tools if native else ()

    def prompt(
        self,
        chat: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """Prompt ids of `messages`; `extra` and errors as for `ChatTemplate.encode`."""
        if self.tool_format is not None:
            messages = self.tool_format.messages(messages)
        return chat.encode(messages, tools=self.rendered_tools, extra=extra)

    def read(self, output: str) -> tuple[str, list[Mapping[str, Any]]]:
        """A whole output as text and tool calls in OpenAI's form, as a client is shown it."""
        if self.tool_format is None:
            return output, []
        said = Transcript(1)
        for delta in self.tool_format.parser().feed(TokenEvent(0, output, finish_reason="stop")):
            said.add(delta)
        return said.texts[0], list(said.tool_calls[0])

    def write(self, text: str, calls: Sequence[tuple[str, Any]]) -> str | Message | None:
        """What the model has to write for that answer, as text or as a turn to be rendered.

        `calls` are names with arguments; where there are some, the text beside them is left out.
        Keys come in the order of the schemas, as grammars have them. None: it cannot give that
        answer in this form.
        """
        form = self.tool_format
        if not calls:
            return None if form is not None and form.required else self._text(text)
        tools = {} if form is None else {tool.name: tool.parameters for tool in form.tools}
        if form is None or any(name not in tools for name, _ in calls):
            return None
        if len(calls) > 1 and not form.parallel:
            return None
        functions = [
            {"name": name, "arguments": _arranged(arguments, tools[name], tools[name])}
            for name, arguments in calls
        ]
        if form.style == "generic":
            wrapped = {"tool_calls": functions} if form.parallel else {"tool_call": functions[0]}
            return json.dumps(wrapped, ensure_ascii=False)
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": f"call_{i}", "type": "function", "function": function}
                for i, function in enumerate(functions)
            ],
        }

    def _text(self, text: str) -> str | None:
        if self.schema is not None:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                return None
            schema = self.schema.json
            return json.dumps(_arranged(value, schema, schema), ensure_ascii=False)
        if self.tool_format is not None and self.tool_format.style == "generic":
            return json.dumps({"response": text}, ensure_ascii=False)
        return text


def _arranged(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """The same JSON value with the keys of its objects in the order of `properties`.

    `root` holds the definitions that `$ref` names.
    """
    if isinstance(schema, Mapping):
        where, _, name = str(schema.get("$ref", "")).rpartition("/")
        if where in ("#/$defs", "#/definitions"):
            schema = root.get(where.removeprefix("#/"), {}).get(name)
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list):
        return [_arranged(item, schema.get("items"), root) for item in value]
    if not isinstance(value, Mapping):
        return value
    known = schema.get("properties") or {}
    keys = [*(key for key in known if key in value), *(key for key in value if key not in known)]
    return {key: _arranged(value[key], known.get(key), root) for key in keys}
