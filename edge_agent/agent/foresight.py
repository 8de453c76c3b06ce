"""Where a query would go, without answering it: `foresee`."""

from typing import TYPE_CHECKING, Any

from edge_agent.errors import StoreError
from edge_agent.records.generation import DecisionPoint, GenerationRequest
from edge_agent.records.query import Query, Reason, Route
from edge_agent.routing.decider import COLD_START_RATE
from edge_agent.routing.draft import Draft

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent


async def foresee(agent: "Agent", query: Query) -> dict[str, Any]:
    """The likelier route of `query` now, JSON-ready; the policy, the ledger and the log stay put.

    Keys: `route`, `reason` (as in a decision), `probability` of the cloud in [0, 1], `p_offload`,
    `draft_logprob` (nats; where the version decides after a draft), `threshold`, `price` and
    `adapter`.
    Raises what submitting to the engine raises.
    """
    if not query.prompt_ids:
        return _found(Route.CLOUD, Reason.UNREADABLE, 1.0, agent.engine.version)
    version = agent.engine.version
    trained = version != "base"
    drafts = trained and agent.decider.after(agent.evidence(version)) == "draft"
    point, logprob = await _look(agent, query, drafts=drafts)
    seen: dict[str, Any] = {"p_offload": point.p_offload}
    kept = _kept_here(agent)
    if kept is not None:
        return _found(Route.LOCAL, kept, 0.0, point.version, **seen)
    rate = agent.ledger.limits().rate
    if not trained:
        share = COLD_START_RATE if rate is None else rate
        route = Route.CLOUD if share > 0.5 else Route.LOCAL
        return _found(route, Reason.COLD_START, share, point.version, **seen)
    standing = agent.decider.standing(point.version, agent.evidence(point.version))
    reason = Reason.THRESHOLD if logprob is None else Reason.DRAFT
    wants = point.p_offload > standing.threshold
    if logprob is not None:  # the less the model believes its draft, the more a call gains
        seen["draft_logprob"], wants = logprob, logprob < standing.threshold
    flips = agent.decider.explore(rate)
    return _found(
        Route.CLOUD if wants else Route.LOCAL,
        reason,
        1 - flips if wants else flips,
        point.version,
        **seen,
        threshold=standing.threshold,
        price=standing.price,
    )


def _kept_here(agent: "Agent") -> Reason | None:
    """Why the cloud cannot be asked now, whatever the model thinks; None: it can."""
    if agent.cloud is None:
        return Reason.NO_CLOUD
    if agent.cloud.state == "open":
        return Reason.CLOUD_DOWN
    try:
        states = agent.ledger.state().values()
    except StoreError:
        return Reason.NO_LEDGER
    spent = any(s.limit is not None and s.used + s.reserved >= s.limit for s in states)
    return Reason.BUDGET if spent else None


async def _look(
    agent: "Agent", query: Query, *, drafts: bool
) -> tuple[DecisionPoint, float | None]:
    """The decision point, and the log-probability of a draft where one is wanted."""
    generation = agent.engine.submit(
        GenerationRequest(
            query.prompt_ids,
            query.sampling,
            decide=True,
            client=query.client,
            confidence=drafts,
        )
    )
    try:
        point = await generation.decision_point()
        if not drafts:
            return point, None
        generation.resume()
        draft = Draft(generation)
        await draft.hold(None)
        return point, draft.logprob
    finally:
        generation.cancel()


def _found(
    route: Route, reason: Reason, probability: float, adapter: str, **seen: Any
) -> dict[str, Any]:
    told = {"route": str(route), "reason": str(reason), "probability": probability}
    return {**told, "adapter": adapter, **seen}
