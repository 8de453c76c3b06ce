"""What the local model cannot read goes to a cloud that can, where it may leave the machine."""

import openai
import pytest

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
