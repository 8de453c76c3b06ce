"""Tool calls: asked of the model in its own form, found in its output while it streams."""

import itertools
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.chat.free_calls import FreeParser
from edge_agent.chat.json_schema import read_schema
from edge_agent.chat.template import ChatTemplate
from edge_agent.chat.tool_format import ToolFormat
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import TokenEvent
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.grammar_walk import accepts, random_sentence
from tests.edge_agent.chat.templates import LLAMA3, QWEN


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": parameters},
    }


ADD = _tool("add", a={"type": "integer"})
LOOK = _tool("look_up", key={"type": "string"})
TOOLS = [ADD, LOOK]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def qwen(vocabulary: Vocabulary) -> ChatTemplate:
    return ChatTemplate(QWEN, vocabulary)


@pytest.fixture(scope="module")
def llama(vocabulary: Vocabulary) -> ChatTemplate:
    return ChatTemplate(LLAMA3, vocabulary)


@pytest.fixture(scope="module")
def plain(vocabulary: Vocabulary) -> ChatTemplate:
    """SmolLM2's own template, which knows no tools."""
    return ChatTemplate(None, vocabulary)


def _format(
    template: ChatTemplate, choice: Any = None, parallel: bool = True, answer: Any = None
) -> ToolFormat:
    schema = None if answer is None else read_schema(answer)
    chosen = ToolFormat.choose(template, TOOLS, choice, parallel, schema)
    assert chosen is not None
    return chosen


