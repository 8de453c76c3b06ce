"""Tool calls: how they are asked of the model and read from its output.

Three forms. *tagged* (Hermes, Qwen) and *bare* (Llama 3) belong to templates that render tools
themselves. For all others *generic*: a system prompt lists the tools, and a grammar makes the
output one JSON object that is either a call or a response. llama-server does the same.
"""

import dataclasses
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_agent.chat.gbnf import Grammar, json_literal, literal, separated, union
from edge_agent.chat.json_schema import add_schema
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tools import (
    BareParser,
    Call,
    GenericParser,
    Parser,
    TaggedParser,
    Tool,
    parse_choice,
    parse_tools,
)
from edge_agent.records.generation import TokenEvent
from edge_agent.records.query import Delta

Style = Literal["tagged", "bare", "generic"]

_PARSERS: dict[Style, type[TaggedParser | BareParser | GenericParser]] = {
    "tagged": TaggedParser,
    "bare": BareParser,
    "generic": GenericParser,
}


@dataclass(frozen=True)
class ToolFormat:
    """How the tools of one request are given to the model and called by it."""

    style: Style
    tools: tuple[Tool, ...]
    """Those that may be called."""
    required: bool
    """True: the answer is a call, never text."""
    parallel: bool
    """True: the answer may hold several calls."""
    grammar: str | None
    """GBNF of the output; None if text and calls may mix freely."""

    @classmethod
    def choose(
        cls,
        template: ChatTemplate,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: Any = None,
        parallel: bool | None = None,
    ) -> "ToolFormat | None":
        """The format for a request, or None if no tool may be called.

        parallel: `parallel_tool_calls`; None means true.
        Raises InvalidRequest that names the wrong field.
        """
        parsed = parse_tools(tools)
        choice = parse_choice(tool_choice, parsed)
        if choice.mode == "none":
            return None
        style = template.tool_style or "generic"
        may_call = tuple(tool for tool in parsed if choice.name in (None, tool.name))
        required = choice.mode == "required"
        # Llama 3's template refuses a history with two calls in one message.
        many = parallel is not False and choice.name is None and style != "bare"
        return cls(style, may_call, required, many, _grammar(style, may_call, required, many))

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages to render: the generic form explains the tools in the system message."""
        if self.style != "generic":
            return list(messages)
        prompt = self._prompt()
        first = messages[0] if messages else {}
        if first.get("role") not in ("system", "developer"):
            return [{"role": "system", "content": prompt}, *messages]
        own = first.get("content")
        parts = own if isinstance(own, list) else [{"type": "text", "text": own}]
        return [{**first, "content": [*parts, {"type": "text", "text": prompt}]}, *messages[1:]]

    def _prompt(self) -> str:
        functions = [
            {"name": t.name, "description": t.description, "parameters": t.parameters}
            for t in self.tools
        ]
        listing = "\n".join(json.dumps(f, ensure_ascii=False) for f in functions)
        call = '{"name": …, "arguments": {…}}'
        forms = f'{{"tool_calls": [{call}, …]}}' if self.parallel else f'{{"tool_call": {call}}}'
        answer = "" if self.required else ' To answer the user, write {"response": "…"}.'
        return (
            f"You can call these tools:\n{listing}\n"
            f"Answer in JSON only. To call tools, write {forms}.{answer}"
        )

    def parser(self) -> "ToolParser":
        """A parser for the choices of one answer."""
        return ToolParser(self)


class ToolParser:
    """Turns the text of each choice into text and tool calls."""

    def __init__(self, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._tools = {tool.name: tool.parameters for tool in tool_format.tools}
        self._parsers: dict[int, Parser] = {}
        self._calls: dict[int, int] = {}

    def feed(self, event: TokenEvent) -> list[Delta]:
        """Take the next piece of a choice; returns what is certain by now.

        Log-probs, token ids and the finish reason stay with the event they came with; "stop"
        becomes "tool_calls" if the choice called a tool.
        """
        index, reason = event.index, event.finish_reason
        parser = self._parsers.setdefault(index, _PARSERS[self._format.style](self._tools))
        deltas = list(self._deltas(parser.feed(event.text), index))
        if reason is not None:
            deltas += self._deltas(parser.close(), index)
            del self._parsers[index]
            if reason == "stop" and self._calls.get(index):
                reason = "tool_calls"
        if not deltas and (event.token_ids or event.logprobs or reason):
            deltas = [Delta(index=index)]
        if deltas:
            deltas[0] = dataclasses.replace(
                deltas[0], token_ids=event.token_ids, logprobs=event.logprobs
            )
            deltas[-1] = dataclasses.replace(
                deltas[-1], finish_reason=reason, stopped_by=event.stopped_by
            )
        return deltas

    def _deltas(self, found: Iterator[str | Call], index: int) -> Iterator[Delta]:
        for item in found:
            if isinstance(item, str):
                yield Delta(index=index, text=item)
                continue
            number = self._calls.get(index, 0)
            if number and not self._format.parallel:
                continue
            self._calls[index] = number + 1
            yield Delta(index=index, tool_calls=(_streamed(number, item),))


def _streamed(number: int, call: Call) -> Mapping[str, Any]:
    """A whole call in OpenAI's streaming form; ids look like OpenAI's."""
    name, arguments = call
    return {
        "index": number,
        "id": "call_" + secrets.token_hex(12),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _grammar(style: Style, tools: Sequence[Tool], required: bool, many: bool) -> str | None:
    """Native forms are left free unless a call is required; the generic form is always held."""
    if style != "generic" and not required:
        return None
    grammar = Grammar()
    key = "parameters" if style == "bare" else "arguments"
    call = union([_call_rule(grammar, tool, key) for tool in tools])
    if style == "bare":
        root = call
    elif style == "tagged":
        tagged = f"{literal('<tool_call>' + chr(10))} {call} {literal(chr(10) + '</tool_call>')}"
        root = f'{tagged} ("\\n" {tagged})*' if many else tagged
    else:
        calls = f'"[" {separated(call, 1, None)} ws "]"'
        root = _wrapped("tool_calls", calls) if many else _wrapped("tool_call", call)
        if not required:
            root += f" | {_wrapped('response', 'string')}"
    grammar.define("root", root)
    return grammar.text()


def _wrapped(key: str, value: str) -> str:
    return f'"{{" ws {json_literal(key)} ":" ws {value} ws "}}"'


def _call_rule(grammar: Grammar, tool: Tool, key: str) -> str:
    arguments = add_schema(grammar, tool.parameters, tool.name, lax=not tool.strict)
    return grammar.add(
        tool.name,
        f'"{{" ws {json_literal("name")} ":" ws {json_literal(tool.name)} "," '
        f'ws {json_literal(key)} ":" ws {arguments} ws "}}"',
    )
