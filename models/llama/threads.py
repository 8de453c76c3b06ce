"""How many threads a batch runs on: as many as pay now, learned from how long batches take.

Threads that compute one batch wait for each other hundreds of times. When another process takes
the processor of one, all wait: two threads beside a busy loop may be slower than one. Which count
is best is therefore tried, not derived: now and then a few batches run on another count, and
where that is faster it stays. Batches that suddenly take longer or shorter than usual are a reason
to try at once; trials that fail become rarer.

Nothing here looks at a clock: time is the sum of the seconds that are reported.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Literal, Self

import psutil

Work = Literal["prefill", "decode", "learn"]

_RECENT_S = 0.1
"""What "now" means, in seconds of batches."""
_USUAL_S = 2.0
_SURPRISE = 1.25
"""Slower or faster than usual by this factor: something has changed."""
_TRIAL_S = 0.06
"""Of a trial whose outcome is clear, and …"""
_LONG_TRIAL_S = 0.25
"""… of one whose outcome is not."""
_LOSS_S = 0.03
"""A trial ends when it has taken so much longer than without it."""
_CLEARLY = 0.8
"""Below this share of the usual time, or above its inverse."""
_ENOUGH = {-1: 0.92, 1: 0.95}
"""A trial of fewer (−1) or more (1) threads succeeds below this share of the usual time."""
_FIRST_WAIT_S = {"prefill": (2.0, 3.0), "decode": (0.3, 1.0), "learn": (2.0, 3.0)}
"""Before the first trial of fewer and of more threads, which may cost much beside a neighbour."""
_LOSS_SHARE = 0.05
"""The next trial comes so late that those that fail take no more than this share of the time."""
_SURPRISED_LOSS_SHARE = 0.15
"""The same, where something seems to have changed."""
_LONGEST_WAIT_S = {-1: 16.0, 1: 3.0}
"""Between trials. More threads are tried more often: when a neighbour has gone, one thread may
not notice; many notice at once when one comes."""
_REVERTED_S = 2.0
"""A switch that did not last so long was a mistake."""
_FIXED = {"prefill": 8, "decode": 2, "learn": 0}
"""What a batch costs beside its tokens, in tokens: compares batches of nearly the same width."""


def usable_cores() -> int:
    """Physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed or 1))


