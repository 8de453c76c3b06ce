"""Where a round stands: what a checkpoint holds, and who is told of each step."""

from typing import Any, Protocol

from edge_agent.training.journal import StepRow
from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.dual import Dual
from trainer.learner import Learner


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


class Progress:
    """The learner, λ, and the counters that a resumed round takes up again."""

    def __init__(self, learner: Learner, dual: Dual, checkpoints: Checkpoints) -> None:
        """Takes up the newest checkpoint, if there is one. Raises CheckpointError."""
        self.learner = learner
        self.dual = dual
        self._checkpoints = checkpoints
        self.warm_steps = 0
        self.warm_done = False
        self.probes: list[float] = []
        """Rewards at the warm start's looks so far."""
        self.answer_nlls: dict[str, list[float]] = {}
        """How likely the warm start's last answers of each kind of work were, nats."""
        self.steps = 0
        """DA-GRPO steps done."""
        saved = checkpoints.load()
        if saved is not None:
            self._restore(saved)

    def save(self) -> None:
        """Write a checkpoint: from here on a kill loses only what comes after."""
        state = {
            "warm_steps": self.warm_steps,
            "warm_done": self.warm_done,
            "probes": self.probes,
            "answer_nlls": self.answer_nlls,
            "steps": self.steps,
            "dual": self.dual.state,
        }
        number = self.warm_steps + self.steps + self.warm_done
        self._checkpoints.save(Checkpoint(number, self.learner.tensors(), state))

    def _restore(self, saved: Checkpoint) -> None:
        state: dict[str, Any] = dict(saved.state)
        self.learner.load_tensors(saved.tensors)
        self.warm_steps = state["warm_steps"]
        self.warm_done = state["warm_done"]
        self.probes = state["probes"]
        self.answer_nlls = state["answer_nlls"]
        self.steps = state["steps"]
        self.dual.restore(state["dual"])
