"""Prompt lookup: what an answer seems to copy is computed in one batch and drawn token by token.

Where the last tokens were said before, in the prompt, in the answer or in the client's
`prediction`, what followed them there is proposed; so is what a grammar leaves no choice but to
say. The batch computes the proposal as if it had
been drawn already; then each position is drawn as always, from its own logits, by the same
sampler. The first draw that differs from the proposal ends it. So the distribution, the log-probs
and the state of a grammar are those of an answer without proposals.

What a wider batch costs is measured; what a proposal is worth is how often proposals came true.
Each answer has a purse, in tokens of its own speed: proposals that come true fill it, those that
do not empty it, and what is proposed must be paid from it. So an answer that copies nothing loses
no more than it began with and a hundredth of its time.

Sources: Saxena, "Prompt Lookup Decoding" (2023); Leviathan et al., arXiv 2211.17192, for the
length to propose.
"""

from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_agent.records.generation import Counters

if TYPE_CHECKING:
    from edge_agent.engine.request import Choice

_SHORTEST, _LONGEST = 2, 16
"""Tokens that must have been said before, and those that are looked at."""
_WIDEST = 16
"""Rows of a batch with proposals in it."""
_CROWD = 4
"""Choices in a batch beside which nobody proposes."""
_DELAY = 0.2
"""Share of its time by which a batch may become longer that others wait for, too."""
_ALLOWANCE = 0.01
"""What each batch puts into the purse."""
_FULL_PURSE = 4.0
_LEAST_PURSE, _MOST_AT_FIRST = 0.25, 3.0
"""Of an answer that begins."""
_MEMORY = 0.8
"""Of what earlier proposals came to, kept at each one."""
_GUESS, _HOPE = 0.33, 0.75
"""A row's cost while no other is known, in tokens; else as a share of the cheapest known."""
_RECENT = 9
"""Measurements of one width that count: one that the machine was busy in changes no median."""
_KEPT = 500
"""Batches after which a measurement counts no more: the machine may have become another."""


class BatchCost:
    """Seconds of a batch of single tokens, by its rows."""

    def __init__(self) -> None:
        self._recent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._seconds: dict[int, tuple[float, int]] = {}
        """Rows → median of the recent ones, and the number of the batch that was the last."""
        self._batches = 0

    def add(self, rows: int, seconds: float) -> None:
        """A batch was measured."""
        self._batches += 1
        recent = self._recent[rows]
        if rows not in self._known():
            recent.clear()
        recent.append(seconds)
        self._seconds[rows] = median(recent), self._batches

    def beyond(self, alone: int, most: int) -> list[float]:
        """What each number of rows, from `alone` to `most`, costs beyond `alone` rows.

        In tokens that batches of `alone` rows draw meanwhile; [] while these are not known. What
        was not measured is taken for cheap, to be tried.
        """
        known = self._known()
        if alone not in known:
            return []
        base = known.pop(alone)
        slopes = [(seconds - base) / (rows - alone) for rows, seconds in known.items()]
        slope = _HOPE * max(min(slopes), 0.0) if slopes else _GUESS * base / alone
        seconds = (known.get(n, base + slope * (n - alone)) for n in range(alone + 1, most + 1))
        return [0.0, *(alone * (s / base - 1) for s in seconds)]

    def _known(self) -> dict[int, float]:
        oldest = self._batches - _KEPT
        return {rows: s for rows, (s, batch) in self._seconds.items() if batch > oldest}


