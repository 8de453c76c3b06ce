"""JSON Schema's keywords: which of them a grammar can hold, and their values, checked.

Standard: JSON Schema 2020-12, and the older forms that pydantic and zod still write.
"""

import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

from edge_agent.chat.gbnf import MAX_REPETITION
from edge_agent.chat.json_values import Bounds

Schema = Mapping[str, Any]

_UNSUPPORTED = frozenset(
    """
    not if then else patternProperties propertyNames dependentRequired dependentSchemas
    dependencies contains minContains maxContains uniqueItems multipleOf minProperties
    maxProperties unevaluatedItems $dynamicRef $recursiveRef
    """.split()  # noqa: SIM905
)
BY_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
BY_TYPE["integer"] = BY_TYPE["number"]
_GENERAL = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable"})
_SUPPORTED = _GENERAL.union(*BY_TYPE.values())
FORMATS = {
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{3})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}
FORMATS["date-time"] = f'{FORMATS["date"]} "T" {FORMATS["time"]}'
"""What `format` may say, with the grammar of such strings."""


class SchemaError(ValueError):
    """What a grammar cannot express, or what is no schema. `path` is a JSON pointer ("#/…")."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(f"{message} at {path}")
        self.path = path


def supported(schema: Schema, path: str, *, lax: bool) -> dict[str, Any]:
    """`schema` less its annotations. Raises SchemaError for what no grammar can hold."""
    for key in schema:
        if key in _UNSUPPORTED and not _is_idle(key, schema[key]) and not lax:
            raise SchemaError(f"unsupported keyword {key!r}", path)
    return {
        key: value
        for key, value in schema.items()
        if key in _SUPPORTED or (key == "format" and value in FORMATS)
    }


def _is_idle(key: str, value: Any) -> bool:
    """True if the keyword constrains nothing, e.g. uniqueItems: false."""
    return value in (False, 0, {}) and key not in ("not", "contains", "propertyNames")


def implied_type(schema: Schema) -> str | None:
    """The type whose keywords `schema` has; None if it has none of any type."""
    return next((kind for kind, keys in BY_TYPE.items() if keys & schema.keys()), None)


def resolve(document: Any, pointer: Any, path: str) -> Any:
    """What the `$ref` `pointer` (a JSON pointer, "#/…") points to. Raises SchemaError."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise SchemaError(f"$ref must point into this schema (#/…), not {pointer!r}", path)
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


def list_of(schema: Schema, key: str, path: str) -> list[Any]:
    """The list at `key`; empty if there is none. Raises SchemaError for anything else."""
    value = schema.get(key, [])
    if not isinstance(value, list):
        raise SchemaError(f"{key} must be a list", path)
    return value


def count_of(schema: Schema, key: str, path: str, *, lax: bool) -> int | None:
    """The count at `key`; None if there is none, or when lax if no grammar holds that many."""
    count = schema.get(key)
    if count is None:
        return None
    if not isinstance(count, (int, float)) or count != int(count) or count < 0:
        raise SchemaError(f"{key} must be a whole number", path)
    if count > MAX_REPETITION:
        if lax:
            return None
        raise SchemaError(f"{key} is above {MAX_REPETITION}, more than a grammar holds", path)
    return int(count)


def has_type(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of the schema type `kind`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return kind == "number" or (kind == "integer" and value == int(value))
    names = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return bool(kind == names[type(value)])


def bounds_of(schema: Schema, kind: str, path: str) -> Bounds | None:
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
