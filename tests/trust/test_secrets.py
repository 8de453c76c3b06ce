"""Keys appear nowhere, and what the daemon writes is its owner's alone, whatever the umask."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.server.serve_process import running
from tests.tiny_gguf import write_tiny_gguf

CLOUD_KEY, SERVER_KEY = "sk-cloud-3f9a", "sk-server-77b1"


def fetch(url: str, key: str, body: bytes | None = None) -> str:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return f"{answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.headers}{error.read().decode()}"


def test_keys_and_modes(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_CLOUD_API_KEY", CLOUD_KEY)
    monkeypatch.setenv("OUR_API_KEYS", f"other,{SERVER_KEY}")
    monkeypatch.setenv("EDGE_AGENT_SERVER_API_KEY_ENV", "OUR_API_KEYS")
    monkeypatch.setenv("EDGE_AGENT_CLOUD_CONNECT_TIMEOUT_S", "1")
    monkeypatch.setenv("EDGE_AGENT_TRAIN_ENABLED", "false")
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    old = os.umask(0)
    try:
        flags = ("--model", str(model), "--cloud-url", "http://127.0.0.1:9/v1")
        with running(data_dir, *flags, "--cloud-model", "m") as daemon:
            said = [str(daemon.listening), str(daemon.ready)]
            ask = b'{"model": "edge-cloud", "messages": [{"role": "user", "content": "x"}]}'
            paths = ("/metrics", "/v1/status", "/openapi.json", "/docs", "/v1/training")
            said += [fetch(daemon.url + path, SERVER_KEY) for path in paths]
            said += [
                fetch(daemon.url + "/v1/chat/completions", key, body)
                for body in (ask, b"{", b"[]")
                for key in (SERVER_KEY, SERVER_KEY + "x")
            ]
            written = list(data_dir.rglob("*"))
            modes = {path: path.stat().st_mode & 0o777 for path in (data_dir, *written)}
            contents = [path.read_bytes() for path in written if path.is_file()]
            daemon.end()
            said += [daemon.process.stdout.read(), daemon.process.stderr.read()]
        for command in (("config", "show"), ("config", "show", "--json"), ("logs", "--json")):
            done = subprocess.run(
                [sys.executable, "-m", "edge_agent", *command],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            said.append(done.stdout + done.stderr)
    finally:
        os.umask(old)
    for secret in (CLOUD_KEY, SERVER_KEY):
        assert not [text for text in said if secret in text]
        assert not any(secret.encode() in content for content in contents)
    assert (data_dir / "edge-agent.db") in modes
    open_to_others = {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert open_to_others == {}
