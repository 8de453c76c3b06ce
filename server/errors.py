"""Every error leaves in the shape of the API that was asked.

OpenAI's is {"error": {"message", "type", "param", "code"}}; Anthropic's, under /v1/messages, is
{"type": "error", "error": {"type", "message"}, "request_id"}
(https://platform.claude.com/docs/en/api/errors); Ollama's, under /api, is {"error": message}.
"""

import difflib
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from ulid import ULID

from edge_agent.errors import (
    BudgetExhausted,
    CloudDown,
    CloudRefused,
    ContextLengthExceeded,
    EdgeAgentError,
    InvalidRequest,
    NotFound,
    Unauthorized,
    Unavailable,
)
from server.openapi.shapes import AnthropicError, OllamaError, OpenAiError
from server.validation import explain

_CLIENT_CLOSED_REQUEST = 499
_ANTHROPIC, _OLLAMA = "/v1/messages", "/api/"
"""Beginnings of paths whose errors have a shape of their own."""
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""HTTP status → type; any other is an api_error."""
NO_THREADS = "thread_unsupported_request"
"""Code of the refusal upon which Anthropic's SDKs send the whole conversation instead."""


def shape_of(path: str) -> type[OpenAiError | AnthropicError | OllamaError]:
    """The shape of an error where `path` was asked."""
    if path.startswith(_OLLAMA):
        return OllamaError
    return AnthropicError if path.startswith(_ANTHROPIC) else OpenAiError


class ClientGone(Exception):
    """The client closed the connection: nobody is left to answer."""


class MethodNotAllowed(EdgeAgentError):
    """The route exists, with another method."""

    status = 405
    type = "invalid_request_error"


class BodyTooLarge(EdgeAgentError):
    """The request body exceeds server.max_body_mb."""

    status = 413
    type = "invalid_request_error"


def error_object(error: EdgeAgentError, path: str = "") -> dict[str, Any]:
    """The JSON body of `error` where `path` was asked."""
    if path.startswith(_OLLAMA):
        return {"error": error.message}
    if path.startswith(_ANTHROPIC):
        message = error.message
        if isinstance(error, ContextLengthExceeded):
            # Anthropic's sentence, which Claude Code and LangChain look for.
            message = f"prompt is too long: {error.tokens} tokens > {error.limit - 1} maximum"
        said: dict[str, Any] = {
            "type": _ANTHROPIC_TYPES.get(error.status, "api_error"),
            "message": message,
        }
        if error.code == NO_THREADS:
            said["details"] = {"error_code": NO_THREADS, "unsupported": []}
        return {"type": "error", "error": said, "request_id": f"req_{ULID()}"}
    code: str | int | None = error.code
    if code is None and isinstance(error, Unavailable):
        code = error.status  # as llama-server does while it loads
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": code,
        }
    }


def error_response(error: EdgeAgentError, path: str = "") -> JSONResponse:
    """`error` as a whole response, with the headers its status calls for.

    `path` is what was asked: it says in whose shape.
    """
    headers: dict[str, str] = {}
    retry_after_s = getattr(error, "retry_after_s", 1 if isinstance(error, Unavailable) else None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if isinstance(error, BudgetExhausted | CloudRefused | CloudDown):
        # Else the SDKs try again within seconds, and Claude Code ten times, without a word.
        headers["x-should-retry"] = "false"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body = error_object(error, path)
    if "request_id" in body:
        headers["Request-Id"] = body["request_id"]
    return JSONResponse(body, error.status, headers)


def install(app: FastAPI) -> None:
    """Make every error of `app` one of ours."""
    app.add_exception_handler(EdgeAgentError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeAgentError)
    return error_response(error, request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    path, document = request.url.path, request.app.openapi()
    operation = document["paths"].get(path, {}).get(request.method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    definitions = document["components"]["schemas"]
    return error_response(explain(error.errors(), error.body, schema, definitions), path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    ours: EdgeAgentError
    if error.status_code == 404:
        ours = NotFound(f"no such route: {where}{_meant(request)}")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        ours = MethodNotAllowed(f"method not allowed: {where}; it takes {allowed}")
    elif error.status_code == 413:
        ours = BodyTooLarge(error.detail, code="body_too_large")
    else:
        ours = InvalidRequest(str(error.detail))
    response = error_response(ours, request.url.path)
    response.headers.update(error.headers or {})
    if response.headers.get("allow") == "GET":
        response.headers["allow"] = "GET, HEAD"
    return response


def _meant(request: Request) -> str:
    """A hint at the path that may be meant: one with a prefix more or less, or nearly the same."""
    asked = request.url.path.rstrip("/")
    known = [path for path in request.app.openapi()["paths"] if "{" not in path and len(path) > 1]
    inside = [path for path in known if asked and path.endswith(asked)]
    outside = [path for path in known if asked.endswith(path)]
    near = difflib.get_close_matches(asked, known, n=1, cutoff=0.75)
    found = next(iter([*inside, *outside, *near]), None)
    return f"; did you mean {found}?" if found else ""


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _unexpected(request: Request, _error: Exception) -> Response:
    # Starlette raises it again after this, so uvicorn logs the traceback; and it answers outside
    # of every middleware, so the id is put in here.
    ours = EdgeAgentError("internal error; the daemon's log has the details")
    response = error_response(ours, request.url.path)
    response.headers["x-request-id"] = getattr(request.state, "request_id", "")
    return response
