"""Grammars in llguidance's notation, and how much work they may make.

Notation: llguidance, docs/syntax.md and docs/json_schema.md.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from edge_agent.records.generation import Grammar

LIMITS = LLParserLimits(initial_lexer_fuel=50_000, verbose_errors=False)
"""llguidance's default fuel lets a pattern of nested repetitions compute for 15 s."""

WHITE_SPACE = r" |\n[ \t]{0,20}"
"""Regular expression of what may stand between two tokens of JSON: at most one space, or one line
break with an indent. Small models that may put any amount of white space there never stop."""

TEXT = {"type": "string", "x-guidance": {"whitespace_pattern": WHITE_SPACE}}
"""A schema of any string, without escapes of characters that need none, surrogates among them."""


def schema_grammar(schema: Mapping[str, Any]) -> Grammar:
    """Output is JSON valid against `schema`, which `json_schema.read_schema` has read."""
    return _grammars([{"json_schema": schema}])


def lark_grammar(rules: Sequence[str], schemas: Mapping[str, Mapping[str, Any]]) -> Grammar:
    """Lark rules over JSON: the first is "start", and "@name" stands for a schema of `schemas`.

    White space between the rules' literals is that of JSON. It must be: only parts with equal
    white space may begin alike, as a call and an answer with "{" do.
    """
    text = "\n".join(
        ['%llguidance {"ignore_once": true}', f"%ignore /{WHITE_SPACE}/", *rules],
    )
    named = [{"name": name, "json_schema": schema} for name, schema in schemas.items()]
    return _grammars([{"name": "rules", "lark_grammar": text}, *named])


def _grammars(parts: list[dict[str, Any]]) -> Grammar:
    text = json.dumps({"grammars": parts}, ensure_ascii=False, allow_nan=False)
    return Grammar("llguidance", text)


def problems(grammar: Grammar) -> tuple[str | None, list[str]]:
    """Why llguidance refuses `grammar` (None if it does not), and what it warns of."""
    try:
        with panics_as_errors():
            refused, found = LLMatcher.validate_grammar_with_warnings(grammar.text, limits=LIMITS)
    except ValueError as error:
        return str(error), []
    return (found[0], []) if refused else (None, found)


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise ValueError where llguidance panics, e.g. as it shortens a text within a character.

    A panic of Rust is no `Exception` in Python, and no module offers its class.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"llguidance failed: {error}"[:300]) from error
