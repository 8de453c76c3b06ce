"""The life of one request: prefill, decide, answer locally or ask the cloud, fall back, log.

prompt ids ──▶ engine prefills, reads p_offload, parks the KV
                  │ (a draft is written and held back, where the decision is made from one: `draft`)
              decision ──local──▶ resume: go on decoding from the same KV
                  │
                cloud ──▶ reserve budget ──refused──▶ resume locally (reason: budget)
                             │
                          stream the cloud's answer through
                             ▼ fails
              resume locally; text the client already has extends the prompt's KV
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass

from edge_agent.budget.paid_call import Assistance, PaidCall
from edge_agent.engine.engine import Engine
from edge_agent.engine.stream import Generation
from edge_agent.errors import (
    BudgetExhausted,
    CloudDown,
    CloudError,
    EdgeAgentError,
    InvalidRequest,
    StoreError,
)
from edge_agent.log.store import Store
from edge_agent.records.generation import DecisionPoint, GenerationRequest, TokenEvent
from edge_agent.records.query import (
    Decision,
    Delta,
    Outcome,
    Query,
    Reason,
    Route,
    Source,
    Transcript,
    Usage,
)
from edge_agent.routing.calibration import Evidence
from edge_agent.routing.decider import Decider
from edge_agent.routing.draft import Draft, Hold

NO_CLOUD = "no cloud is configured: set cloud.url and cloud.model, or ask the model edge-local"


@dataclass(frozen=True, slots=True)
class Services:
    """What answering needs. `assistance` is None where no cloud is configured."""

    engine: Engine
    decider: Decider
    store: Store
    assistance: Assistance | None
    window: int
    """Decision window w in answer positions."""
    hold: Hold
    """How much of a streamed draft may be held back."""
    trained: Callable[[str], bool]
    """Whether an adapter version has been taught when to ask."""
    evidence: Callable[[str], Evidence]
    """What training found out about an adapter version's decisions."""
    dual: Callable[[str], float | None]
    """Dual variable λ of an adapter version."""
    audit: Callable[[Query], None]
    """Ask the cloud in the background about a query that was answered locally."""
    answered: Callable[[Query, Decision, Outcome], None]  # told of each answer that has ended


async def begin(query: Query, services: Services) -> "Answer":
    """Start answering: returns when the route is decided and, for the cloud, its answer begins.

    Raises InvalidRequest, ContextLengthExceeded, QueueFull, Unavailable, and for a forced cloud
    query also BudgetExhausted.
    """
    answer = Answer(query, services)
    try:
        await answer._begin()
    except BaseException:
        answer._release()
        raise
    return answer


