"""The configuration: TOML file, `EDGE_AGENT_*` environment, flags; the later wins.

A key that does not exist is an error that names the nearest one that does. Secrets are never
configuration: `cloud.api_key_env` names the environment variable (or keyring entry) that holds
the key, and `server.api_key_env` the one that holds the keys clients must send.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ValidationError

from edge_agent.config.settings import Settings
from edge_agent.errors import ConfigError

ENV_PREFIX = "EDGE_AGENT_"

Origin = Literal["default", "file", "environment", "flag"]


@dataclass(frozen=True)
class Loaded:
    """Settings and, for each dotted key, where its value comes from."""

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path


def config_file() -> Path:
    """`$EDGE_AGENT_CONFIG`, else `config.toml` in the user's configuration directory."""
    override = os.environ.get(ENV_PREFIX + "CONFIG")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_config_dir("edge-agent")) / "config.toml"


def known_keys() -> list[str]:
    """Every dotted key, in the order of the sections."""
    return list(_keys(Settings))


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    text: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Merge file, environment and flags.

    `flags` maps dotted keys ("server.port") to values; None values are ignored. `text` is read in
    place of the file's own text (to check it before it is written).
    Raises ConfigError that names the bad key, where it stands, and the nearest valid key.
    """
    path = file or config_file()
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(known_keys(), "default")
    layers: list[tuple[Origin, str, Mapping[str, Any]]] = [
        ("file", str(path), _from_file(path, text)),
        ("environment", "the environment", _from_environment(environ)),
        ("flag", "a flag", {k: v for k, v in (flags or {}).items() if v is not None}),
    ]
    for origin, where, layer in layers:
        for key, value in layer.items():
            check_key(key, where)
            values[key] = value
            origins[key] = origin
    try:
        settings = Settings.model_validate(_nest(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, path)) from error
    return Loaded(settings, origins, path)


def _from_file(path: Path, text: str | None) -> dict[str, Any]:
    if text is None and not path.exists():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8") if text is None else text)
        # TOML has no null; as in the environment, "none" unsets what has a default.
        return {key: None if value == "none" else value for key, value in _flatten(table)}
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        dotted = prefix + key
        if isinstance(value, Mapping) and dotted != "cloud.prices":
            yield from _flatten(value, dotted + ".")
        else:
            yield dotted, value


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    by_name = {ENV_PREFIX + key.replace(".", "_").upper(): key for key in known_keys()}
    reserved = {ENV_PREFIX + "CONFIG", *_secret_names(environ)}
    found: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX) or name in reserved:
            continue
        key = by_name.get(name)
        if key is None:
            nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise ConfigError(
                f"environment variable {name} is not known; did you mean {nearest[0]}?"
            )
        if text != "":
            found[key] = _parse(text)
    return found


def _secret_names(environ: Mapping[str, str]) -> set[str]:
    """Variables of our prefix that hold keys, not settings."""
    return {name for name in environ if name.endswith(("_API_KEY", "_API_KEYS"))}


def _parse(text: str) -> Any:
    """A TOML value where it is one (list, table, number, boolean), else the text itself."""
    if text[:1] in "[{":
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{text!r} is not a valid TOML value: {error}") from error
    return None if text.lower() == "none" else text


def check_key(key: str, where: str) -> None:
    """Raise ConfigError that names the nearest setting if `key`, found in `where`, is none."""
    keys = known_keys()
    if key not in keys:
        nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
        raise ConfigError(f"{key!r} in {where} is not a setting; did you mean {nearest[0]!r}?")


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        table = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
    return nested


def _explain(error: ValidationError, origins: Mapping[str, Origin], path: Path) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        origin = origins.get(key)
        where = f" (from {path})" if origin == "file" else f" (from the {origin})" if origin else ""
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{key}{where}: {message}" if key else message)
    return "; ".join(lines)
