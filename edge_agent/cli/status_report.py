"""`edge-agent status`: from the running daemon, else from what lies in the data directory."""

import dataclasses
import random
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edge_agent import __version__
from edge_agent.client.daemon import DaemonClient, connect, find_daemon
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError
from edge_agent.learning import report as training_report
from edge_agent.routing.calibration import COLD_START_NOTE

if TYPE_CHECKING:
    from models.adapters.version import AdapterVersion

_BAR = 20
_SAMPLE_S = 0.5
_NAMES = {
    "rate": "calls in window",
    "calls_per_day": "calls today",
    "tokens_per_day": "tokens today",
    "usd_per_day": "USD today",
    "usd_per_month": "USD this month",
}


def gather(settings: Settings, url: str | None = None) -> dict[str, Any]:
    """The status as JSON-ready data; `running` says whether a daemon gave it.

    Raises Unavailable only for an explicit `url` that nothing answers at.
    """
    running = find_daemon(settings.data_dir)
    if url is None and running is None:
        return {"running": False} | _from_disk(settings)
    client = connect(settings, url)
    try:
        return {
            "running": True,
            "url": client.url,
            "pid": running.pid if running and url is None else None,
            "tokens_per_s": None,
        } | _from_daemon(client)
    except EdgeAgentError as error:
        if url is not None:
            raise
        return {"running": False, "problem": str(error)} | _from_disk(settings)


def _from_daemon(client: DaemonClient) -> dict[str, Any]:
    """One snapshot, or two half a second apart where answers are running: that gives a speed."""
    first = client.get("/v1/status")
    if not first.get("engine", {}).get("running"):
        return first
    began = time.monotonic()
    time.sleep(_SAMPLE_S)
    second = client.get("/v1/status")
    generated = [found["engine"].get("generation_tokens_total", 0) for found in (first, second)]
    return second | {"tokens_per_s": (generated[1] - generated[0]) / (time.monotonic() - began)}


def _from_disk(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": __version__,
        "model": {"name": settings.model},
        "adapter": None,
        "cloud": {"url": settings.cloud.url, "model": settings.cloud.model}
        if settings.cloud.url
        else None,
    }
    rate = settings.budget.rate
    if settings.database.exists():
        found["budget"], rate = _budget(settings)
        found["log"] = _log(settings)
        report = training_report.report(settings.database, waiting_for=None)
        found["training"] = training_report.summary(report)
    active = _active_adapter(settings)
    found["adapter"] = {
        "version": active.version if active else "base",
        "trained": active is not None,
    }
    found["decision"] = {
        "policy": "threshold" if active else "cold_start",
        "note": None if active else COLD_START_NOTE,
        "min_gain": settings.decision.min_gain,
        **(_fresh_standing(settings, active) if active else {}),
        "rate_target": rate,
    }
    return found


def _active_adapter(settings: Settings) -> "AdapterVersion | None":
    from models.adapters.registry import AdapterRegistry

    return AdapterRegistry(settings.data_dir / "adapters").active()


def _fresh_standing(settings: Settings, active: "AdapterVersion") -> dict[str, Any]:
    """How the daemon would begin to decide."""
    from edge_agent.routing import calibration
    from edge_agent.routing.decider import Decider

    decider = Decider(settings.decision, rng=random.Random())  # noqa: S311 - draws nothing
    found = calibration.of(active.manifest.metrics)
    return dataclasses.asdict(decider.standing(active.version, found))


def _budget(settings: Settings) -> tuple[dict[str, Any], float | None]:
    """State of every limit, and the rate τ in force."""
    from edge_agent.budget.ledger import Ledger

    with closing(Ledger(settings.database, seed=settings.budget)) as ledger:
        state = {name: dataclasses.asdict(limit) for name, limit in ledger.state().items()}
        return state, ledger.limits().rate


