"""response_format and raw grammars: refused with a reason, or obeyed by the real model."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_agent.chat import response_format as grammar
from edge_agent.chat.guidance import schema_grammar
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tool_format import ToolFormat
from edge_agent.config.settings import EngineSettings
from edge_agent.engine.engine import Engine
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import (
    GenerationRequest,
    Grammar,
    SamplingParams,
    ServedModel,
    TokenEvent,
)
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.grammar_walk import accepts, grammars_of

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "rank": {"type": "integer", "minimum": 1, "maximum": 100},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "rank", "capital"],
    "additionalProperties": False,
}
PARIS = {"role": "user", "content": "Describe Paris."}


def _json_schema(schema: Any, name: Any = "answer") -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def test_text_is_free(vocabulary: Vocabulary) -> None:
    assert grammar.from_response_format({"type": "text"}) is None


def test_json_object_is_an_object(vocabulary: Vocabulary) -> None:
    read = grammar.from_response_format({"type": "json_object"})
    assert read is not None
    shape = schema_grammar(read.json)
    assert accepts(shape, '{"a": [1.5e3, "x", null]}', vocabulary)
    assert not accepts(shape, "[1]", vocabulary)


def test_large_but_ordinary_schemas_pass(vocabulary: Vocabulary) -> None:
    optional = {f"p{i}": {"type": "string", "maxLength": 500} for i in range(300)}
    codes = {"enum": [f"code-{i}" for i in range(1000)]}
    for schema in ({"type": "object", "properties": optional}, codes):
        read = grammar.from_response_format(_json_schema(schema))
        assert read is not None
        assert read.ignored == ()
        grammars_of(vocabulary).prepare(schema_grammar(read.json))


def test_strict_decides_whether_constraints_may_be_left_out() -> None:
    loose = _json_schema({"type": "array", "uniqueItems": True})
    read = grammar.from_response_format(loose)
    assert read is not None
    assert read.ignored == ("uniqueItems at #",)
    loose["json_schema"]["strict"] = True
    with pytest.raises(InvalidRequest, match="unsupported 'uniqueItems'"):
        grammar.from_response_format(loose)


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (_json_schema({}, name="a b"), "response_format.json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
        ),
        (_json_schema({"type": "strin"}), "response_format.json_schema.schema"),
        (_json_schema(7), "response_format.json_schema.schema"),
    ],
)
def test_wrong_fields_are_named(response_format: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar.from_response_format(response_format)
    assert caught.value.param == param


_DOUBLING = "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(30))
_PRODUCT = "\n".join(f'r{i} ::= r{i + 1} "a" | r{i + 1} "b"' for i in range(30))


@pytest.mark.parametrize(
    ("gbnf", "reason"),
    [
        ("", "no rule 'root'"),
        ('root ::= "a\n', "line 1: cannot read"),
        ('root ::= "a"\nroot ::= [a-', "line 2: cannot read"),
        ("root ::=\n  foo", "line 2: rule 'foo' is not defined"),
        ('rot ::= "a"', "no rule 'root'"),
        ('root ::= root "a" | "b"', "left-recursive"),
        ("root ::= a | b\na ::= b\nb ::= a", "left recursion"),
        ('root ::= ("a"', "parenthesis is not closed"),
        ('root ::= "a")', "line 1: a parenthesis has no partner"),
        ("root ::= *", "line 1: * follows nothing"),
        ("root ::= " + "(" * 50_000, "nested parentheses"),
        ('root ::= "a"{5000}', "less than 2000 times"),
        ('root ::= "a"\0', "cannot read"),
        ('root ::= ("a"?){900}', "too many ways"),
        (f'root ::= r0\n{_DOUBLING}\nr30 ::= "a"?', "too many ways"),
        (f'root ::= r0\n{_PRODUCT}\nr30 ::= "a"', "too many ways"),
        ("root ::= " + '"a" ' * 100_000, "more than 262144"),
    ],
)
def test_bad_grammars_are_refused_with_a_reason(
    gbnf: str, reason: str, vocabulary: Vocabulary
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar.check(gbnf, vocabulary)
    assert caught.value.param == "grammar"
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= "yes" | "no" # a comment with a "',
        'root ::= ( [^"\\]] | "\\"" )+ x-1\nx-1 ::= .{2,} | ""',
        "root  ::= item+\nitem ::=\n  [a-z]* |\n  ( item2 )?\nitem2 ::= [\\x41-\\u0042]{3}",
    ],
)
def test_good_grammars_pass(gbnf: str, vocabulary: Vocabulary) -> None:
    grammar.check(gbnf, vocabulary)


async def test_the_real_model_obeys_a_schema_and_calls_a_tool(smollm2: Path) -> None:
    settings = EngineSettings(threads=1, slots=2, context=1024)
    engine = Engine(ServedModel(smollm2), settings, offload_token=None)
    engine.start()
    try:
        read = grammar.from_response_format(_json_schema(SCHEMA))
        assert read is not None
        template = ChatTemplate(None, engine.vocabulary)
        events = await _events(engine, template.encode([PARIS]), schema_grammar(read.json))
        jsonschema.validate(json.loads("".join(event.text for event in events)), SCHEMA)

        tools = [{"type": "function", "function": {"name": "store", "parameters": SCHEMA}}]
        tool_format = ToolFormat.choose(template, tools, "required", parallel=False)
        assert tool_format is not None
        prompt = template.encode(tool_format.messages([PARIS]), tools=tools)
        parser = tool_format.parser()
        events = await _events(engine, prompt, tool_format.grammar)
        deltas = [delta for event in events for delta in parser.feed(event)]
        (call,) = [call for delta in deltas for call in delta.tool_calls]
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
        assert deltas[-1].finish_reason == "tool_calls"
        assert not any(delta.text for delta in deltas)
    finally:
        await engine.stop(0)


async def _events(
    engine: Engine, prompt: tuple[int, ...], constraint: Grammar | None
) -> list[TokenEvent]:
    sampling = SamplingParams(temperature=0.8, seed=1, max_tokens=200, grammar=constraint)
    return [event async for event in engine.submit(GenerationRequest(prompt, sampling))]
