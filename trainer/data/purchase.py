"""References that are missing from the log, bought from the cloud: `train --allow-cloud N`.

Bought for queries since the last round that nobody gave an answer for, the newest first. A query
is asked about as it was sent, but only if the agent itself might have asked: never a private one,
never one whose client wanted the local model. Each call passes the ledger that serving uses, so
no limit is overrun, and an answer is logged as an audit before the next is asked for: a later
round finds it there, whatever happens to this one. A call cut short by a crash is charged in
full, as everywhere.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.budget.ledger import Ledger
from edge_agent.budget.paid_call import Assistance
from edge_agent.chat.template import template_digest
from edge_agent.cloud.client import CloudClient, find_api_key
from edge_agent.config.settings import Settings
from edge_agent.errors import BudgetExhausted, CloudError, ConfigError
from edge_agent.learning.journal import Position
from edge_agent.log.database import boundary, open_database
from edge_agent.log.rows import ANSWERED, READABLE
from edge_agent.log.store import Store
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Audit, Query, Transcript, Usage
from models import catalog
from models.gguf import inspect

_PATIENCE = 3
"""Failures of the cloud in a row after which no more is asked."""

_MISSING = f"""
SELECT query.id, query.messages, query.request, query.sampling, coalesce(query.tools, '[]')
FROM query
WHERE query.seq > :since AND query.template = :template AND query.kind = 'chat'
  AND query.route = 'auto' AND {READABLE} AND NOT {ANSWERED}
  AND NOT EXISTS (SELECT 1 FROM audit WHERE query_id = query.id AND completion_tokens > 0)
ORDER BY query.seq DESC LIMIT :at_most
"""  # noqa: S608
_NOT_SENT = frozenset({"n", "logprobs", "top_logprobs"})
"""One answer's text is all that is wanted."""


@dataclass(frozen=True, slots=True)
class Bought:
    """What a purchase came to."""

    answers: int
    missing: int
    """Queries without a reference that were looked for; at most as many as were allowed."""
    cost_usd: float | None
    """None: the price of the model, or of a call that broke off, is not known."""
    stopped: str | None
    """Why no more was asked for; None: all were."""

    def __str__(self) -> str:
        paid = "at a cost not known" if self.cost_usd is None else f"for ${self.cost_usd:.4f}"
        why = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{self.answers} of {self.missing} missing references bought {paid}{why}"


def buy(
    settings: Settings,
    at_most: int,
    *,
    since: Position,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> Bought:
    """Buy references for at most `at_most` queries after `since`. `told` hears of each.

    Raises ConfigError (no cloud), StoreError, ModelNotFound. A refusal of the budget and failures
    of the cloud end it early; what was bought until then stays.
    """
    cloud = settings.cloud
    if cloud.url is None or cloud.model is None:
        raise ConfigError(
            "--allow-cloud needs a cloud: set cloud.url and cloud.model, or leave it out"
        )
    model = catalog.resolve(settings.model, settings.data_dir)
    template = template_digest(model.entry.chat_template or inspect(model.path).chat_template)
    found = _missing(settings.database, since, template, at_most)
    with (
        Ledger(settings.database, seed=settings.budget) as ledger,
        closing(Store(settings.database, enabled=settings.log.enabled)) as store,
    ):
        ledger.recover()
        return asyncio.run(_Purchase(settings, ledger, store, told).run(found))


class _Purchase:
    def __init__(
        self, settings: Settings, ledger: Ledger, store: Store, told: Callable[[int, int], None]
    ) -> None:
        self._settings = settings.cloud
        self._ledger = ledger
        self._store = store
        self._told = told

    async def run(self, found: list[Query]) -> Bought:
        answers, failures, stopped = 0, 0, None
        costs: list[float | None] = []
        key, database = find_api_key(self._settings), self._ledger.path
        async with CloudClient(self._settings, api_key=key, database=database) as cloud:
            assistance = Assistance(cloud, self._ledger, cloud.model, self._settings.max_tokens)
            for query in found:
                try:
                    audit = await _ask(assistance, query)
                except BudgetExhausted as error:
                    stopped = error.message
                    break
                await asyncio.wrap_future(self._store.save_audit(audit))
                costs.append(audit.cost_usd)
                answers += audit.error is None
                self._told(answers, len(found))
                failures = 0 if audit.error is None else failures + 1
                if failures == _PATIENCE:
                    stopped = audit.error
                    break
        known = [cost for cost in costs if cost is not None]
        cost_usd = sum(known) if len(known) == len(costs) else None
        return Bought(answers, len(found), cost_usd, stopped)


async def _ask(assistance: Assistance, query: Query) -> Audit:
    said, failure = Transcript(1), None
    try:
        call = await assistance.call(query)
    except CloudError as error:
        cost = None if error.sent else 0.0
        return Audit(query.id, time.time(), assistance.model, "", Usage(), cost, error.message)
    try:
        async for delta in call:
            said.add(delta)
    except CloudError as error:
        failure = error.message
    except BaseException as error:
        await asyncio.shield(call.end(error))
        raise
    reason = said.finish_reasons[0]
    if failure is None and reason not in ("stop", "tool_calls"):
        failure = f"the answer did not come to its end ({reason})"
    usage, cost = call.usage or Usage(), call.cost_usd
    text, calls = said.texts[0], tuple(said.tool_calls[0])
    return Audit(query.id, time.time(), call.model, text, usage, cost, failure, calls)


def _missing(database: Path, since: Position, template: str, at_most: int) -> list[Query]:
    arguments = {"since": since.seq, "template": template, "at_most": at_most}
    with boundary(database), closing(open_database(database, read_only=True)) as db:
        rows = db.execute(_MISSING, arguments).fetchall()
    return [_query(*map(json.loads, columns), id_=id_) for id_, *columns in rows]


def _query(
    messages: list[Mapping[str, Any]],
    request: Mapping[str, Any],
    sampling: Mapping[str, Any],
    tools: list[Mapping[str, Any]],
    *,
    id_: str,
) -> Query:
    body = {name: value for name, value in request.items() if name not in _NOT_SENT}
    return Query(
        id=id_,
        at=time.time(),
        model="edge",
        prompt_ids=(),
        messages=tuple(messages),
        body={**body, "messages": messages} | ({"tools": tools} if tools else {}),
        sampling=SamplingParams(max_tokens=sampling.get("max_tokens")),
    )
