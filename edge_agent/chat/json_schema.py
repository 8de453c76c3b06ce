"""JSON schemas as llguidance follows them: what it cannot follow is left out, or refused.

Standard: JSON Schema 2020-12, and the older forms that pydantic and zod still write. What of it
llguidance follows: its docs/json_schema.md.

Answers are narrower than the standard where that helps a small model to stop: properties come in
the schema's order, and undeclared ones only where none is declared.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.chat import guidance
from edge_agent.chat.schema_size import SchemaError, check_size, resolve

_UNSUPPORTED = frozenset(
    """
    not if then else propertyNames dependentRequired dependentSchemas dependencies contains
    minContains maxContains uniqueItems unevaluatedItems unevaluatedProperties $dynamicRef
    $recursiveRef
    """.split()  # noqa: SIM905
)
_FORMATS = frozenset(
    "date-time time date duration email hostname ipv4 ipv6 uuid uri".split()  # noqa: SIM905
)
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_LISTS = frozenset({"prefixItems", "anyOf", "oneOf", "allOf"})
_SINGLE = frozenset({"items", "additionalItems", "additionalProperties"})
_ITEMS = _SINGLE | {"prefixItems"}
_IN_PLACE = frozenset({"anyOf", "oneOf", "allOf", "$ref"})
_BY_TYPE = {
    "object": frozenset({"properties", "required", "additionalProperties", "patternProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
}
_OPTIONAL = (
    "pattern", "patternProperties", "minProperties", "maxProperties", "multipleOf", "format",
)  # fmt: skip
"""What is left out, one after the other, where llguidance cannot follow all of it together."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that llguidance accepts."""

    json: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    """What answers need not hold to, e.g. "uniqueItems at #/properties/tags"."""


def read_schema(document: Any, *, strict: bool = False) -> Schema:
    """`document` as llguidance follows it.

    strict: refuse what it cannot follow. Else that is left out, and named in `ignored`. A `format`
    that it does not know is no constraint by the standard, so it is always left out.
    Raises SchemaError for what is unsupported, no schema, too large, or contradicts itself.
    """
    try:
        document = _without_nulls(document)
        check_size(document)
        reader = _Reader(document, strict=strict)
        return reader.schema()
    except RecursionError:
        raise SchemaError("the schema is nested too deeply", "#") from None
    except SchemaError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise SchemaError(f"the schema is malformed: {error}", "#") from error


def _without_nulls(schema: Any) -> Any:
    """Generators write a keyword that they leave open as null, e.g. Go an empty "required"."""
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None and key not in ("const", "default"):
            continue
        if key in _MAPS and isinstance(value, dict):
            found[key] = {name: _without_nulls(inner) for name, inner in value.items()}
        elif key in _LISTS | _SINGLE and isinstance(value, list):
            found[key] = [_without_nulls(inner) for inner in value]
        else:
            found[key] = _without_nulls(value) if key in _SINGLE else value
    return found


