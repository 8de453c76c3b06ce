"""Every sentence of a schema's grammar is valid JSON that fits the schema."""

import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.chat.json_schema import SchemaError, schema_to_gbnf
from edge_agent.chat.json_values import Bounds, integers, numbers
from edge_agent.chat.response_format import check
from edge_agent.errors import InvalidRequest
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.grammar_walk import accepts, random_sentence

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "email": {"type": ["string", "null"]},
    },
    "required": ["age", "email"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "boolean"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
}
SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "tree": TREE,
    "root reference": {
        "type": "object",
        "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["child"],
    },
    "same names, two definitions": {
        "type": "array",
        "prefixItems": [{"$ref": "#/$defs/a/x"}, {"$ref": "#/$defs/b/x"}],
        "$defs": {"a": {"x": {"const": 1}}, "b": {"x": {"const": 2}}},
        "items": False,
    },
    "named like a rule": {
        "$ref": "#/$defs/string",
        "$defs": {"string": {"type": "object", "properties": {"ws": {"type": "null"}}}},
    },
    "enum": {"enum": ['ä "quoted"\n', 1.5, None, {"k": [True]}]},
    "enum of one type": {"type": "string", "enum": ["x", 1, None]},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "required, undeclared": {"type": "object", "required": ["a"]},
    "allOf": {
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "null"}}}],
        "required": ["a", "b"],
        "$defs": {"base": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
    },
    "anyOf beside properties": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{3}(x|yz)?$"},
    "pattern, not anchored": {"type": "string", "pattern": r"[^a-z]\w"},
    "pattern of a class around the quote": {"type": "string", "pattern": "^[ -~]{3}$"},
    "date-time": {"type": "string", "format": "date-time"},
    "number": {"type": "number", "minimum": -2, "exclusiveMaximum": 1},
    "tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "null"}, {"type": "boolean"}],
    },
    "tuple and more": {
        "type": "array",
        "prefixItems": [{"type": "null"}],
        "items": {"type": "boolean"},
        "minItems": 3,
        "maxItems": 4,
    },
    "any object": {"type": "object"},
    "typeless": {"properties": {"a": {"minLength": 2, "maxLength": 2}}, "required": ["a"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_sentences_fit_the_schema(name: str, vocabulary: Vocabulary) -> None:
    schema = SCHEMAS[name]
    gbnf = schema_to_gbnf(schema)
    for seed in range(4):
        jsonschema.validate(json.loads(random_sentence(gbnf, vocabulary, seed)), schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (PERSON, '{"age": 7, "email": null}', '{"email": null, "age": 7}'),
        (PERSON, '{"name":"Zoë","age":120,\n  "email":"x"}', '{"age": 121, "email": null}'),
        (PERSON, '{"age": 7, "tags": ["b"], "email": null}', '{"age": 7, "tags": [], "email": ""}'),
        (PERSON, '{"name": "\\u00e9", "age": 0, "email": ""}', '{"name": "", "age": 0}'),
        (TREE, '{"value": true, "next": {"value": false, "next": null}}', '{"value": true}'),
        ({"type": "object"}, '{"a": [1, {"b": "c"}]}', '{"a":  1}'),
        ({"type": "string"}, '"tab\\t"', '"tab\t"'),
        ({"type": "string"}, '"\\u20ac"', '"\\ud800"'),
        ({"type": "array", "maxItems": 0}, "[]", "[1]"),
        ({"type": "string", "pattern": "^a+$"}, '"aa"', '"ab"'),
        ({"type": "string", "pattern": "^(a|b){2}$"}, '"ba"', '"a"'),
        ({"type": "string", "pattern": "^[[a]$"}, '"["', '"b"'),
        ({"type": "string", "pattern": "b"}, '"abc"', '"ac"'),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 2}, "1", "0"),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 2}, "1", "2"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, "2", "1"),
        ({"type": "integer", "nullable": True, "title": "a note"}, "null", "true"),
    ],
)
def test_grammar_takes_what_it_should(
    schema: dict[str, Any], good: str, bad: str, vocabulary: Vocabulary
) -> None:
    gbnf = schema_to_gbnf(schema)
    assert accepts(gbnf, good, vocabulary)
    assert not accepts(gbnf, bad, vocabulary)