class Lookup:
    """What one choice may be copying, and how its proposals have fared."""

    def __init__(self, prompt: list[int], prediction: tuple[int, ...], size: int, purse: float):
        """size: the most tokens of prompt and answer. purse: tokens that may be lost."""
        # A prediction begins where the answer does: after the end of the prompt.
        head = [*prompt[-_LONGEST:], *prediction, -1] if prediction else []
        self._ids = np.empty(len(head) + size, np.int32)
        self._ids[: len(head)] = head
        self._head = self._end = len(head)
        self._came_true = 0.0
        self._failed = 0.0
        self.purse = purse
        self.rows = 0, 0, 0
        """Of its batch: without any proposal, with those of others before it, with its own."""

    def find(self, tokens: list[int], most: int) -> tuple[list[int], int]:
        """What followed the last of `tokens` before, at most `most`, and how many were alike."""
        self.purse = min(self.purse + _ALLOWANCE, _FULL_PURSE)
        new = tokens[self._end - self._head :]
        self._ids[self._end : self._end + len(new)] = new
        self._end += len(new)
        ids = self._ids[: self._end]
        ends = np.flatnonzero(ids[:-1] == ids[-1])
        alike = 1
        while alike < _LONGEST and len(ends):
            longer = ends[ends >= alike]
            longer = longer[ids[longer - alike] == ids[-1 - alike]]
            if not len(longer):
                break
            ends, alike = longer, alike + 1
        if alike < _SHORTEST:
            return [], 0
        start = int(ends[-1]) + 1
        draft = ids[start : start + most].tolist()
        return (draft[: draft.index(-1)] if -1 in draft else draft), alike

    def likelihood(self, alike: int) -> float:
        """Of a proposed token to come true: those before it that did, the rule of succession."""
        true = alike + self._came_true
        return (true + 1) / (true + 2 + self._failed)

    def settle(self, proposed: int, accepted: int, gain: float) -> None:
        """A proposal was drawn against; `gain` in tokens, less what it cost."""
        self._came_true = _MEMORY * self._came_true + accepted
        self._failed = _MEMORY * self._failed + (accepted < proposed)
        self.purse = min(self.purse + gain, _FULL_PURSE)


class Speculator:
    """Says for each batch what it may compute beyond what was drawn."""

    def __init__(self, mode: Literal["auto", "on", "off"], counters: Counters) -> None:
        """Modes as `engine.speculate`: whether it has to pay, or need not, or is not tried."""
        self._mode = mode
        self._counters = counters
        self._cost = BatchCost()
        self._purse = 1.0
        """What an answer begins with: more where earlier ones gained, less where they lost."""

    def propose(self, choices: "list[Choice]") -> None:
        """Fill `Choice.draft` of those that run in one batch, one token each."""
        rows = alone = len(choices)
        if self._mode == "off" or alone > _CROWD:
            return
        costs = self._cost.beyond(alone, _WIDEST)
        for choice in choices:
            most = min(choice.room, _WIDEST - rows)
            if most <= 0 or not costs:
                continue
            if choice.lookup is None:
                request = choice.job.request
                choice.lookup = Lookup(
                    choice.job.prompt, request.prediction, choice.max_length, self._purse
                )
            found, alike = choice.lookup.find(choice.sequence.tokens, most)
            forced = choice.forced()[:most]
            if len(forced) > len(found) or forced != found[: len(forced)]:
                found, alike = forced, _LONGEST
            length = len(found)
            if self._mode == "auto":
                before = costs[rows - alone]
                ahead = [cost - before for cost in costs[rows - alone + 1 :]]
                paid = choice.lookup.purse
                if alone > 1:
                    paid = min(paid, alone * _DELAY - before)
                length = _worth(choice.lookup.likelihood(alike), ahead[:length], paid)
            choice.draft = found[:length]
            choice.lookup.rows = alone, rows, rows + length
            rows += length

    def verified(self, lookup: Lookup | None, proposed: int, accepted: int) -> None:
        """Of what was proposed, so many tokens were drawn; `measured` knows how long it took."""
        self._counters.proposed += proposed
        self._counters.accepted += accepted
        if lookup is None:
            return
        alone, before, rows = lookup.rows
        costs = self._cost.beyond(alone, rows)
        gain = accepted - (costs[rows - alone] - costs[before - alone] if costs else 0)
        lookup.settle(proposed, accepted, gain)
        self._purse = min(max(self._purse + gain / 4, _LEAST_PURSE), _MOST_AT_FIRST)

    def measured(self, rows: int, seconds: float) -> None:
        """A batch of single tokens and proposals took `seconds`."""
        self._cost.add(rows, seconds)


def _worth(likelihood: float, costs: list[float], paid: float) -> int:
    """How many tokens to propose: as many as gain most, and cost no more than can be paid.

    likelihood: of each to come true after those before it. costs: of one, of two, and so on.
    """
    best, length, expected, reached = 0.0, 0, 0.0, 1.0
    for n, cost in enumerate(costs, 1):
        reached *= likelihood
        expected += reached
        if expected - cost > best and cost <= paid:
            best, length = expected - cost, n
    return length