def _log(settings: Settings) -> dict[str, Any]:
    from edge_agent.log.reader import LogReader

    with closing(LogReader(settings.database, enabled=settings.log.enabled)) as log:
        return {
            "enabled": log.enabled,
            "path": str(settings.database),
            "today": log.counts_today(),
        }


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The status for reading. Parts that are missing are left out."""
    yield _row("daemon", _daemon(status))
    yield from _model(status.get("model") or {})
    adapter = status.get("adapter") or {}
    decision = status.get("decision") or {}
    state = "trained" if adapter.get("trained") else "untrained"
    yield _row("adapter", f"{adapter.get('version', 'base')} ({state})")
    if status.get("training"):
        yield _row("training", training_report.line(status["training"]))
    yield _row("decision", _decision(decision))
    if decision.get("note"):
        yield from (_row("", text) for text in textwrap.wrap(decision["note"], 78))
    cloud = status.get("cloud") or {}
    yield _row("cloud", _cloud(cloud))
    if cloud.get("last_failure"):
        yield _row("", f"its last call failed: {cloud['last_failure']}")
    if cloud.get("mended"):
        yield _row("", f"what it refused: {'; '.join(cloud['mended'])}")
    limits = status.get("budget") or {}
    for name, limit in limits.items():
        if limit.get("limit") is not None:
            yield _row("budget", _limit(name, limit))
    log = status.get("log") or {}
    if log.get("today"):
        yield _row("today", _today(log["today"], decision.get("rate_target")))
    if status.get("engine"):
        yield _row("engine", _engine(status["engine"], status.get("tokens_per_s")))
    if log.get("path"):
        yield _row("log", f"{'on' if log.get('enabled') else 'off'}, {log['path']}")
    if log.get("failing"):
        then = "answers go unlogged" if log.get("on_failure") == "answer" else "queries are refused"
        yield _row("", f"cannot be written, so {then}: {log['failing']}")
    if log.get("unlogged"):
        yield _row("", f"{log['unlogged']} answers were not logged since the daemon started")


def _row(title: str, text: str) -> str:
    return f"{title:<9} {text}"


def _daemon(status: Mapping[str, Any]) -> str:
    if not status.get("running"):
        problem = status.get("problem")
        return (
            f"not answering: {problem}" if problem else "not running (edge-agent serve starts it)"
        )
    parts = [f"running at {status.get('url')}"]
    if status.get("pid"):
        parts.append(f"process {status['pid']}")
    if status.get("uptime_s") is not None:
        parts.append(f"up {_duration(status['uptime_s'])}")
    return ", ".join([*parts, f"version {status.get('version', '?')}"])


def _model(model: Mapping[str, Any]) -> Iterator[str]:
    limit = model.get("context_limit")
    yield _row("model", str(model.get("name", "?")) + (f", context {limit}" if limit else ""))
    if model.get("form"):
        yield _row("", f"its weights as {model['form']}, as was measured to serve best here")
    if model.get("proposed"):
        yield _row("", model["proposed"])


def _decision(decision: Mapping[str, Any]) -> str:
    rate = decision.get("rate_target")
    if decision.get("policy") != "threshold":
        return "cold start, " + ("no rate limit" if rate is None else f"rate τ = {rate:g}")
    price, least = decision.get("price"), decision.get("min_gain") or 0.0
    cap = "no cap" if rate is None else f"cap {100 * rate:.3g} %"
    if price is not None:
        when = f"where > {price:.2f} more reward is expected"
        cap += ", which raises the price" if price > least else ""
    else:
        threshold = decision.get("threshold")
        when = "by p_offload" if threshold is None else f"where p_offload > {threshold:.3g}"
    after = "after the draft" if decision.get("after") == "draft" else "at the first token"
    return f"asks {after} {when}; {cap}"


def _cloud(cloud: Mapping[str, Any] | None) -> str:
    if not cloud:
        return "none configured: every query is answered locally"
    state = {
        "open": ", left alone after repeated failures",
        "half_open": ", being tried again after failures",
    }.get(str(cloud.get("state")), "")
    return f"{cloud.get('model')} at {cloud.get('url')}{state}"


def _limit(name: str, state: Mapping[str, Any]) -> str:
    title = f"{_NAMES.get(name, name):<16}"
    limit, used = state.get("limit"), state.get("used") or 0
    reserved = state.get("reserved") or 0
    share = min(1.0, (used + reserved) / limit) if limit else 1.0
    filled = round(share * _BAR)
    text = f"{title}{'█' * filled}{'░' * (_BAR - filled)} {used:g} of {limit:g}"
    if reserved:
        text += f", {reserved:g} reserved"
    if state.get("resets_at"):
        at = datetime.fromtimestamp(state["resets_at"]).astimezone()
        text += f", resets {at:%Y-%m-%d %H:%M}"
    return text


def _today(today: Mapping[str, Any], rate: float | None) -> str:
    total = today.get("queries", 0)
    parts = [f"{today.get(source, 0)} {source}" for source in ("local", "cloud", "fallback")]
    text = f"{total} queries: {', '.join(parts)}"
    if total:
        share = (today.get("cloud", 0) + today.get("fallback", 0)) / total
        text += (
            f" ({share:.0%} offloaded" + ("" if rate is None else f", cap {100 * rate:.3g} %") + ")"
        )
    return text


def _engine(engine: Mapping[str, Any], tokens_per_s: float | None) -> str:
    if engine.get("loaded") is False:
        return "weights and KV memory are given back until the next request"
    text = (
        f"{engine.get('running', 0)} of {engine.get('slots', '?')} slots busy, "
        f"{engine.get('waiting', 0)} waiting"
    )
    if engine.get("kv_cells"):
        text += f", KV {engine.get('kv_used', 0)} of {engine['kv_cells']} cells"
    return text + ("" if tokens_per_s is None else f", {tokens_per_s:.0f} tokens/s")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