def _read(tool_format: ToolFormat, pieces: Sequence[str]) -> tuple[list[str], list[Any], Any]:
    """Text as it streamed, calls, finish reason."""
    parser = tool_format.parser()
    events = [TokenEvent(0, text=piece, token_ids=(7,)) for piece in pieces]
    events.append(TokenEvent(0, finish_reason="stop"))
    deltas = [delta for event in events for delta in parser.feed(event)]
    assert sum(len(delta.token_ids) for delta in deltas) == len(pieces)
    assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    calls = [call for delta in deltas for call in delta.tool_calls]
    for number, call in enumerate(calls):
        assert call["index"] == number
        assert call["id"].startswith("call_")
    found = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]
    return [d.text for d in deltas if d.text], found, deltas[-1].finish_reason


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
CALL_2 = '<tool_call>{"name": "look_up", "arguments": {"key": "é"}}</tool_call>'
XML = "<tool_call>\n<function=add>\n<parameter=a>\n3\n</parameter>\n</function>\n</tool_call>"
XML_2 = "<tool_call><function=look_up><parameter=key>12</parameter></function></tool_call>"
BARE = '{"name": "add", "parameters": {"a": 3}}'
FENCED = f"```json\n{BARE}\n```"
FENCED_2 = '```json\n{"name": "look_up", "arguments": {"key": "é"}}\n```'
GENERIC = '{"tool_call": {"name": "add", "arguments": {"a": 3}}}'
GENERIC_2 = json.dumps(
    {
        "tool_calls": [
            {"name": "add", "arguments": {"a": 3}},
            {"name": "look_up", "arguments": {"key": "é"}},
        ]
    }
)
MISTRAL = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 3}, "id": "x12345678"}]'
MISTRAL_2 = '[TOOL_CALLS]add[ARGS]{"a": 3}\n[TOOL_CALLS]look_up[CALL_ID]x1[ARGS]{"key": "é"}'
LISTED = '{"name": "add", "description": "Adds."}'
A, B = ("add", {"a": 3}), ("look_up", {"key": "é"})


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("style", "output", "text", "calls"),
    [
        ("qwen", "Just <b>text</b> < 3", "Just <b>text</b> < 3", []),
        ("qwen", CALL, "", [A]),
        ("qwen", f"Let me see.\n\n{CALL}\n{CALL_2}\n", "Let me see.", [A, B]),
        ("qwen", XML, "", [A]),
        ("qwen", XML_2, "", [("look_up", {"key": "12"})]),
        ("qwen", f"{CALL} done", " done", [A]),
        ("qwen", CALL.removesuffix("</tool_call>"), "", [A]),
        ("qwen", "<tool_call>{oops</tool_call>", "<tool_call>{oops</tool_call>", []),
        ("qwen", '<tool_call>{"name": "rm"', '<tool_call>{"name": "rm"', []),
        ("qwen", CALL.replace("add", "rm"), CALL.replace("add", "rm"), []),
        ("qwen", "trailing \n", "trailing \n", []),
        ("qwen", FENCED, "", [A]),
        ("qwen", f"{FENCED}\n{FENCED_2}\n", "", [A, B]),
        ("qwen", f"[{BARE}]", "", [A]),
        ("qwen", f"```\n{BARE}\n```", "", [A]),
        ("qwen", f" {BARE}\n", "", [A]),
        ("qwen", FENCED.replace("add", "rm"), FENCED.replace("add", "rm"), []),
        ("qwen", f"{FENCED}\nThis adds.", "\nThis adds.", [A]),
        ("qwen", f"Like so:\n{FENCED}", "Like so:", [A]),
        ("qwen", f"I add.\n\n  {BARE}\n\nDone.\n", "I add.\n\nDone.\n", [A]),
        ("qwen", f"{BARE} I added it.", " I added it.", [A]),
        ("qwen", f"Two:\n{FENCED[:-4]}\n{FENCED_2[8:]}\nso", "Two:\nso", [A, B]),
        ("qwen", f"{XML} then\n{FENCED}\nend\n\n", " then\nend\n\n", [A, A]),
        ("qwen", MISTRAL, "", [A]),
        ("qwen", f"Sure.{MISTRAL_2} ok", "Sure. ok", [A, B]),
        ("qwen", MISTRAL_2.replace("look_up", "rm"), MISTRAL_2[29:].replace("look_up", "rm"), [A]),
        ("qwen", '[TOOL_CALLS]rm[ARGS]{"a": 3}', '[TOOL_CALLS]rm[ARGS]{"a": 3}', []),
        ("qwen", "[TOOL_CALLS]add[ARGS]3", "[TOOL_CALLS]add[ARGS]3", []),
        ("qwen", f"Say {BARE} to add.", f"Say {BARE} to add.", []),
        ("qwen", f"a\n\n {BARE[:-1]}", f"a\n\n {BARE[:-1]}", []),
        ("qwen", f"{LISTED}\n{LISTED}\n", f"{LISTED}\n{LISTED}\n", []),
        ("qwen", "[docs](x) [1]\n- [ ] a\n{b}; `c`\n", "[docs](x) [1]\n- [ ] a\n{b}; `c`\n", []),
        ("qwen", f"```json\n{BARE}\nor so\n```", "\nor so\n```", [A]),
        ("qwen", '{"name": "add", "arguments": 3}', '{"name": "add", "arguments": 3}', []),
        ("qwen", '{"name": "add", "arguments": "3"}', '{"name": "add", "arguments": "3"}', []),
        ("qwen", '{"name": "add", "arguments": "{\\"a\\": 3}"}', "", [A]),
        ("qwen", '{"name": "add", "arguments": null}', "", [("add", {})]),
        ("qwen", '{"name": "Ada"}', '{"name": "Ada"}', []),
        ("qwen", '```json\n{"a": 1}\n```\n', '```json\n{"a": 1}\n```\n', []),
        ("qwen", "```python\nadd(3)\n```", "```python\nadd(3)\n```", []),
        ("qwen", f"``` {CALL}", "```", [A]),
        ("qwen", '{"name": "add", "arg', '{"name": "add", "arg', []),
        ("llama", FENCED, "", [A]),
        ("llama", BARE, "", [A]),
        ("llama", f"Let me see.\n<|python_tag|>{BARE}", "Let me see.", [A]),
        ("llama", CALL, "", [A]),
        ("llama", f'{{"type": "function", {BARE[1:]}', "", [A]),
        ("llama", f'{BARE}; {{"name":"look_up","parameters":{{"key":"é"}}}}', "", [A]),
        ("llama", '{"answer": 3}', '{"answer": 3}', []),
        ("llama", '{"name": "rm", "parameters": {}}', '{"name": "rm", "parameters": {}}', []),
        ("llama", "Plain text", "Plain text", []),
        ("plain", GENERIC, "", [A]),
        ("plain", GENERIC_2, "", [A, B]),
        ("plain", GENERIC_2[:-30], "", [A]),
        ("plain", GENERIC_2[:-2], "", [A, B]),
        ("plain", GENERIC_2[:40], GENERIC_2[:40], []),
        ("plain", '{"response": "a\\n\\"b\\" \\u00e9 🙂"}', 'a\n"b" é 🙂', []),
        ("plain", '{ "response":"a\\\\n', "a\\n", []),
        ("plain", '{"tool_call": {"name": "add", "arg', '{"tool_call": {"name": "add", "arg', []),
        ("plain", '{"response": "\\ud83d x', "\ufffd x", []),
    ],
)
def test_calls_are_found_however_the_text_is_cut(
    style: str, output: str, text: str, calls: list[Any], *, step: int, request: Any
) -> None:
    tool_format = _format(request.getfixturevalue(style))
    pieces = [output[i : i + step] for i in range(0, len(output), step)]
    streamed, found, reason = _read(tool_format, pieces)
    assert "".join(streamed) == text
    assert found == calls
    assert reason == ("tool_calls" if calls else "stop")


