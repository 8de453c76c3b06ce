"""Train and held-out queries that never leak into each other.

Near-duplicates (the same question asked twice, or with other spacing) are one group, and a
group falls on one side as a whole. The side depends on the group's text and the seed alone, so
a query that was held out stays held out in every later round.

The data of one round: a snapshot of the log, clustered, split, with old work to replay.
"""

import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.config.settings import TrainSettings
from edge_agent.learning import shift
from edge_agent.learning.journal import Position
from edge_agent.learning.shift import Move
from trainer.data import items
from trainer.data.clusters import MIN_SIZE, Clusters, assign, nearest
from trainer.data.items import Item
from trainer.data.replay import Replay
from trainer.errors import TrainerError
from trainer.workbench.agreement import settled, teachable

if TYPE_CHECKING:
    from trainer.workbench.workbench import Workbench


def fingerprint(question: str) -> str:
    """What near-duplicates share: their words and numbers in order, without case or spacing."""
    return " ".join(re.findall(r"\w+|[^\w\s]", question.casefold()))


def split(
    items: Sequence[Item], *, held_out: float, seed: int | str, least: int = 0
) -> tuple[list[Item], list[Item]]:
    """(train, held-out) in the order given; `held_out` is the expected share of the latter.

    Where chance holds out fewer than `least`, those that came closest join them.
    """
    draws = [_draw(fingerprint(item.question), seed) for item in items]
    limit = held_out
    if 0 < least <= len(draws):
        limit = max(limit, math.nextafter(sorted(draws)[least - 1], math.inf))
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item, draw in zip(items, draws, strict=True):
        sides[draw < limit].append(item)
    return sides


