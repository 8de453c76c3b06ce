"""What `doctor` says of the cloud, from its answer to GET {url}/models."""

import difflib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_agent.settings import CloudSettings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class CloudCheck:
    """`message` says what was found and, unless all is well, what to do."""

    ok: bool
    message: str
    latency_s: float | None = None
    """Of a small request, connecting included."""


def judge(
    *,
    status: int,
    body: bytes,
    latency_s: float,
    url: str,
    settings: CloudSettings,
    has_key: bool,
) -> CloudCheck:
    """Judge an HTTP answer of `status` and `body`."""
    parts = urlsplit(url)
    host = parts.hostname or url

    def found(ok: bool, message: str) -> CloudCheck:
        return CloudCheck(ok, message, latency_s)

    if status in (401, 403):
        what = "refuses the API key" if has_key else "wants an API key"
        return found(False, f"{host} {what}: put it in {settings.api_key_env} or the keyring")
    if 300 <= status < 400:
        return found(False, f"{host} redirects: set cloud.url to the address meant")
    if status == 429 or status >= 500:
        return found(False, f"{host} answers {status}: it is reachable, but busy or broken")
    notes = [f"{host} answers in {latency_s * 1000:.0f} ms"]
    if has_key and parts.scheme == "http" and host not in _LOOPBACK:
        notes.append("the API key travels unencrypted: use https")
    models = _model_names(body) if status == 200 else []
    if not models:
        # Some compatible APIs have no list; only a question would tell more, and it costs.
        return found(True, "; ".join([*notes, "it has no list of models to check against"]))
    if settings.model not in models:
        nearest = difflib.get_close_matches(str(settings.model), models, n=1, cutoff=0.3)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return found(False, f"{host} has no model {settings.model}{hint}")
    if settings.model not in settings.prices:
        notes.append(f"no price is set for {settings.model} (cloud.prices), so money limits block")
    return found(True, "; ".join(notes))


def _model_names(body: bytes) -> list[str]:
    try:
        listed: Any = json.loads(body)["data"]
        return [str(entry["id"]) for entry in listed]
    except (ValueError, KeyError, TypeError):
        return []
