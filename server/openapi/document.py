"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know.

That is the errors of each API, the names that are served, the keys, and `x-request-id`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from edge_agent.records.query import Route
from server.doors.query import MODELS
from server.errors import shape_of
from server.guard import OPEN_PATHS
from server.openapi.shapes import MEDIA_TYPE

_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of the server's API keys, as OpenAI's clients send it",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same, as Anthropic's clients send it",
    },
}
_REQUEST_ID = {
    "x-request-id": {
        "description": "The request's own `x-request-id` where it sent one, else a new one",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ERRORS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "401": (
        "The key is missing or wrong",
        {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}},
    ),
    "429": ("The queue is full, or a limit of the budget is reached", _RETRY_AFTER),
    "503": ("The model is loading, or the daemon is stopping", _RETRY_AFTER),
    "4XX": ("The request is refused; the message names the field", {}),
    "5XX": ("The daemon, or the cloud that was asked for by name, failed", {}),
}
"""Status → what it means, and its headers."""
_LOCAL_ONLY = ("/v1/embeddings", "/api/embed", "/api/embeddings", "/infill")


def describe(app: FastAPI, *, cloud: bool, keys: bool) -> None:
    """Make `app.openapi` the whole document.

    `cloud`: there is one, so that `edge-cloud` can be asked for. `keys`: requests need one.
    """
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = _SCHEMES
    if keys:
        document["security"] = [{name: []} for name in _SCHEMES]
    shapes = {shape_of(path) for path in document["paths"]}
    schemas |= {
        shape.__name__: shape.model_json_schema(ref_template="#/components/schemas/{model}")
        for shape in shapes
    }
    for shape in shapes:
        schemas |= schemas[shape.__name__].pop("$defs", {})
    for path, operations in document["paths"].items():
        names = list(_names(path, cloud=cloud))
        for operation in operations.values():
            _describe(operation, path)
            if names:
                _name_models(operation, schemas, names)
    app.openapi = lambda: document  # type: ignore[method-assign]


def _describe(operation: dict[str, Any], path: str) -> None:
    """The errors of one operation, and what every answer of it has."""
    if path in OPEN_PATHS:
        operation["security"] = []
    responses = operation["responses"]
    responses.pop("422", None)
    streamed = responses.pop("2XX", None)
    if streamed is not None:
        (content,) = streamed["content"].values()
        responses["200"].setdefault("content", {})[streamed[MEDIA_TYPE]] = content
    content = {"application/json": {"schema": _reference(shape_of(path).__name__)}}
    for status, (meaning, headers) in _ERRORS.items():
        responses[status] = {"description": meaning, "content": content, "headers": headers}
    for response in responses.values():
        response["headers"] = {**response.get("headers", {}), **_REQUEST_ID}


def _names(path: str, *, cloud: bool) -> Iterable[str]:
    """What may stand in `model` of a request to `path`."""
    if path in ("/api/show", "/api/pull", "/api/delete"):
        return  # those of the catalog as well
    for name, route in MODELS.items():
        if route is not Route.CLOUD or (cloud and path not in _LOCAL_ONLY):
            yield name
            if path.startswith("/api/"):
                yield f"{name}:latest"


def _name_models(
    operation: Mapping[str, Any], schemas: Mapping[str, Any], names: list[str]
) -> None:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    reference = body.get("schema", {}).get("$ref", "")
    field = schemas.get(reference.rpartition("/")[2], {}).get("properties", {}).get("model")
    if field is not None:
        field["enum"] = names
        field.pop("minLength", None)


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
