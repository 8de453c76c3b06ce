"""`response_format` and raw GBNF: what constrains the output, checked before it runs.

Form of the input: OpenAI's `response_format` (text, json_object, json_schema).
"""

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

import llama_cpp

from edge_agent.chat.gbnf import GrammarError, examine
from edge_agent.chat.json_schema import Schema, read_schema
from edge_agent.chat.schema_size import SchemaError
from edge_agent.errors import InvalidRequest
from models.llama.vocabulary import Vocabulary

MAX_GRAMMAR_BYTES = 256 * 1024

_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_SCHEMA = "response_format.json_schema.schema"


def from_response_format(response_format: Mapping[str, Any]) -> Schema | None:
    """The schema of a `response_format`; None if it is plain text.

    Raises InvalidRequest that names the wrong field.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema")  # llama-server's extension
        schema = {"type": "object"} if schema is None else schema
        return _read(schema, "response_format.schema", strict=False)
    if kind == "json_schema":
        outer = response_format.get("json_schema")
        if not isinstance(outer, Mapping):
            raise InvalidRequest(
                "response_format.json_schema must be an object", param="response_format.json_schema"
            )
        name = outer.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise InvalidRequest(
                "response_format.json_schema.name must be 1 to 64 letters, digits, _ or -",
                param="response_format.json_schema.name",
            )
        if "schema" not in outer:
            raise InvalidRequest(f"{_SCHEMA} is missing", param=_SCHEMA)
        return _read(outer["schema"], _SCHEMA, strict=outer.get("strict") is True)
    raise InvalidRequest(
        f"response_format.type must be text, json_object or json_schema, not {kind!r}",
        param="response_format.type",
    )


def _read(schema: Any, param: str, *, strict: bool) -> Schema:
    try:
        return read_schema(schema, strict=strict)
    except SchemaError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error


def check(gbnf: str, vocabulary: Vocabulary, *, param: str = "grammar") -> None:
    """Raises InvalidRequest if `gbnf` is no grammar, or too much work for llama.cpp."""
    size = len(gbnf.encode("utf-8", "replace"))
    if size > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(
            f"{param} has {size} bytes, more than {MAX_GRAMMAR_BYTES}", param=param
        )
    try:
        examine(gbnf)
    except GrammarError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error
    reasons = _Reasons()
    logger = logging.getLogger("llama.cpp")
    logger.addHandler(reasons)
    try:
        sampler = llama_cpp.llama_sampler_init_grammar(
            vocabulary.handle, gbnf.encode("utf-8", "replace"), b"root"
        )
    finally:
        logger.removeHandler(reasons)
    if not sampler:
        reason = "; ".join(reasons.lines) or "llama.cpp cannot parse it"
        raise InvalidRequest(f"{param}: {reason}", param=param)
    llama_cpp.llama_sampler_free(sampler)


class _Reasons(logging.Handler):
    """What llama.cpp logs in this thread: other threads decode meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())
