"""Where the daemon listens, and who may call: settled before the model loads."""

import os
import socket

from edge_agent.errors import ConfigError
from edge_agent.settings import ServerSettings
from server.guard import LOOPBACK

_BACKLOG = 1024


def api_keys(settings: ServerSettings) -> tuple[str, ...]:
    """The keys clients must send, from the environment. Raises ConfigError if there are none.

    Also raises it where keys are needed and none are configured: an address that other machines
    can reach.
    """
    name = settings.api_key_env
    if name is None:
        if settings.host.strip("[]") not in LOOPBACK:
            raise ConfigError(
                f"server.host {settings.host} can be reached from other machines: put API keys "
                "into an environment variable and name it with --api-key-env"
            )
        return ()
    keys = tuple(key.strip() for key in os.environ.get(name, "").split(",") if key.strip())
    if not keys:
        raise ConfigError(f"server.api_key_env: the environment variable {name} holds no key")
    return keys


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError that says why the address cannot be had."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "choose another --port (0 picks a free one)"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL a bound socket is reached at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
