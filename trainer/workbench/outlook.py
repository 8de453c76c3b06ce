"""What a round learns from and where it goes on, known before torch is imported.

Reads the log and the journal alone. Of a long log a sample is read, as the round itself does, and
the figures are those of the sample.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.chat.template import template_digest
from edge_agent.config.settings import Settings
from edge_agent.learning.journal import Journal, Phase, Position
from edge_agent.learning.shift import UNLABELLED
from models import catalog
from models.errors import ModelError
from models.gguf import inspect
from trainer.data.items import ReferenceSource
from trainer.errors import TrainerError
from trainer.workbench import corpus
from trainer.workbench.corpus import split

_SOURCES: Mapping[ReferenceSource, str] = {
    "client": "with the client's own answer",
    "feedback": "corrected in feedback",
    "cloud": "answered by the cloud",
    "import": "imported",
}
_KINDS_NAMED = 8
_PHASES: Mapping[Phase, str] = {
    "warm_start": "warm-start",
    "dagrpo": "DA-GRPO",
    "hindsight": "hindsight",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """What a round learns from, in numbers of queries; imported examples count as such."""

    round: int
    since: int | None
    """The round it goes on from; None: it begins with the log."""
    sources: Mapping[str, int]
    """Where the answers come from → new queries that have one from there."""
    kinds: Mapping[str, int]
    """The client's task label, or `UNLABELLED` → new queries with an answer; the largest first."""
    held_out: int
    """Of those with an answer, what the gate alone sees."""
    unanswered: int
    """New queries that nobody gave an answer to."""
    other_template: int
    """New queries that another chat template rendered: they are left out."""

    @property
    def queries(self) -> int:
        """New queries with an answer."""
        return sum(self.sources.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"queries": self.queries, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        """For reading: what, from whom, and the kinds of work where clients name them."""
        new = "" if self.since is None else f" that are new since round {self.since}"
        sources = ", ".join(f"{self.sources[name]} {text}" for name, text in self._named_sources())
        text = (
            f"round {self.round} learns from {self.queries} queries{new} ({sources}; "
            f"{self.held_out} of them held out for the gate)"
        )
        text += f"; {self.unanswered} more have no answer yet" if self.unanswered else ""
        if self.other_template:
            text += f"; {self.other_template} of another chat template are left out"
        return text + (
            f"\nkinds of work: {self._kinds()}" if set(self.kinds) - {UNLABELLED} else ""
        )

    def _named_sources(self) -> list[tuple[str, str]]:
        return [(name, text) for name, text in _SOURCES.items() if name in self.sources]

    def _kinds(self) -> str:
        shown = list(self.kinds.items())[:_KINDS_NAMED]
        parts = [f"{name} {count}" for name, count in shown]
        more = len(self.kinds) - len(shown)
        return ", ".join(parts) + (f" and {more} more" if more else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Where an interrupted round goes on."""

    round: int
    phase: Phase | None
    """Of the last step that was done; None: none was."""
    steps: int
    """Done in that phase."""
    planned: int | None
    """Steps of that phase; None: not known beforehand."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """For reading."""
        if self.phase is None:
            return f"round {self.round} goes on from its beginning: no step was done"
        of = "" if self.planned is None else f" of {self.planned}"
        return f"round {self.round} goes on after {_PHASES[self.phase]} step {self.steps}{of}"


def interrupted(journal: Journal) -> dict[str, Any]:
    """The round that `--resume` takes up. Raises TrainerError if the last one came to its end."""
    row = journal.last()
    if row is None or row["state"] not in ("interrupted", "running"):
        raise TrainerError("there is no interrupted round; start one with `edge-agent train`")
    return row


def standing(journal: Journal, *, planned: int) -> Standing:
    """Where the interrupted round goes on; `planned` are its DA-GRPO steps. Raises TrainerError."""
    number = interrupted(journal)["id"]
    steps = journal.steps(number)
    if not steps:
        return Standing(number, None, 0, None)
    order: tuple[Phase, ...] = ("hindsight", "dagrpo", "warm_start")
    phase = next(name for name in order if any(step["phase"] == name for step in steps))
    done = 1 + max(step["step"] for step in steps if step["phase"] == phase)
    return Standing(number, phase, done, planned if phase == "dagrpo" else None)


def outlook(settings: Settings, journal: Journal, *, until: Position, resume: bool) -> Outlook:
    """What a new round on the log up to `until` learns from, or the interrupted one.

    Raises TooLittle, TrainerError (nothing to resume), StoreError.
    """
    train, last = settings.train, journal.last()
    number = 1 + (last["id"] if last else 0)
    if resume:
        row = interrupted(journal)
        number, until = row["id"], Position(row["last_seq"], row["last_example"])
    judged = journal.last("promoted", "rejected")
    new = corpus.require_enough(
        settings.database,
        train,
        template=_template(settings.model, settings.data_dir),
        since=journal.position_before(number),
        until=until,
    )
    _, held_out = split(new.items, held_out=train.held_out, seed=train.seed)
    return Outlook(
        round=number,
        since=judged["id"] if judged else None,
        sources=dict(Counter(item.reference_source for item in new.items)),
        kinds=dict(Counter(item.cluster or UNLABELLED for item in new.items).most_common()),
        held_out=len(held_out),
        unanswered=new.without_reference,
        other_template=new.other_template,
    )


def _template(model: str, data_dir: Path) -> str | None:
    """Digest of the chat template that is served; None where the model is not here to be asked."""
    try:
        found = catalog.resolve(model, data_dir)
        return template_digest(found.entry.chat_template or inspect(found.path).chat_template)
    except ModelError:
        return None
