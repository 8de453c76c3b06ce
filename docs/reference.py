"""The reference of the documentation, written from the code: `write` makes docs/reference/.

Commands come from the parsers, settings from their model, HTTP from the OpenAPI document, metrics
from the registry, tables from a database that the migrations have just made.
"""

import inspect
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from edge_agent.__main__ import CommandGroup, root
from edge_agent.config.reference import all_settings, markdown_table, sections
from edge_agent.config.settings import Settings
from edge_agent.log import grader_spec, schema
from edge_agent.log.database import open_database
from server.app import create_app
from server.metrics import Metrics

FOLDER = Path(__file__).parent / "reference"


def write(folder: Path = FOLDER) -> None:
    """Write every page of the reference, and the OpenAPI document, into `folder`."""
    folder.mkdir(exist_ok=True)
    pages = {"cli": cli, "configuration": configuration, "http": http, "metrics": metrics}
    for name, page in (pages | {"log": log, "graders": graders}).items():
        text = "\n".join(page()) + "\n"
        _replace(folder / f"{name}.md", text)
    _replace(folder / "openapi.json", json.dumps(openapi(), indent=1, ensure_ascii=False))


def _replace(file: Path, text: str) -> None:
    """Leave an unchanged file alone: Sphinx reads again what is newer."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
    yield ""


# The command line


def commands() -> dict[str, Any]:
    """Full name ("config show") → its click command, for every command of this package."""

    def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        children: Mapping[str, Any] | None = getattr(command, "commands", None)
        if children is None:
            yield name, command
        for child, its_command in (children or {}).items():
            yield from leaves(f"{name} {child}", its_command)

    group = cast(CommandGroup, typer.main.get_command(root))
    return {
        full: leaf
        for name, point in group.points.items()
        if point.dist is not None and point.dist.name == "edge-agent"
        for full, leaf in leaves(name, group.get_command(None, name))
    }


def cli() -> Iterator[str]:
    """Every command with its arguments, options and examples."""
    found = commands()
    yield "# Command line\n"
    yield "`edge-agent COMMAND --help` prints the same text.\n"
    yield from _table(
        ("Command", "Purpose"),
        (
            (f"[`edge-agent {name}`](#edge-agent-{name.replace(' ', '-')})", _first(command.help))
            for name, command in found.items()
        ),
    )
    yield "## edge-agent\n\nThese options stand before the command.\n"
    yield from _help()
    for name in found:
        yield f"## edge-agent {name}\n"
        yield from _help(*name.split())


def _first(text: str) -> str:
    return _cell(inspect.cleandoc(text).split("\n\n")[0])


def _help(*command: str) -> Iterator[str]:
    """What `--help` prints in a terminal of 96 columns."""
    runner = CliRunner(env={"COLUMNS": "96", "TERMINAL_WIDTH": "96"})
    printed = runner.invoke(
        root, [*command, "--help"], prog_name="edge-agent", catch_exceptions=False
    )
    yield f"```text\n{printed.output.strip()}\n```\n"


# The configuration


def configuration() -> Iterator[str]:
    """Every setting with its variable, its default and its meaning."""
    yield "# Configuration\n"
    yield inspect.cleandoc(
        """
        `edge-agent` reads a TOML file (`edge-agent config path`), then the environment, then
        flags. The later source wins. `edge-agent config show` names the source of each value.

        - The variable of `server.port` is `EDGE_AGENT_SERVER_PORT`, and so on.
        - `EDGE_AGENT_CONFIG` names another file.
        - A key that does not exist is an error. The error names the nearest key.
        - `edge-agent config example` prints these settings as a file.
        - Keys are not configuration: `cloud.api_key_env` and `server.api_key_env` name
          environment variables. For the cloud a keyring entry does as well:
          `keyring set edge-agent EDGE_AGENT_CLOUD_API_KEY`.
        """
    )
    yield "\n" + markdown_table()
    yield "## Sections\n"
    yield from _table(
        ("Section", "Holds"), ((f"`{name}`", _cell(text)) for name, text in sections())
    )
    yield "## Variables\n"
    yield from _table(
        ("Variable", "Key"), ((f"`{one.variable}`", f"`{one.key}`") for one in all_settings())
    )


# HTTP


def openapi() -> dict[str, Any]:
    """The document that a daemon with a cloud and without keys serves at /openapi.json."""
    settings = Settings.model_validate({"cloud": {"url": "http://localhost/v1", "model": "any"}})
    return create_app(settings, _not_opened).openapi()


def _not_opened() -> NoReturn:
    raise AssertionError("a description needs no agent")


def http() -> Iterator[str]:
    """Every operation with the fields of its request and its answers."""
    document = openapi()
    yield "# HTTP endpoints\n"
    yield (
        "A daemon serves the OpenAPI document at `/openapi.json`, and this list at `/docs`. "
        "{download}`openapi.json <openapi.json>` is the same document. [](../api.md) says how "
        "the APIs behave.\n"
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n"
            yield f"**{_cell(operation.get('summary', ''))}**\n"
            yield _cell(operation.get("description", "")) + "\n"
            parameters = operation.get("parameters", ())
            if parameters:
                yield from _table(
                    ("Parameter", "In", "Meaning"),
                    (
                        (f"`{one['name']}`", one["in"], _cell(one.get("description", "")))
                        for one in parameters
                    ),
                )
            yield from _body(document, operation)
            yield from _table(("Status", "Meaning", "Answer"), _answers(operation["responses"]))


def _body(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    found = content.get("application/json", {}).get("schema", {})
    name = found.get("$ref", "").rpartition("/")[2]
    model = document["components"]["schemas"].get(name, found)
    required = model.get("required", ())
    rows = [
        (
            f"`{field}`{' (required)' if field in required else ''}",
            _cell(one.get("description", "")),
        )
        for field, one in model.get("properties", {}).items()
    ]
    if rows:
        yield from _table(("Field", "Meaning"), rows)


def _answers(responses: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for status, response in responses.items():
        shapes = (
            one.get("schema", {}).get("$ref", "").rpartition("/")[2]
            for one in response.get("content", {}).values()
        )
        named = ", ".join(dict.fromkeys(f"`{shape}`" for shape in shapes if shape))
        yield status, _cell(response.get("description", "")), named


# Metrics


class _Anything(int):
    """Stands for the agent: has every attribute and item, and each is 0 and is there."""

    def __bool__(self) -> bool:
        return True

    def __call__(self, *_arguments: object) -> "_Anything":
        return self

    def __getattr__(self, name: str) -> "_Anything":
        return self

    def __getitem__(self, name: object) -> "_Anything":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def metric_families() -> list[Any]:
    """Everything that /metrics can expose of a daemon, less what Prometheus tells of a process."""
    collected = Metrics()
    collected.watch(cast(Any, _Anything()))
    return [one for one in collected.registry.collect() if not one.name.startswith("process_")]


def metrics() -> Iterator[str]:
    """Every metric with its type, labels and meaning."""
    yield "# Metrics\n"
    yield inspect.cleandoc(
        """
        `/metrics` speaks Prometheus' text format and OpenMetrics. It also has `process_*`, the
        usual figures of a process. Counters end in `_total`, histograms in `_bucket`, `_sum` and
        `_count`. The metrics of training exist while a round runs.
        """
    )
    yield ""
    yield from _table(
        ("Metric", "Type", "Labels", "Meaning"),
        (
            (
                f"`{one.name}{'_total' if one.type == 'counter' else ''}`",
                one.type,
                ", ".join(f"`{label}`" for label in _labels(one)),
                _cell(one.documentation),
            )
            for one in metric_families()
        ),
    )


def _labels(family: Any) -> tuple[str, ...]:
    return tuple(getattr(family, "_labelnames", ()))


# The database


def log() -> Iterator[str]:
    """Every table and view as SQL, with the comments that the migrations carry."""
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(Path(folder) / "edge-agent.db")
        made = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL").fetchall()
        db.conn.close()
    hidden = ("sqlite_", "_sqlite_", "query_fts_", "choice_fts_")
    yield "# Log schema\n"
    yield (
        "The database is one SQLite file; `edge-agent logs path` prints where it lies. This is "
        "the schema after all migrations. A column without a comment came with a later one.\n"
    )
    yield f"```text\n{inspect.cleandoc(schema.__doc__ or '')}\n```\n"
    for title, kind in (("Views", "view"), ("Tables", "table")):
        yield f"## {title}\n"
        for found, name, sql in made:
            if found == kind and not name.startswith(hidden):
                yield f"### {name}\n\n```sql\n{sql}\n```\n"


# Graders


def graders() -> Iterator[str]:
    """Every type of grader with its fields."""
    yield "# Graders\n"
    yield (
        "What `edge_agent.grader` in a request, and `grader` in an import, may say. "
        "[](../how-to/graders.md) says how to choose one.\n"
    )
    kinds: tuple[type[BaseModel], ...] = get_args(grader_spec.Spec)
    for kind in (*kinds, grader_spec.Program):
        named = kind.model_fields.get("type")
        yield f"## {named.default if named else 'A run of a program, in `unit_tests`'}\n"
        yield _cell(kind.__doc__) + "\n"
        rows = [
            (f"`{field.alias or name}`", _default(field), _cell(field.description or ""))
            for name, field in kind.model_fields.items()
            if name != "type"
        ]
        if rows:
            yield from _table(("Field", "Default", "Meaning"), rows)


def _default(field: Any) -> str:
    return "required" if field.is_required() else f"`{json.dumps(field.default)}`"
