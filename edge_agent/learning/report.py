"""What is known of training, JSON-ready: `GET /v1/training`, `status`, and the metrics."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.errors import NotFound
from edge_agent.learning.journal import Journal
from edge_agent.log.database import boundary

_KEYS = ("id", "round")
"""Columns of a step that say nothing outside the database."""


def report(
    database: Path, *, waiting_for: str | None, failure: str | None = None, limit: int = 20
) -> dict[str, Any]:
    """The newest `limit` rounds, newest last, and the one that is running. Raises StoreError.

    `waiting_for` is why the daemon starts no round, `failure` what its last one failed
    with. Times in Unix seconds, rates in [0, 1].
    """
    with boundary(database), closing(Journal(database)) as journal:
        running = journal.running()
        steps = journal.steps(running["id"]) if running else []
        rounds = journal.rounds(limit)
    for row in rounds:
        if row["state"] == "running" and (running is None or row["id"] != running["id"]):
            row["state"] = "interrupted"  # its process was killed
    step = _step(steps[-1]) if steps else None
    return {
        "object": "training",
        "waiting_for": None if running else waiting_for,
        "failure": None if running else failure,
        "running": _round(running) | {"step": step} if running else None,
        "rounds": [_round(row) for row in rounds],
    }


def steps(database: Path, number: int) -> dict[str, Any]:
    """The steps of one round, warm start first. Raises NotFound and StoreError."""
    with boundary(database), closing(Journal(database)) as journal:
        found = journal.steps(number)
        known = found or any(row["id"] == number for row in journal.rounds(-1))
    if not known:
        raise NotFound(f"no round {number}", param="number")
    return {"object": "list", "data": [_step(row) for row in found]}


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that `edge-agent status` shows: what runs, and how the last one ended.

    `round`, `phase`, `step` (from 1), `steps` (planned; None if not known), `dual` and `rate` are
    those of the round that runs, None without one.
    """
    running = found["running"]
    ended = [row for row in found["rounds"] if row["state"] != "running"]
    step = (running or {}).get("step") or {}
    planned = running["settings"].get("steps") if step.get("phase") == "dagrpo" else None
    return {
        "round": running["id"] if running else None,
        "phase": step.get("phase"),
        "step": step["step"] + 1 if step else None,
        "steps": planned,
        "dual": step.get("dual"),
        "rate": step.get("rate"),
        "waiting_for": found["waiting_for"],
        "last": {key: ended[-1][key] for key in ("id", "state", "adapter", "reason", "ended_at")}
        if ended
        else None,
    }


def line(summary: Mapping[str, Any]) -> str:
    """One line for reading."""
    if summary["round"] is not None:
        return _running_line(summary)
    last = summary["last"]
    parts = []
    if last is not None:
        reason = f" ({last['reason']})" if last["reason"] else ""
        parts.append(f"round {last['id']} {last['state']}{reason}")
    if summary["waiting_for"]:
        parts.append(f"next: {summary['waiting_for']}")
    return "; ".join(parts) or "no round yet"


def _running_line(summary: Mapping[str, Any]) -> str:
    text = f"round {summary['round']} is running"
    if summary["step"] is not None:
        phase = summary["phase"].replace("_", " ").replace("dagrpo", "DA-GRPO")
        text += f": {phase} step {summary['step']}"
        text += f" of {summary['steps']}" if summary["steps"] else ""
    for title, key in (("λ", "dual"), ("rate", "rate")):
        text += f", {title} {summary[key]:.2f}" if summary[key] is not None else ""
    return text


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `training_round` with its JSON read."""
    decoded = {
        name: None if row[name] is None else json.loads(row[name])
        for name in ("settings", "gate", "shift")
    }
    return {k: v for k, v in row.items() if k != "process_started"} | decoded


def _step(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _KEYS}
