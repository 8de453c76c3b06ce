"""What the running agent says of itself: `GET /v1/status`, `edge-agent status`, `/metrics`."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edge_agent import __version__
from edge_agent.errors import StoreError
from edge_agent.training.report import summary

if TYPE_CHECKING:
    from edge_agent.agent import Agent

T = TypeVar("T")

COLD_START_NOTE = (
    "No adapter is trained yet, so p_offload carries no information. Until then a random share "
    "of the queries, at the budget's rate, is asked of the cloud: that is the evidence the first "
    "training round needs."
)


def status(agent: "Agent") -> dict[str, Any]:
    """A JSON-ready snapshot; rates in [0, 1], times in Unix seconds, money in USD."""
    version = agent.engine.version
    trained = version != "base"
    return {
        "version": __version__,
        "started_at": agent.started_at,
        "uptime_s": time.time() - agent.started_at,
        "model": {
            "name": agent.model.entry.name,
            "path": str(agent.model.path),
            "offload_token": agent.model.entry.offload_token,
            "context_limit": agent.engine.context_limit,
        },
        "adapter": {"version": version, "trained": trained, "dual": agent.dual(version)},
        "engine": dataclasses.asdict(agent.engine.stats()),
        "decision": {
            "policy": "threshold" if trained else "cold_start",
            "note": None if trained else COLD_START_NOTE,
            "window": agent.settings.decision.window,
            "min_gain": agent.settings.decision.min_gain,
            **(_standing(agent, version) if trained else {"threshold": None}),
            "rate_target": _readable(lambda: agent.ledger.limits().rate),
        },
        "budget": _readable(lambda: _budget(agent)),
        "cloud": _cloud(agent),
        "training": _readable(lambda: summary(agent.training_report(10))),
        "log": {
            "enabled": _readable(lambda: agent.store.enabled),
            "path": str(agent.settings.database),
            "today": _readable(agent.store.counts_today),
            "on_failure": agent.settings.log.on_failure,
            **dataclasses.asdict(agent.store.health.state()),
        },
    }


def _standing(agent: "Agent", version: str) -> dict[str, Any]:
    return dataclasses.asdict(agent.decider.standing(version, agent.evidence(version)))


def _readable(read: Callable[[], T]) -> T | None:
    """What `read` gives; None where the database cannot be read, which `log.failing` explains."""
    try:
        return read()
    except StoreError:
        return None


def _budget(agent: "Agent") -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(limit) for name, limit in agent.ledger.state().items()}


def _cloud(agent: "Agent") -> dict[str, Any] | None:
    if agent.cloud is None:
        return None
    settings, cloud = agent.settings.cloud, agent.cloud
    return {
        "url": settings.url,
        "model": settings.model,
        "state": cloud.state,
        "last_failure": cloud.last_failure,
        "mended": cloud.lessons.sentences(),
    }
