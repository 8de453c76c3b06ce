"""How much of everything fits into the minutes that are given."""

from dataclasses import dataclass

RATE = 0.3
"""τ."""
MAX_TOKENS = 14
"""Of an answer, while the app asks and while the trainer tries. The longest right one fits."""
_FULL_MINUTES = 15


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of one demo, for two cores."""

    stream: int
    """Questions the app asks of each family."""
    held_out: int
    """Questions that measure each family."""
    steps: int
    """DA-GRPO steps of each round."""
    epochs: float
    """Most passes of the warm start."""

    @classmethod
    def of(cls, minutes: float) -> "Plan":
        """A fraction of the full demo; as little as the trainer accepts at the least."""
        part = minutes / _FULL_MINUTES
        return cls(
            stream=max(120, round(900 * part)),
            held_out=max(30, min(300, round(120 * part))),
            steps=max(2, round(30 * part)),
            epochs=1.5,
        )

    @property
    def train_settings(self) -> dict[str, str]:
        """For the environment of `edge-agent train`."""
        return {
            "EDGE_AGENT_TRAIN_STEPS": str(self.steps),
            "EDGE_AGENT_TRAIN_WARM_START_EPOCHS": str(self.epochs),
            "EDGE_AGENT_TRAIN_WARM_START_LEARNING_RATE": "0.002",
            "EDGE_AGENT_TRAIN_MAX_NEW_TOKENS": str(MAX_TOKENS),
        }
