"""Queries and answers as the log gets them, without a model: made up, of ordinary size."""

import random
import time

from ulid import ULID

from benchmarks.runtime.prompts import Prompts
from edge_agent.engine.types import SamplingParams
from edge_agent.records import Decision, Outcome, Query, Reason, Route, Source, Usage

PROMPT_TOKENS, ANSWER_TOKENS = 48, 16
TEMPLATE = "benchmark"


def example_query(rng: random.Random, *, template: str = TEMPLATE) -> Query:
    """A chat query with a reference, so that it can be trained on."""
    text = Prompts(rng.randrange(2**31)).text(PROMPT_TOKENS - 16)
    messages = ({"role": "user", "content": text},)
    return Query(
        id=str(ULID()),
        at=time.time(),
        model="edge",
        prompt_ids=tuple(rng.randrange(1000, 40_000) for _ in range(PROMPT_TOKENS)),
        template=template,
        messages=messages,
        body={"model": "edge", "messages": messages, "max_tokens": 64},
        sampling=SamplingParams(max_tokens=64),
        task=f"task-{rng.randrange(4)}",
        reference=str(rng.randrange(1000)),
    )


def example_response(rng: random.Random) -> tuple[Decision, Outcome]:
    """A local answer."""
    decision = Decision(Route.LOCAL, Reason.THRESHOLD, p_offload=rng.random(), p_first=0.1)
    outcome = Outcome(
        source=Source.LOCAL,
        usage=Usage(PROMPT_TOKENS, ANSWER_TOKENS),
        texts=(Prompts(rng.randrange(2**31)).text(ANSWER_TOKENS),),
        finish_reasons=("stop",),
        token_ids=(tuple(rng.randrange(1000, 40_000) for _ in range(ANSWER_TOKENS)),),
        ttft_s=0.1,
        duration_s=0.5,
    )
    return decision, outcome
