"""What a training round found out about an adapter's decisions; serving reads it.

Kept under `decision` in the metrics of the adapter's manifest. An adapter of before this file
existed has none: `of` then says that p_offload = ½ is where asking begins to gain.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_agent.decision.calibration import Calibration, first_token_score

After = Literal["first_token", "draft"]
KEY = "decision"


@dataclass(frozen=True, slots=True)
class Evidence:
    """How scores of one adapter version become expected gains."""

    first_token: Calibration | None
    """None: p_offload itself is compared with ½."""
    draft: Calibration | None
    """None: this version cannot decide after a draft."""
    after: After
    """What the round's held-out queries showed to be worth more; `decision.after = "auto"`."""

    def curve(self, after: After) -> Calibration | None:
        """The calibration of one kind of score."""
        return self.draft if after == "draft" else self.first_token

    def decides_after(self, setting: str) -> After:
        """What this version decides after, where `decision.after` is `setting`."""
        wanted = self.after if setting == "auto" else setting
        return "draft" if wanted == "draft" and self.draft is not None else "first_token"

    def floor(self, after: After, min_gain: float) -> float:
        """The score above which asking is expected to gain more than `min_gain`."""
        curve = self.curve(after)
        return first_token_score(0.5) if curve is None else curve.score_at(min_gain)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `of` reads it."""
        return asdict(self)


UNCALIBRATED = Evidence(None, None, "first_token")


def of(metrics: Mapping[str, Any]) -> Evidence:
    """The evidence in a manifest's metrics; `UNCALIBRATED` where there is none that can be read."""
    found: Any = metrics.get(KEY)
    try:
        return Evidence(
            first_token=_calibration(found["first_token"]),
            draft=_calibration(found["draft"]),
            after="draft" if found["after"] == "draft" and found["draft"] else "first_token",
        )
    except (TypeError, KeyError, ValueError):
        return UNCALIBRATED


def _calibration(found: Mapping[str, Any] | None) -> Calibration | None:
    if found is None:
        return None
    return Calibration(
        slope=float(found["slope"]),
        middle=float(found["middle"]),
        reward_off=float(found["reward_off"]),
        known=int(found["known"]),
    )
