"""Pictures and files at the doors that are translated: a cloud's if there is one, else refused."""

from typing import Any

import httpx
import pytest

from tests.server.scripted_agent import ScriptedAgent

PNG = "iVBORw0KGgoAAAA="
URL = f"data:image/png;base64,{PNG}"
SHOWN = {"type": "image_url", "image_url": {"url": URL}}
WHAT = {"type": "text", "text": "What?"}
ANTHROPIC = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
RESPONSES = {"type": "input_image", "image_url": URL}
ASKED: dict[str, tuple[Any, str]] = {
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": [WHAT, SHOWN]}]},
        "messages[0].content[1].type",
    ),
    "/v1/messages": (
        {"max_tokens": 9, "messages": [{"role": "user", "content": [WHAT, ANTHROPIC]}]},
        "messages[0].content[1].type",
    ),
    "/v1/responses": (
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "What?"}, RESPONSES]}
            ]
        },
        "input[0].content[1].type",
    ),
    "/api/chat": (
        {"messages": [{"role": "user", "content": "What?", "images": [PNG]}]},
        "messages[0].images",
    ),
    "/api/generate": ({"prompt": "What?", "images": [PNG]}, "images"),
}


async def asked(client: httpx.AsyncClient, agent: ScriptedAgent, path: str, body: Any) -> Any:
    """The messages of the query that a request becomes, where there is a cloud."""
    agent.cloud = object()
    answer = await client.post(path, json={"model": "edge", **body})
    assert answer.status_code == 200, answer.text
    query = agent.answers[-1].query
    assert query.prompt_ids == ()
    return list(query.messages)


@pytest.mark.parametrize("path", ASKED)
async def test_an_auto_query_goes_to_the_cloud(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str
) -> None:
    found = await asked(client, agent, path, ASKED[path][0])
    assert found == [{"role": "user", "content": [WHAT, SHOWN]}]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    ("cloud", "fields"),
    [
        (None, {}),
        ("there", {"model": "edge-local"}),
        ("there", {"edge_agent": {"private": True}}),
    ],
)
async def test_it_is_named_where_no_cloud_may_read_it(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, cloud: Any, fields: dict[str, Any]
) -> None:
    agent.cloud = cloud
    body, place = ASKED[path]
    answer = await client.post(path, json={"model": "edge", **body, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    said = error if path.startswith("/api/") else error["message"]
    assert said.startswith(f"{place}: the local model reads text only")
    assert not agent.answers


async def test_what_a_tool_shows_the_user_shows_after_all_tools(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    """A chat's tools say texts only, and nobody may speak between them."""
    call: Any = {"type": "tool_use", "name": "look", "input": {}}
    result: Any = {"type": "tool_result"}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{**call, "id": "a"}, {**call, "id": "b"}]},
        {
            "role": "user",
            "content": [
                {**result, "tool_use_id": "a", "content": [ANTHROPIC]},
                {**result, "tool_use_id": "b", "content": [{"type": "text", "text": "dark"}]},
                WHAT,
            ],
        },
    ]
    found = await asked(client, agent, "/v1/messages", {"max_tokens": 9, "messages": turns})
    told = {"role": "tool", "content": "See the next message."}
    tools = [
        {**told, "tool_call_id": "a"},
        {"role": "tool", "tool_call_id": "b", "content": "dark"},
    ]
    assert found[2:4] == tools
    assert found[4:] == [{"role": "user", "content": [SHOWN, WHAT]}]
    items = [
        {"role": "user", "content": "Look."},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [RESPONSES]},
        {"type": "function_call_output", "call_id": "b", "output": "dark"},
    ]
    found = await asked(client, agent, "/v1/responses", {"input": items})
    assert found[2:4] == tools
    assert found[4:] == [{"role": "user", "content": [SHOWN]}]
    again = {"role": "user", "content": "What?"}
    found = await asked(client, agent, "/v1/responses", {"input": [*items, again]})
    assert found[4:] == [{"role": "user", "content": [SHOWN]}, again]


async def test_turns_of_one_role_are_one(client: httpx.AsyncClient, agent: ScriptedAgent) -> None:
    turns = [
        {"role": "user", "content": "Look:"},
        {"role": "user", "content": [ANTHROPIC]},
        {"role": "user", "content": "What?"},
    ]
    body: Any = {"max_tokens": 9, "messages": turns}
    (found,) = await asked(client, agent, "/v1/messages", body)
    assert found["content"] == [{"type": "text", "text": "Look:"}, SHOWN, WHAT]
    agent.cloud = None
    refused = await client.post("/v1/messages", json={"model": "edge", **body})
    assert refused.json()["error"]["message"].startswith("messages[1].content[0].type")


@pytest.mark.parametrize(
    ("path", "part", "expected"),
    [
        (
            "/v1/messages",
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        ),
        (
            "/v1/messages",
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            },
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
            },
        ),
        (
            "/v1/responses",
            {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "low"},
            {
                "type": "image_url",
                "image_url": {"url": "https://a.example/b.png", "detail": "low"},
            },
        ),
        (
            "/v1/responses",
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:x;base64,JVBE"},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x;base64,JVBE"}},
        ),
    ],
)
async def test_a_part_is_said_in_openai_s_form(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, part: Any, expected: Any
) -> None:
    turns = [{"role": "user", "content": [part]}]
    body = {"input": turns} if path == "/v1/responses" else {"messages": turns, "max_tokens": 9}
    (found,) = await asked(client, agent, path, body)
    assert found["content"] == [expected]


async def test_a_document_that_is_text_is_read_here(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    sources: Any = [
        {"type": "text", "media_type": "text/plain", "data": "One."},
        {"type": "content", "content": [{"type": "text", "text": "Two."}]},
    ]
    blocks = [{"type": "document", "source": source} for source in sources]
    body = {"model": "edge", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}]}
    assert (await client.post("/v1/messages", json=body)).status_code == 200
    query = agent.answers[-1].query
    assert list(query.messages) == [{"role": "user", "content": "One.\nTwo."}]
    assert query.prompt_ids


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (
            "/v1/messages",
            {"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]},
            "messages[0].content[0].source.type",
        ),
        (
            "/v1/messages",
            {"role": "assistant", "content": [ANTHROPIC]},
            "messages[0].content[0].type",
        ),
        (
            "/v1/responses",
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input[0].content[0].file_id",
        ),
        (
            "/v1/responses",
            {"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]},
            "input[0].content[0].file_url",
        ),
        ("/api/chat", {"role": "user", "images": ["AAAA"]}, "messages[0].images[0]"),
    ],
)
async def test_what_cannot_be_passed_on_is_named(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, body: Any, named: str
) -> None:
    agent.cloud = object()
    turns = [body, {"role": "user", "content": "Hi"}]
    asked = {"input": turns} if path == "/v1/responses" else {"messages": turns}
    limit = {"max_tokens": 9} if path == "/v1/messages" else {}
    answer = await client.post(path, json={"model": "edge", **asked, **limit})
    assert answer.status_code == 400, answer.text
    assert named in answer.text
