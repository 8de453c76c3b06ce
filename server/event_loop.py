"""The daemon's event loop: a name server that does not answer holds up nothing but the cloud.

asyncio looks names up in its default pool of a few threads, which also parses requests and keeps
the ledger. The system's resolver may hold each of them for half a minute, long after the cloud
client has given up.
"""

import asyncio
import contextlib
import socket
import threading
from typing import Any


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
