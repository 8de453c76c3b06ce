"""What a round learns from: queries of the log with something to be graded against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ReferenceSource = Literal["client", "feedback", "cloud", "import", "nobody"]


@dataclass(frozen=True, slots=True)
class Item:
    """One logged query that can be trained on."""

    query_id: str
    at: float
    """Unix seconds."""
    prompt_ids: tuple[int, ...]
    """The prompt exactly as served, never tokenized again."""
    question: str
    """The last user message: what embeddings and reports read."""
    cluster: str
    """The client's task label, else the cluster its embedding fell into."""
    reference: str
    """What answers are graded against; "" where nobody answered."""
    reference_source: ReferenceSource
    grader: Mapping[str, Any] | None = None
    """Grader spec as the client sent it; None: inferred from the reference."""
    cloud_text: str | None = None
    """The cloud's logged answer, if it was asked."""
    rating: float | None = None
    """The user's rating of the answer that was served, in [−1, 1]."""
    served_text: str | None = None
    """The answer that was served, the one `rating` is about; None: not known."""