def test_white_space_is_bounded(vocabulary: Vocabulary) -> None:
    gbnf = schema_to_gbnf({"type": "object"})
    assert accepts(gbnf, '{\n  "a": 1\n}', vocabulary)
    for text in ("{  }", '{\n\n"a": 1}', "{}\n", " {}", '{"a":\n' + " " * 30 + "1}"):
        assert not accepts(gbnf, text, vocabulary), text


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"not": {}}}}, "unsupported keyword 'not' at #/properties/a"),
        ({"type": "array", "uniqueItems": True}, "unsupported keyword 'uniqueItems' at #"),
        ({"$ref": "#/$defs/x"}, "$ref '#/$defs/x' points to nothing"),
        ({"$ref": "https://example.com/x"}, "$ref must point into this schema"),
        ({"type": "strin"}, "unknown type 'strin'"),
        ({"enum": []}, "no value is allowed"),
        ({"enum": 3}, "enum must be a list"),
        ({"type": "string", "maxLength": 10**9}, "maxLength is above"),
        ({"type": "string", "minLength": -1}, "minLength must be a whole number"),
        ({"type": "string", "pattern": "(?=a)b"}, "unsupported pattern"),
        ({"type": "string", "pattern": "a{99999}"}, "unsupported pattern"),
        ({"type": "string", "pattern": "(a?){900}"}, "repeats a part that may be empty"),
        ({"type": "string", "pattern": "("}, "unsupported pattern"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number lies within"),
        ({"type": "number", "minimum": 0.5}, "must be whole numbers"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no value is both"),
        ({"allOf": [{"$ref": "#"}]}, "round in a circle"),
        ({"properties": {"a": 3}}, "a schema must be an object at #/properties/a"),
        (False, "nothing is valid"),
        ("string", "a schema must be an object"),
    ],
)
def test_what_a_grammar_cannot_hold_is_refused_by_name(schema: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(message)):
        schema_to_gbnf(schema)


def test_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaError, match="nested"):
        schema_to_gbnf(schema)


def test_references_that_multiply_are_refused() -> None:
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**doubling, "d25": {"type": "null"}}}
    with pytest.raises(SchemaError, match="too large"):
        schema_to_gbnf(schema)


_KEYS = st.sampled_from(
    """
    type properties required additionalProperties items prefixItems minItems maxItems minLength
    maxLength pattern format minimum maximum exclusiveMinimum enum const anyOf allOf $ref $defs not
    """.split()  # noqa: SIM905
)
_WORDS = st.sampled_from(["object", "array", "string", "integer", "number", "null", "#", "#/x"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | _WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _WORDS, inner, max_size=4),
    max_leaves=12,
)


def test_any_json_is_a_grammar_or_refused(vocabulary: Vocabulary) -> None:
    @settings(deadline=None, max_examples=400)
    @given(st.dictionaries(_KEYS, _VALUES, max_size=4))
    def check_one(schema: dict[str, Any]) -> None:
        with contextlib.suppress(SchemaError):
            gbnf = schema_to_gbnf(schema)
            try:
                check(gbnf, vocabulary)
            except InvalidRequest as error:
                assert "left recursion" in str(error) or "can begin in too many" in str(error)

    check_one()


def _regex(gbnf: str) -> re.Pattern[str]:
    """Number rules are regular expressions but for quotes and spaces."""
    return re.compile(gbnf.replace('"."', r"\.").replace('"', "").replace(" ", ""))


_LIMIT = st.none() | st.integers(-130, 130)


@settings(deadline=None)
@given(_LIMIT, _LIMIT, st.booleans(), st.booleans())
def test_number_bounds_hold_exactly(
    low: int | None, high: int | None, low_open: bool, high_open: bool
) -> None:
    def inside(value: float) -> bool:
        return (low is None or value > low or (value == low and not low_open)) and (
            high is None or value < high or (value == high and not high_open)
        )

    bounds = Bounds(low, high, low_open, high_open)
    whole, decimal = integers(bounds), numbers(bounds)
    for n in range(-140, 141):
        assert bool(whole and _regex(whole).fullmatch(str(n))) == inside(n), n
    for tenth in range(-1400, 1401):
        text = str(tenth / 10)
        assert bool(decimal and _regex(decimal).fullmatch(text)) == inside(tenth / 10), text
