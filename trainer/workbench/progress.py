"""Looks at queries whose answers are never taught: is the warm start still learning anything?

Where a round stands: what a checkpoint holds, and who is told of each step.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from edge_agent.learning.journal import StepRow
from trainer.dual import Dual
from trainer.learner import Learner
from trainer.policy.checkpoint import Checkpoint, Checkpoints

PATIENCE = 2
"""Looks in a row that may show nothing new."""
_GAIN = 0.01
"""Reward per query, at the least, that counts as better."""
_CLOSER = 0.98
"""The nats of the right answers have to fall to this share to count as better."""
_UNANIMOUS = 0.9


@dataclass(frozen=True, slots=True)
class Look:
    """What a few unseen queries showed at one moment."""

    reward: float
    """Mean of the sampled answers."""
    nll: float
    """Mean negative log-likelihood of the right answers, nats."""
    unanimous: float
    """Share of the groups in which every sampled answer was right."""

    @classmethod
    def of(cls, rewards_by_group: Sequence[Sequence[float]], nlls: Sequence[float]) -> "Look":
        """From the rewards of each query's sampled answers, and each right answer's nats."""
        return cls(
            reward=fmean(reward for group in rewards_by_group for reward in group),
            nll=fmean(nlls),
            unanimous=fmean(min(group) == 1 for group in rewards_by_group),
        )


class Looks:
    """The looks of one warm start, oldest first."""

    def __init__(self, looks: Sequence[Look] = ()) -> None:
        """`looks` are those of a checkpoint."""
        self.looks = list(looks)

    def add(self, look: Look) -> None:
        """Remember a look."""
        self.looks.append(look)

    @property
    def why_stop(self) -> str | None:
        """Why no more is to be learned, if that is so.

        Likelihood is asked beside reward: before the first right answer only it moves, and where
        both stand still or it rises again, more passes are over-training.
        """
        if not self.looks:
            return None
        if self.looks[-1].unanimous > _UNANIMOUS:
            return f"{self.looks[-1].unanimous:.0%} of the groups already agree on the right answer"
        before, recent = self.looks[:-PATIENCE], self.looks[-PATIENCE:]
        if not before:
            return None
        best = max(look.reward for look in before)
        better = max(look.reward for look in recent) >= best + _GAIN
        closer = min(look.nll for look in recent) < _CLOSER * min(look.nll for look in before)
        if better or closer:
            return None
        return f"unseen queries stopped improving at a reward of {best:.2f}"

    def state(self) -> list[list[float]]:
        """For a checkpoint."""
        return [[look.reward, look.nll, look.unanimous] for look in self.looks]

    @classmethod
    def restored(cls, state: Sequence[Any]) -> "Looks":
        """From a checkpoint. A version that wrote rewards alone cannot be compared: begin anew."""
        return cls([Look(*look) for look in state if isinstance(look, list)])


class Watcher(Protocol):
    """Who is told how the round goes."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins."""
        ...

    def step(self, row: StepRow) -> None:
        """A step is done and recorded."""
        ...

    def say(self, line: str) -> None:
        """Something worth knowing."""
        ...


_KEPT = frozenset(
    {"warm_steps", "warm_done", "cooling_from", "answer_nlls", "steps", "worths", "reinforced"}
    | {"foreseen", "hindsight_steps", "hindsight_ends", "hindsight_done"}
)
"""What a checkpoint holds as it is."""


class Progress:
    """The learner, λ, and the counters that a resumed round takes up again."""

    def __init__(self, learner: Learner, dual: Dual, checkpoints: Checkpoints) -> None:
        """Takes up the newest checkpoint, if there is one. Raises CheckpointError."""
        self.learner = learner
        self.dual = dual
        self._checkpoints = checkpoints
        self._before_s = 0.0
        self._began = time.monotonic()
        self.warm_steps = 0
        self.warm_done = False
        self.looks = Looks()
        """The warm start's looks at unseen queries so far."""
        self.cooling_from: int | None = None
        """The warm start's step from which the learning rate falls."""
        self.answer_nlls: dict[str, list[float]] = {}
        """How likely the warm start's last answers of each kind of work were, nats."""
        self.steps = 0
        """DA-GRPO steps done."""
        self.worths: list[float] = []
        """Worth of the policy on unseen queries in each DA-GRPO step."""
        self.reinforced = False
        """The DA-GRPO phase has ended, by itself or for want of time."""
        self.foreseen: dict[str, float] = {}
        """Query → the probability of asking that hindsight teaches."""
        self.hindsight_steps = 0
        self.hindsight_ends: int | None = None
        """The step at which hindsight's learning rate has fallen; None: not known yet."""
        self.hindsight_done = False
        saved = checkpoints.load()
        if saved is not None:
            self._restore(saved)

    def save(self) -> None:
        """Write a checkpoint: from here on a kill loses only what comes after."""
        state = {name: getattr(self, name) for name in _KEPT} | {
            "looks": self.looks.state(),
            "dual": self.dual.state,
            "seconds": self.seconds,
        }
        number = (
            self.warm_steps
            + self.warm_done
            + self.steps
            + self.reinforced
            + bool(self.foreseen)
            + self.hindsight_steps
            + self.hindsight_done
        )
        self._checkpoints.save(Checkpoint(number, self.learner.tensors(), state))

    @property
    def seconds(self) -> float:
        """Time the round has taken so far, in all processes that worked on it."""
        return self._before_s + time.monotonic() - self._began

    def _restore(self, saved: Checkpoint) -> None:
        """A round of version 0.1 has neither looks nor hindsight; it goes on without them."""
        state: dict[str, Any] = dict(saved.state)
        self.learner.load_tensors(saved.tensors)
        for name in _KEPT & state.keys():
            setattr(self, name, state[name])
        self.looks = Looks.restored(state.get("looks", ()))
        self.dual.restore(state["dual"])
        self._before_s = state.get("seconds", 0.0)
