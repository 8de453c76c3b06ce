"""Records as the agent makes them, with what a test cares about set by name."""

import dataclasses
import time
from typing import Any

from ulid import ULID

from edge_agent.records.query import Decision, Outcome, Query, Reason, Route, Source, Usage


def a_query(text: str = "What is 17 + 25?", **fields: Any) -> Query:
    base = Query(
        id=str(ULID()),
        at=time.time(),
        model="edge",
        prompt_ids=(1, 9690, 198, 2683),
        template="0123456789abcdef",
        messages=({"role": "user", "content": text},),
        body={"model": "edge", "messages": [{"role": "user", "content": text}], "temperature": 0},
    )
    return dataclasses.replace(base, **fields)


def a_decision(**fields: Any) -> Decision:
    base = Decision(Route.LOCAL, Reason.THRESHOLD, p_offload=0.04, threshold=0.31)
    return dataclasses.replace(base, **fields)


def an_outcome(text: str = "Forty-two.", **fields: Any) -> Outcome:
    base = Outcome(
        source=Source.LOCAL,
        usage=Usage(prompt_tokens=4, completion_tokens=3, cached_tokens=1),
        texts=(text,),
        finish_reasons=("stop",),
        token_ids=((5, 6, 2),),
        adapter="base",
        cost_usd=0.0,
        ttft_s=0.03,
        duration_s=0.2,
    )
    return dataclasses.replace(base, **fields)
