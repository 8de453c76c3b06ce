"""Hostile schemas, tools and grammars: a clear error or a bounded answer, and the engine lives."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.chat import response_format
from edge_agent.chat.guidance import schema_grammar
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tool_format import ToolFormat
from edge_agent.engine.engine import Engine
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import Grammar
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.engine.engine_harness import ask, make_engine, prompt_of, stop
from tests.fuzzing import ANY_JSON, examples


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 900}
    return schema


def words(letter: str, count: int) -> list[str]:
    return [f"{letter}{i}" for i in range(count)]


LONG = {"type": "string", "minLength": 1000}
LISTS = {"type": "array", "items": {"$ref": "#"}}
SCHEMAS: dict[str, Any] = {
    "cycle of $ref": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "$ref to itself": {"$ref": "#"},
    "cycle of allOf": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "cycle of anyOf": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    "$ref elsewhere": {"$ref": "https://example.org/schema.json"},
    "huge enum": {"enum": words("a", 200_000)},
    "two huge enums": {"allOf": [{"enum": words("a", 100_000)}, {"enum": words("b", 100_000)}]},
    "two huge lists": {
        "allOf": [{"required": words("a", 50_000)}, {"required": words("b", 50_000)}]
    },
    "deep": deep(60),
    "too deep": deep(500),
    "minItems": {"type": "array", "minItems": 10**9},
    "minItems of a float": {"type": "array", "items": {"type": "null"}, "minItems": 1e308},
    "minItems of infinity": {"type": "array", "minItems": float("inf")},
    "minLength": {"type": "string", "minLength": 10**9},
    "long but allowed": {**LONG, "maxLength": 1000},
    "many long ones": {"type": "array", "items": LONG, "minItems": 1000},
    "pattern that backtracks": {"type": "string", "pattern": "^(a+)+$"},
    "pattern that backtracks twice": {"type": "string", "pattern": "^((a|a)*b?)*c$"},
    "pattern of copies": {"type": "string", "pattern": "^((((a{900}){900}){900}){900})$"},
    "pattern of optional copies": {"type": "string", "pattern": "^(a?){900}a{900}$"},
    "pattern that is none": {"type": "string", "pattern": "(" * 900},
    "many properties": {"properties": {name: {"type": "null"} for name in words("p", 20_000)}},
    "huge bounds": {"type": "integer", "minimum": -(10**400), "maximum": 10**400},
    "no number": {"type": "number", "minimum": 3, "maximum": 2},
    "alternatives of alternatives": {"anyOf": [{"anyOf": [LISTS] * 40}] * 40},
    "many alternatives": {"anyOf": [{**LISTS, "maxItems": i} for i in range(100)]},
    "references that multiply": {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)}
        | {"d25": {"type": "null"}},
    },
    "products of enums": {"allOf": [{"enum": words("a", 90)}, {"enum": words("b", 90)}]},
    "as many properties as may be": {"properties": {name: {} for name in words("p", 450)}},
    "many pattern properties": {"patternProperties": {f"^(a|b){{{i}}}$": {} for i in range(60)}},
}
GRAMMARS = {
    "left recursion": 'root ::= root "a" | "a"',
    "long literal, many times": f'root ::= "{"a" * 100_000}"{{1999}}',
    "many long literals, many times": "\n".join(
        f'{"root" if i == 0 else f"a{i}"} ::= "{"b" * 1000}"{{1999}} a{i + 1}' for i in range(200)
    )
    + '\na200 ::= "c"',
    "copies of copies": 'root ::= (((("a"{1999}){1999}){1999}){1999})',
    "classes of copies": "root ::= [a-zA-Z0-9]{1999} ([^a]{1999}){1999}",
    "optional copies": 'root ::= (("a"? "b"?){50}){50}',
    "a chain of empties": "root ::= " + "x " * 5000 + '\nx ::= "a"?',
    "never ends": 'root ::= "a" root',
    "nothing": 'root ::= ""',
    "no such token": 'root ::= "\\U0010FFFF"',
}


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[tuple[Engine, Vocabulary, ChatTemplate]]:
    engine = make_engine(tiny_model)
    model = LlamaModel(tiny_model, vocab_only=True)
    vocabulary = Vocabulary(model)
    yield engine, vocabulary, ChatTemplate(None, vocabulary)
    stop(engine)
    model.close()


async def outcome(engine: Engine, vocabulary: Vocabulary, grammar: Grammar) -> str:
    """What the request comes to, as the server would handle it."""
    try:
        if grammar.notation == "gbnf":
            response_format.check(grammar.text, vocabulary)
        engine.grammars.prepare(grammar)
        _, (answer,) = await ask(engine, prompt_of(0, 8), grammar=grammar, max_tokens=6)
    except InvalidRequest as error:
        assert "\n" not in error.message
        return f"refused: {error.message}"
    assert len(answer.ids) <= 6
    return f"answered {answer.text!r}"


async def alive(engine: Engine) -> bool:
    _, (answer,) = await ask(engine, prompt_of(1, 8), max_tokens=2)
    return answer.finish_reason is not None


@pytest.mark.parametrize("name", SCHEMAS)
async def test_schemas(name: str, served: Any) -> None:
    engine, vocabulary, template = served
    schema, began = SCHEMAS[name], time.process_time()
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        read = response_format.from_response_format(shape)
    except InvalidRequest as error:
        assert error.param == "response_format.json_schema.schema"
        assert len(error.message) < 500
    else:
        assert read is not None
        await outcome(engine, vocabulary, schema_grammar(read.json))
    for strict in (True, False):
        parameters = {"type": "object", "properties": {"x": schema}, "$defs": schema.get("$defs")}
        function = {"name": "f", "parameters": parameters, "strict": strict}
        try:
            chosen = ToolFormat.choose(
                template, [{"type": "function", "function": function}], "required"
            )
        except InvalidRequest as error:
            assert str(error.param).startswith("tools[0]")
        else:
            assert chosen is not None
            assert chosen.grammar is not None
            await outcome(engine, vocabulary, chosen.grammar)
    assert await alive(engine)
    assert time.process_time() - began < 30


@pytest.mark.parametrize("name", GRAMMARS)
async def test_grammars(name: str, served: Any) -> None:
    engine, vocabulary, _ = served
    began = time.process_time()
    await outcome(engine, vocabulary, Grammar("gbnf", GRAMMARS[name]))
    assert await alive(engine)
    assert time.process_time() - began < 30


_SYMBOLS = st.sampled_from(
    ["a", "b", "root", '"x"', '"ab"', "[a-c]", "[^x]", ".", "(", ")", "|", "*", "+", "?", "{2}",
     "{0,3}", "{900}", '""', "\n", "::=", "#", "\\x41", '"\\U0010ffff"', "é", "\0"]
)  # fmt: skip


_KEYS = st.sampled_from(
    ["type", "pattern", "items", "anyOf", "$ref", "enum", "minItems", "properties", "required"]
)


async def test_any_grammar_and_schema(served: Any) -> None:
    engine, vocabulary, _ = served
    tried: list[Grammar] = []
    body = st.lists(_SYMBOLS, max_size=10).map(" ".join)

    @examples(60)
    @given(body, body, body, st.dictionaries(_KEYS, ANY_JSON, max_size=3))
    def collect(root: str, a: str, b: str, schema: Any) -> None:
        tried.append(Grammar("gbnf", f"root ::= {root}\na ::= {a}\nb ::= {b}"))
        shape = {"type": "json_object", "schema": schema}
        try:
            read = response_format.from_response_format(shape)
            assert read is not None
            tried.append(schema_grammar(read.json))
        except InvalidRequest as error:
            assert error.param == "response_format.schema"

    collect()
    for grammar in tried:
        await outcome(engine, vocabulary, grammar)
    assert await alive(engine)
