"""JSON Schema to GBNF: a grammar whose every sentence is valid against the schema.

The grammar may be narrower than the schema: properties come in the schema's order, and undeclared
ones only where none is declared. `oneOf` is read as `anyOf`. A constraint that a grammar cannot
hold is refused, or left out when lax.
Standard: JSON Schema 2020-12, and the older forms that pydantic and zod still write.
"""

import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

from edge_agent.formats.gbnf import (
    MAX_REPETITION,
    STRING_CHARACTER,
    Grammar,
    json_literal,
    repeat,
    separated,
    union,
)
from edge_agent.formats.json_numbers import Bounds, integers, numbers
from edge_agent.formats.json_patterns import PatternError, pattern_to_gbnf
from edge_agent.formats.schema_merge import CannotMerge, merge

Schema = Mapping[str, Any]

_MAX_RULES = 2000
_MAX_STEPS = 20_000
_MAX_DEPTH = 64
_UNSUPPORTED = frozenset(
    """
    not if then else patternProperties propertyNames dependentRequired dependentSchemas
    dependencies contains minContains maxContains uniqueItems multipleOf minProperties
    maxProperties unevaluatedItems $dynamicRef $recursiveRef
    """.split()  # noqa: SIM905
)
_BY_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_BY_TYPE["integer"] = _BY_TYPE["number"]
_GENERAL = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable"})
_SUPPORTED = _GENERAL.union(*_BY_TYPE.values())
_FORMATS = {
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{3})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}
_FORMATS["date-time"] = f'{_FORMATS["date"]} "T" {_FORMATS["time"]}'


