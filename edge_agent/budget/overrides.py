"""The limits in force: those of the configuration, with what `budget set` stored on top."""

import sqlite3
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from edge_agent.errors import ConfigError
from edge_agent.settings import BudgetSettings


def read_overrides(connection: sqlite3.Connection) -> dict[str, float | None]:
    """What is stored; None: no limit."""
    return dict(connection.execute("SELECT name, value FROM budget_limit"))


def write_overrides(
    connection: sqlite3.Connection, changes: Mapping[str, float | None], unset: Iterable[str]
) -> None:
    """Store `changes`, and forget what is `unset`."""
    for name in unset:
        connection.execute("DELETE FROM budget_limit WHERE name = ?", [name])
    for name, value in changes.items():
        connection.execute(
            "INSERT INTO budget_limit VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [name, value],
        )


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is no limit's."""
    for name in names:
        if name not in BudgetSettings.model_fields:
            known = ", ".join(BudgetSettings.model_fields)
            raise ConfigError(f"{name!r} is not a limit; the limits are {known}")


def limits_in_force(seed: BudgetSettings, connection: sqlite3.Connection) -> BudgetSettings:
    """`seed` with the overrides. Raises ConfigError that names a wrong value."""
    try:
        return BudgetSettings.model_validate(seed.model_dump() | read_overrides(connection))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"budget.{first['loc'][0]}: {first['msg']}") from error
