"""What the running agent says of itself: `GET /v1/status`, `edge-agent status`, `/metrics`."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edge_agent import __version__
from edge_agent.agent.agent import Agent
from edge_agent.errors import StoreError
from edge_agent.learning.report import summary
from edge_agent.routing.calibration import COLD_START_NOTE
from models import catalog
from models.tuned import Tuned

T = TypeVar("T")


def status(agent: Agent) -> dict[str, Any]:
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
            **_tuned(agent),
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


def _tuned(agent: Agent) -> dict[str, Any]:
    """Which form of the file serves, what `models tune` would offer, why none is measured."""
    name = agent.model.entry.name
    tuned = None
    if not catalog.is_path(agent.settings.model):
        tuned = Tuned.load(catalog.model_dir(agent.settings.data_dir, name))
    return {
        "form": tuned.choice if tuned is not None and tuned.file == agent.model.path.name else None,
        "proposed": tuned.proposal(name) if tuned is not None else None,
        "tuning_waits_for": agent.tuning.waiting_for,
    }


def _standing(agent: Agent, version: str) -> dict[str, Any]:
    return dataclasses.asdict(agent.decider.standing(version, agent.evidence(version)))


def _readable(read: Callable[[], T]) -> T | None:
    """What `read` gives; None where the database cannot be read, which `log.failing` explains."""
    try:
        return read()
    except StoreError:
        return None


def _budget(agent: Agent) -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(limit) for name, limit in agent.ledger.state().items()}


def _cloud(agent: Agent) -> dict[str, Any] | None:
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
