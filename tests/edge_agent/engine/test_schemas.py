"""The real model answers to schemas as pydantic and zod write them; each answer is validated."""

import datetime
import decimal
import enum
import ipaddress
import json
import uuid
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, Field, HttpUrl

from edge_agent.chat.guidance import schema_grammar
from edge_agent.chat.json_schema import read_schema
from edge_agent.engine.engine import Engine
from edge_agent.engine.grammar import Grammars
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import Grammar
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.engine.engine_harness import ask


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    tag: Annotated[str, Field(pattern=r"^\d{3}-[a-z]+$", max_length=12)] | None = None


class Numbers(BaseModel):
    share: Annotated[float, Field(ge=0.5, lt=9.75)]
    price: Annotated[decimal.Decimal, Field(ge=0, le=1000)]
    step: Annotated[float, Field(multiple_of=0.25, ge=0, le=10)]
    big: Annotated[int, Field(gt=0, le=2**53 - 1)]


class Collections(BaseModel):
    colors: Annotated[set[Color], Field(max_length=2)]
    counts: Annotated[dict[Color, Annotated[int, Field(ge=0, le=99)]], Field(min_length=1)]
    pair: tuple[bool, Literal["x", 1, None]]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Formats(BaseModel):
    id: uuid.UUID
    day: datetime.date
    at: datetime.datetime
    ip: ipaddress.IPv4Address


ZOD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1},
        "scores": {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["a", "b"]},
            "additionalProperties": {"type": "number", "multipleOf": 0.5, "maximum": 99},
            "required": ["a", "b"],
        },
        "shape": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"k": {"type": "string", "const": k}, k: {"type": "boolean"}},
                    "required": ["k", k],
                    "additionalProperties": False,
                }
                for k in ("round", "square")
            ]
        },
    },
    "required": ["n", "scores", "shape"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "numbers": Numbers.model_json_schema(),
    "collections": Collections.model_json_schema(),
    "formats": Formats.model_json_schema(),
    "zod": ZOD,
}


def _without(keyword: str, schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _without(keyword, v) for k, v in schema.items() if k != keyword}
    return [_without(keyword, v) for v in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("name", SCHEMAS)
async def test_answers_fit_the_schema(name: str, smol_engine: Engine) -> None:
    read = read_schema(SCHEMAS[name])
    assert {text.partition(" at ")[0] for text in read.ignored} <= {"uniqueItems"}
    prompt = smol_engine.vocabulary.encode("Some JSON: ")
    _, answers = await ask(
        smol_engine,
        prompt,
        n=3,
        grammar=schema_grammar(read.json),
        temperature=1.0,
        seed=1,
        max_tokens=300,
    )
    held_to = _without("uniqueItems", SCHEMAS[name])
    for answer in answers:
        assert answer.finish_reason == "stop", answer.text
        jsonschema.validate(
            json.loads(answer.text), held_to, format_checker=jsonschema.FormatChecker()
        )


async def test_a_url_and_a_long_text_are_no_problem(smol_engine: Engine) -> None:
    class Page(BaseModel):
        url: HttpUrl
        body: Annotated[str, Field(max_length=100_000)]

    read = read_schema(Page.model_json_schema(), strict=True)
    prompt = smol_engine.vocabulary.encode('{"url": "https://example.org", "body": "A.')
    grammar = schema_grammar(read.json)
    _, [answer] = await ask(smol_engine, prompt, grammar=grammar, max_tokens=12)
    assert answer.text.startswith("{")


async def test_a_complete_answer_ends_even_without_eos(smol_engine: Engine) -> None:
    grammar = schema_grammar(read_schema({"enum": ["yes", "no"]}).json)
    prompt = smol_engine.vocabulary.encode("Yes or no? ")
    _, [answer] = await ask(smol_engine, prompt, grammar=grammar, ignore_eos=True, max_tokens=9)
    assert answer.text in {'"yes"', '"no"'}
    assert answer.finish_reason == "stop"


def test_a_schema_without_a_value_is_refused_before_it_runs(smol_engine: Engine) -> None:
    endless = schema_grammar(read_schema({"$ref": "#"}).json)
    with pytest.raises(InvalidRequest, match="no value is valid") as caught:
        smol_engine.grammars.prepare(endless, param="response_format")
    assert caught.value.param == "response_format"


async def test_a_prepared_schema_serves_many_answers(smol_engine: Engine) -> None:
    grammar = schema_grammar(read_schema({"enum": ["a", "bb", "ccc"]}).json)
    smol_engine.grammars.prepare(grammar)
    prompt = smol_engine.vocabulary.encode("Letters: ")
    for seed in range(3):
        _, answers = await ask(
            smol_engine, prompt, n=2, grammar=grammar, temperature=1.5, seed=seed, max_tokens=9
        )
        assert {answer.text for answer in answers} <= {'"a"', '"bb"', '"ccc"'}


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("gbnf", 'root ::= "a" [bc]'),
        schema_grammar({"type": "string", "pattern": "^a[bc]$"}),
    ],
    ids=["gbnf", "schema"],
)
def test_the_mask_allows_what_can_be_taken_and_no_more(grammar: Grammar, tiny_model: Any) -> None:
    with LlamaModel(tiny_model, vocab_only=True) as model:
        vocabulary = Vocabulary(model)
        grammars = Grammars(vocabulary)
        said: list[int] = []
        while True:
            row = np.zeros(vocabulary.size, np.float32)
            state = grammars.start(grammar)
            assert all(state.take(token) for token in said)
            state.mask(row)
            allowed = {int(i) for i in np.flatnonzero(row == 0)}
            for token in range(vocabulary.size):
                trial = grammars.start(grammar)
                assert all(trial.take(t) for t in said)
                assert trial.take(token) == (token in allowed), vocabulary.text(token)
                trial.close()
            state.close()
            if any(vocabulary.is_eog(token) for token in allowed):
                break
            said.append(min(allowed))
        assert vocabulary.decode(said).strip('"') == "ab"


def test_no_string_may_hold_a_control_token(smol_engine: Engine) -> None:
    vocabulary = smol_engine.vocabulary
    state = smol_engine.grammars.start(schema_grammar({"type": "string"}))
    assert state.take(vocabulary.encode('"')[0])
    row = np.zeros(vocabulary.size, np.float32)
    assert state.mask(row)
    assert vocabulary.special_tokens
    for token in vocabulary.special_tokens.values():
        assert row[token] == -np.inf, vocabulary.text(token)
        assert not state.take(token)