@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "rm"),
                *("```json", "```", "\n", " ", ";", "[", "]", "{", "}", '{"name"', '"', ":", "é"),
                *('{"name": "rm", "arguments": {}}', "<function=rm>", "text", "[1, 2]"),
            ]
        ),
        max_size=20,
    ),
    cuts=st.lists(st.integers(0, 200)),
)
@settings(max_examples=300, deadline=None)
def test_what_is_no_call_comes_through_byte_for_byte(pieces: list[str], cuts: list[int]) -> None:
    output = "".join(pieces)
    places = sorted({cut for cut in cuts if cut < len(output)} | {0, len(output)})
    parser = FreeParser({"add": {}})
    found = [item for a, b in pairwise(places) for item in parser.feed(output[a:b])]
    assert "".join([*found, *parser.close()]) == output


def test_text_streams_as_it_comes(qwen: ChatTemplate, plain: ChatTemplate) -> None:
    assert _read(_format(qwen), ["Let", " me", " <to", "ast"])[0] == ["Let", " me", " <toast"]
    code = ["Like", " so:\n", "```", "python\n", "x = [1", "]\n```\n"]
    assert _read(_format(qwen), code)[0] == [
        "Like",
        " so:",
        "\n```python",
        "\nx = [1",
        "]",
        "\n```\n",
    ]
    early = _format(qwen).parser().feed(TokenEvent(0, text=f"So:\n{BARE}\n"))
    assert [call["function"]["name"] for delta in early for call in delta.tool_calls] == ["add"]
    pieces = ['{"response": "', "Hel", "lo\\", "nyou", '"}']
    assert _read(_format(plain), pieces)[0] == ["Hel", "lo", "\nyou"]


def test_no_answer_that_keeps_to_its_schema_is_taken_for_a_call(qwen: ChatTemplate) -> None:
    schema = {"type": "object", "properties": {"name": {"enum": ["add"]}}}
    text, calls, _ = _read(_format(qwen, answer=schema), ['{"name": "add"}'])
    assert (text, calls) == (['{"name": "add"}'], [])


def test_choices_do_not_mix(qwen: ChatTemplate) -> None:
    parser = _format(qwen).parser()
    deltas = []
    for a, b in itertools.zip_longest(CALL, CALL_2, fillvalue=""):
        deltas += parser.feed(TokenEvent(0, text=a)) + parser.feed(TokenEvent(1, text=b))
    deltas += parser.feed(TokenEvent(0, finish_reason="stop"))
    deltas += parser.feed(TokenEvent(1, finish_reason="length"))
    names = {d.index: d.tool_calls[0]["function"]["name"] for d in deltas if d.tool_calls}
    assert names == {0: "add", 1: "look_up"}
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["tool_calls", "length"]


def test_one_call_only_where_the_client_wants_no_more(qwen: ChatTemplate) -> None:
    assert _read(_format(qwen, parallel=False), [CALL + CALL_2])[1] == [A]


@pytest.mark.parametrize("style", ["qwen", "llama", "plain"])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_required_calls_are_what_the_grammar_allows(
    style: str, choice: Any, vocabulary: Vocabulary, request: Any
) -> None:
    tool_format = _format(request.getfixturevalue(style), choice, parallel=False)
    assert tool_format.grammar is not None
    for seed in range(3):
        output = random_sentence(tool_format.grammar, vocabulary, seed)
        text, calls, reason = _read(tool_format, [output])
        assert text == []
        assert [name for name, _ in calls] == ["add"] if choice == NAMED else len(calls) == 1
        assert reason == "tool_calls"
    assert not accepts(tool_format.grammar, '{"response": "no"}', vocabulary)


def test_generic_grammar_allows_a_call_or_a_response(
    plain: ChatTemplate, vocabulary: Vocabulary
) -> None:
    several, one = _format(plain).grammar, _format(plain, parallel=False).grammar
    assert several
    assert one
    for grammar in (several, one):
        assert accepts(grammar, '{"response": "no\\n"}', vocabulary)
        assert not accepts(grammar, '{"response": 3}', vocabulary)
    assert accepts(several, GENERIC_2, vocabulary)
    assert accepts(one, GENERIC, vocabulary)
    assert not accepts(one, GENERIC_2, vocabulary)
    assert not accepts(one, GENERIC.replace("3", '"3"'), vocabulary)