class Answer:
    """One answer on its way. Iterate it once; afterwards `outcome` says how it ended."""

    decision: Decision
    outcome: Outcome | None = None

    def __init__(self, query: Query, services: Services) -> None:
        self.query = query
        self.source = Source.LOCAL
        self.adapter = services.engine.version
        self._services = services
        self._started = time.monotonic()
        self._generation: Generation | None = None
        self._point: DecisionPoint | None = None
        self._draft: Draft | None = None
        self._call: PaidCall | None = None
        self._cloud_error: str | None = None
        self._transcript = Transcript(query.n)
        self._first_at: float | None = None

    async def _begin(self) -> None:
        query, services = self.query, self._services
        if self._cloud_alone and services.assistance is None:
            raise InvalidRequest(NO_CLOUD, param="model")
        services.store.require_writable(query)
        window = services.window if query.route is Route.AUTO else 1
        drafts = self._drafts(services.engine.version)
        if query.prompt_ids:
            self._generation = services.engine.submit(
                GenerationRequest(
                    *(query.prompt_ids, query.sampling, query.n),
                    # Parked only where the cloud may answer: the way here and back takes a batch.
                    decide=not self._stays_here or window > 1,
                    window=window,
                    client=query.client,
                    confidence=drafts,
                    kept=services.store.keeps(query),
                    prediction=query.prediction,
                )
            )
        if not self._cloud_alone:
            point = await self._reach_decision_point()
            if drafts and self._drafts(point.version):
                await self._hold_draft()
        self.decision = self._decide()
        if self.decision.route is Route.CLOUD:
            await self._ask_cloud()
        if self.decision.audit:
            services.audit(query)

    @property
    def _stays_here(self) -> bool:
        """True if the route is local whatever the model thinks."""
        query = self.query
        return query.private or query.route is Route.LOCAL or self._services.assistance is None

    @property
    def _cloud_alone(self) -> bool:
        """True if the local model is not asked: the client says so, or it cannot read the query."""
        return self.query.route is Route.CLOUD or not self.query.prompt_ids

    async def _reach_decision_point(self) -> DecisionPoint:
        assert self._generation is not None
        if self._point is None:
            self._point = await self._generation.decision_point()
            self.adapter = self._point.version
        return self._point

    def _drafts(self, version: str) -> bool:
        """Whether a draft by `version` is written before it is decided."""
        query, services = self.query, self._services
        assistance = services.assistance
        if self._cloud_alone or self._stays_here or assistance is None:
            return False
        if query.n > 1 or services.window > 1 or assistance.cloud.state == "open":
            return False
        decides_after = services.decider.after(services.evidence(version))
        return services.trained(version) and decides_after == "draft"

    async def _hold_draft(self) -> None:
        assert self._generation is not None
        self._generation.resume()
        self._draft = Draft(self._generation)
        # Whoever does not stream sees nothing before the end anyway.
        await self._draft.hold(self._services.hold if self.query.stream else None)

    def _decide(self) -> Decision:
        query, services = self.query, self._services
        if self._cloud_alone:
            asked = query.route is Route.CLOUD
            return Decision(Route.CLOUD, Reason.REQUESTED if asked else Reason.UNREADABLE)
        point = self._point
        assert point is not None
        seen = Decision(
            Route.LOCAL,
            Reason.REQUESTED,
            p_offload=point.p_offload,
            p_first=point.p_first,
            dual=services.dual(point.version),
        )
        if query.private:
            return dataclasses.replace(seen, reason=Reason.PRIVATE)
        if query.route is Route.LOCAL:
            return seen
        if services.assistance is None:
            return dataclasses.replace(seen, reason=Reason.NO_CLOUD)
        try:
            rate = services.assistance.ledger.limits().rate
        except StoreError:
            return dataclasses.replace(seen, reason=Reason.NO_LEDGER)
        decision = services.decider.decide(
            point,
            trained=services.trained(point.version),
            rate=rate,
            evidence=services.evidence(point.version),
            draft_logprob=self._draft.logprob if self._draft else None,
        )
        return dataclasses.replace(decision, dual=seen.dual)

    async def _ask_cloud(self) -> None:
        """Open the cloud's answer, or turn to the local model and say why."""
        assistance, forced = self._services.assistance, self._cloud_alone
        assert assistance is not None
        try:
            self._services.store.require_ledger()
            self._call = await assistance.call(self.query)
            self.source = Source.CLOUD
        except StoreError:
            if forced:
                raise
            self._stay_local(Reason.NO_LEDGER)
        except BudgetExhausted as error:
            if forced:
                raise
            self._stay_local(Reason.NO_PRICE if error.limit == "price" else Reason.BUDGET)
            if error.limit == "rate":
                self._services.decider.refused(self.decision, self.adapter)
            with contextlib.suppress(StoreError):
                state = await asyncio.to_thread(assistance.ledger.state)
                budget = {name: dataclasses.asdict(limit) for name, limit in state.items()}
                self.decision = dataclasses.replace(self.decision, budget=budget)
        except CloudDown as error:
            if forced:
                await self._fall_back(error)
            else:
                self._stay_local(Reason.CLOUD_DOWN)
        except CloudError as error:
            await self._fall_back(error)

    def _stay_local(self, reason: Reason) -> None:
        self.decision = dataclasses.replace(
            self.decision, route=Route.LOCAL, reason=reason, wanted=Route.CLOUD
        )

    async def _fall_back(self, error: CloudError) -> None:
        if self._generation is None:
            raise error
        self.source = Source.FALLBACK
        self._cloud_error = error.message
        await self._reach_decision_point()
        if self._draft is not None and any(self._transcript.texts):
            await self._park_anew()

    async def _park_anew(self) -> None:
        """The draft does not go on from what the cloud has said: start from the prompt again."""
        query = self.query
        self._generation = self._services.engine.submit(
            GenerationRequest(query.prompt_ids, query.sampling, decide=True, client=query.client)
        )
        await self._generation.decision_point()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The answer's pieces. The log row is committed before the iteration ends."""
        failure: BaseException | None = None
        try:
            async for delta in self._deltas():
                if self._first_at is None and (delta.text or delta.tool_calls):
                    self._first_at = time.monotonic()
                self._transcript.add(delta)
                yield delta
        except BaseException as error:
            failure = error
            raise
        finally:
            await asyncio.shield(self._finish(failure))

    async def _deltas(self) -> AsyncIterator[Delta]:
        if self._call is None:
            async for delta in self._local():
                yield delta
            return
        try:
            if self.query.stream:
                async for delta in self._call:
                    if delta.text or delta.tool_calls:
                        self._drop_draft()
                    yield delta
                return
            # Nothing was shown yet, so a broken answer can be thrown away whole.
            for delta in [delta async for delta in self._call]:
                yield delta
            return
        except CloudError as error:
            if any(self._transcript.tool_calls):
                raise
            await self._fall_back(error)
        async for delta in self._local():
            yield delta

    def _drop_draft(self) -> None:
        """The cloud answers, and the client sees it: what the local model writes is of no use."""
        if self._draft is not None:
            self._release()

    async def _local(self) -> AsyncIterator[Delta]:
        """The draft; else decode from the parked KV, after whatever the cloud already said."""
        generation = self._generation
        assert generation is not None
        said = self._transcript
        if self._draft is not None and not any(said.texts):
            async for delta in self._parsed(self._draft):
                yield delta
            return
        if any(said.texts) and self.query.n > 1:
            async for delta in self._continue_each():
                yield delta
            return
        encode = self._services.engine.vocabulary.encode
        generation.resume(tuple(encode(said.texts[0])) if said.texts[0] else ())
        async for delta in self._parsed(generation):
            yield delta

    async def _continue_each(self) -> AsyncIterator[Delta]:
        """Several choices broke off at different texts: each goes on from its own."""
        query, engine = self.query, self._services.engine
        for index in range(query.n):
            if self._transcript.finish_reasons[index] is not None:
                continue
            said = engine.vocabulary.encode(self._transcript.texts[index])
            generation = engine.submit(
                GenerationRequest((*query.prompt_ids, *said), query.sampling, client=query.client)
            )
            try:
                async for event in generation:
                    yield Delta.of(dataclasses.replace(event, index=index))
            finally:
                generation.cancel()

    async def _parsed(self, events: AsyncIterable[TokenEvent]) -> AsyncIterator[Delta]:
        """Events as deltas; with tools, the text is read for calls while it streams."""
        parser = self.query.tool_format.parser() if self.query.tool_format else None
        async for event in events:
            for delta in parser.feed(event) if parser else (Delta.of(event),):
                yield delta

    async def aclose(self) -> None:
        """The client is gone: stop decoding and the cloud's stream, book and log what was."""
        if self.outcome is None:
            await self._finish(asyncio.CancelledError())

    async def _finish(self, failure: BaseException | None) -> None:
        if self.outcome is not None:
            return
        self.outcome = self._result(failure)
        self._release()
        if self._call is not None:
            await self._call.end(failure)
            self.outcome = dataclasses.replace(self.outcome, cost_usd=self._call.cost_usd)
        saved = self._services.store.save(self.query, self.decision, self.outcome)
        self._services.answered(self.query, self.decision, self.outcome)
        await asyncio.wrap_future(saved)

    def _release(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    def _result(self, failure: BaseException | None) -> Outcome:
        said, call, point = self._transcript, self._call, self._point
        gone = isinstance(failure, asyncio.CancelledError | GeneratorExit)
        error = self._cloud_error
        if isinstance(failure, EdgeAgentError):
            error = failure.message
        elif failure is not None and not gone:
            error = f"{type(failure).__name__}: {failure}"
        cloud_usage = call.usage if call else None
        local_usage = Usage(
            prompt_tokens=len(self.query.prompt_ids),
            completion_tokens=sum(map(len, said.token_ids)),
            cached_tokens=point.cached_tokens if point else 0,
            predicted=self._generation.predicted if self._generation else (0, 0),
        )
        from_cloud = self.source is Source.CLOUD
        return Outcome(
            source=self.source,
            usage=(cloud_usage or Usage()) if from_cloud else local_usage,
            texts=tuple(said.texts),
            finish_reasons=tuple(said.finish_reasons),
            tool_calls=tuple(tuple(calls) for calls in said.tool_calls),
            token_ids=() if from_cloud else tuple(map(tuple, said.token_ids)),
            adapter=self.adapter,
            cloud_model=call.model if call else None,
            cost_usd=0.0 if call is None else call.cost_usd,
            cloud_usage=cloud_usage,
            ttft_s=None if self._first_at is None else self._first_at - self._started,
            duration_s=time.monotonic() - self._started,
            error=error,
            disconnected=gone,
            draft=self._draft.text if self._draft and not self._draft.released else None,
            beside=call.beside if call else {},
        )
