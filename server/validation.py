"""What is wrong with a request's body: the field as it stands there, and the one that was meant."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge_agent.errors import InvalidRequest

Parsed = TypeVar("Parsed", bound=BaseModel)
Schema = Mapping[str, Any]
"""A JSON schema."""
_OURS = "edge_agent"
"""The field that holds ours, in every API."""


def validated(model: type[Parsed], body: Mapping[str, Any]) -> Parsed:
    """`body` as `model`. Raises InvalidRequest, naming the field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        errors = [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        schema = model.model_json_schema()
        raise explain(errors, body, schema, schema.get("$defs", {})) from error


def explain(
    errors: Sequence[Any], body: Any, schema: Schema, definitions: Mapping[str, Schema]
) -> InvalidRequest:
    """The most specific of pydantic's `errors`, naming the field as it stands in `body`.

    `schema` is the body's; `definitions` are those that it refers to, by name.
    """
    if not isinstance(body, dict) and errors[0]["type"] != "json_invalid":
        return InvalidRequest(
            "the body must be a JSON object, sent as Content-Type: application/json"
        )
    error = max(errors, key=lambda item: len(_path(item, body)))
    path = _path(error, body)
    param = _dotted(path)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {context.get('error', '')}")
    if kind == "extra_forbidden":
        meant = _meant(path, schema, definitions)
        hint = f"; did you mean {meant}?" if meant else ""
        return InvalidRequest(f"{param} is not supported{hint}", param=param)
    if kind == "missing":
        return InvalidRequest(f"{param} is required", param=param)
    message = error["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message[0].lower()}{message[1:]}", param=param)


def _path(error: Any, body: Any) -> list[str | int]:
    """`loc` without the names of union members that pydantic puts between the fields."""
    path: list[str | int] = []
    location = error["loc"][1:]
    for step in location:
        inside = (isinstance(body, dict) and step in body) or (
            isinstance(body, list) and isinstance(step, int) and step < len(body)
        )
        if inside:
            path.append(step)
            body = body[step]
    if error["type"] == "missing":
        path.append(location[-1])
    return path


def _dotted(path: Sequence[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _meant(
    path: Sequence[str | int], schema: Schema, definitions: Mapping[str, Schema]
) -> str | None:
    """A field beside the unknown one at `path` with nearly its name, or ours of that name."""
    beside = list(_plain([schema], definitions))
    for step in path[:-1]:
        beside = list(_plain(_inside(beside, step), definitions))
    names: set[str] = {name for place in beside for name in place.get("properties", {})}
    unknown = str(path[-1])
    nearest = difflib.get_close_matches(unknown, sorted(names), n=1, cutoff=0.8)
    if nearest:
        return nearest[0]
    ours = [place.get("properties", {}) for place in _plain(_inside(beside, _OURS), definitions)]
    return f"{_OURS}.{unknown}" if any(unknown in fields for fields in ours) else None


def _inside(places: Iterable[Schema], step: str | int) -> Iterator[Schema]:
    for place in places:
        field = (
            place.get("items") if isinstance(step, int) else place.get("properties", {}).get(step)
        )
        if isinstance(field, Mapping):
            yield field


def _plain(places: Iterable[Schema], definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    """`places` without references, each choice for itself."""
    for place in places:
        name = str(place.get("$ref", "")).rpartition("/")[2]
        if name in definitions:
            yield from _plain([definitions[name]], definitions)
        elif choices := place.get("anyOf") or place.get("oneOf") or place.get("allOf"):
            yield from _plain(choices, definitions)
        else:
            yield place
