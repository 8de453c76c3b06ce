"""What `doctor` says of the cloud, from its answer to GET {url}/models.

Where the cloud's API key comes from: the environment, else the system's keyring.
"""

import difflib
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_agent.cloud.kinds import KINDS, kind_of
from edge_agent.cloud.prices import known_price, undated
from edge_agent.config.settings import CloudSettings
from edge_agent.errors import ConfigError

KEYRING_SERVICE = "edge-agent"


def find_api_key(settings: CloudSettings) -> str | None:
    """Environment variable `api_key_env`, else the keyring entry of that name, else None.

    Raises ConfigError for a key that no HTTP header can carry; the message does not repeat it.
    """
    name = settings.api_key_env
    key = (os.environ.get(name) or _from_keyring(name) or "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"the API key in {name} has characters that no API key has")
    return key or None


def _from_keyring(name: str) -> str | None:
    import keyring  # 50 ms, and only needed where the environment has no key
    import keyring.errors

    try:
        found: str | None = keyring.get_password(KEYRING_SERVICE, name)
    except (keyring.errors.KeyringError, OSError, RuntimeError):
        return None  # no keyring, or a locked one, on a headless machine: there is no key
    return found


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
    listed = status == 200 and KINDS[kind_of(settings)].models is not None
    models = _model_names(body) if listed else []
    if not models:
        # Some compatible APIs have no list; only a question would tell more, and it costs.
        notes.append("it has no list of models to check against")
    elif not _is_listed(str(settings.model), models):
        nearest = difflib.get_close_matches(str(settings.model), models, n=1, cutoff=0.3)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return found(False, f"{host} has no model {settings.model}{hint}")
    if known_price(settings, str(settings.model)) is None:
        notes.append(f"no price is set for {settings.model} (cloud.prices), so money limits block")
    return found(True, "; ".join(notes))


def _is_listed(model: str, models: list[str]) -> bool:
    """Whether `model` is one of `models`, or a shorter name that the vendor takes for one.

    Anthropic lists dated names, Gemini "models/…", Ollama "…:latest".
    """
    short = {undated(name).removeprefix("models/").removesuffix(":latest") for name in models}
    return model in models or model.removesuffix("-latest") in short


def _model_names(body: bytes) -> list[str]:
    try:
        listed: Any = json.loads(body)["data"]
        return [str(entry["id"]) for entry in listed]
    except (ValueError, KeyError, TypeError):
        return []
