"""The bound of a prompt's tokens: bytes, and what a picture can cost beyond its address."""

from edge_agent.budget.paid_call import prompt_token_bound


def bound(*content: object) -> int:
    return prompt_token_bound({"messages": [{"role": "user", "content": part} for part in content]})


def test_no_token_is_shorter_than_a_byte() -> None:
    assert bound("ü" * 100) >= 200
    assert bound([{"type": "text", "text": "ü" * 100}]) < 400


def test_a_picture_costs_more_than_its_address() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    text = {"type": "text", "text": "What is this?"}
    assert bound([text, picture]) > 2833 + 8 * 5667
    assert bound([text, picture, picture], "and this?", [picture]) > 3 * (2833 + 8 * 5667)


def test_tools_cost_more_than_their_words() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    messages = [{"role": "user", "content": "hi"}]
    plain = prompt_token_bound({"messages": messages, "tools": []})
    assert prompt_token_bound({"messages": messages, "tools": [tool]}) > plain + 530
