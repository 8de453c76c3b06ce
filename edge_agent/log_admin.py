"""Looking after the log: on and off, backup, prune."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database


def log_enabled(db: "Database", *, default: bool) -> bool:
    """Whether the content of queries is written down: what `logs on|off` said, else `default`."""
    row = db.execute("SELECT value FROM setting WHERE name = 'log'").fetchone()
    return default if row is None else bool(row[0] == "on")
