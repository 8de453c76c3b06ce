"""Where the daemon listens, and who may call: settled before the model loads.

The daemon's event loop: a name server that does not answer holds up nothing but the cloud.

asyncio looks names up in its default pool of a few threads, which also parses requests and keeps
the ledger. The system's resolver may hold each of them for half a minute, long after the cloud
client has given up.
"""

import asyncio
import contextlib
import os
import socket
import threading
from typing import Any

from edge_agent.config.settings import ServerSettings
from edge_agent.errors import ConfigError
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


def bind(host: str, port: int, *, flag: str = "--port", known: str = "") -> socket.socket:
    """A listening socket. Raises ConfigError that says why the address cannot be had.

    `flag` sets the port; `known` names the program that is likely to have taken it.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        likely = f" ({known} may be running: stop it)" if known else ""
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}{likely}; "
            f"choose another {flag} (0 picks a free one)"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL a bound socket is reached at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class EventLoop(asyncio.SelectorEventLoop):
    """Looks each name up in a thread of its own, which nobody waits for at the end."""

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`."""
        found: asyncio.Future[list[Any]] = self.create_future()

        def look_up() -> None:
            try:
                addresses = socket.getaddrinfo(host, port, family, type, proto, flags)
            except Exception as error:
                deliver(found.set_exception, error)
            else:
                deliver(found.set_result, addresses)

        def deliver(take: Any, what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                self.call_soon_threadsafe(lambda: found.done() or take(what))

        threading.Thread(target=look_up, name="look up", daemon=True).start()
        return await found