class _Reader:
    def __init__(self, document: Mapping[str, Any] | bool, *, strict: bool) -> None:
        self._document: Any = {} if document is True else document
        self._strict = strict
        self._ignored: list[str] = []
        self._parts: set[int] = set()
        """Schemas that hold together with others: these may declare further properties."""
        self._find_parts(self._document, False)

    def schema(self) -> Schema:
        """The whole document, tried on llguidance."""
        found = self._visit(self._document, "#")
        found["x-guidance"] = {
            "whitespace_pattern": guidance.WHITE_SPACE,
            "json_allow_general_unicode_escapes": True,
            "lenient": not self._strict,
        }
        refusal = None
        for keyword in (None, *(() if self._strict else _OPTIONAL)):
            if keyword is not None and not self._leave_out(keyword, found):
                continue
            error, warnings = guidance.problems(guidance.schema_grammar(found))
            if error is None:
                return Schema(found, tuple(dict.fromkeys([*self._ignored, *warnings])))
            refusal = refusal or error
        raise SchemaError(_one_line(refusal or ""), "#")

    def _leave_out(self, keyword: str, schema: dict[str, Any]) -> bool:
        """Remove `keyword` everywhere; True if it was anywhere."""
        holders = [s for s in _subschemas(schema) if keyword in s]
        for holder in holders:
            del holder[keyword]
        if holders:
            self._ignored.append(keyword)
        return bool(holders)

    def _unsupported(self, keyword: str, path: str, why: str = "") -> None:
        if self._strict:
            raise SchemaError(f"unsupported {keyword!r}{why and f' ({why})'}", path)
        self._ignored.append(f"{keyword} at {path}")

    def _visit(self, schema: Any, path: str) -> Any:
        if isinstance(schema, bool):
            return schema
        found: dict[str, Any] = {}
        for key, value in schema.items():
            if key == "x-guidance":
                continue
            if key in _UNSUPPORTED:
                if not self._is_idle(key, value):
                    self._convert(key, schema, found, path)
            elif key in _MAPS:
                inner = {k: self._visit(s, f"{path}/{key}/{k}") for k, s in value.items()}
                found[key] = {**found.get(key, {}), **inner}
            elif key in _LISTS or (key in _SINGLE and isinstance(value, list)):
                found[key] = [self._visit(s, f"{path}/{key}/{i}") for i, s in enumerate(value)]
            elif key in _SINGLE:
                found.setdefault(key, self._visit(value, f"{path}/{key}"))
            else:
                found[key] = value
        self._check_strings(found, path)
        if "oneOf" in found:
            self._one_of(schema, found, path)
        self._close(schema, found)
        if found.pop("nullable", None) is True:
            return {"anyOf": [found, {"type": "null"}]}
        return found

    def _is_idle(self, key: str, value: Any) -> bool:
        """True if the keyword constrains nothing, e.g. uniqueItems: false."""
        if key == "propertyNames":
            return value is True or (
                isinstance(value, Mapping) and value.get("type") == "string" and len(value) == 1
            )
        return value in (False, 0, {}) and key not in ("not", "contains", "unevaluatedProperties")

    def _convert(
        self, key: str, schema: Mapping[str, Any], found: dict[str, Any], path: str
    ) -> None:
        """`propertyNames` of a map can be written otherwise (zod's records, pydantic's Dict)."""
        names = schema[key]
        if isinstance(names, Mapping) and "$ref" in names:
            names = resolve(self._document, names["$ref"], path) or names
        is_map = key == "propertyNames" and isinstance(names, Mapping) and not (
            schema.get("properties") or "patternProperties" in schema
        )  # fmt: skip
        extra = schema.get("additionalProperties", True)
        if is_map and isinstance(names.get("enum"), list):
            value = self._visit(extra, f"{path}/additionalProperties")
            found["properties"] = {str(name): value for name in names["enum"]}
        elif is_map and "pattern" in names:
            value = self._visit(extra, f"{path}/additionalProperties")
            found["patternProperties"] = {names["pattern"]: value}
        else:
            self._unsupported(key, path)
            return
        found["additionalProperties"] = False

    def _check_strings(self, found: dict[str, Any], path: str) -> None:
        """Leave out what no regular expression holds, e.g. the look-ahead of zod's e-mail."""
        if "format" in found and found["format"] not in _FORMATS:
            self._ignored.append(f"format {found.pop('format')!r} at {path}")
        if "pattern" in found:
            error = _pattern_error(found["pattern"])
            if error is not None:
                self._unsupported("pattern", path, error)
                del found["pattern"]
        for pattern in list(found.get("patternProperties", ())):
            error = _pattern_error(pattern)
            if error is not None:
                self._unsupported("patternProperties", path, error)
                del found["patternProperties"][pattern]

    def _one_of(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        """Read `oneOf` as `anyOf`, which is the same where no value fits two alternatives."""
        if "anyOf" in found:
            found["allOf"] = [*found.get("allOf", []), {"anyOf": found.pop("oneOf")}]
        else:
            found["anyOf"] = found.pop("oneOf")
        if "discriminator" not in schema and not self._exclusive(schema["oneOf"], path):
            self._unsupported("oneOf", path, "its alternatives may overlap")

    def _exclusive(self, branches: list[Any], path: str) -> bool:
        tags = [self._tags(branch, path) for branch in branches]
        for name in set.intersection(*map(set, tags)) if tags else ():
            sets = [branch[name] for branch in tags]
            if sum(map(len, sets)) == len(set.union(*sets)):
                return True
        return False

    def _tags(self, branch: Any, path: str) -> dict[str, set[str]]:
        """What may tell a branch from others: its types, its values, constants in it."""
        if isinstance(branch, Mapping) and "$ref" in branch:
            branch = resolve(self._document, branch["$ref"], path)
        if not isinstance(branch, Mapping):
            return {}
        found: dict[str, set[str]] = {}
        if "type" in branch:
            kinds = branch["type"]
            kinds = {kinds} if isinstance(kinds, str) else set(kinds)
            found["type"] = kinds | ({"integer"} if "number" in kinds else set())
        if (values := _constants(branch)) is not None:
            found["value"] = values
        for name in branch.get("required", ()):
            values = _constants(branch.get("properties", {}).get(name))
            if values is not None:
                found[f"property {name}"] = values
        return found

    def _close(self, schema: Mapping[str, Any], found: dict[str, Any]) -> None:
        """Name the type that keywords imply; declare that undeclared properties are none."""
        stands_alone = id(schema) not in self._parts and not _IN_PLACE & found.keys()
        if stands_alone and not {"type", "const", "enum"} & found.keys():
            implied = [kind for kind, keys in _BY_TYPE.items() if keys & found.keys()]
            if len(implied) == 1:
                found["type"] = implied[0]
        extra = {"additionalProperties", "patternProperties"}
        if stands_alone and found.get("properties") and not extra & found.keys():
            for name in found.get("required", ()):
                found["properties"].setdefault(name, True)
            found["additionalProperties"] = False

    def _find_parts(self, schema: Any, part: bool) -> None:
        if not isinstance(schema, Mapping) or id(schema) in self._parts:
            return
        if part:
            self._parts.add(id(schema))
        part = part or len(_IN_PLACE & schema.keys()) > 1 or bool(
            _IN_PLACE & schema.keys() and any(k & schema.keys() for k in _BY_TYPE.values())
        )  # fmt: skip
        for key in ("anyOf", "oneOf", "allOf"):
            for branch in schema.get(key, ()):
                self._find_parts(branch, part or key == "allOf")
        if part and "$ref" in schema:
            self._find_parts(resolve(self._document, schema["$ref"], "#"), True)
        for child in _children(schema, frozenset({"properties", "patternProperties"}) | _ITEMS):
            self._find_parts(child, part)
        for child in _children(schema, frozenset({"$defs", "definitions"})):
            self._find_parts(child, False)


def _constants(schema: Any) -> set[str] | None:
    """The values that `const` or `enum` allows, as JSON; None if any may come."""
    if not isinstance(schema, Mapping) or not {"const", "enum"} & schema.keys():
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    return {json.dumps(value, sort_keys=True) for value in values}


def _pattern_error(pattern: Any) -> str | None:
    grammar = guidance.schema_grammar({"type": "string", "pattern": pattern})
    error, _ = guidance.problems(grammar)
    return (
        None if error is None else error.strip().rpartition("\n")[2].removeprefix("error: ")[:200]
    )


def _children(schema: Mapping[str, Any], keys: frozenset[str]) -> Iterator[Any]:
    for key in keys & schema.keys():
        value = schema[key]
        if key in _MAPS:
            yield from value.values()
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """`schema` and all in it."""
    if isinstance(schema, dict):
        yield schema
        for child in _children(schema, _MAPS | _LISTS | _SINGLE):
            yield from _subschemas(child)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
