"""Two JSON schemas as one that asks for both (`allOf`)."""

from collections.abc import Mapping
from typing import Any

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
