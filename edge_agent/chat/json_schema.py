"""Two JSON schemas as one that asks for both (`allOf`).

JSON Schema to GBNF: a grammar whose every sentence is valid against the schema.

The grammar may be narrower than the schema: properties come in the schema's order, and undeclared
ones only where none is declared. `oneOf` is read as `anyOf`. A constraint that a grammar cannot
hold is refused, or left out when lax.
The keywords themselves are read in `schema_keywords`.
"""

from collections.abc import Mapping
from typing import Any

from edge_agent.chat.gbnf import STRING_CHARACTER, Grammar, json_literal, repeat, separated, union
from edge_agent.chat.json_values import PatternError, integers, numbers, pattern_to_gbnf
from edge_agent.chat.schema_keywords import (
    BY_TYPE,
    FORMATS,
    Schema,
    SchemaError,
    bounds_of,
    count_of,
    has_type,
    implied_type,
    list_of,
    resolve,
    supported,
)

_MAX_COMPARISONS = 1_000_000


class CannotMerge(ValueError):
    """The two schemas hold constraints that no single schema expresses."""


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Valid against the result is what is valid against both."""
    result = dict(first)
    for key, value in second.items():
        result[key] = _both(key, result[key], value) if key in result else value
    return result


def _both(key: str, a: Any, b: Any) -> Any:  # noqa: PLR0911 (one a keyword)
    if a == b:
        return a
    if key in ("enum", "required") and len(a) * len(b) > _MAX_COMPARISONS:
        raise CannotMerge(f"two {key!r} of {len(a)} and {len(b)} values are too much to combine")
    if key == "properties":
        return {
            **a,
            **{name: {"allOf": [a[name], s]} if name in a else s for name, s in b.items()},
        }
    if key == "required":
        return [*a, *(name for name in b if name not in a)]
    if key == "enum":
        return [value for value in a if value in b]
    if key == "type":
        return _types(a, b)
    if key in ("items", "additionalProperties") and not (
        isinstance(a, list) or isinstance(b, list)
    ):
        return False if a is False or b is False else {"allOf": [a, b]}
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems"):
        return max(a, b)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems"):
        return min(a, b)
    raise CannotMerge(f"two different {key!r} cannot be combined")


def _types(a: Any, b: Any) -> list[str]:
    first, second = ([t] if isinstance(t, str) else list(t) for t in (a, b))
    common = [t for t in first if t in second]
    if "integer" not in common and "number" in first + second and "integer" in first + second:
        common.append("integer")
    if not common:
        raise CannotMerge(f"no value is both {a} and {b}")
    return common


__all__ = ["SchemaError", "add_schema", "schema_to_gbnf"]

_MAX_RULES = 2000
_MAX_STEPS = 20_000
_MAX_DEPTH = 64


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
        schema = supported(schema, path, lax=self._lax)
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

    def _reference(self, pointer: Any, path: str) -> str:
        """The rule of a `$ref` target; made once, so recursive schemas end."""
        target = resolve(self._document, pointer, path)
        if pointer not in self._by_pointer:
            name = self._grammar.reserve(f"{self._hint}-{str(pointer).rpartition('/')[2]}")
            self._by_pointer[pointer] = name
            self._grammar.define(name, self._visit(target, pointer, 0))
        return self._by_pointer[pointer]

    def _flattened(self, schema: Schema, path: str, depth: int = 0) -> dict[str, Any]:
        """`schema` with `$ref` and `allOf` merged into it."""
        self._step(path)
        if depth > _MAX_DEPTH:
            raise SchemaError("allOf and $ref go round in a circle", path)
        result = {k: v for k, v in schema.items() if k not in ("$ref", "allOf")}
        parts = list(list_of(schema, "allOf", path))
        if "$ref" in schema:
            parts.append(resolve(self._document, schema["$ref"], path))
        for part in parts:
            if not isinstance(part, Mapping):
                raise SchemaError("a schema must be an object", path)
            flat = self._flattened(supported(part, path, lax=self._lax), path, depth + 1)
            try:
                result = merge(result, flat)
            except CannotMerge as error:
                raise SchemaError(str(error), path) from error
        return result

    def _alternatives(self, schema: Schema, key: str, path: str, depth: int) -> str:
        rest = {k: v for k, v in schema.items() if k != key}
        found = []
        for i, part in enumerate(list_of(schema, key, path)):
            whole = {"allOf": [rest, part]} if rest else part
            found.append(self._visit(whole, f"{path}/{key}/{i}", depth + 1))
        if not found:
            raise SchemaError(f"{key} is empty", path)
        return union(found)

    def _constants(self, schema: Schema, path: str) -> str:
        values = [schema["const"]] if "const" in schema else list_of(schema, "enum", path)
        if "type" in schema:
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            values = [v for v in values if any(has_type(v, t) for t in types)]
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
            kind = implied_type(schema)
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
        required = list_of(schema, "required", path)
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
        prefix = list_of(schema, "prefixItems", path)
        if isinstance(items, list):
            prefix, items = items, False
        least = count_of(schema, "minItems", path, lax=self._lax) or 0
        most = count_of(schema, "maxItems", path, lax=self._lax)
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
        least = count_of(schema, "minLength", path, lax=self._lax) or 0
        most = count_of(schema, "maxLength", path, lax=self._lax)
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
            body = FORMATS[schema["format"]]
        elif least or most is not None:
            body = repeat(STRING_CHARACTER, least, most)
        else:
            return "string"
        return self._grammar.add(self._name(path), rf'"\"" {body} "\""')

    def _number(self, schema: Schema, kind: str, path: str) -> str:
        if not BY_TYPE["number"] & schema.keys():
            return kind
        bounds = bounds_of(schema, kind, path)
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
