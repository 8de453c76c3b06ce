"""Runs the reference cloud and says where it listens."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import uvicorn

from benchmarks.reference_cloud.app import MODEL, ReferenceCloud, create_app
from benchmarks.reference_cloud.faults import Latency, parse_faults
from benchmarks.reference_cloud.replies import Replies, Style, read_answers
from edge_agent.config.settings import Price
from edge_agent.errors import ConfigError
from server.listen import bind, url_of

NOTICE = "This is a stand-in, not a real model: it only answers reasoning-gym questions."


@dataclass(frozen=True)
class Options:
    """As given on the command line."""

    host: str = "127.0.0.1"
    port: int = 0
    accuracy: float = 0.95
    latency_ms: float = 250
    price_in: float = 0.15
    price_out: float = 0.60
    faults: tuple[str, ...] = ()
    answers: Path | None = None
    style: str = "bare"
    seed: int = 0
    json_output: bool = False


def build(options: Options) -> ReferenceCloud:
    """Raises ConfigError for a wrong option."""
    if options.style not in get_args(Style):
        raise ConfigError(f"--style must be one of {', '.join(get_args(Style))}")
    return ReferenceCloud(
        Replies(
            options.accuracy,
            options.seed,
            cast("Style", options.style),
            read_answers(options.answers) if options.answers else {},
        ),
        Latency(options.latency_ms),
        Price(input=options.price_in, output=options.price_out),
        parse_faults(options.faults),
        seed=options.seed,
    )


def serve(options: Options) -> None:
    """Serve until interrupted. The first line printed is the URL."""
    app = create_app(build(options))
    listener = bind(options.host, options.port)
    config = uvicorn.Config(
        app,
        # An injected cut is, to uvicorn, an error worth a traceback.
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, _first_lines(f"{url_of(listener)}/v1", options))
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does."""

    def __init__(self, config: uvicorn.Config, lines: str) -> None:
        super().__init__(config)
        self._lines = lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._lines, flush=True)


def _first_lines(url: str, options: Options) -> str:
    if options.json_output:
        first = json.dumps(
            {
                "url": url,
                "model": MODEL,
                "price": {"input": options.price_in, "output": options.price_out},
                "stand_in": True,
            }
        )
    else:
        first = f"Reference cloud at {url} (model {MODEL})"
    return f"{first}\n{NOTICE}"
