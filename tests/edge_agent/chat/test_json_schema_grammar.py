"""Every sentence of a schema's grammar is valid JSON that fits the schema."""

import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.chat.guidance import problems, schema_grammar
from edge_agent.chat.json_schema import read_schema
from edge_agent.chat.schema_size import SchemaError
from edge_agent.records.generation import Grammar
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.grammar_walk import accepts, random_sentence

FORMATS = jsonschema.FormatChecker()
SAFE = 2**53 - 1
URL = {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083}


def _grammar(schema: Any, *, strict: bool = False) -> Grammar:
    return schema_grammar(read_schema(schema, strict=strict).json)


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
    "fractions": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 9.75},
    "multipleOf": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 9},
    "safe integer": {"type": "integer", "minimum": -SAFE, "maximum": SAFE},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^x-[a-z]$": {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "record": {
        "type": "object",
        "propertyNames": {"type": "string"},
        "additionalProperties": {"type": "boolean"},
    },
    "map of an enum": {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/color"},
        "additionalProperties": {"type": "integer", "minimum": 0},
        "required": ["red"],
        "$defs": {"color": {"enum": ["red", "blue"], "type": "string"}},
    },
    "map of a pattern": {
        "type": "object",
        "propertyNames": {"type": "string", "pattern": "^k[0-9]$"},
        "additionalProperties": {"type": "null"},
    },
    "union told apart by a constant": {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "$defs": {
            kind: {
                "type": "object",
                "properties": {"kind": {"const": kind}, "age": {"type": "integer"}},
                "required": ["kind", "age"],
            }
            for kind in ("cat", "dog")
        },
    },
    "typeless": {"properties": {"a": {"minLength": 2, "maxLength": 2}}, "required": ["a"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_sentences_fit_the_schema(name: str, vocabulary: Vocabulary) -> None:
    schema = SCHEMAS[name]
    grammar = _grammar(schema, strict=True)
    for seed in range(4):
        text = random_sentence(grammar, vocabulary, seed)
        jsonschema.validate(json.loads(text), schema, format_checker=FORMATS)


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
        ({"type": "string"}, '"\\u001f€\\u20ac"', '"\\ud800"'),
        ({"type": "number", "minimum": 0.5}, "0.5", "0.4"),
        ({"type": "number", "multipleOf": 0.01}, "0.25", "0.255"),
        ({"type": "integer", "maximum": SAFE}, str(SAFE), str(SAFE + 1)),
        (URL, '"https://example.org/a?b=c"', '"no address"'),
        ({"type": "string", "maxLength": 5000}, f'"{"a b " * 1250}"', f'"{"a b " * 1250}c"'),
        ({"properties": {"a": {}}, "required": ["b"]}, '{"a": 1, "b": 2}', '{"a": 1}'),
        ({"properties": {"a": {}}}, '{"a": 1}', '{"a": 1, "b": 2}'),
        ({"properties": {"a": {}}, "additionalProperties": {}}, '{"a": 1, "b": 2}', '"a"'),
        ({"type": "array", "maxItems": 0}, "[]", "[1]"),
        ({"type": "string", "pattern": "^a+$"}, '"aa"', '"ab"'),
        ({"type": "string", "pattern": "^(a|b){2}$"}, '"ba"', '"a"'),
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
    grammar = _grammar(schema)
    assert accepts(grammar, good, vocabulary)
    assert not accepts(grammar, bad, vocabulary)


def test_white_space_is_bounded(vocabulary: Vocabulary) -> None:
    grammar = _grammar({"type": "object"})
    assert accepts(grammar, '{\n  "a": 1\n}', vocabulary)
    for text in ("{  }", '{\n\n"a": 1}', "{}\n", " {}", '{"a":\n' + " " * 30 + "1}"):
        assert not accepts(grammar, text, vocabulary), text


_OVERLAP = {"oneOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 3}]}
_BOTH_OPTIONAL = {"properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"properties": {"a": {"not": {}}}}, "not' at #/properties/a"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems' at #"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern' (look-around"),
        ({"type": "string", "pattern": "("}, "pattern' ("),
        ({"type": "object", "patternProperties": {"(?!a)": {}}}, "patternProperties' (look-around"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames' at #"),
        (_OVERLAP, "oneOf' (its alternatives may overlap) at #"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired' at #"),
    ],
)
def test_what_cannot_be_followed_is_named(schema: Any, name: str, vocabulary: Vocabulary) -> None:
    with pytest.raises(SchemaError, match=re.escape(f"unsupported '{name}")):
        read_schema(schema, strict=True)
    read = read_schema(schema)
    (ignored,) = read.ignored
    assert ignored.startswith(name.partition("'")[0])
    json.loads(random_sentence(schema_grammar(read.json), vocabulary, 0))


def test_a_schema_is_followed_but_for_what_is_ignored(vocabulary: Vocabulary) -> None:
    email = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9]+\.)+[A-Za-z]{2,}$"
    schema = {
        "type": "object",
        "properties": {
            "email": {"type": "string", "format": "email", "pattern": email},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        },
        "required": ["email", "tags"],
    }
    read = read_schema(schema)
    assert read.ignored == ("pattern at #/properties/email", "uniqueItems at #/properties/tags")
    grammar = schema_grammar(read.json)
    assert accepts(grammar, '{"email": "ada@example.org", "tags": ["a", "a"]}', vocabulary)
    assert not accepts(grammar, '{"email": "ada", "tags": []}', vocabulary)
    assert not accepts(grammar, '{"email": "ada@example.org", "tags": ["c"]}', vocabulary)


def test_what_is_too_much_together_is_left_out_together() -> None:
    overlapping = {"type": "object", "patternProperties": {"^a": {}, "b$": {}}}
    assert read_schema(overlapping).ignored == ("patternProperties",)
    assert read_schema(_BOTH_OPTIONAL).ignored == ("minProperties",)
    for schema, reason in ((overlapping, "not disjoint"), (_BOTH_OPTIONAL, "min/maxProperties")):
        with pytest.raises(SchemaError, match=reason):
            read_schema(schema, strict=True)


@pytest.mark.parametrize("strict", [True, False])
def test_an_unknown_format_is_no_constraint(strict: bool) -> None:
    read = read_schema({"type": "string", "format": "file-path"}, strict=strict)
    assert read.ignored == ("format 'file-path' at #",)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#/$defs/x"}, "$ref '#/$defs/x' points to nothing"),
        ({"$ref": "https://example.com/x"}, "https://example.com/x"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"enum": []}, "Unsatisfiable"),
        ({"enum": 3}, "enum must be an array"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "Unsatisfiable"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "incompatible types"),
        ({"properties": {"a": 3}}, "a schema must be an object at #/properties/a"),
        ({"properties": [3]}, "properties must be an object at #"),
        ({"anyOf": {}}, "anyOf must be a list at #"),
        ({"minItems": "a" * 98 + "🙂"}, "llguidance failed"),
        (False, "nothing is valid"),
        ("string", "a schema must be an object"),
        ({"anyOf": [{"items": {"$ref": "#"}, "maxItems": i} for i in range(101)]}, "alternatives"),
        ({"allOf": [{"enum": list(range(40))}, {"enum": list(range(40))}]}, "combinations"),
        ({"type": "array", "prefixItems": [{}] * 2001}, "too large"),
        ({"properties": {f"p{i}": {} for i in range(451)}}, "too large"),
        ({"enum": ["a" * 300_000]}, "too large"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, message: str, strict: bool) -> None:
    with pytest.raises(SchemaError, match=re.escape(message)):
        read_schema(schema, strict=strict)


def test_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaError, match="nested"):
        read_schema(schema)


_KEYS = st.sampled_from(
    """
    type properties required additionalProperties items prefixItems minItems maxItems minLength
    maxLength pattern format minimum maximum exclusiveMinimum enum const anyOf allOf $ref $defs not
    oneOf propertyNames patternProperties multipleOf minProperties uniqueItems nullable
    """.split()  # noqa: SIM905
)
_WORDS = st.sampled_from(["object", "array", "string", "integer", "number", "null", "#", "#/x"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | _WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.booleans())
def test_any_json_is_a_schema_or_refused(schema: dict[str, Any], strict: bool) -> None:
    with contextlib.suppress(SchemaError):
        read = read_schema(schema, strict=strict)
        assert problems(schema_grammar(read.json))[0] is None