# Its answers begin like a call of each form.
ANSWER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tool_call": {"type": "null"},
        "response": {"type": "string"},
    },
}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    ("style", "call"), [("qwen", CALL), ("llama", BARE), ("plain", GENERIC), ("plain", GENERIC_2)]
)
def test_beside_a_schema_the_output_is_a_call_or_fits_it(
    style: str, call: str, parallel: bool, vocabulary: Vocabulary, request: Any
) -> None:
    tool_format = _format(request.getfixturevalue(style), "auto", parallel, ANSWER)
    assert tool_format.grammar is not None
    if style != "plain" or (call == GENERIC_2) is parallel:
        assert accepts(tool_format.grammar, call, vocabulary)
        assert _read(tool_format, [call])[1][0] == A
    if call == GENERIC_2:
        assert _read(tool_format, [call[:-2]])[:2] == ([], [A, B] if parallel else [A])
    for answer in ('{"name": "Ada"}', '{"tool_call": null}', '{"response": "x"}', "{}"):
        assert accepts(tool_format.grammar, answer, vocabulary), answer
        for step in (1, 1000):
            pieces = [answer[i : i + step] for i in range(0, len(answer), step)]
            texts, calls, reason = _read(tool_format, pieces)
            assert ("".join(texts), calls, reason) == (answer, [], "stop")
    for wrong in ("text", '{"city": 3}', f"{call} {{}}", call.replace("add", "rm")):
        assert not accepts(tool_format.grammar, wrong, vocabulary), wrong


@pytest.mark.parametrize("style", ["qwen", "llama", "plain"])
def test_a_required_call_leaves_no_room_for_the_schema(
    style: str, vocabulary: Vocabulary, request: Any
) -> None:
    tool_format = _format(request.getfixturevalue(style), "required", answer=ANSWER)
    assert tool_format.grammar is not None
    assert not accepts(tool_format.grammar, "{}", vocabulary)
    output = random_sentence(tool_format.grammar, vocabulary, 0)
    assert _read(tool_format, [output])[2] == "tool_calls"


def test_native_forms_are_free_to_answer(qwen: ChatTemplate, llama: ChatTemplate) -> None:
    assert _format(qwen).grammar is None
    assert _format(llama, "auto").grammar is None


def test_no_tools_no_format(plain: ChatTemplate) -> None:
    assert ToolFormat.choose(plain, [], None) is None
    assert ToolFormat.choose(plain, TOOLS, "none") is None


def test_generic_form_explains_the_tools(plain: ChatTemplate, qwen: ChatTemplate) -> None:
    user = {"role": "user", "content": "Hi"}
    (system, *rest) = _format(plain).messages([user])
    assert system["role"] == "system"
    assert "Does look_up." in system["content"]
    assert rest == [user]
    own = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    merged = _format(plain, NAMED).messages([own, user])
    assert plain.render(merged).startswith("<|im_start|>system\nBe brief.\nYou can call")
    assert "look_up" not in plain.render(merged)
    assert _format(qwen).messages([user]) == [user]


FUNCTION = ADD["function"]


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ("x", None, "tools"),
        ([3], None, "tools[0]"),
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([ADD, {"type": "function"}], None, "tools[1].function"),
        ([{"type": "function", "function": {"name": "a b"}}], None, "tools[0].function.name"),
        ([ADD, ADD], None, "tools[1].function.name"),
        (
            [{**ADD, "function": {**FUNCTION, "description": 3}}],
            None,
            "tools[0].function.description",
        ),
        (
            [{**ADD, "function": {**FUNCTION, "parameters": {"type": "string"}}}],
            None,
            "tools[0].function.parameters",
        ),
        ([_tool("f", x={"type": "strin"})], None, "tools[0].function.parameters"),
        ([], "required", "tool_choice"),
        (TOOLS, "sometimes", "tool_choice"),
        (TOOLS, {"type": "function", "function": {"name": "rm"}}, "tool_choice.function.name"),
    ],
)
def test_wrong_fields_are_named(tools: Any, choice: Any, param: str, plain: ChatTemplate) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ToolFormat.choose(plain, tools, choice)
    assert caught.value.param == param


def test_strict_decides_whether_constraints_may_be_dropped(plain: ChatTemplate) -> None:
    loose = _tool("f", x={"type": "array", "uniqueItems": True})
    chosen = ToolFormat.choose(plain, [loose])
    assert chosen is not None
    assert chosen.ignored == ("f: uniqueItems at #/properties/x",)
    strict = {**loose, "function": {**loose["function"], "strict": True}}
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        ToolFormat.choose(plain, [strict])
