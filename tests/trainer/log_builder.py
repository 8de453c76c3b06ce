"""A log made of queries with what a test of the trainer cares about."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ulid import ULID

from edge_agent.log.exchange import read, write
from edge_agent.log.store import Store
from edge_agent.records.query import Audit, Decision, Outcome, Query, Reason, Route, Source, Usage

TEMPLATE = "0123456789abcdef"


@dataclass
class LogBuilder:
    """Writes to `store`; the clock ticks once a query."""

    store: Store
    clock: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def ask(
        self,
        text: str,
        *,
        cloud: str | None = None,
        calls: Sequence[tuple[str, str]] = (),
        **fields: Any,
    ) -> str:
        """A query, answered "Hm." locally or by the cloud with `cloud`; returns its id.

        `calls` are the cloud's, name and arguments as JSON.
        """
        query = Query(
            id=str(ULID()),
            at=float(next(self.clock)),
            model="edge",
            messages=({"role": "user", "content": text},),
            **({"prompt_ids": (1, 2), "template": TEMPLATE} | fields),
        )
        local = cloud is None and not calls
        outcome = Outcome(
            Source.LOCAL if local else Source.CLOUD,
            Usage(),
            ("Hm." if local else cloud or "",),
            ("tool_calls" if calls else "stop",),
            (tuple(map(openai_call, calls)),),
        )
        self.store.save(query, Decision(Route.LOCAL, Reason.THRESHOLD), outcome).result()
        return query.id

    def audit(self, query_id: str, text: str, *calls: tuple[str, str]) -> None:
        """The cloud's answer to a query that was answered locally."""
        called = tuple(map(openai_call, calls))
        audit = Audit(query_id, 1.0, "m", text, Usage(), None, tool_calls=called)
        self.store.save_audit(audit).result()

    def imports(self, *lines: Mapping[str, Any]) -> None:
        """Examples as `edge-agent logs import` takes them."""
        write(self.store.path, read(json.dumps(line).encode() for line in lines))


def openai_call(call: tuple[str, str]) -> dict[str, Any]:
    """A call as answers hold it."""
    name, arguments = call
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
