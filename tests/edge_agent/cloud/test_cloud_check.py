"""What `doctor` learns of the cloud, and where the key comes from."""

import json
import socket

import keyring
import keyring.backend
import keyring.errors
import pytest

from edge_agent.cloud.client import CloudClient, find_api_key
from edge_agent.config.settings import CloudSettings
from edge_agent.errors import ConfigError
from tests.edge_agent.cloud.scripted_server import head

PRICES = {"big": {"input": 1, "output": 2}}


def models(*names: str) -> bytes:
    listed = {"object": "list", "data": [{"id": name} for name in names]}
    return head("application/json") + json.dumps(listed).encode()


async def test_reachable_and_the_model_is_there(server, connect):
    server.scripts = [models("big", "small")]
    check = await connect(prices=PRICES, api_key="sk-1").check()
    assert check.ok
    assert check.latency_s is not None
    assert server.paths == ["/v1/models"]
    assert server.headers[0]["authorization"] == "Bearer sk-1"


async def test_a_model_without_a_price_is_worth_a_word(server, connect):
    server.scripts = [models("big")]
    check = await connect().check()
    assert check.ok
    assert "cloud.prices" in check.message


async def test_an_unknown_model_gets_the_nearest_name(server, connect):
    server.scripts = [models("bigger", "small")]
    check = await connect().check()
    assert not check.ok
    assert "did you mean bigger?" in check.message


@pytest.mark.parametrize(("key", "words"), [(None, "wants an API key"), ("k", "refuses the API")])
async def test_a_key_that_is_missing_or_wrong(server, connect, key, words):
    server.scripts = [head("application/json", "401 X") + b"{}"]
    check = await connect(api_key=key).check()
    assert not check.ok
    assert words in check.message
    assert "EDGE_AGENT_CLOUD_API_KEY" in check.message


@pytest.mark.parametrize("status", ["429 X", "503 X", "301 X"])
async def test_reachable_but_no_use(server, connect, status):
    server.scripts = [head("text/html", status, "Location: /\r\n") + b"<html>"]
    assert not (await connect().check()).ok


async def test_no_list_of_models_is_no_fault(server, connect):
    server.scripts = [head("text/html", "404 X") + b"<html>"]
    assert (await connect().check()).ok


async def test_nobody_there(connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        check = await connect(url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1").check()
    assert not check.ok
    assert "cannot connect" in check.message


@pytest.mark.parametrize(
    "url", ["http://", "https://:443/v1", "http://[::1/v1", "https://me:secret@host/v1"]
)
def test_a_url_without_a_host_or_with_a_password_is_a_configuration_error(url):
    with pytest.raises(ConfigError, match=r"cloud\.url") as caught:
        CloudClient(CloudSettings(url=url, model="m"))
    assert "secret" not in caught.value.message


def test_price_comes_from_the_table(connect):
    client = connect(prices=PRICES)
    assert client.price("big").output == 2
    assert client.price("other") is None


class Keyring(keyring.backend.KeyringBackend):
    """A keyring with one entry, or a locked one."""

    priority = 1

    def __init__(self, *, locked=False):
        super().__init__()
        self._locked = locked

    def get_password(self, service, username):
        if self._locked:
            raise keyring.errors.KeyringLocked("locked")
        return "from-keyring" if (service, username) == ("edge-agent", "THE_KEY") else None

    def set_password(self, service, username, password):
        raise keyring.errors.PasswordSetError


@pytest.fixture
def use_keyring():
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def test_key_from_the_environment_first(use_keyring, monkeypatch):
    use_keyring(Keyring())
    settings = CloudSettings(api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", " from-environment\n")
    assert find_api_key(settings) == "from-environment"
    monkeypatch.delenv("THE_KEY")
    assert find_api_key(settings) == "from-keyring"
    assert find_api_key(CloudSettings(api_key_env="OTHER")) is None


def test_a_locked_keyring_is_no_key(use_keyring, monkeypatch):
    use_keyring(Keyring(locked=True))
    monkeypatch.delenv("THE_KEY", raising=False)
    assert find_api_key(CloudSettings(api_key_env="THE_KEY")) is None


@pytest.mark.parametrize("key", ["two words", "sk-ключ", "a\tb", "a\r\nX-Evil: 1"])
def test_a_key_that_no_header_carries_is_refused_unseen(use_keyring, monkeypatch, key):
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(ConfigError) as caught:
        find_api_key(CloudSettings(api_key_env="THE_KEY"))
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "model", "listed"),
    [
        ("gemini", "gemini-3-flash", "models/gemini-3-flash"),
        ("ollama", "qwen3", "qwen3:latest"),
        ("openai", "gpt-5", "gpt-5-2025-08-07"),
        ("azure", "my-deployment", "gpt-4.1"),
    ],
)
async def test_a_list_may_call_the_model_otherwise(server, connect, kind, model, listed):
    server.scripts = [models(listed)]
    assert (await connect(kind=kind, model=model).check()).ok
