"""Nothing phones home: a daemon and its commands connect to this machine, and look up no name."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.end_to_end.processes import running

RECORDER = """
import os, sys

def record(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        said = (event, arguments[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        said = (event, arguments[0])
    else:
        return
    with open(os.environ["SOCKETS"], "a") as file:
        file.write(repr(said) + "\\n")

sys.addaudithook(record)
"""
"""https://docs.python.org/3/library/audit_events.html, in every process of ours."""
HERE = ("127.0.0.1", "::1", "localhost", None)


def recorded(file: Path) -> list[tuple[str, object]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [ast.literal_eval(line) for line in lines]


def elsewhere(events: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Those that go beyond this machine; a path is a socket of the system's."""
    found = []
    for event, address in events:
        host = address[0] if isinstance(address, tuple) else address
        local = isinstance(address, str | bytes) and event == "socket.connect"
        if not local and host not in HERE:
            found.append((event, address))
    return found


def test_a_daemon_that_serves_and_commands_that_ask(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "SOCKETS": str(tmp_path / "sockets")}
    data_dir = tmp_path / "data"
    with running(*("serve", "--port", "0", "--threads", "1"), data_dir=data_dir, **env) as daemon:
        body = {"model": "edge", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(f"{daemon.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        own = {**os.environ, **env, "EDGE_AGENT_DATA_DIR": str(data_dir)}
        for command in (("status",), ("doctor",), ("models", "list"), ("logs", "tail")):
            ran = [sys.executable, "-m", "edge_agent", *command]
            subprocess.run(ran, env=own, capture_output=True, check=False)
    events = recorded(tmp_path / "sockets")
    assert [event for event in events if event[0] == "socket.connect"], "the recorder saw nothing"
    assert elsewhere(events) == []


def test_what_goes_beyond_this_machine_is_seen() -> None:
    told = [("socket.connect", ("198.51.100.7", 443)), ("socket.getaddrinfo", "example.com")]
    assert elsewhere([*told, ("socket.connect", ("127.0.0.1", 3343))]) == told
