"""Changes to the configuration file: comments and order stay, a bad value is never written."""

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from edge_agent.config.loading import check_key, load
from edge_agent.errors import ConfigError
from models.storage import write_atomically

_PRICES = "cloud.prices"


def set_value(file: Path, key: str, text: str) -> Any:
    """Set `key` to `text`, read as a TOML value where that fits the setting; returns the value.

    `cloud.prices.NAME` sets one price. Raises ConfigError and leaves the file as it was.
    """
    path = _split(key)
    *typed, last = _readings(text)
    for value in typed:
        with contextlib.suppress(ConfigError):
            return _put(file, path, value)
    return _put(file, path, last)


def _put(file: Path, path: list[str], value: Any) -> Any:
    document = _read(file)
    table: Any = document
    for part in path[:-1]:
        table = table.setdefault(part, tomlkit.table())
    table[path[-1]] = value
    _write(file, tomlkit.dumps(document))
    return value


def unset_value(file: Path, key: str) -> bool:
    """Remove `key`, so that its default holds again; False if the file does not set it."""
    path = _split(key)
    document = _read(file)
    tables: list[Any] = [document]
    for part in path[:-1]:
        if part not in tables[-1]:
            return False
        tables.append(tables[-1][part])
    if path[-1] not in tables[-1]:
        return False
    for table, part in reversed(list(zip(tables, path, strict=True))):
        del table[part]
        if table:
            break
    _write(file, tomlkit.dumps(document))
    return True


def _split(key: str) -> list[str]:
    if key.startswith(_PRICES + "."):
        return [*_PRICES.split("."), key.removeprefix(_PRICES + ".")]
    check_key(key, "the command")
    return key.split(".")


def _readings(text: str) -> list[Any]:
    """`text` as a TOML value, and as plain text: a model's name may look like a number."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return [text]
    return [value] if isinstance(value, str | list | dict) else [value, text]


def _read(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return tomlkit.document()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error


def _write(file: Path, text: str) -> None:
    """Check `text`, then put it in place of the file in one step, readable by its owner only."""
    load(file=file, text=text, environ={})
    try:
        write_atomically(file.resolve(), text)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
