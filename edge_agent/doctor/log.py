"""Whether every answer is in the log."""

import contextlib
import sqlite3
import time
from contextlib import closing

from edge_agent.doctor.check import Check, Subject, failure, ok, warning
from edge_agent.errors import EdgeAgentError
from edge_agent.log.gaps import read_gap


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
    from edge_agent.client import connect, find_daemon

    if find_daemon(subject.settings.data_dir) is None:
        return None
    with contextlib.suppress(EdgeAgentError):  # the check of the daemon says so
        reason = connect(subject.settings).get("/v1/status").get("log", {}).get("failing")
        return None if reason is None else str(reason)
    return None
