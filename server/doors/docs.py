"""GET /docs: the OpenAPI description as one readable page.

Rendered here from /openapi.json: the pages that FastAPI offers load their scripts from a CDN,
which a daemon that promises to stay on this machine must not ask a browser to do.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin: 2rem 0 .3rem } h2 code { font-weight: normal } table { border-collapse: collapse }
td, th { border-top: 1px solid #8884; padding: .25rem .8rem .25rem 0; text-align: left }
td { vertical-align: top } code { font-family: ui-monospace, monospace } .method { color: #27c }
:root { color-scheme: light dark }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Every endpoint, what it does, and the fields of its request."""
    schema = request.app.openapi()
    sections = "".join(_sections(schema))
    title = f"{escape(schema['info']['title'])} {escape(schema['info']['version'])}"
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(schema['info']['description'])}</p>"
        f'<p>For programs: <a href="/openapi.json">/openapi.json</a></p>{sections}</html>'
    )


def _sections(schema: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            yield (
                f"<h2><code><span class=method>{method.upper()}</span> {escape(path)}</code></h2>"
                f"<p><strong>{escape(operation.get('summary', ''))}</strong><br>"
                f"{escape(operation.get('description', ''))}</p>{_fields(operation, schema)}"
            )


def _fields(operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The request body's fields as a table; nothing for an endpoint without a body."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    model = _resolve(body.get("schema", {}), schema)
    required = model.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}"
        f"<td>{escape(_type(field))}<td>{escape(field.get('description', ''))}"
        for name, field in model.get("properties", {}).items()
    )
    return f"<table><tr><th>Field<th>Type<th>Meaning{rows}</table>" if rows else ""


def _resolve(model: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(model.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = schema["components"]["schemas"].get(name, model)
    return found


def _type(field: Mapping[str, Any]) -> str:
    """A short name of a field's type: "string", "array", "Message or null"."""
    choices = field.get("anyOf", [field])
    names = [str(c.get("$ref", "")).rpartition("/")[2] or c.get("type", "any") for c in choices]
    return " or ".join(dict.fromkeys(names))
