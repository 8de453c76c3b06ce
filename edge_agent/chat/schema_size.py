"""How much work a JSON schema makes, bounded before llguidance sees it.

llguidance has limits of its own (`guidance.LIMITS`), but nothing stops it within one step: its
time grows with the square of an object's properties, and with the cube of the alternatives that
may begin at one place.
"""

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

MAX_BYTES = 256 * 1024
"""Of a schema, as JSON."""
MAX_SCHEMAS = 2000
"""Schemas within a schema."""
MAX_PROPERTIES = 450
"""Of one object: llguidance keeps four items for each that is optional, and 2000 at most."""
MAX_REQUIRED = 1000
"""Of one object."""
MAX_DEPTH = 60
"""llguidance's JSON reader goes 128 levels deep, two or more for each schema within a schema."""
MAX_ALTERNATIVES = 100
"""Objects and arrays that may begin at one place."""
MAX_COMBINATIONS = 1000
"""Of the alternatives of schemas that must hold together."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_SINGLE = frozenset({"items", "additionalItems", "additionalProperties", "propertyNames"})
_CONSTRAINTS = frozenset(
    """
    properties required additionalProperties patternProperties items prefixItems minLength
    maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
    """.split()  # noqa: SIM905
)


class SchemaError(ValueError):
    """What cannot be followed, or is no schema. `path` is a JSON pointer ("#/…")."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(f"{message} at {path}")
        self.path = path


def check_size(document: Any) -> None:
    """Raises SchemaError if `document` is no schema or too much work, RecursionError if deep."""
    if document is False:
        raise SchemaError("nothing is valid against `false`", "#")
    if isinstance(document, Mapping):
        size = len(json.dumps(document, ensure_ascii=False, allow_nan=False))
        if size > MAX_BYTES:
            raise SchemaError(f"the schema is too large: {size} bytes, at most {MAX_BYTES}", "#")
    _Counter(document).visit(document, "#", 0)


def resolve(document: Any, pointer: Any, path: str) -> Any:
    """What the `$ref` `pointer` points to; None if it is no pointer into `document` ("#/…").

    Raises SchemaError if it points to nothing.
    """
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        return None
    target = document
    for part in pointer.split("/")[1:]:
        key = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, Mapping) and key in target:
            target = target[key]
        else:
            raise SchemaError(f"$ref {pointer!r} points to nothing", path)
    return target


class _Counter:
    def __init__(self, document: Any) -> None:
        self._document = document
        self._schemas = 0
        self._ways: dict[int, tuple[int, int]] = {}

    def visit(self, schema: Any, path: str, depth: int) -> None:
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise SchemaError(f"the schema is too large: more than {MAX_SCHEMAS} schemas", path)
        if depth > MAX_DEPTH:
            raise SchemaError(f"the schema is nested deeper than {MAX_DEPTH}", path)
        if isinstance(schema, bool):
            return
        if not isinstance(schema, Mapping):
            raise SchemaError("a schema must be an object", path)
        for step, child in _children(schema, path):
            self.visit(child, f"{path}/{step}", depth + 1)
        for key, most in (("properties", MAX_PROPERTIES), ("required", MAX_REQUIRED)):
            if len(schema.get(key, ())) > most:
                raise SchemaError(f"the object is too large: more than {most} {key}", path)
        if self.ways(schema, path)[0] > MAX_ALTERNATIVES:
            raise SchemaError(f"more than {MAX_ALTERNATIVES} alternatives", path)

    def ways(self, schema: Any, path: str) -> tuple[int, int]:
        """Alternatives of `schema`: those that are objects or arrays, and all."""
        if not isinstance(schema, Mapping):
            return 1, 1
        if id(schema) not in self._ways:
            self._ways[id(schema)] = 1, 1  # a schema that refers to itself
            self._ways[id(schema)] = self._count(schema, path)
        return self._ways[id(schema)]

    def _count(self, schema: Mapping[str, Any], path: str) -> tuple[int, int]:
        parts = [self.ways(part, path) for part in _typed(schema, "allOf", list, path)]
        for key in ("anyOf", "oneOf"):
            if key in schema:
                branches = [self.ways(branch, path) for branch in _typed(schema, key, list, path)]
                parts.append((sum(b[0] for b in branches), sum(b[1] for b in branches)))
        if "$ref" in schema:
            parts.append(self.ways(resolve(self._document, schema["$ref"], path), path))
        parts += _own(schema)
        structures = values = 1
        for some, all_ in parts:
            structures, values = structures * some, values * all_
            if len(parts) > 1 and values > MAX_COMBINATIONS:
                raise SchemaError(f"more than {MAX_COMBINATIONS} combinations", path)
        return structures, values


def _children(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Schemas within `schema`, each with the steps of its pointer."""
    for key in _MAPS:
        for name, child in _typed(schema, key, Mapping, path).items():
            yield f"{key}/{name}", child
    for key in _LISTS:
        for i, child in enumerate(_typed(schema, key, list, path)):
            yield f"{key}/{i}", child
    for key in _SINGLE & schema.keys():
        value = schema[key]
        for child in value if isinstance(value, list) else [value]:
            yield key, child


def _own(schema: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Alternatives by type or value; none if these keywords constrain nothing."""
    if "const" in schema:
        return [(0, 1)]
    if isinstance(schema.get("enum"), list):
        return [(0, len(schema["enum"]))]
    if "type" in schema:
        kinds = schema["type"]
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        return [(sum(kind in ("object", "array") for kind in kinds), len(kinds))]
    return [(1, 1)] if _CONSTRAINTS & schema.keys() else []


def _typed(schema: Mapping[str, Any], key: str, kind: type, path: str) -> Any:
    value = schema.get(key, [] if kind is list else {})
    if not isinstance(value, kind):
        raise SchemaError(f"{key} must be {'a list' if kind is list else 'an object'}", path)
    return value
