"""The table `setting`: one text a name, kept by commands and by the daemon."""

import sqlite3


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    """What is kept under `name`; None if nothing is."""
    row = connection.execute("SELECT value FROM setting WHERE name = ?", [name]).fetchone()
    return None if row is None else str(row[0])


def write_setting(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep `value` under `name`, in the transaction that is open."""
    connection.execute(
        "INSERT INTO setting VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [name, value],
    )
