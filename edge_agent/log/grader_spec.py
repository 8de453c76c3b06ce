"""What a grader spec may say: `{"type": "numeric", "tolerance": 0.01}`.

Clients send one as `edge_agent.grader`, imported examples as `grader`; the trainer runs it. The
spec lives here, below all three, so that each refuses the same mistakes in the same words.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from edge_agent.errors import InvalidRequest

MAX_SPEC_CHARS = 100_000
"""Longest spec, as JSON."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exact(_Spec):
    """The reference's text; case, white space and surrounding punctuation do not count."""

    type: Literal["exact"] = "exact"
    strict: bool = Field(False, description="Case, white space and punctuation count")


class Numeric(_Spec):
    """The reference's value, as a number or an expression (LaTeX too)."""

    type: Literal["numeric"] = "numeric"
    tolerance: float = Field(0, ge=0, allow_inf_nan=False, description="Allowed |difference|")
    extract: Literal["answer", "last_number", "whole"] = Field(
        "answer",
        description="What counts. answer: a boxed or announced answer, else the last number; "
        "last_number: always the last number; whole: the text is the number and nothing else",
    )


class Choice(_Spec):
    """One of the lettered options A to Z; naming the option's text is as good as its letter."""

    type: Literal["choice"] = "choice"
    options: tuple[str, ...] = Field(
        (), max_length=26, description="Texts of A, B, …; empty: read from the question"
    )


class Regex(_Spec):
    """A Python regular expression that matches the answer; the reference is not looked at."""

    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=2000)
    match: Literal["search", "full"] = Field("search", description="Anywhere, or the whole text")
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Json(_Spec):
    """The reference's JSON value; key order and white space do not count."""

    type: Literal["json"] = "json"
    partial: bool = Field(
        False,
        description="Score the share that is right: the mean over the fields of an object, and "
        "the items of a list, of either side; nested ones likewise",
    )


class ToolCall(_Spec):
    """The reference's tool calls, by name and arguments; no call is an answer too."""

    type: Literal["tool_call"] = "tool_call"
    accepted: tuple[dict[str, dict[str, list[Any]]], ...] | None = Field(
        None,
        max_length=100,
        description='Calls as {name: {argument: [accepted values]}}, "" among them: may be left '
        "out; in objects each value is such a list again; []: no call is right; none: those of "
        "the reference",
    )
    partial: bool = Field(
        False, description="Score the share of the names and arguments that are right"
    )


class JsonSchema(_Spec):
    """JSON that fits a schema; the reference is not looked at."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] = Field(alias="schema")

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        import jsonschema

        try:
            jsonschema.validators.validator_for(value).check_schema(value)
        except jsonschema.SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message[:200]}") from error
        except Exception as error:  # of a value that is no schema the library may raise anything
            raise ValueError(f"not a JSON schema: {type(error).__name__}") from error
        return value


class Program(_Spec):
    """One run of the whole program: what it reads, and what it must print."""

    stdin: str = ""
    stdout: str = Field(description="Trailing white space does not count")


class UnitTests(_Spec):
    """Python code that passes tests; the reference is not looked at."""

    type: Literal["unit_tests"] = "unit_tests"
    tests: tuple[str | Program, ...] = Field(
        min_length=1,
        max_length=100,
        description="Python statements that raise when the code is wrong, or runs of a program",
    )
    prefix: str = Field("", description="Code before the answer, e.g. imports")
    partial: bool = Field(False, description="Score the share of tests that pass")
    timeout_s: float = Field(5, gt=0, le=60, description="Wall-clock limit of one test")
    memory_mb: int = Field(256, ge=64, le=2048)

    @field_validator("tests", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str | dict) else value


class Similarity(_Spec):
    """Closeness in meaning to the reference, by the cosine of sentence embeddings."""

    type: Literal["similarity"] = "similarity"
    floor: float = Field(
        0.4, ge=-1, lt=1, description="Cosine that scores 0; from there it rises linearly to 1"
    )


class Feedback(_Spec):
    """The user's rating, for the very text that was rated; other texts as if no spec was sent."""

    type: Literal["feedback"] = "feedback"


Spec = (
    Exact
    | Numeric
    | Choice
    | Regex
    | Json
    | JsonSchema
    | ToolCall
    | UnitTests
    | Similarity
    | Feedback
)

_SPECS: TypeAdapter[Spec] = TypeAdapter(Annotated[Spec, Field(discriminator="type")])
TYPES = tuple(kind.model_fields["type"].default for kind in get_args(Spec))


def validate(spec: Mapping[str, Any], *, param: str = "grader") -> Spec:
    """The spec as a checked value; InvalidRequest names the field, under `param`."""
    try:
        too_long = len(json.dumps(dict(spec))) > MAX_SPEC_CHARS
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{param} is not JSON: {error}", param=param) from error
    if too_long:
        raise InvalidRequest(f"{param} is longer than {MAX_SPEC_CHARS} characters", param=param)
    if spec.get("type") not in TYPES:
        raise InvalidRequest(
            f"{param}.type is one of {', '.join(TYPES)}, not {spec.get('type')!r}",
            param=f"{param}.type",
        )
    try:
        return _SPECS.validate_python(dict(spec))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # The first element of a tagged union's location is the tag.
        field = ".".join([param, *(str(part) for part in first["loc"][1:])])
        raise InvalidRequest(f"{field}: {first['msg']}", param=field) from error