def _draw(text: str, seed: int | str) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.sha256(f"{seed}:{text}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64


_LEAST_FRESH = 32
_LEAST_HELD_OUT = 10
_LEAST_UNSEEN = 12
"""Of the new queries, where more than the fewest to train on are there."""
_HELD_OUT_PER_CLUSTER = 200
"""The gate's queries of one kind of work: a paired mean of these is off by about 3 points."""


class TooLittle(TrainerError):
    """The log does not hold enough to learn from; the message says what is missing."""


@dataclass(frozen=True)
class Corpus:
    """What a round trains on, and what only its gate sees."""

    fresh: tuple[Item, ...]
    """New since the last round: their answers are taught."""
    unseen: tuple[Item, ...]
    """New and old, answered, never taught: what they earn is what a new query would.

    Among them are those on which the cloud disagrees with itself, and answers that the model
    cannot write.
    """
    unanswered: tuple[Item, ...]
    """New, and nobody answered: their drafts are as honest."""
    replay: Replay
    """Taught items of earlier rounds, by kind of work."""
    held_out: tuple[Item, ...]
    centroids: Clusters
    """Of the kinds of work that no client has named."""

    @property
    def new_clusters(self) -> frozenset[str]:
        """Kinds of work that no earlier round has seen."""
        new = (item.cluster for item in (*self.fresh, *self.unseen))
        return frozenset(new) - self.replay.clusters.keys()

    @property
    def clusters(self) -> frozenset[str]:
        """Every kind of work that is trained on."""
        return self.new_clusters | self.replay.clusters.keys()


def require_enough(
    database: Path,
    train: TrainSettings,
    *,
    template: str | None,
    since: Position,
    until: Position,
) -> items.Found:
    """What is new, without the model: in a moment, and before torch. Raises TooLittle as `build`.

    `template` is the digest of the chat template in use; None takes prompts of any.
    """

    def load(after: Position, end: Position) -> items.Found:
        return items.load(database, template=template, render=lambda _: (), after=after, until=end)

    old, new = load(items.START, since), load(since, until)
    _, old_held_out = split(old.items, held_out=train.held_out, seed=train.seed)
    fresh, new_held_out = split(new.items, held_out=train.held_out, seed=train.seed)
    _judge(len(fresh), len(old_held_out) + len(new_held_out), new)
    return new


def build(
    bench: "Workbench", *, since: Position, until: Position, taught_until: Position = items.START
) -> Corpus:
    """Read the log up to `until`; what came after `since` is fresh. Raises TooLittle.

    Up to `taught_until` earlier rounds taught every query that was not held out; after it they set
    the same ones apart as this one.
    """

    def load(after: Position, end: Position) -> items.Found:
        return items.load(
            bench.settings.database,
            template=bench.chat.digest,
            render=bench.render,
            form=bench.form,
            after=after,
            until=end,
        )

    stretches = [load(items.START, taught_until), load(taught_until, since), load(since, until)]
    new = stretches[-1]
    centroids = Clusters()
    everything = _clustered([one for found in stretches for one in found.items], bench, centroids)
    everything = settled(everything, bench.graders)
    seed, share = bench.train.seed, bench.train.held_out
    train, held_out = [], []
    for found in stretches:
        side, apart = split(everything[: len(found.items)], held_out=share, seed=seed)
        everything = everything[len(found.items) :]
        train.append(side)
        held_out += apart
    held_out = _thinned(held_out, seed)
    able = {item.query_id for side in train for item in side if teachable(item)}
    _judge(sum(item.query_id in able for item in train[-1]), len(held_out), new)
    old_taught, old_unseen = _set_apart(train[1], bench.train, least=0, taught=train[0])
    old_taught = [item for item in (*train[0], *old_taught) if item.query_id in able]
    taught, unseen = _set_apart(train[2], bench.train, least=_LEAST_UNSEEN, taught=old_taught)
    unseen += [item for item in taught if item.query_id not in able]
    taught = [item for item in taught if item.query_id in able]
    unanswered, _ = split(new.unanswered, held_out=share, seed=seed)
    known = _fingerprints([*old_taught, *taught])
    unanswered = [one for one in unanswered if fingerprint(one.question) not in known]
    return Corpus(
        tuple(taught),
        tuple(_thinned([*old_unseen, *unseen], seed)),
        tuple(_named(unanswered, bench, centroids)),
        Replay(old_taught, seed=seed),
        tuple(held_out),
        centroids,
    )


def _judge(fresh: int, held_out: int, new: items.Found) -> None:
    if fresh < _LEAST_FRESH or held_out < _LEAST_HELD_OUT:
        left_out = {
            "have no answer to learn from": new.without_reference,
            "are of another chat template": new.other_template,
        }
        found = [f"{count} more {why}" for why, count in left_out.items() if count]
        buy = "buy answers with `edge-agent train --allow-cloud N`, "
        raise TooLittle(
            f"too little to learn from: {fresh} new queries to train on (a round takes "
            f"{_LEAST_FRESH}) and {held_out} to test on (the gate takes {_LEAST_HELD_OUT})"
            f"{''.join(f'; {text}' for text in found)}. Serve more queries, give feedback, "
            f"{buy if new.without_reference else ''}"
            "or add examples with `edge-agent logs import FILE.jsonl`"
        )


def _set_apart(
    found: Sequence[Item], train: TrainSettings, *, least: int, taught: Sequence[Item]
) -> tuple[list[Item], list[Item]]:
    """(taught, unseen). Which side a query falls on is the same in every round, but for those that
    make up `least` of the latter. One that is in `taught` already is not unseen any more; nothing
    is set apart where `train.unseen` is 0."""
    known = _fingerprints(taught)
    again = [fingerprint(item.question) in known for item in found]
    new = [item for item, repeated in zip(found, again, strict=True) if not repeated]
    room = min(least, len(new), len(found) - _LEAST_FRESH) if train.unseen else 0
    salt = f"{train.seed}:unseen"
    fresh, unseen = split(new, held_out=train.unseen, seed=salt, least=max(0, room))
    return [*(i for i, repeated in zip(found, again, strict=True) if repeated), *fresh], unseen


def _fingerprints(found: Sequence[Item]) -> set[str]:
    return {fingerprint(item.question) for item in found}


def _named(found: Sequence[Item], bench: "Workbench", centroids: Clusters) -> list[Item]:
    """Every item with the name of its kind of work, as the others are named."""
    embedder = bench.embedder() if centroids.sizes else None
    names = nearest(
        [item.question for item in found],
        [item.cluster or None for item in found],
        embedder,
        centroids,
    )
    return [replace(item, cluster=name) for item, name in zip(found, names, strict=True)]


def changes(bench: "Workbench", data: Corpus, *, since: Position, until: Position) -> list[Move]:
    """When the stream of queries changed, with kinds of work named as in `data`."""
    asked = shift.stream(bench.settings.database, since, until)
    embedder = bench.embedder() if data.centroids.sizes else None
    questions, tasks = [query.question for query in asked], [query.task for query in asked]
    return shift.moves(asked, nearest(questions, tasks, embedder, data.centroids), since)


def _clustered(found: Sequence[Item], bench: "Workbench", centroids: Clusters) -> list[Item]:
    """Every item with the name of its kind of work; `centroids` is filled."""
    unlabelled = sum(not item.cluster for item in found)
    if unlabelled >= MIN_SIZE:
        bench.told(f"sorting {unlabelled} queries without a label into kinds of work")
    names = assign(
        [item.question for item in found],
        [item.cluster or None for item in found],
        bench.embedder() if unlabelled >= MIN_SIZE else None,
        clusters=centroids,
    )
    return [replace(item, cluster=name) for item, name in zip(found, names, strict=True)]


def _thinned(held_out: Sequence[Item], seed: int) -> list[Item]:
    """At most two hundred queries of each kind of work, drawn at random."""
    by_cluster: dict[str, list[Item]] = defaultdict(list)
    for item in held_out:
        by_cluster[item.cluster].append(item)
    rng = random.Random(seed)  # noqa: S311
    return [
        item
        for _, group in sorted(by_cluster.items())
        for item in rng.sample(group, min(len(group), _HELD_OUT_PER_CLUSTER))
    ]
