"""Every setting with its default and description, read from the settings themselves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edge_agent.config.loading import ENV_PREFIX
from edge_agent.config.settings import Settings


@dataclass(frozen=True)
class Setting:
    """One dotted key. `default` is None where nothing is set."""

    key: str
    default: Any
    description: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.key.replace(".", "_").upper()


def all_settings(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Setting]:
    """Every setting, in the order of the sections."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from all_settings(kind, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            yield Setting(prefix + name, default, field.description or "")


def sections() -> Iterator[tuple[str, str]]:
    """Name and description of each table of the file."""
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield name, (kind.__doc__ or "").strip()


def toml_value(value: Any) -> str:
    """`value` as TOML that gives it back; an unset one is "none"."""
    if isinstance(value, dict):
        given = ((name, item) for name, item in value.items() if item is not None)
        pairs = (f"{json.dumps(name)} = {toml_value(item)}" for name, item in given)
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, BaseModel):
        return toml_value(value.model_dump())
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if value is None:
        return '"none"'
    if isinstance(value, Path):
        value = _with_tilde(value)
    return json.dumps(value, ensure_ascii=False)


def _with_tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def environment(settings: Settings) -> dict[str, str]:
    """Variables from which `config.load` makes `settings` again, whatever the file says."""
    found = {}
    for setting in all_settings():
        value: Any = settings
        for part in setting.key.split("."):
            value = getattr(value, part)
        if isinstance(value, Path):
            value = str(value.absolute())
        if value is None:
            value = "none"
        found[setting.variable] = value if isinstance(value, str) else toml_value(value)
    return found


def example_toml() -> str:
    """A configuration file that sets nothing: every key is there, commented out."""
    titles = dict(sections())
    lines = [
        "# edge-agent reads this file, then EDGE_AGENT_* variables, then flags; the later wins.",
        '# What is commented out is the default; "none" unsets what has one.',
        "",
    ]
    table = ""
    for setting in all_settings():
        parent, _, name = setting.key.rpartition(".")
        if parent != table:
            table = parent
            lines += ["", f"# {titles[parent]}", f"[{parent}]"]
        lines += [f"# {setting.description}", f"# {name} = {toml_value(setting.default)}"]
        if setting.key == "cloud.prices":
            lines.append('# for example: prices = { "a-model" = { input = 0.15, output = 0.60 } }')
    return "\n".join(lines) + "\n"


def markdown_table() -> str:
    """The same as a table in Markdown."""
    rows = ["| Key | Default | Meaning |", "| --- | --- | --- |"]
    for setting in all_settings():
        shown = "" if setting.default is None else f"`{toml_value(setting.default)}`"
        if setting.key == "data_dir":
            shown = "the user's data directory"
        meaning = setting.description.replace("|", "\\|")
        rows.append(f"| `{setting.key}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"
