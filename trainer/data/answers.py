"""An answer as graders compare it, and as the model writes it: text, or calls of tools.

What is graded is one string. An answer that calls tools is JSON of our own form,
`{"tool_calls": [{"name": …, "arguments": {…}}, …]}`, whatever the dialect it was written in; text
beside calls is left out, since a caller acts on the calls.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edge_agent.chat.answer_form import AnswerForm
from edge_agent.chat.template import ChatTemplate
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import Grammar

Call = tuple[str, Mapping[str, Any]]
"""Name and arguments."""
_ASKED = ("tool_choice", "parallel_tool_calls", "response_format", "grammar")
"""Fields of a request that shape its answer, beside its tools."""
_FORMS_KEPT = 4096


def graded(text: str, calls: list[Mapping[str, Any]]) -> str | None:
    """The string to grade; `calls` in OpenAI's form. None where a call's arguments are no JSON."""
    found = [_call(call) for call in calls]
    known = [call for call in found if call is not None]
    if len(known) < len(found):
        return None
    return _written(known) if known else text


def calls_in(text: str) -> tuple[Call, ...] | None:
    """The calls of a graded string or of a client's reference; None where it is text.

    A reference may be one call, a list of them, or `{"tool_calls": […]}`; each call has a name
    and arguments, or is OpenAI's with a `function`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and set(value) == {"tool_calls"}:
        value = value["tool_calls"]
    listed = value if isinstance(value, list) else [value]
    found = [_call(one) for one in listed]
    return tuple(call for call in found if call is not None) if found and all(found) else None


def _call(value: Any) -> Call | None:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    return (value["name"], arguments) if isinstance(arguments, Mapping) else None


def _written(calls: list[Call]) -> str:
    listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return json.dumps({"tool_calls": listed}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Form:
    """How answers to one query are held to a grammar, read and written."""

    grammar: Grammar | None = None
    asked: AnswerForm = AnswerForm()
    chat: ChatTemplate | None = None
    """Renders calls; None: there are none to render."""

    @property
    def has_tools(self) -> bool:
        """Whether an answer may call."""
        return self.asked.tool_format is not None

    def read(self, output: str) -> str:
        """The graded string of a model's whole output, read as the daemon reads it."""
        text, calls = self.asked.read(output)
        found = graded(text, calls)
        return output if found is None else found

    def write(self, answer: str) -> str | tuple[int, ...] | None:
        """What the model has to write for a graded string: text, or token ids with their end.

        None: it cannot give that answer here.
        """
        calls = calls_in(answer) if self.has_tools else None
        written = self.asked.write(answer, calls or ())
        if not isinstance(written, dict):
            return written
        assert self.chat is not None
        try:
            return self.chat.answer(written, tools=self.asked.rendered_tools)
        except InvalidRequest:
            return None


PLAIN = Form()
"""Text of any kind."""

FormOf = Callable[[str | None, Mapping[str, Any]], Form | None]
"""Tools as JSON (None: none were given) and the request's other fields → how it is answered.

None where today's daemon would refuse the request."""


def plain(_tools: str | None, _request: Mapping[str, Any]) -> Form:
    """For who only counts queries."""
    return PLAIN


def forms(chat: ChatTemplate, check: Callable[[Grammar], None]) -> FormOf:
    """The forms of logged queries as the daemon would serve them.

    `check` raises InvalidRequest for a grammar that cannot run.
    """

    @lru_cache(_FORMS_KEPT)
    def read(tools: str | None, asked: str) -> Form | None:
        request = json.loads(asked)
        try:
            form = AnswerForm.of(
                chat,
                tools=json.loads(tools or "[]"),
                tool_choice=request.get("tool_choice"),
                parallel=request.get("parallel_tool_calls"),
                response_format=request.get("response_format"),
            )
            own = request.get("grammar")
            grammar = Grammar("gbnf", own) if own else form.grammar
            if grammar is not None:
                check(grammar)
        except InvalidRequest:
            return None
        return Form(grammar, form, chat)

    def of(tools: str | None, request: Mapping[str, Any]) -> Form | None:
        asked = {name: request[name] for name in _ASKED if request.get(name) is not None}
        return read(tools, json.dumps(asked, sort_keys=True)) if tools or asked else PLAIN

    return of
