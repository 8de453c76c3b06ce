"""What is known of a vendor spares refusals; what is learned from them wins."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.cloud.kinds import kind_of
from edge_agent.config.settings import CloudSettings
from tests.edge_agent.cloud.scripted_server import BODY, WHOLE, ScriptedServer, head

Connect = Callable[..., CloudClient]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1?api-version=x", "azure"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.openai.com.example/v1", "other"),
        ("http://127.0.0.1:8000/v1", "other"),
    ],
)
def test_the_host_says_the_kind_and_the_setting_wins(url: str, kind: str) -> None:
    assert kind_of(CloudSettings(url=url, model="m")) == kind
    assert kind_of(CloudSettings(url=url, model="m", kind="vllm")) == "vllm"


async def sent(
    server: ScriptedServer, client: CloudClient, **fields: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers that the cloud got."""
    server.scripts = [WHOLE]
    await client.open({**BODY, **fields}, max_tokens=50)
    return server.requests[-1], server.headers[-1]


async def test_openai_gets_the_limit_under_its_present_name(
    server: ScriptedServer, connect: Connect
) -> None:
    body, _ = await sent(server, connect(kind="openai"))
    assert body["max_completion_tokens"] == 50
    assert "max_tokens" not in body


async def test_azure_reads_the_key_from_a_header_of_its_own(
    server: ScriptedServer, connect: Connect
) -> None:
    _, headers = await sent(server, connect(kind="azure", api_key="sk-1"))
    assert headers["api-key"] == "sk-1"
    assert "authorization" not in headers


async def test_openrouter_is_asked_what_it_charges(
    server: ScriptedServer, connect: Connect
) -> None:
    body, headers = await sent(server, connect(kind="openrouter"))
    assert body["usage"] == {"include": True}
    assert headers["x-title"] == "edge-agent"


async def test_mistral_gets_its_own_word_for_a_seed(
    server: ScriptedServer, connect: Connect
) -> None:
    body, _ = await sent(server, connect(kind="mistral"), seed=4)
    assert body["random_seed"] == 4
    assert "seed" not in body


async def test_groq_is_spared_what_it_refuses(server: ScriptedServer, connect: Connect) -> None:
    named = [{"role": "user", "content": "hi", "name": "Anna"}]
    body, _ = await sent(
        server, connect(kind="groq"), messages=named, logprobs=True, top_logprobs=2
    )
    assert not {"logprobs", "top_logprobs"} & body.keys()
    assert body["messages"] == [{"role": "user", "content": "hi"}]


async def test_a_dearer_service_is_not_asked_for(server: ScriptedServer, connect: Connect) -> None:
    body, _ = await sent(server, connect(), service_tier="priority")
    assert "service_tier" not in body
    body, _ = await sent(server, connect(), service_tier="flex")
    assert body["service_tier"] == "flex"


async def test_what_a_vendor_refuses_wins_over_what_was_known_of_it(
    server: ScriptedServer, connect: Connect
) -> None:
    said = {"error": {"param": "max_completion_tokens", "code": "unsupported_parameter"}}
    refusal = head("application/json", "400 X") + json.dumps(said).encode()
    client = connect(kind="openai")
    server.scripts = [refusal, WHOLE]
    await client.open(BODY, max_tokens=50)
    body, _ = await sent(server, client)
    assert len(server.requests) == 3  # refused once, then known
    assert body["max_tokens"] == 50
    assert "max_completion_tokens" not in body


async def test_openai_serves_at_the_price_that_is_known(
    server: ScriptedServer, connect: Connect
) -> None:
    """Left out, or "auto", the tier is the project's own default: it may be a dearer one."""
    for asked in (None, "auto", "priority"):
        body, _ = await sent(server, connect(kind="openai"), service_tier=asked)
        assert body["service_tier"] == "default"
    body, _ = await sent(server, connect(kind="openai"), service_tier="flex")
    assert body["service_tier"] == "flex"


async def test_hints_go_up(server: ScriptedServer, connect: Connect) -> None:
    hints = {
        "reasoning_effort": "low",
        "verbosity": "low",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "safety_identifier": "a1",
        "user": "anna",
    }
    body, _ = await sent(server, connect(), **hints)
    assert hints.items() <= body.items()


@pytest.mark.parametrize(("kind", "goes"), [("openai", False), ("azure", False), ("mistral", True)])
async def test_metadata_goes_up_alone_where_the_vendor_takes_it(
    server: ScriptedServer, connect: Connect, kind: str, goes: bool
) -> None:
    body, _ = await sent(server, connect(kind=kind), metadata={"a": "b"})
    assert ("metadata" in body) is goes
    body, _ = await sent(server, connect(kind=kind), metadata={"a": "b"}, store=True)
    assert body["metadata"] == {"a": "b"}


@pytest.mark.parametrize(("kind", "goes"), [("openai", False), ("openrouter", True)])
async def test_a_mark_for_the_cache_goes_where_it_is_known(
    server: ScriptedServer, connect: Connect, kind: str, goes: bool
) -> None:
    body, _ = await sent(server, connect(kind=kind), cache_control={"type": "ephemeral"})
    assert ("cache_control" in body) is goes
