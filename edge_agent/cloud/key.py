"""Where the cloud's API key comes from: the environment, else the system's keyring."""

import os

from edge_agent.errors import ConfigError
from edge_agent.settings import CloudSettings

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
