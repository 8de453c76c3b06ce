"""Checks of what lies on disk: data directory, database, model, adapters.

Whether every answer is in the log.
"""

import contextlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.doctor.check import Check, Subject, failure, ok, warning
from edge_agent.errors import EdgeAgentError
from edge_agent.log.health import read_gap

if TYPE_CHECKING:
    from models.catalog import ResolvedModel


def data_dir(subject: Subject) -> Check:
    """Ours to write, and nobody else's to read."""
    place = subject.settings.data_dir
    if not place.exists():
        return ok("data directory", f"{place} will be created")
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return failure(
            "data directory",
            f"{place} cannot be written",
            "give it to your user, or set data_dir to another place",
        )
    open_to_others = [path for path in _private_paths(subject) if path.stat().st_mode & 0o077]
    if open_to_others:
        return warning(
            "data directory",
            f"others can read {', '.join(map(str, open_to_others))}",
            f"chmod -R go= {place}",
        )
    return ok("data directory", f"{place}, readable by you only")


def _private_paths(subject: Subject) -> list[Path]:
    database = subject.settings.database
    files = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    return [path for path in (subject.settings.data_dir, *files) if path.exists()]


def database(subject: Subject) -> Check:
    """SQLite's own quick check of the file."""
    path = subject.settings.database
    if not path.exists():
        return ok("database", "not there yet: the daemon creates it")
    restore = "stop the daemon, then edge-agent doctor --repair, or restore a backup"
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            findings = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
            if findings != ["ok"]:
                return failure("database", f"{path} is damaged: {findings[0]}", restore)
            queries = connection.execute("SELECT count(*) FROM query").fetchone()[0]
    except sqlite3.Error as error:
        return failure("database", f"{path}: {error}", restore)
    return ok("database", f"{path}: whole, {queries} queries, {path.stat().st_size / 1e6:.1f} MB")


def model(subject: Subject) -> Check:
    """The model's file is whole, known to llama.cpp, and can carry the offload decision."""
    from models.catalog import resolve
    from models.errors import EdgeAgentError, OffloadTokenError
    from models.gguf import inspect
    from models.offload_token import verify

    settings = subject.settings
    try:
        found = resolve(settings.model, settings.data_dir)
        info = inspect(found.path)
        verify(found.path, found.entry.offload_token)
    except OffloadTokenError as error:
        return failure("model", str(error), "choose one of the tokens named in the model's entry")
    except EdgeAgentError as error:
        return failure("model", str(error), "edge-agent models list shows what can be served")
    return ok(
        "model",
        f"{found.entry.name}: {info.architecture} {info.quantization}, {info.size / 1e6:.0f} MB, "
        f"offload token {found.entry.offload_token}{_proposal(found)}",
    )


def _proposal(found: "ResolvedModel") -> str:
    """A form that is faster, but less exact, which nobody takes but the user."""
    from models.catalog import model_dir
    from models.tuned import Tuned

    tuned = Tuned.load(model_dir(found.data_dir, found.entry.name))
    said = None if tuned is None else tuned.proposal(found.entry.name)
    return "" if said is None else f"; {said}"


def adapter(subject: Subject) -> Check:
    """The active adapter's files are as they were when it was promoted."""
    from models.adapters.registry import AdapterRegistry
    from models.errors import EdgeAgentError

    folder = subject.settings.data_dir / "adapters"
    if not folder.exists():
        return ok("adapter", "none yet: the base model serves")
    try:
        active = AdapterRegistry(folder).active()
        if active is None:
            return ok("adapter", "none active: the base model serves")
        AdapterRegistry(folder).verify(active.version)
    except EdgeAgentError as error:
        return failure("adapter", str(error), "edge-agent doctor --repair, or adapters rollback")
    return ok("adapter", f"{active.version}: whole")


def log(subject: Subject) -> Check:
    """What a running daemon says of its log, and what the database remembers of gaps."""
    failing = _failing(subject)
    if failing is not None:
        then = (
            "answers go unlogged"
            if subject.settings.log.on_failure == "answer"
            else "queries are refused"
        )
        return failure("log", f"cannot be written, so {then}: {failing}", "mend that: it heals")
    path = subject.settings.database
    if not path.exists():
        return ok("log", "begins with the first query")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            gap = read_gap(db)
    except sqlite3.Error:  # the check of the database says so
        return ok("log", "no gap is known")
    if gap is None:
        return ok("log", "every answer was logged")
    first, last = (
        time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (gap.first_at, gap.last_at)
    )
    return warning(
        "log",
        f"{gap.answers} answers were not logged between {first} and {last}",
        'the log could not be written then; log.on_failure = "refuse" answers nothing unlogged',
    )


def _failing(subject: Subject) -> str | None:
    from edge_agent.client.daemon import connect, find_daemon

    if find_daemon(subject.settings.data_dir) is None:
        return None
    with contextlib.suppress(EdgeAgentError):  # the check of the daemon says so
        reason = connect(subject.settings).get("/v1/status").get("log", {}).get("failing")
        return None if reason is None else str(reason)
    return None
