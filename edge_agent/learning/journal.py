"""Rounds and steps of training in the database: written by the trainer, read by everyone."""

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edge_agent.log.database import boundary, immediate, insert_row, open_database
from edge_agent.processes.own import is_dead, started
from models.errors import EdgeAgentError

State = Literal["running", "interrupted", "promoted", "rejected", "failed"]
Phase = Literal["warm_start", "dagrpo", "hindsight"]


class RoundRunning(EdgeAgentError):
    """Another round is running on this data directory."""

    status = 409
    type = "conflict_error"


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """How far a snapshot of the log reaches: the newest query and the newest example."""

    seq: int = 0
    example: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class StepRow:
    """One step's figures, as columns of `training_step`; None where a phase has no such figure."""

    step: int
    phase: Phase
    seconds: float
    loss: float | None = None
    tokens: int | None = None
    reward_local: float | None = None
    reward_offload: float | None = None
    p_offload: float | None = None
    rate: float | None = None
    dual: float | None = None
    kl: float | None = None
    entropy: float | None = None
    abs_delta_logp: float | None = None
    effective_samples: float | None = None
    unanimous: float | None = None
    grad_norm: float | None = None


class Journal:
    """Writes one round as it goes. Every write is committed before the call returns."""

    def __init__(self, database: Path) -> None:
        self._path = database
        self._db = open_database(database)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def begin(self, *, until: Position, base: str, parent: str, settings: Mapping[str, Any]) -> int:
        """Open a round and return its number. Raises RoundRunning if another one is running."""
        with boundary(self._path), immediate(self._db):
            self.require_idle()
            self._db.execute("UPDATE training_round SET state='interrupted' WHERE state='running'")
            cursor = self._db.execute(
                "INSERT INTO training_round (started_at, state, pid, process_started, last_seq,"
                " last_example, base, parent, settings)"
                " VALUES (?, 'running', ?, ?, ?, ?, ?, ?, ?)",
                [
                    time.time(),
                    os.getpid(),
                    started(os.getpid()),
                    until.seq,
                    until.example,
                    base,
                    parent,
                    json.dumps(settings),
                ],
            )
            return int(cursor.lastrowid or 0)

    def resume(self, number: int) -> None:
        """Take an interrupted round up again. Raises RoundRunning if another one is running."""
        with boundary(self._path), immediate(self._db):
            self.require_idle()
            self._db.execute(
                "UPDATE training_round SET state='running', pid=?, process_started=? WHERE id=?",
                [os.getpid(), started(os.getpid()), number],
            )

    def running(self) -> dict[str, Any] | None:
        """The round whose process is alive, if there is one."""
        for row in self._rows("SELECT * FROM training_round WHERE state = 'running'"):
            if not is_dead(row["pid"], row["process_started"]):
                return row
        return None

    def require_idle(self) -> None:
        """Raise RoundRunning if a round is."""
        running = self.running()
        if running is not None:
            raise RoundRunning(
                f"round {running['id']} is running already (process {running['pid']}); "
                "wait for it, or stop that process"
            )

    def last(self, *states: State) -> dict[str, Any] | None:
        """The newest round in one of `states` (in any, if none is named)."""
        places = ",".join("?" * len(states))
        where = f"WHERE state IN ({places})" if states else ""
        rows = self._rows(
            f"SELECT * FROM training_round {where} ORDER BY id DESC LIMIT 1",  # noqa: S608
            *states,
        )
        return rows[0] if rows else None

    def position_before(self, number: int | None) -> Position:
        """Where the last round that ended before `number` (None: by now) had read the log to."""
        rows = self._rows(
            "SELECT last_seq, last_example FROM training_round"
            " WHERE id < ? AND state IN ('promoted', 'rejected') ORDER BY id DESC LIMIT 1",
            2**62 if number is None else number,
        )
        return Position(rows[0]["last_seq"], rows[0]["last_example"]) if rows else Position()

    def taught_until(self, number: int | None, *, unseen: float, seed: int) -> Position:
        """How far the rounds before `number` (None: before now) taught what would be set apart.

        A round of version 0.1, or one of another seed or a smaller share of unseen queries, taught
        some of those that a round with these settings takes for unseen.
        """
        rows = self._rows(
            "SELECT last_seq, last_example, settings FROM training_round"
            " WHERE id < ? AND state IN ('promoted', 'rejected') ORDER BY id DESC",
            2**62 if number is None else number,
        )
        for row in rows:
            settings = json.loads(row["settings"])
            if settings.get("unseen", -1.0) < unseen or settings.get("seed") != seed:
                return Position(row["last_seq"], row["last_example"])
        return Position()

    def update(self, number: int, **columns: Any) -> None:
        """Set columns of a round; mappings and lists are stored as JSON."""
        values = {
            k: json.dumps(v, ensure_ascii=False) if isinstance(v, Mapping | list) else v
            for k, v in columns.items()
        }
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        with boundary(self._path), immediate(self._db):
            self._db.execute(
                f"UPDATE training_round SET {assignments} WHERE id = :number",  # noqa: S608
                {**values, "number": number},
            )

    def end(self, number: int, state: State, reason: str | None = None, **columns: Any) -> None:
        """Close a round."""
        self.update(number, state=state, reason=reason, ended_at=time.time(), **columns)

    def record(self, number: int, step: StepRow) -> None:
        """Write one step's figures; a step that is done again after a resume replaces itself."""
        row = {"round": number, "at": time.time(), **dataclasses.asdict(step)}
        with boundary(self._path), immediate(self._db):
            insert_row(self._db.conn, "training_step", row, otherwise="REPLACE")

    def steps(self, number: int) -> list[dict[str, Any]]:
        """A round's steps, warm start first."""
        return self._rows("SELECT * FROM training_step WHERE round = ? ORDER BY id", number)

    def rounds(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest rounds, newest last."""
        return self._rows("SELECT * FROM training_round ORDER BY id DESC LIMIT ?", limit)[::-1]

    def _rows(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        return list(self._db.query(sql, arguments))
