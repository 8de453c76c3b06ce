"""Messages become the prompt the model was trained on, or an error that names the field."""

from datetime import datetime
from typing import Any

import pytest

from edge_agent.chat.template import CHATML, ChatTemplate, unsupported_part
from edge_agent.errors import InvalidRequest
from models.errors import ModelError
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.templates import GEMMA, LLAMA3, QWEN

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"é": 1}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "3"}


@pytest.fixture(scope="module")
def chat(vocabulary: Vocabulary) -> ChatTemplate:
    """SmolLM2's own template."""
    return ChatTemplate(None, vocabulary)


def test_the_models_own_template(chat: ChatTemplate, vocabulary: Vocabulary) -> None:
    text = chat.render([{"role": "system", "content": "Be brief."}, USER])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(chat.encode([USER])) == vocabulary.encode(chat.render([USER]), special=True)


def test_override_and_fallback(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ChatTemplate(None, vocabulary)
    other = ChatTemplate("{{ messages[0].content }}", vocabulary)
    assert other.render([USER]) == "Hi"
    monkeypatch.setattr(vocabulary, "metadata", {})
    bare = ChatTemplate(None, vocabulary)
    assert bare.source == CHATML
    assert bare.render([USER]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len({own.digest, other.digest, bare.digest}) == 3
    assert len(own.digest) == 16


def test_a_later_turn_starts_with_the_earlier_one(
    chat: ChatTemplate, vocabulary: Vocabulary
) -> None:
    first = chat.encode([USER])
    answer = (*vocabulary.encode("Hello there!"), vocabulary.special_tokens["<|im_end|>"])
    history = [USER, {"role": "assistant", "content": "Hello there!"}, USER]
    assert chat.encode(history)[: len(first) + len(answer)] == first + answer


def test_parts_are_joined(chat: ChatTemplate) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\na\nb<" in chat.render([{"role": "user", "content": parts}])


def test_developer_is_system_where_unknown(chat: ChatTemplate, vocabulary: Vocabulary) -> None:
    messages = [{"role": "developer", "content": "D"}, USER]
    assert chat.render(messages).startswith("<|im_start|>system\nD<|im_end|>")
    knowing = ChatTemplate(CHATML + "{# developer #}", vocabulary)
    assert knowing.render(messages).startswith("<|im_start|>developer\nD")


def test_system_goes_into_the_user_turn_where_unknown(vocabulary: Vocabulary) -> None:
    gemma = ChatTemplate(GEMMA, vocabulary)
    text = gemma.render([{"role": "system", "content": "Be brief."}, USER])
    assert "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>" in text


def test_the_templates_own_complaint(vocabulary: Vocabulary) -> None:
    gemma = ChatTemplate(GEMMA, vocabulary)
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        gemma.encode([USER, USER])
    assert caught.value.param == "messages"


def test_bos_once(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "adds_bos", True)
    for source in ("{{ bos_token }}x", "x"):
        ids = ChatTemplate(source, vocabulary).encode([USER])
        assert ids == (vocabulary.bos, *vocabulary.encode("x"))


def test_huggingface_environment(vocabulary: Vocabulary) -> None:
    clock = lambda: datetime(2031, 5, 4)  # noqa: E731
    llama = ChatTemplate(LLAMA3, vocabulary, now=clock)
    text = llama.render([USER], tools=[TOOL])
    assert "Today: 04 May 2031\n" in text
    assert '\n    "type": "function"' in text
    loop = "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert ChatTemplate(loop, vocabulary).render([USER]) == "1"
    marked = "{% generation %}<b>{{ {'a': '<é>'} | tojson }}{% endgeneration %}"
    assert ChatTemplate(marked, vocabulary).render([USER]) == '<b>{"a": "<é>"}'


def test_template_cannot_reach_the_machine(vocabulary: Vocabulary) -> None:
    nasty = ChatTemplate("{{ messages.__class__.__mro__ }}", vocabulary)
    with pytest.raises(InvalidRequest, match="unsafe"):
        nasty.render([USER])


def test_template_that_does_not_compile(vocabulary: Vocabulary) -> None:
    with pytest.raises(ModelError, match=r"does not compile.*line 2"):
        ChatTemplate("\n{% if %}", vocabulary)


def test_tools_and_their_history_in_a_template_that_knows_them(vocabulary: Vocabulary) -> None:
    qwen = ChatTemplate(QWEN, vocabulary)
    assert qwen.tool_style == "tagged"
    text = qwen.render([USER, CALL, RESULT], tools=[TOOL])
    assert '{"type": "function", "function": {"name": "add"' in text
    assert '<tool_call>\n{"name": "add", "arguments": {"é": 1}}\n</tool_call>' in text
    assert "<tool_response>\n3\n</tool_response>" in text


def test_tool_history_in_a_template_that_does_not(chat: ChatTemplate) -> None:
    assert chat.tool_style is None
    text = chat.render([USER, CALL, RESULT, {**RESULT, "content": "4"}], tools=[TOOL])
    assert 'assistant\n{"tool_call": {"name": "add", "arguments": {"é": 1}}}<|im_end|>' in text
    assert 'user\n{"tool_response": "3"}\n{"tool_response": "4"}<|im_end|>' in text


def test_extra_variables(vocabulary: Vocabulary) -> None:
    qwen = ChatTemplate(QWEN, vocabulary)
    assert qwen.render([USER], extra={"enable_thinking": False}).endswith("<think></think>")
    with pytest.raises(InvalidRequest) as caught:
        qwen.render([USER], extra={"messages": []})
    assert caught.value.param == "chat_template_kwargs.messages"


def test_deep_nesting_is_refused_not_a_crash(vocabulary: Vocabulary) -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    function = {"name": "f", "parameters": {"type": "object", "default": nested}}
    tool = {"type": "function", "function": function}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        ChatTemplate(QWEN, vocabulary).encode([USER], tools=[tool])


IMAGE = {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([3], "messages[0]"),
        ([USER, {"role": "robot", "content": ""}], "messages[1].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([IMAGE], "messages[0].content[1].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([{**USER, "name": 7}], "messages[0].name"),
        ([{**CALL, "role": "user"}], "messages[0].tool_calls"),
        ([{**CALL, "tool_calls": [{"id": "x"}]}], "messages[0].tool_calls[0].function"),
        (
            [{**CALL, "tool_calls": [{"function": {"name": None}}]}],
            "messages[0].tool_calls[0].function.name",
        ),
    ],
)
def test_wrong_fields_are_named(messages: list[Any], param: str, chat: ChatTemplate) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat.encode(messages)
    assert caught.value.param == param


def test_unsupported_part() -> None:
    assert unsupported_part([USER, IMAGE]) == "messages[1].content[1].type"
    assert unsupported_part([USER, CALL]) is None
