"""Checks of what is beyond this process: the cloud and its price, the daemon and its port."""

import asyncio
import os
import socket

from edge_agent.doctor.check import Check, Subject, failure, ok, warning
from edge_agent.errors import ConfigError, EdgeAgentError

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def cloud_key(subject: Subject) -> Check:
    """Whether there is a key; never the key."""
    from edge_agent.cloud.check import find_api_key

    cloud = subject.settings.cloud
    if cloud.url is None:
        return ok("cloud key", "no cloud is configured, so none is needed")
    try:
        found = find_api_key(cloud)
    except ConfigError as error:
        return failure("cloud key", str(error), f"set {cloud.api_key_env} to the key alone")
    if found is None:
        return warning(
            "cloud key",
            f"{cloud.api_key_env} is not set, and the keyring has no such entry",
            f"export {cloud.api_key_env}=…, or: keyring set edge-agent {cloud.api_key_env}",
        )
    where = "environment" if os.environ.get(cloud.api_key_env) else "keyring"
    return ok("cloud key", f"{cloud.api_key_env} is set ({where})")


def cloud(subject: Subject) -> Check:
    """One small request that costs nothing."""
    from edge_agent.cloud.check import CloudCheck, find_api_key
    from edge_agent.cloud.client import CloudClient

    settings = subject.settings.cloud
    if settings.url is None:
        return ok("cloud", "none is configured: every query is answered locally")

    async def ask() -> CloudCheck:
        client = CloudClient(settings, api_key=find_api_key(settings))
        try:
            return await client.check()
        finally:
            await client.aclose()

    try:
        found = asyncio.run(ask())
    except EdgeAgentError as error:
        return failure("cloud", str(error), "check cloud.url (edge-agent config show)")
    if not found.ok:
        return failure("cloud", found.message, "until then every query is answered locally")
    failed = _last_failure(subject)
    if failed is not None:
        return failure(
            "cloud",
            f"{found.message}; but the daemon's last call failed: {failed}",
            "until that is mended queries are answered locally",
        )
    return ok("cloud", found.message)


def _last_failure(subject: Subject) -> str | None:
    """Why the running daemon's latest cloud call failed; None if it did not, or none runs."""
    from edge_agent.client.daemon import connect, find_daemon

    if find_daemon(subject.settings.data_dir) is None:
        return None
    try:
        cloud = connect(subject.settings).get("/v1/status", timeout_s=5).get("cloud") or {}
    except EdgeAgentError:
        return None  # the check of the daemon says so
    said = cloud.get("last_failure")
    return None if said is None else str(said)


def price(subject: Subject) -> Check:
    """A money limit needs a price: a model without one is not called."""
    from edge_agent.cloud.prices import known_price

    settings = subject.settings
    model = settings.cloud.model
    if settings.cloud.url is None or model is None:
        return ok("price", "no cloud is configured")
    known = known_price(settings.cloud, model)
    if known is not None:
        since = f" ({known.source}, {known.as_of})" if known.as_of else ""
        return ok("price", f"the price of {model} is known{since}")
    limits = settings.budget
    if settings.database.exists():
        from edge_agent.budget.ledger import Ledger

        ledger = Ledger(settings.database, seed=settings.budget)
        try:
            limits = ledger.limits()
        finally:
            ledger.close()
    advice = f"edge-agent config set cloud.prices.{model} '{{input = …, output = …}}'"
    if limits.usd_per_day is None and limits.usd_per_month is None:
        return warning("price", f"the price of {model} is not known: costs are not shown", advice)
    return failure(
        "price", f"a money limit is set and the price of {model} is not known: no calls", advice
    )


def exposure(subject: Subject) -> Check:
    """Another address than loopback needs an API key."""
    server = subject.settings.server
    if server.host in _LOOPBACK:
        return ok("exposure", f"{server.host}: this machine only")
    if server.api_key_env and os.environ.get(server.api_key_env):
        return ok("exposure", f"{server.host}: reachable from the network, with an API key")
    return failure(
        "exposure",
        f"{server.host} is reachable from the network and no API key is set: serve refuses it",
        "set server.api_key_env and that variable, or server.host to 127.0.0.1",
    )


def daemon(subject: Subject) -> Check:
    """Whether a daemon runs, and if not, whether its port is free."""
    from edge_agent.client.daemon import DaemonClient, find_daemon

    settings = subject.settings
    running = find_daemon(settings.data_dir)
    if running is not None:
        try:
            DaemonClient(running.url).get("/health", timeout_s=5)
        except EdgeAgentError as error:
            return failure(
                "daemon",
                f"process {running.pid} at {running.url}: {error}",
                f"wait while it loads; else end process {running.pid} and start edge-agent serve",
            )
        return ok("daemon", f"running at {running.url}, process {running.pid}")
    host, port = settings.server.host, settings.server.port
    if port and _is_taken(host, port):
        return warning(
            "daemon",
            f"not running, and another program has {host}:{port}",
            "edge-agent serve --port 0, or set server.port",
        )
    return ok("daemon", "not running; start it with: edge-agent serve")


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