def ladder(most: int) -> tuple[int, ...]:
    """The counts worth trying, ascending: 1, 2, 4, 6, 7, 8 for 8."""
    shares = (most * 3 // 4, *(most >> k for k in range(1, most.bit_length())))
    return tuple(sorted({1, most, max(1, most - 1), *(n for n in shares if n > 0)}))


@dataclass
class _Mean:
    """Seconds per unit of work, weighted by how recent: the last `window_s` seconds count most."""

    window_s: float
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        keep = math.exp(-seconds / self.window_s)
        self.seconds = keep * self.seconds + seconds
        self.units = keep * self.units + units

    @property
    def value(self) -> float | None:
        return self.seconds / self.units if self.units else None


@dataclass
class _Trial:
    """A few batches on another count."""

    direction: int
    place: int
    seconds: float = 0.0
    units: float = 0.0


@dataclass
class _Case:
    """What is known of one kind of batch."""

    place: int
    """Of the count in use on the ladder."""
    since: float
    """When it was chosen."""
    first_wait_s: dict[int, float]
    came_by: int = 0
    """Direction of the last switch; 0: none."""
    reach: dict[int, int] = field(default_factory=lambda: dict.fromkeys((-1, 1), 1))
    """By direction: how far on the ladder the next trial goes."""
    recent: _Mean = field(default_factory=lambda: _Mean(_RECENT_S))
    usual: _Mean = field(default_factory=lambda: _Mean(_USUAL_S))
    trial: _Trial | None = None

    def __post_init__(self) -> None:
        self.wait = dict(self.first_wait_s)
        """By direction: seconds between trials."""
        self.due = {step: self.since + wait for step, wait in self.wait.items()}
        """By direction: when the next trial may begin, …"""
        self.barred = dict.fromkeys((-1, 1), 0.0)
        """… and when a surprise may bring it on."""

    def moved(self, place: int, now: float) -> None:
        """Begin anew with another count."""
        self.place, self.since, self.trial = place, now, None
        self.recent, self.usual = _Mean(_RECENT_S), _Mean(_USUAL_S)
        self.reach = dict.fromkeys((-1, 1), 1)
        self.due = {step: now + self.wait[step] for step in self.wait}

    def wait_longer(self, step: int) -> None:
        """Trials in this direction fail."""
        self.wait[step] = min(2 * self.wait[step], _LONGEST_WAIT_S[step])


class ThreadControl:
    """Chooses the number of threads batch by batch. One thread at a time uses it."""

    def __init__(self, most: int, *, pinned: bool = False) -> None:
        """Between 1 and `most` threads; always `most` if `pinned`."""
        self._counts = (most,) if pinned else ladder(most)
        self._now = 0.0
        self._place = len(self._counts) - 1
        """Where the last switch led: kinds of batches not seen since begin there."""
        self._cases: dict[tuple[Work, int], _Case] = {}

    @classmethod
    def of(cls, threads: int | None) -> Self:
        """As a setting says: `threads`, or None for as many of our cores as pay."""
        return cls(threads or usable_cores(), pinned=threads is not None)

    def choose(self, work: Work, width: int) -> int:
        """Threads for the next batch of `width` tokens."""
        case = self._case(work, width)
        if case.trial is None and case.recent.units:
            for step in (-1, 1):
                place = case.place + step * case.reach[step]
                if 0 <= place < len(self._counts) and self._now >= case.due[step]:
                    case.trial = _Trial(step, place)
                    break
        return self._counts[case.trial.place if case.trial else case.place]

    def observe(self, work: Work, width: int, threads: int, seconds: float) -> None:
        """A batch of `width` tokens took `seconds` on `threads` threads."""
        self._now += seconds
        case, units = self._case(work, width), width + _FIXED[work]
        if case.trial is not None:
            if threads == self._counts[case.trial.place]:
                case.trial.seconds += seconds
                case.trial.units += units
                self._judge(case, case.trial)
        elif threads == self._counts[case.place]:
            case.recent.add(seconds, units)
            case.usual.add(seconds, units)
            self._notice(case)

    def seconds(self, work: Work, width: int) -> float | None:
        """How long a batch of `width` tokens takes now; None where nothing is known yet."""
        case = self._cases.get((work, _bucket(work, width)))
        known = case.recent.value if case else None
        if known is None:
            others = (c.recent.value for (kind, _), c in self._cases.items() if kind == work)
            known = max((value for value in others if value is not None), default=None)
        return None if known is None else known * (width + _FIXED[work])

    def _case(self, work: Work, width: int) -> _Case:
        key = work, _bucket(work, width)
        if key not in self._cases:
            self._cases[key] = _Case(
                self._place, self._now, dict(zip((-1, 1), _FIRST_WAIT_S[work], strict=True))
            )
        return self._cases[key]

    def _notice(self, case: _Case) -> None:
        """Batches that take longer than usual ask for fewer threads now, shorter ones for more."""
        recent, usual = case.recent.value, case.usual.value
        if recent is None or usual is None:
            return
        step = -1 if recent > _SURPRISE * usual else 1 if recent * _SURPRISE < usual else 0
        if step:
            case.due[step] = min(case.due[step], max(self._now, case.barred[step]))
            case.reach[step] = 1
            case.usual = _Mean(_USUAL_S, case.recent.seconds, case.recent.units)

    def _judge(self, case: _Case, trial: _Trial) -> None:
        usual = case.recent.value
        assert usual is not None
        expected = usual * trial.units
        if trial.seconds - expected > _LOSS_S:
            self._stay(case, trial, expected)
        elif trial.seconds < _TRIAL_S:
            return
        elif trial.seconds < _CLEARLY * expected:
            self._switch(case, trial)
        elif trial.seconds > expected / _CLEARLY:
            self._stay(case, trial, expected)
        elif trial.seconds >= _LONG_TRIAL_S:
            if trial.seconds < _ENOUGH[trial.direction] * expected:
                self._switch(case, trial)
            else:
                self._stay(case, trial, expected)

    def _stay(self, case: _Case, trial: _Trial, expected: float) -> None:
        """The trial failed: the next goes farther; when all have been tried, it waits longer."""
        step, case.trial = trial.direction, None
        case.reach[step] += 1
        if not 0 <= case.place + step * case.reach[step] < len(self._counts):
            case.reach[step] = 1
            case.wait_longer(step)
        lost = trial.seconds - expected
        case.barred[step] = self._now + lost / _SURPRISED_LOSS_SHARE
        case.due[step] = self._now + max(case.wait[step], lost / _LOSS_SHARE)

    def _switch(self, case: _Case, trial: _Trial) -> None:
        """Go on with the other count, and let other kinds of batches begin there too."""
        step = trial.direction
        hasty = case.came_by == -step and self._now - case.since < _REVERTED_S
        case.wait[step] = case.first_wait_s[step]
        if hasty:
            case.wait_longer(-step)
        else:
            case.wait[-step] = case.first_wait_s[-step]
        case.came_by = step
        self._place = trial.place
        for other in self._cases.values():
            if (self._place - other.place) * step > 0:
                other.moved(self._place, self._now)


def _bucket(work: Work, width: int) -> int:
    """Batches in one bucket are compared by their time per token."""
    per_octave = 2 if work == "decode" else 0.5
    return int(per_octave * math.log2(width))
