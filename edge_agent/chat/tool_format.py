"""Tool calls: how they are asked of the model and read from its output.

Three forms. *tagged* (Hermes, Qwen) and *bare* (Llama 3) belong to templates that render tools
themselves. For all others *generic*: a system prompt lists the tools, and a grammar makes the
output one JSON object that is either a call or a response. llama-server does the same.

Beside a `response_format` the output is a call in the same form, or JSON of that schema.
"""

import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_agent.chat.free_calls import FreeParser
from edge_agent.chat.guidance import TEXT, lark_grammar
from edge_agent.chat.json_schema import Schema
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tool_calls import (
    BareParser,
    Call,
    GenericParser,
    Parser,
    TaggedParser,
    Tools,
    WrappedParser,
)
from edge_agent.chat.tools import Tool, parse_choice, parse_tools
from edge_agent.records.generation import Grammar, TokenEvent
from edge_agent.records.query import Delta

Style = Literal["tagged", "bare", "generic"]

_PARSERS: dict[Style, Callable[[Tools], Parser]] = {
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
    answer: Schema | None
    """What the answer must be where it is no call; None if it is text."""
    grammar: Grammar | None
    """Of the output; None if text and calls may mix freely."""

    @classmethod
    def choose(
        cls,
        template: ChatTemplate,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: Any = None,
        parallel: bool | None = None,
        answer: Schema | None = None,
    ) -> "ToolFormat | None":
        """The format for a request, or None if no tool may be called.

        parallel: `parallel_tool_calls`; None means true. answer: that of `response_format`.
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
        grammar = _grammar(style, may_call, required, many, answer)
        return cls(style, may_call, required, many, answer, grammar)

    @property
    def ignored(self) -> tuple[str, ...]:
        """What the grammar leaves out of the tools' schemas."""
        if self.grammar is None:
            return ()
        return tuple(f"{tool.name}: {text}" for tool in self.tools for text in tool.schema.ignored)

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
        if self.required:
            answer = ""
        elif self.answer is None:
            answer = ' To answer the user, write {"response": "…"}.'
        else:
            answer = " To answer the user, write the answer itself as JSON."
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
        style: Style = tool_format.style
        self._kind: Callable[[Tools], Parser] = _PARSERS[style]
        if style == "generic" and tool_format.answer is not None:
            self._kind = WrappedParser
        elif tool_format.grammar is None:
            self._kind = FreeParser
        self._parsers: dict[int, Parser] = {}
        self._calls: dict[int, int] = {}

    def feed(self, event: TokenEvent) -> list[Delta]:
        """Take the next piece of a choice; returns what is certain by now.

        Log-probs, token ids and the finish reason stay with the event they came with; "stop"
        becomes "tool_calls" if the choice called a tool.
        """
        index, reason = event.index, event.finish_reason
        parser = self._parsers.setdefault(index, self._kind(self._tools))
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


def _grammar(
    style: Style, tools: Sequence[Tool], required: bool, many: bool, answer: Schema | None
) -> Grammar | None:
    """A call, or what `answer` allows. Native forms are free where neither is asked for."""
    if style != "generic" and not required and answer is None:
        return None
    schemas: dict[str, Mapping[str, Any]] = {}
    key, calls = "parameters" if style == "bare" else "arguments", list[str]()
    for i, tool in enumerate(tools):
        schemas[f"tool_{i}"] = tool.schema.json
        name = f'"{{" {_quoted("name")} ":" {_quoted(tool.name)} ","'
        calls.append(f'{name} {_quoted(key)} ":" @tool_{i} "}}"')
    if style == "tagged":
        start = '("<tool_call>" call "</tool_call>")' + ("+" if many else "")
    elif style == "bare":
        start = "call"
    elif many:
        start = f'"{{" {_quoted("tool_calls")} ":" "[" call ("," call)* "]" "}}"'
    else:
        start = f'"{{" {_quoted("tool_call")} ":" call "}}"'
    if not required and answer is not None:
        start += " | @answer"
        schemas["answer"] = answer.json
    elif not required:
        start += f' | "{{" {_quoted("response")} ":" @response "}}"'
        schemas["response"] = TEXT
    return lark_grammar([f"start: {start}", f"call: {' | '.join(calls)}"], schemas)


def _quoted(name: str) -> str:
    """A lark literal that matches `name` as JSON writes it."""
    return json.dumps(json.dumps(name))
