"""Renders chat templates in a process of its own; the child of `chat_template`'s worker.

The environment is that of Hugging Face's `apply_chat_template`: templates in GGUF files are
written for it.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.processes.worker_loop import serve

_MAX_MESSAGE = 300
_MAX_GROWTH, _MAX_OWN = 10, 100_000
"""Characters a template may make of each one it is given, and beside them."""


def _make_check() -> Callable[..., str | None]:
    def check(source: str) -> str | None:
        """What is wrong with the template itself, if anything."""
        try:
            _compiled(source)
        except jinja2.TemplateSyntaxError as error:
            return f"{_line(str(error.message))} (line {error.lineno})"
        except (Exception, MemoryError) as error:  # as below
            return _line(f"{type(error).__name__} {error}")
        return None

    return check


def _make_render() -> Callable[..., dict[str, str]]:
    def render(source: str, now: str, values: Mapping[str, Any]) -> dict[str, str]:
        """The text, or what the template said against the values. Raises if it is too much."""
        clock = datetime.fromisoformat(now)
        most = _MAX_GROWTH * len(json.dumps(values)) + _MAX_OWN
        try:
            text = _compiled(source).render({"strftime_now": clock.strftime, **values})
        except MemoryError:
            raise MemoryError("too much of it") from None
        except Exception as error:  # a template is a foreign program: it may raise anything
            return {"refused": _line(str(error)) or type(error).__name__}
        if len(text) > most:
            raise ValueError(f"{len(text):,} characters of text")
        return {"text": text}

    return render


def _line(text: str) -> str:
    """One line of a bounded length."""
    return " ".join(text[: 2 * _MAX_MESSAGE].split())[:_MAX_MESSAGE]


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(source)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML characters; a prompt wants them as they are."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    serve({"check": _make_check, "render": _make_render})
