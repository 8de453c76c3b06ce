"""When the daemon starts a round of training by itself: a pure decision on facts.

The facts come from the database (`read_progress`) and the machine (`machine.look`); who acts on
the decision is `background_training`.
"""

import itertools
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.config.settings import TrainSettings, within
from edge_agent.learning.journal import Journal, Position, State
from edge_agent.learning.machine import Machine
from edge_agent.learning.shift import by_label
from edge_agent.log.database import boundary, open_database
from edge_agent.log.rows import USABLE

BACK_OFF_S = 600.0
"""After the first failure; doubles with each further one."""
MAX_BACK_OFF_S = 86_400.0
RESUME_AFTER_S = 600.0
"""An interrupted round is left alone this long: who stopped it may want the machine, or may want
to resume it by hand, and a machine that was too hot cools down."""

_ENOUGH_AFTER_SHIFT = 64
"""Least new queries of a round that a change of the work brings forward."""

_RESUMABLE = ("interrupted", "running")
"""A round whose process is gone and that still says it runs was killed."""

_JUDGED: tuple[State, ...] = ("promoted", "rejected")

_NEW_QUERIES = f"""
SELECT count(*) FROM (
    SELECT 1 FROM query WHERE query.seq > :seq AND query.template = :template AND {USABLE}
    LIMIT :enough)
"""  # noqa: S608
_NEW_EXAMPLES = "SELECT count(*) FROM (SELECT 1 FROM example WHERE id > :example LIMIT :enough)"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the database says of training. Times are Unix seconds."""

    new: int
    """Usable queries and examples since the last round that ended; counted up to what is needed."""
    running: int | None
    """Number of the round that is running."""
    interrupted: bool
    """The last round can be resumed."""
    ended_at: float | None
    """When the last round ended or was interrupted; None if it was killed, or there is none."""
    succeeded_at: float
    """When a round last came to a verdict; 0 if none did."""
    shifted: bool = False
    """The kinds of work that clients name have changed since that round."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Rounds that failed in a row, as far as this daemon knows."""

    count: int = 0
    last_at: float = 0.0

    def back_off_until(self) -> float:
        """Unix time before which no round starts."""
        if not self.count:
            return 0.0
        return self.last_at + min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(self.count - 1, 20))


def due(
    progress: Progress,
    machine: Machine,
    failures: Failures,
    settings: TrainSettings,
    now: float,
) -> str | None:
    """None if a round is due at Unix time `now`, else why not, in a few words."""
    if progress.running is not None:
        return f"round {progress.running} is running"
    if progress.interrupted:
        if now < _resume_at(progress):
            return f"the interrupted round is resumed after {_clock(_resume_at(progress))}"
    elif progress.new < (enough := _enough(settings, shifted=progress.shifted)):
        return f"{progress.new} of {enough} new usable queries"
    if now < failures.back_off_until():
        return (
            f"the last {_rounds(failures.count)} failed; "
            f"the next starts after {_clock(failures.back_off_until())}"
        )
    if settings.hours is not None and not within(settings.hours, datetime.fromtimestamp(now).hour):
        return f"outside the hours {settings.hours}"
    return unfit(machine, settings)


def unfit(machine: Machine, settings: TrainSettings) -> str | None:
    """Why this machine should not train now; None if it may. Also stops a round that runs."""
    if machine.on_mains is False and not settings.on_battery:
        return "on battery power"
    if machine.temperature_c is not None and machine.temperature_c > settings.max_temperature_c:
        return f"too hot: {machine.temperature_c:.0f} °C"
    return None


def read_progress(database: Path, settings: TrainSettings, template: str) -> Progress:
    """Read the database. `template` is the digest of the chat template in use; other prompts
    cannot be trained on. Raises StoreError.
    """
    with boundary(database), closing(Journal(database)) as journal:
        running, last, judged = journal.running(), journal.last(), journal.last(*_JUDGED)
        since = journal.position_before(None)
    interrupted = running is None and last is not None and last["state"] in _RESUMABLE
    new = _count_new(database, since, settings.min_new_queries, template)
    sooner = _enough(settings, shifted=True) <= new < settings.min_new_queries
    return Progress(
        new=new,
        running=running["id"] if running else None,
        interrupted=interrupted,
        ended_at=last["ended_at"] if last else None,
        succeeded_at=judged["ended_at"] if judged else 0.0,
        shifted=sooner and judged is not None and bool(by_label(database, since)),
    )


def _enough(settings: TrainSettings, *, shifted: bool) -> int:
    """New queries that make a round worth it: a quarter of the usual where the work changed."""
    usual = settings.min_new_queries
    return min(usual, max(_ENOUGH_AFTER_SHIFT, usual // 4)) if shifted else usual


def failed_rounds(database: Path) -> Failures:
    """What the database remembers of rounds that failed in a row, at its end."""
    with boundary(database), closing(Journal(database)) as journal:
        states = [(row["state"], row["ended_at"]) for row in journal.rounds()]
    failed = list(itertools.takewhile(lambda round: round[0] == "failed", reversed(states)))
    return Failures(len(failed), failed[0][1]) if failed else Failures()


def _count_new(database: Path, since: Position, enough: int, template: str) -> int:
    """What trainer.data.items would find usable, without reading it."""
    with boundary(database), closing(open_database(database, read_only=True)) as db:
        arguments = {"seq": since.seq, "example": since.example, "enough": enough}
        (queries,) = db.execute(_NEW_QUERIES, {**arguments, "template": template}).fetchone()
        (examples,) = db.execute(_NEW_EXAMPLES, arguments).fetchone()
    return min(enough, int(queries) + int(examples))


def _resume_at(progress: Progress) -> float:
    return (progress.ended_at or 0.0) + RESUME_AFTER_S


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%H:%M}"


def _rounds(count: int) -> str:
    return "round" if count == 1 else f"{count} rounds"
