"""What the local model cannot read goes to a cloud that can, where it may leave the machine."""

from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.processes import Running

LONG = "word " * 9000 + "\nWhat is 17 + 25?"
"""Beyond the 8,192 tokens of the small model's context."""
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def ask(client: openai.OpenAI, content: object, **ours: object) -> object:
    return client.chat.completions.create(
        model="edge",
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
        max_tokens=8,
        extra_body={"edge_agent": ours},
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LONG, id="cut into tokens"),
        pytest.param("a" * 900_000, id="surely too long"),
        pytest.param([{"type": "text", "text": "What is 17 + 25?"}, PICTURE], id="picture"),
    ],
)
def test_an_auto_query_is_asked_of_the_cloud_and_never_if_private(
    client: openai.OpenAI, content: object
) -> None:
    found = ask(client, content).edge_agent  # type: ignore[attr-defined]
    assert (found["route"], found["source"], found["reason"]) == ("cloud", "cloud", "unreadable")
    for ours in ({"private": True}, {"route": "local"}):
        with pytest.raises(openai.BadRequestError):
            ask(client, content, **ours)


def test_a_plain_prompt_too(client: openai.OpenAI) -> None:
    found = client.completions.create(model="edge", prompt=LONG, max_tokens=4)
    assert found.edge_agent["reason"] == "unreadable"  # type: ignore[attr-defined]


PNG = "iVBORw0KGgo="
INLINE = {"type": "base64", "media_type": "image/png", "data": PNG}
SUM = "What is 17 + 25?"
SHOWN: dict[str, Any] = {
    "/v1/messages": [{"type": "text", "text": SUM}, {"type": "image", "source": INLINE}],
    "/v1/responses": [
        {"type": "input_text", "text": SUM},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
    ],
    "/api/chat": SUM,
}


@pytest.mark.parametrize("path", SHOWN)
def test_a_picture_at_the_other_doors_too(daemon: Running, path: str) -> None:
    turn = {"role": "user", "content": SHOWN[path]}
    turn |= {"images": [PNG]} if path == "/api/chat" else {}
    asked = {"input": [turn]} if path == "/v1/responses" else {"messages": [turn]}
    asked |= {"max_tokens": 8} if path == "/v1/messages" else {}
    body = {"model": "edge", "stream": False, **asked}
    answer = httpx.post(daemon.url + path, json=body, timeout=60).json()
    found = answer["edge_agent"]
    assert (found["route"], found["source"], found["reason"]) == ("cloud", "cloud", "unreadable")
    assert "42" in str(answer)
    private = {**body, "edge_agent": {"private": True}}
    assert httpx.post(daemon.url + path, json=private, timeout=60).status_code == 400
