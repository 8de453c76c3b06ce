"""Answers held against the OpenAPI document of the server that gave them."""

import functools
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import requests

_STREAMS = ("text/event-stream", "application/x-ndjson")


class Document:
    """The document of a running server."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def check(self, answer: httpx.Response | requests.Response, method: str = "") -> None:
        """Raise unless `answer` is what the document says of `method`, by default its own."""
        path = urllib.parse.urlsplit(str(answer.request.url)).path
        asked = method or str(answer.request.method).lower()
        described = self._operation(path)[asked]["responses"]
        status = str(answer.status_code)
        response = described.get(status) or described[f"{status[0]}XX"]
        assert answer.headers["x-request-id"]
        assert "x-request-id" in response["headers"]
        if "content" not in response:
            assert not answer.content
            return
        kind = answer.headers["content-type"].partition(";")[0]
        validator = self._validator(json.dumps(response["content"][kind]["schema"]))
        said = list(_parts(answer, kind))
        assert said
        for value in said:
            validator.validate(value)

    def _operation(self, path: str) -> Any:
        for template, operations in self.found["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                return operations
        raise AssertionError(f"{path} is not described")

    @functools.cache  # noqa: B019 - as many as there are shapes
    def _validator(self, schema: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator(
            {**json.loads(schema), "components": self.found["components"]}
        )


def _parts(answer: httpx.Response | requests.Response, kind: str) -> Iterator[Any]:
    """The values that a schema is about: the body, or what each event or line says."""
    if kind == "application/json":
        yield answer.json()
    elif kind not in _STREAMS:
        yield answer.text
    else:
        for line in answer.content.decode().split("\n"):
            data = line.removeprefix("data: ").strip()
            if data.startswith("{"):
                yield json.loads(data)
