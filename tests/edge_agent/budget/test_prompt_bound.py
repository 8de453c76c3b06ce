"""The bound of a prompt's tokens: bytes, and what a picture can cost beyond its address."""

from edge_agent.budget.paid_call import prompt_token_bound
from edge_agent.records.query import Query


def bound(*content: object) -> int:
    messages = tuple({"role": "user", "content": part} for part in content)
    return prompt_token_bound(Query("q", 0.0, "edge", (), messages=messages,
                                    body={"messages": messages}))  # fmt: skip


def test_no_token_is_shorter_than_a_byte() -> None:
    assert bound("ü" * 100) >= 200
    assert bound([{"type": "text", "text": "ü" * 100}]) < 400


def test_a_picture_costs_more_than_its_address() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    text = {"type": "text", "text": "What is this?"}
    assert bound([text, picture]) > 2833 + 8 * 5667
    assert bound([text, picture, picture], "and this?", [picture]) > 3 * (2833 + 8 * 5667)
