"""A name that leads to the cloud, or, at a rate, to a host on loopback that is no use."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.benchmarks.reference_cloud.paid_calls import SEED

NAME = "cloud.test"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GOOD, NOBODY, RESETS, NO_TLS, FOREIGN = (f"127.0.0.{number}" for number in range(1, 6))
FAULTS = {
    "refused": NOBODY,
    "reset": RESETS,
    "no such name": None,
    "no TLS": NO_TLS,
    "foreign certificate": FOREIGN,
}
"""What goes wrong → the address that the name then has."""


class Network:
    """Relays to the reference cloud at `url`; for two of the faults over TLS."""

    def __init__(self, url: str, fault: str, rate: float, folder: Path) -> None:
        self.rate = rate
        self.failed = 0
        """Connections that went wrong."""
        self.certificate = folder / "ours.pem"
        self._upstream = int(url.rpartition(":")[2].partition("/")[0])
        self._bad = FAULTS[fault]
        self._tls = fault in ("no TLS", "foreign certificate")
        self._folder = folder
        self._rng = random.Random(SEED)
        self._servers: list[asyncio.Server] = []
        self._relays: set[asyncio.Task[None] | None] = set()
        self._port = 0

    @property
    def url(self) -> str:
        """Base URL of the cloud."""
        return f"{'https' if self._tls else 'http'}://{NAME}:{self._port}/v1"

    async def __aenter__(self) -> Self:
        ours, foreign = (_server_side(self._folder / f"{who}.pem") for who in ("ours", "foreign"))
        await self._listen(GOOD, self._relay, ours if self._tls else None)
        await self._listen(RESETS, _reset)
        await self._listen(NO_TLS, _babble)
        await self._listen(FOREIGN, self._relay, foreign)
        asyncio.get_running_loop().getaddrinfo = self._look_up  # type: ignore[method-assign]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        # The client and the cloud have hung up; what is between them ends by itself.
        await asyncio.gather(*filter(None, self._relays), return_exceptions=True)

    async def _listen(
        self, address: str, handle: Handler, tls: ssl.SSLContext | None = None
    ) -> None:
        server = await asyncio.start_server(handle, address, self._port, ssl=tls)
        self._port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _look_up(self, host: str | bytes | None, port: Any, **_: Any) -> list[Any]:
        """In place of the event loop's `getaddrinfo`."""
        assert host in (NAME, NAME.encode())
        address = GOOD
        if self._rng.random() < self.rate:
            self.failed += 1
            if self._bad is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            address = self._bad
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.current_task())
        back, out = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(_copy(reader, out), _copy(back, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close with RST: lingering for no time."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await reader.read()
    writer.close()


def _server_side(path: Path) -> ssl.SSLContext:
    """A TLS server with a new certificate for the cloud's name, written to `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    kept = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(certificate.public_bytes(encoding) + key.private_bytes(encoding, *kept))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
