"""What a served version is worth: its decisions and greedy answers on held-out queries.

It is asked as the daemon asks it: prefill, p_offload at the first position, then decoding from
the same KV. Nothing of the trainer's torch model is involved.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.engine.engine import Engine
from edge_agent.records.generation import GenerationRequest, SamplingParams
from trainer.data.items import Item
from trainer.graders import Graders

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Result:
    """One held-out query under one version."""

    item: Item
    p_offload: float
    reward_local: float
    reward_offload: float
    ended: bool
    """The answer came to its end by itself within the token limit."""
    logprob: float = 0.0
    """Of the answer's tokens together, nats; the offload token is masked."""
    tokens: int = 1
    """Of the answer."""

    @property
    def confidence(self) -> float:
        """Mean log-prob of the answer's tokens, nats."""
        return self.logprob / max(1, self.tokens)


class CloudValue:
    """R_off: what the cloud's logged answer to a query is worth."""

    def __init__(self, items: Sequence[Item], graders: Graders) -> None:
        """`items` show how good the cloud is where its answers can be graded."""
        self._graders = graders
        graded = [self.of(i) for i in items if i.cloud_text and i.reference_source != "cloud"]
        self._mean = sum(graded) / len(graded) if graded else 1.0

    def of(self, item: Item) -> float:
        """1 where its answer is itself the reference; its mean where it was never asked.

        Where its answers to one prompt differ: the chance that it agrees with itself.
        """
        if item.cloud_text is None:
            return self._mean
        if item.reference_source == "cloud":
            agreeing = [self._graders.score(item, draw) for draw in item.draws]
            return sum(agreeing) / len(agreeing) if agreeing else 1.0
        return self._graders.score(item, item.cloud_text)


def evaluate(
    engine: Engine, items: Sequence[Item], graders: Graders, *, max_tokens: int, window: int = 1
) -> list[Result]:
    """Results in the order of `items`; `window` is the decision window w."""
    found = drafts(engine, items, max_tokens=max_tokens, window=window)
    cloud = CloudValue(items, graders)
    return [
        Result(
            item=item,
            p_offload=draft.p_offload,
            reward_local=graders.score(item, draft.text),
            reward_offload=cloud.of(item),
            ended=draft.ended,
            logprob=draft.logprob,
            tokens=draft.tokens,
        )
        for item, draft in zip(items, found, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Draft:
    """A greedy answer and what the model thinks of it."""

    p_offload: float
    text: str
    """As it is graded: calls of tools in one form."""
    ended: bool
    """By itself, within the token limit."""
    logprob: float
    """Of its tokens together, nats, as serving has it: the end of the turn counts too."""
    tokens: int


def drafts(
    engine: Engine, items: Sequence[Item], *, max_tokens: int, window: int = 1
) -> list[Draft]:
    """Greedy answers in the order of `items`."""
    return asyncio.run(_draft_all(engine, items, max_tokens, window))


async def _draft_all(
    engine: Engine, items: Sequence[Item], max_tokens: int, window: int
) -> list[Draft]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def draft(item: Item) -> Draft:
        async with gate:
            sampling = SamplingParams(
                temperature=0.0,
                max_tokens=item.longest_answer(max_tokens),
                grammar=item.form.grammar,
            )
            request = GenerationRequest(
                item.prompt_ids, sampling, decide=True, window=window, confidence=True
            )
            generation = engine.submit(request)
            point = await generation.decision_point()
            generation.resume()
            events = [event async for event in generation]
            return Draft(
                point.p_offload,
                item.form.read("".join(event.text for event in events)),
                events[-1].finish_reason == "stop",
                sum(event.confidence for event in events),
                sum(len(event.token_ids) for event in events),
            )

    return list(await asyncio.gather(*map(draft, items)))