class SchemaError(ValueError):
    """What a grammar cannot express, or what is no schema. `path` is a JSON pointer ("#/…")."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(f"{message} at {path}")
        self.path = path


def schema_to_gbnf(schema: Any) -> str:
    """A whole grammar for `schema`. Raises SchemaError."""
    grammar = Grammar()
    name = add_schema(grammar, schema, "root")
    grammar.define("root", name)
    return grammar.text()


def add_schema(grammar: Grammar, schema: Any, hint: str, *, lax: bool = False) -> str:
    """Add rules for `schema`; returns the grammar element that matches it. Raises SchemaError."""
    return _Converter(grammar, schema, hint, lax=lax).convert()


class _Converter:
    def __init__(self, grammar: Grammar, document: Any, hint: str, *, lax: bool) -> None:
        self._grammar = grammar
        self._document = document
        self._hint = hint
        self._lax = lax
        self._by_pointer: dict[str, str] = {}
        self._steps = 0

    def convert(self) -> str:
        try:
            return self._visit(self._document, "#", 0)
        except RecursionError:
            raise SchemaError("the schema is nested too deeply", "#") from None
        except SchemaError:
            raise
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise SchemaError(f"the schema is malformed: {error}", "#") from error

    def _visit(self, schema: Any, path: str, depth: int) -> str:  # noqa: PLR0911 (one a case)
        if depth > _MAX_DEPTH:
            raise SchemaError(f"the schema is nested deeper than {_MAX_DEPTH}", path)
        self._step(path)
        if schema is True:
            return "value"
        if schema is False:
            raise SchemaError("nothing is valid against `false`", path)
        if not isinstance(schema, Mapping):
            raise SchemaError("a schema must be an object", path)
        schema = self._supported(schema, path)
        if not schema:
            return "value"
        if "$ref" in schema and len(schema) == 1:
            return self._reference(schema["$ref"], path)
        if schema.get("nullable") is True:
            rest = {k: v for k, v in schema.items() if k != "nullable"}
            return union([self._visit(rest, path, depth + 1), "null"])
        if "$ref" in schema or "allOf" in schema:
            return self._visit(self._flattened(schema, path), path, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternatives(schema, key, path, depth)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, path)
        return self._typed(schema, path, depth)

    def _step(self, path: str) -> None:
        """References that share targets can multiply the work beyond any bound."""
        self._steps += 1
        if self._steps > _MAX_STEPS or len(self._grammar) > _MAX_RULES:
            raise SchemaError("the schema is too large", path)

    def _supported(self, schema: Schema, path: str) -> dict[str, Any]:
        """`schema` less its annotations. Raises SchemaError for what no grammar can hold."""
        for key in schema:
            if key in _UNSUPPORTED and not _is_idle(key, schema[key]) and not self._lax:
                raise SchemaError(f"unsupported keyword {key!r}", path)
        return {
            key: value
            for key, value in schema.items()
            if key in _SUPPORTED or (key == "format" and value in _FORMATS)
        }

    def _reference(self, pointer: Any, path: str) -> str:
        """The rule of a `$ref` target; made once, so recursive schemas end."""
        target = self._resolve(pointer, path)
        if pointer not in self._by_pointer:
            name = self._grammar.reserve(f"{self._hint}-{str(pointer).rpartition('/')[2]}")
            self._by_pointer[pointer] = name
            self._grammar.define(name, self._visit(target, pointer, 0))
        return self._by_pointer[pointer]

    def _resolve(self, pointer: Any, path: str) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise SchemaError(f"$ref must point into this schema (#/…), not {pointer!r}", path)
        target = self._document
        for part in pointer.split("/")[1:]:
            key = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            else:
                raise SchemaError(f"$ref {pointer!r} points to nothing", path)
        return target

    def _flattened(self, schema: Schema, path: str, depth: int = 0) -> dict[str, Any]:
        """`schema` with `$ref` and `allOf` merged into it."""
        self._step(path)
        if depth > _MAX_DEPTH:
            raise SchemaError("allOf and $ref go round in a circle", path)
        result = {k: v for k, v in schema.items() if k not in ("$ref", "allOf")}
        parts = list(_list(schema, "allOf", path))
        if "$ref" in schema:
            parts.append(self._resolve(schema["$ref"], path))
        for part in parts:
            if not isinstance(part, Mapping):
                raise SchemaError("a schema must be an object", path)
            flat = self._flattened(self._supported(part, path), path, depth + 1)
            try:
                result = merge(result, flat)
            except CannotMerge as error:
                raise SchemaError(str(error), path) from error
        return result

    def _alternatives(self, schema: Schema, key: str, path: str, depth: int) -> str:
        rest = {k: v for k, v in schema.items() if k != key}
        found = []
        for i, part in enumerate(_list(schema, key, path)):
            whole = {"allOf": [rest, part]} if rest else part
            found.append(self._visit(whole, f"{path}/{key}/{i}", depth + 1))
        if not found:
            raise SchemaError(f"{key} is empty", path)
        return union(found)

    def _constants(self, schema: Schema, path: str) -> str:
        values = [schema["const"]] if "const" in schema else _list(schema, "enum", path)
        if "type" in schema:
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            values = [v for v in values if any(_has_type(v, t) for t in types)]
        if not values:
            raise SchemaError("no value is allowed", path)
        try:
            return union([json_literal(value) for value in values])
        except ValueError as error:
            raise SchemaError(f"a constant is no JSON: {error}", path) from error

    def _typed(self, schema: Schema, path: str, depth: int) -> str:  # noqa: PLR0911 (one a type)
        kind = schema.get("type")
        if isinstance(kind, list):
            parts = [self._typed({**schema, "type": k}, path, depth) for k in kind]
            if not parts:
                raise SchemaError("type is empty", path)
            return union(parts)
        if kind is None:
            kind = next((t for t, keys in _BY_TYPE.items() if keys & schema.keys()), None)
            if kind is None:
                return "string" if "format" not in schema else self._string(schema, path)
        if kind == "object":
            return self._object(schema, path, depth)
        if kind == "array":
            return self._array(schema, path, depth)
        if kind == "string":
            return self._string(schema, path)
        if kind in ("number", "integer"):
            return self._number(schema, kind, path)
        if kind in ("boolean", "null"):
            return str(kind)
        raise SchemaError(f"unknown type {kind!r}", path)

    def _object(self, schema: Schema, path: str, depth: int) -> str:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", not properties)
        required = _list(schema, "required", path)
        if not isinstance(properties, Mapping):
            raise SchemaError("properties must be an object", path)
        for name in required:
            if name not in properties:
                properties = {**properties, name: schema.get("additionalProperties", True)}
        if extra is not False and not properties:
            if extra is True:
                return "object"
            value = self._visit(extra, f"{path}/additionalProperties", depth + 1)
            pair = self._grammar.add(self._name(path, "pair"), f'string ":" ws {value}')
            return self._grammar.add(self._name(path), f'"{{" {separated(pair, 0, None)} ws "}}"')
        return self._declared(properties, set(required), path, depth)

    def _declared(
        self, properties: Mapping[str, Any], required: set[str], path: str, depth: int
    ) -> str:
        """Two chains of rules: what may follow "{", and what may follow a property."""
        first = after = '""'
        for name in reversed(list(properties)):
            value = self._visit(properties[name], f"{path}/properties/{name}", depth + 1)
            pair = self._grammar.add(
                self._name(path, name, "pair"), f'{json_literal(name)} ":" ws {value}'
            )
            starts, follows = f"ws {pair} {after}", f'"," ws {pair} {after}'
            if name not in required:
                starts, follows = f"{starts} | {first}", f"{follows} | {after}"
            first = self._grammar.add(self._name(path, name, "first"), starts)
            after = self._grammar.add(self._name(path, name, "next"), follows)
        return self._grammar.add(self._name(path), f'"{{" {first} ws "}}"')

    def _array(self, schema: Schema, path: str, depth: int) -> str:
        items = schema.get("items", "prefixItems" not in schema)
        prefix = _list(schema, "prefixItems", path)
        if isinstance(items, list):
            prefix, items = items, False
        least = self._count(schema, "minItems", path) or 0
        most = self._count(schema, "maxItems", path)
        prefix = prefix if most is None else prefix[:most]
        head = [self._visit(s, f"{path}/prefixItems/{i}", depth + 1) for i, s in enumerate(prefix)]
        if items is False or (most is not None and most <= len(head)):
            if least > len(head):
                raise SchemaError(f"minItems asks for {least}, but only {len(head)} fit", path)
            tail = ""
        else:
            item = self._visit(items, f"{path}/items", depth + 1)
            least, most = max(least - len(head), 0), None if most is None else most - len(head)
            tail = repeat(f'("," ws {item})', least, most) if head else separated(item, least, most)
        body = " ".join(["ws", ' "," ws '.join(head), tail]) if head else tail
        return self._grammar.add(self._name(path), f'"[" {body} ws "]"')

    def _string(self, schema: Schema, path: str) -> str:
        least = self._count(schema, "minLength", path) or 0
        most = self._count(schema, "maxLength", path)
        if most is not None and least > most:
            raise SchemaError("minLength is above maxLength", path)
        if "pattern" in schema:
            if (least or most is not None) and not self._lax:
                raise SchemaError("pattern together with minLength or maxLength", path)
            try:
                body = pattern_to_gbnf(str(schema["pattern"]))
            except PatternError as error:
                if self._lax:
                    return "string"
                raise SchemaError(f"unsupported pattern: {error}", path) from error
        elif "format" in schema:
            body = _FORMATS[schema["format"]]
        elif least or most is not None:
            body = repeat(STRING_CHARACTER, least, most)
        else:
            return "string"
        return self._grammar.add(self._name(path), rf'"\"" {body} "\""')

    def _count(self, schema: Schema, key: str, path: str) -> int | None:
        count = schema.get(key)
        if count is None:
            return None
        if not isinstance(count, (int, float)) or count != int(count) or count < 0:
            raise SchemaError(f"{key} must be a whole number", path)
        if count > MAX_REPETITION:
            if self._lax:
                return None
            raise SchemaError(f"{key} is above {MAX_REPETITION}, more than a grammar holds", path)
        return int(count)

    def _number(self, schema: Schema, kind: str, path: str) -> str:
        if not _BY_TYPE["number"] & schema.keys():
            return kind
        bounds = _bounds(schema, kind, path)
        if bounds is None:
            if self._lax:
                return kind
            raise SchemaError("bounds of a number must be whole numbers below 10^15", path)
        body = integers(bounds) if kind == "integer" else numbers(bounds)
        if body is None:
            raise SchemaError("no number lies within the bounds", path)
        return self._grammar.add(self._name(path), body)

    def _name(self, path: str, *more: str) -> str:
        return "-".join([self._hint, path.rpartition("/")[2], *more])


def _list(schema: Schema, key: str, path: str) -> list[Any]:
    value = schema.get(key, [])
    if not isinstance(value, list):
        raise SchemaError(f"{key} must be a list", path)
    return value


def _is_idle(key: str, value: Any) -> bool:
    """True if the keyword constrains nothing, e.g. uniqueItems: false."""
    return value in (False, 0, {}) and key not in ("not", "contains", "propertyNames")


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return kind == "number" or (kind == "integer" and value == int(value))
    names = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return bool(kind == names[type(value)])


def _bounds(schema: Schema, kind: str, path: str) -> Bounds | None:
    """Whole-number bounds; None if a bound is too large, or a fraction where these matter."""
    low = _limit(schema, "minimum", "exclusiveMinimum", path)
    high = _limit(schema, "maximum", "exclusiveMaximum", path)
    if kind == "integer":
        low = low and (math.ceil(low[0]), low[1] and low[0] == int(low[0]))
        high = high and (math.floor(high[0]), high[1] and high[0] == int(high[0]))
    for limit in (low, high):
        if limit and (abs(limit[0]) >= 1e15 or limit[0] != int(limit[0])):
            return None
    return Bounds(
        low=int(low[0]) if low else None,
        high=int(high[0]) if high else None,
        low_open=bool(low and low[1]),
        high_open=bool(high and high[1]),
    )


def _limit(schema: Schema, key: str, exclusive: str, path: str) -> tuple[float, bool] | None:
    """The tighter of two bounds, and whether it is open. Draft 4's `true` opens the other."""
    found = []
    for name, is_open in ((key, schema.get(exclusive) is True), (exclusive, True)):
        value = schema.get(name)
        if value is None or isinstance(value, bool):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SchemaError(f"{name} must be a number", path)
        found.append((value, is_open))
    tightest = max if key == "minimum" else min
    if not found:
        return None
    value = tightest(v for v, _ in found)
    return value, any(is_open for v, is_open in found if v == value)
