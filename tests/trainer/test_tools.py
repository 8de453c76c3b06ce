"""Queries with tools or a schema: read from the log, written as the model has to, read back."""

import functools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.chat.answer_form import AnswerForm
from edge_agent.chat.template import ChatTemplate
from edge_agent.engine.grammar import Grammars
from edge_agent.log.store import Store
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from tests.edge_agent.chat.templates import QWEN
from tests.trainer.log_builder import TEMPLATE, LogBuilder
from trainer.data import items
from trainer.data.answers import Form, FormOf, calls_in, forms, graded
from trainer.data.items import Item
from trainer.graders import Graders


def tool(called: str, **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}}
    function = {"name": called, "parameters": {**schema, "required": list(properties)}}
    return {"type": "function", "function": function}


TOOLS = (tool("turn_on", name="string"), tool("set_level", name="string", level="integer"))
LAMP = ("turn_on", '{"name": "lamp"}')
LEVEL = ("set_level", '{"level": 3, "name": "fan"}')
SHAPE = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"x": {}}}},
}


BARE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.tool_calls and message.tool_calls | length != 1 %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- elif message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools %}{%- endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""In the manner of Llama 3, with the control tokens of the vocabulary here."""


def written(*calls: tuple[str, str]) -> str:
    listed = [{"name": name, "arguments": json.loads(arguments)} for name, arguments in calls]
    return json.dumps({"tool_calls": listed})


@pytest.fixture(scope="module")
def vocabulary(smollm2: Path) -> Iterator[Vocabulary]:
    with LlamaModel(smollm2, vocab_only=True) as model:
        yield Vocabulary(model)


@functools.cache
def grammars(vocabulary: Vocabulary) -> Grammars:
    """One for all tests: its index over the vocabulary takes seconds."""
    return Grammars(vocabulary)


def form_of(vocabulary: Vocabulary, template: str | None) -> FormOf:
    return forms(ChatTemplate(template, vocabulary), grammars(vocabulary).prepare)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogBuilder]:
    with closing(Store(tmp_path / "edge-agent.db")) as store:
        yield LogBuilder(store)


def load(log: LogBuilder, vocabulary: Vocabulary) -> tuple[Item, ...]:
    path = log.store.path
    return items.load(
        path,
        template=TEMPLATE,
        until=items.newest(path),
        render=lambda _: (9,),
        form=form_of(vocabulary, None),
    ).items


def test_a_cloud_answer_that_calls_is_a_reference(log: LogBuilder, vocabulary: Vocabulary) -> None:
    log.ask("lamp", tools=TOOLS, calls=[LAMP])
    log.ask("both", tools=TOOLS, cloud="At once.", calls=[LAMP, LEVEL])
    log.ask("weather", tools=TOOLS, cloud="I cannot tell.")
    audited = log.ask("audited", tools=TOOLS)
    log.audit(audited, "", LEVEL)
    log.ask("secret", tools=TOOLS, calls=[LAMP], private=True)
    log.ask("broken", tools=TOOLS, calls=[("turn_on", '{"name": ')])
    found = [
        (item.question, item.reference, item.reference_source) for item in load(log, vocabulary)
    ]
    assert found == [
        ("lamp", written(LAMP), "cloud"),
        ("both", written(LAMP, LEVEL), "cloud"),
        ("weather", "I cannot tell.", "cloud"),
        ("audited", written(LEVEL), "cloud"),
    ]


def test_the_request_says_what_an_answer_may_be(log: LogBuilder, vocabulary: Vocabulary) -> None:
    named = {"type": "function", "function": {"name": "turn_on"}}
    log.ask("a", cloud="x")
    log.ask("b", cloud="x", tools=TOOLS, body={"tool_choice": named})
    log.ask("c", cloud="x", body={"response_format": SHAPE})
    log.ask("d", cloud="x", tools=TOOLS, body={"tool_choice": "none"})
    log.ask("e", cloud="x", body={"grammar": 'root ::= "x"'})
    log.ask("f", cloud="x", tools=TOOLS, body={"tool_choice": "no such"})
    plain, required, shaped, no_calls, gbnf = load(log, vocabulary)
    assert (plain.form.grammar, plain.form.has_tools) == (None, False)
    assert required.form.asked.tool_format is not None
    assert required.form.asked.tool_format.required
    assert required.form.grammar == required.form.asked.tool_format.grammar is not None
    assert shaped.form.grammar is not None
    assert shaped.form.grammar.notation == "llguidance"
    assert (no_calls.form.grammar, no_calls.form.has_tools) == (None, False)
    assert gbnf.form.grammar is not None
    assert gbnf.form.grammar.notation == "gbnf"


@pytest.mark.parametrize("template", [None, QWEN, BARE], ids=["generic", "tagged", "bare"])
@pytest.mark.parametrize(
    "request_", [{}, {"tool_choice": "required"}, {"parallel_tool_calls": False}], ids=str
)
def test_what_is_taught_is_what_serving_reads(
    vocabulary: Vocabulary, template: str | None, request_: dict[str, Any]
) -> None:
    """Written in the model's own way, allowed by its grammar, and read as the same calls."""
    form = form_of(vocabulary, template)(json.dumps(TOOLS), request_)
    assert form is not None
    answers = [written(LAMP), written(LEVEL)]
    many = form.write(written(LAMP, LEVEL))
    may_be_parallel = template != BARE and "parallel_tool_calls" not in request_
    assert (many is not None) == may_be_parallel
    answers += [written(LAMP, LEVEL)] if may_be_parallel else []
    if "tool_choice" in request_:
        assert form.write("I cannot.") is None
    else:
        answers.append("I cannot.")
    for answer in answers:
        ids = _ids(form, answer, vocabulary)
        read = form.read(vocabulary.decode(ids[:-1]))
        assert (calls_in(read) or read) == (calls_in(answer) or answer)
        assert vocabulary.is_eog(ids[-1])
        assert not any(map(vocabulary.is_eog, ids[:-1]))
        if form.grammar is not None:
            state = grammars(vocabulary).start(form.grammar)
            assert all(map(state.take, ids)), answer


def _ids(form: Form, answer: str, vocabulary: Vocabulary) -> list[int]:
    found = form.write(answer)
    assert found is not None
    if isinstance(found, tuple):
        return list(found)
    return [*vocabulary.encode(found), vocabulary.special_tokens["<|im_end|>"]]


def test_the_templates_own_turn_is_taught(vocabulary: Vocabulary) -> None:
    form = form_of(vocabulary, QWEN)(json.dumps(TOOLS), {})
    assert form is not None
    assert form.chat is not None
    ids = form.write(written(LAMP, LEVEL))
    assert isinstance(ids, tuple)
    assert vocabulary.decode(ids, special=True) == (
        '<tool_call>\n{"name": "turn_on", "arguments": {"name": "lamp"}}\n</tool_call>'
        '<tool_call>\n{"name": "set_level", "arguments": {"name": "fan", "level": 3}}\n</tool_call>'
        "<|im_end|>"
    )
    turn = {"role": "assistant", "tool_calls": [_call(LAMP)]}
    history = [{"role": "user", "content": "Lamp!"}, turn]
    tool_turns = [*history, {"role": "tool", "content": "on", "tool_call_id": "1"}]
    prompt = form.asked.prompt(form.chat, tool_turns)
    text = vocabulary.decode(prompt, special=True)
    assert "<tool_response>\non\n" in text
    assert text.endswith("<|im_start|>assistant\n")
    one = form.write(written(LAMP))
    assert isinstance(one, tuple)
    assert vocabulary.decode(one, special=True) in text, "the history holds what was taught"


def _call(call: tuple[str, str]) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": call[0], "arguments": call[1]}}


def test_json_of_a_schema_is_taught_in_the_order_of_its_grammar(vocabulary: Vocabulary) -> None:
    inner = {"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False}
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/inner"}, "y": {"type": "array", "items": inner}},
        "required": ["x", "y"],
        "additionalProperties": False,
        "$defs": {"inner": inner},
    }
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    form = form_of(vocabulary, None)(None, {"response_format": shape})
    assert form is not None
    assert form.grammar is not None
    text = form.write('{"y": [{"b": 1, "a": 2}],\n\n\n"x":    {"b": "é", "a": 0}}')
    assert text == '{"x": {"a": 0, "b": "é"}, "y": [{"a": 2, "b": 1}]}'
    state = grammars(vocabulary).start(form.grammar)
    assert all(map(state.take, vocabulary.encode(text)))
    assert form.write("no JSON") is None


def test_a_tool_that_is_not_there_cannot_be_taught(vocabulary: Vocabulary) -> None:
    form = form_of(vocabulary, None)(json.dumps(TOOLS), {})
    assert form is not None
    assert form.write(written(("open_door", "{}"))) is None
    assert form_of(vocabulary, None)('[{"type": "web_search"}]', {}) is None


def test_every_dialect_is_graded_as_the_call_it_is(vocabulary: Vocabulary) -> None:
    form = form_of(vocabulary, QWEN)(json.dumps(TOOLS), {})
    assert form is not None
    item = Item("q", 0.0, (1,), "?", "c", written(LAMP), "cloud", form=form)
    outputs = {
        '```json\n{"name": "turn_on", "arguments": {"name": "lamp"}}\n```': 1,
        '{"name":"turn_on","arguments":{"name":"lamp"}}': 1,
        '<tool_call>{"name": "turn_on", "arguments": {"name": "lamp"}}</tool_call>': 1,
        '<tool_call>{"name": "turn_on", "arguments": {"name": "fan"}}</tool_call>': 0,
        "turn_on(lamp)": 0,
    }
    with Graders() as graders:
        assert {o: graders.score(item, form.read(o)) for o in outputs} == outputs
        text = Item("t", 0.0, (1,), "?", "c", "I cannot do that.", "cloud", form=form)
        assert graders.score(text, form.read("I cannot do that!")) == 1
        assert graders.score(text, written(LAMP)) == 0


def test_text_beside_a_call_is_left_out() -> None:
    assert graded("At once.", [_call(LAMP)]) == written(LAMP)
    assert graded("At once.", []) == "At once."
    assert graded("", [_call(("turn_on", "[1]"))]) is None
    assert graded("", [_call(("turn_on", ""))]) == written(("turn_on", "{}"))


def test_the_prompt_is_the_daemons(vocabulary: Vocabulary) -> None:
    """Generic tools stand in the system message, native ones where the template puts them."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Lamp!"}]
    generic = ChatTemplate(None, vocabulary)
    text = vocabulary.decode(AnswerForm.of(generic, tools=TOOLS).prompt(generic, messages))
    assert "You can call these tools:" in text
    qwen = ChatTemplate(QWEN, vocabulary)
    text = vocabulary.decode(AnswerForm.of(qwen, tools=TOOLS).prompt(qwen, messages))
    assert "You can call these tools:" not in text
    assert "# Tools\n<tools>" in text
