"""Ten times too many, storms of clients that leave, readers that do not read: all counts return.

Slots, queue, KV cells, files and connections to the one; threads to no more than the pools keep.

`make load` runs it with LOAD times as many clients.
"""

import itertools
import json
import os
import resource
import socket
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.end_to_end.processes import Running, running
from tests.soak.soak_samples import POOLED
from tests.tiny_gguf import write_tiny_gguf

LOAD = int(os.environ.get("LOAD", "1"))
SLOTS, QUEUE = 4, 8
CELLS = 1024
"""Few, so that the cache keeps one prefix only, the latest: cells are counted to the one."""
CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "x"}]
DOORS: dict[str, Callable[[int], dict[str, Any]]] = {
    CHAT: lambda most: {"messages": MESSAGES, "max_tokens": most, "ignore_eos": True},
    "/v1/completions": lambda most: {"prompt": "x", "max_tokens": most, "ignore_eos": True},
    "/v1/responses": lambda most: {"input": "x", "max_output_tokens": most},
    "/v1/messages": lambda most: {"messages": MESSAGES, "max_tokens": most},
    "/api/chat": lambda most: {"messages": MESSAGES, "options": {"num_predict": most}},
    "/api/generate": lambda most: {"prompt": "x", "options": {"num_predict": most}},
}
"""Path → a request for so many tokens."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with few slots and a short queue."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each of us holds one end of every connection: the usual 1024 files are too few.
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1], usual[1]))
    folder: Path = tmp_path_factory.mktemp("load")
    model = write_tiny_gguf(folder / "tiny.gguf")
    environ = {"EDGE_AGENT_TRAIN_ENABLED": "false", "EDGE_AGENT_ENGINE_SLOTS": str(SLOTS)}
    arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
    environ["EDGE_AGENT_ENGINE_QUEUE"] = str(QUEUE)
    environ["EDGE_AGENT_ENGINE_CONTEXT"] = str(CELLS)
    with running(*arguments, data_dir=folder, **environ) as found:
        for _ in range(3):  # what is opened once and kept is opened now
            ask(found)
        yield found
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def body(path: str, most: int, **fields: Any) -> dict[str, Any]:
    return {"model": "edge-local", "stream": False, **DOORS[path](most), **fields}


def ask(daemon: Running, path: str = CHAT, most: int = 8, **fields: Any) -> int:
    asked = body(path, most, **fields)
    return requests.post(daemon.url + path, json=asked, timeout=60).status_code


def connect(daemon: Running) -> socket.socket:
    address = urllib.parse.urlsplit(daemon.url)
    return socket.create_connection((address.hostname, address.port), 30)


def begin(daemon: Running, path: str = CHAT, **fields: Any) -> socket.socket:
    """A client that asks for a long answer, by default a stream, and reads nothing."""
    content = json.dumps(body(path, 200, **{"stream": True, **fields})).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client = connect(daemon)
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


def counts(daemon: Running) -> dict[str, Any]:
    """What must not leak, after a request whose prefix is then the one that is cached."""
    process = psutil.Process(daemon.process.pid)
    ask(daemon, temperature=0)
    engine = daemon.get("/v1/status")["engine"]
    time.sleep(0.05)  # the daemon's end of these two connections closes after ours
    return {
        "running": engine["running"],
        "parked": engine["parked"],
        "waiting": engine["waiting"],
        "kv_used": engine["kv_used"],
        "threads": process.num_threads(),
        "files": process.num_fds(),
        "connections": len(process.net_connections("inet")),
    }


def returns_to(daemon: Running, before: dict[str, Any]) -> None:
    deadline = time.monotonic() + 30
    while (now := counts(daemon)) != before | {"threads": now["threads"]}:
        assert time.monotonic() < deadline, f"{now} is not {before}"
        time.sleep(0.05)
    assert now["threads"] <= before["threads"] + POOLED


def test_ten_times_too_many_get_429_and_nothing_stays(daemon: Running) -> None:
    before, rss = counts(daemon), psutil.Process(daemon.process.pid).memory_info().rss
    clients = 10 * (SLOTS + QUEUE)
    with ThreadPoolExecutor(clients) as pool:
        doors = itertools.islice(itertools.cycle(DOORS), clients * LOAD)
        found = Counter(pool.map(lambda path: ask(daemon, path, 100), doors))
    assert set(found) <= {200, 429}
    assert found[200] >= SLOTS + QUEUE
    assert found[429] > 0
    assert ask(daemon) == 200
    returns_to(daemon, before)
    assert psutil.Process(daemon.process.pid).memory_info().rss - rss < 100e6


def test_clients_that_leave_or_never_read_leave_nothing(daemon: Running) -> None:
    before = counts(daemon)
    for _ in range(5 * LOAD):
        doors = itertools.islice(itertools.cycle(DOORS), SLOTS + QUEUE)
        clients = [begin(daemon, path, stream=number > 5) for number, path in enumerate(doors)]
        for number, client in enumerate(clients):
            if number > 5 and number % 2:
                client.recv(20)
            client.close()
    returns_to(daemon, before)
    assert ask(daemon) == 200


def test_idle_connections_and_sleeping_readers_hold_up_nobody(daemon: Running) -> None:
    before = counts(daemon)
    held = [connect(daemon) for _ in range(200 * LOAD)] + [begin(daemon) for _ in range(SLOTS)]
    assert [ask(daemon) for _ in range(5)] == [200] * 5
    assert counts(daemon)["connections"] == before["connections"] + len(held)
    for client in held:
        client.close()
    returns_to(daemon, before)
