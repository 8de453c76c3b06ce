"""A chat template comes with the model and is a foreign program: an error, never a hang or a crash.

`make fuzz` tries many more of them (FUZZ_EXAMPLES).
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.chat import template as chat_template
from edge_agent.chat.template import ChatTemplate
from edge_agent.errors import InvalidRequest
from edge_agent.processes.worker import Worker
from models.errors import ModelError
from models.llama.vocabulary import Vocabulary

CHILD = Path(chat_template.__file__).with_name("template_child.py")
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}]
WHOLE = "{% for m in messages %}{{ m.content }}{% endfor %}"

HANGS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set r = range(99999) %}{% for i in r %}{% if i in r|list %}{% endif %}{% endfor %}",
    "{{ lipsum(n=10**9) }}",
    "{% set n = namespace(x=7) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
]
BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * messages|length * 10**9 }}",
    "{{ '%1000000000d' % messages|length }}",
    "{{ 'x'.center(10**11) }}",
    "{{ [1] * (10**9 + messages|length) }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x }}",
    "{{ 'a' * 900000 }}",
]
BREAK_OUTS = [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ raise_exception.__globals__ }}",
    "{% import 'os' as os %}{{ os.getcwd() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages.append(1) }}",
]
MALFORMED = [
    "{% if %}",
    "{{",
    "{% endfor %}",
    "{{ 1 | nothing_like_it }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "-" * 100_000 + "1 }}",
    "{% for m in messages %}" * 40 + "{% endfor %}" * 40,
    "{% if 1 %}" * 150 + "{% endif %}" * 150,
    "x" * 2_000_000,
]
WRONG_TYPES = [
    "{{ messages + 1 }}",
    "{{ messages[0].content() }}",
    "{{ none.x.y }}",
    "{% for a, b in messages %}{{ a * b }}{% endfor %}",
    "{{ {}|tojson(indent='x' * 3) ~ [undefined_name]|tojson }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ '{:' ~ '9' * 20 ~ '}' }}{{ ('{:' ~ '9' * 20 ~ '}').format(1) }}",
]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Half a second in place of five."""
    worker = Worker(CHILD, timeout_s=0.5, memory_mb=512)
    monkeypatch.setattr(chat_template, "_worker", worker)
    yield
    worker.close()


def tried(source: str, vocabulary: Vocabulary) -> str:
    """What comes of a template: the text of a chat, or the one line of the error."""
    try:
        return ChatTemplate(source, vocabulary).render(MESSAGES)
    except (ModelError, InvalidRequest) as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 500
        return f"refused: {said}"


def still_works(vocabulary: Vocabulary) -> bool:
    return ChatTemplate(WHOLE, vocabulary).render(MESSAGES) == "sHi"


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("source", HANGS + BOMBS)
def test_endless_and_boundless_ones_are_refused_when_the_model_is_opened(
    source: str, vocabulary: Vocabulary
) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"longer than|MemoryError|characters of text"):
        ChatTemplate(source, vocabulary)
    assert time.monotonic() - began < 20
    assert still_works(vocabulary)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("source", [HANGS[0], BOMBS[-2]])
def test_one_that_waits_for_a_long_chat_is_refused_then(
    source: str, vocabulary: Vocabulary
) -> None:
    template = ChatTemplate(
        f"{WHOLE}{{% if messages|length > 2 %}}{source}{{% endif %}}", vocabulary
    )
    assert template.render(MESSAGES) == "sHi"
    with pytest.raises(InvalidRequest, match=r"longer than|MemoryError"):
        template.render([*MESSAGES, MESSAGES[1]])
    assert template.render(MESSAGES) == "sHi"


@pytest.mark.parametrize("source", BREAK_OUTS)
def test_the_sandbox_gives_nothing_away(source: str, vocabulary: Vocabulary) -> None:
    said = tried(source, vocabulary)
    assert said.startswith("refused: ") or said in ("", "None")


@pytest.mark.parametrize("source", MALFORMED)
def test_what_is_no_template_is_refused_when_the_model_is_opened(
    source: str, vocabulary: Vocabulary
) -> None:
    with pytest.raises(ModelError, match=r"does not compile|has 2,000,000 characters"):
        ChatTemplate(source, vocabulary)


@pytest.mark.parametrize("source", WRONG_TYPES)
def test_what_fails_at_work_says_so(source: str, vocabulary: Vocabulary) -> None:
    assert tried(source, vocabulary).startswith("refused: the model's chat template refused")


def test_names_of_ours_in_a_request_s_variables_change_nothing(vocabulary: Vocabulary) -> None:
    template = ChatTemplate(WHOLE + "{{ self }}{{ source }}", vocabulary)
    extra = {"self": "a", "source": "b", "values": "c", "now": "d", "strftime_now": "e"}
    with contextlib.suppress(InvalidRequest):
        assert "Hi" in template.render(MESSAGES, extra=extra)
    assert still_works(vocabulary)


_PIECES = st.sampled_from(
    """
    {{ }} {% %} {# #} {%- -%} {{- -}} for m in messages if elif else endif endfor set = == ( ) [ ] {
    } . , : | ~ + - * ** % // < > not and or is defined none true macro endmacro call endcall filter
    endfilter block endblock raw endraw with endwith do break continue generation endgeneration
    namespace range cycler joiner lipsum dict loop loop.index loop(m) recursive messages tools
    bos_token raise_exception strftime_now tojson trim length list join string int replace map
    selectattr groupby batch center indent sort unique round pprint xmlattr first last items
    .content .role ['role'] [0] [-1:] [::2] .__class__ .mro() .format(1) .split() .update(m) 'a'
    "%d" 0 1 7 -1 1.5 99999 10**9 1e400 ' \\n é 🙂 m x f i
    """.split()  # noqa: SIM905
)


@pytest.mark.usefixtures("hurried")
def test_any_template_ends_in_text_or_one_line(vocabulary: Vocabulary) -> None:
    expression = st.lists(_PIECES, min_size=1, max_size=8).map(" ".join)
    part = st.one_of(
        expression.map("{{{{ {} }}}}".format),
        expression.map("{{% {} %}}".format),
        st.builds("{{% for m in {} %}}{{{{ {} }}}}{{% endfor %}}".format, expression, expression),
        st.builds("{{% set x = {} %}}{{{{ x|{} }}}}".format, expression, _PIECES),
        _PIECES,
        st.text(max_size=5),
    )

    @settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
        deadline=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(part, max_size=5).map("".join))
    def attempt(source: str) -> None:
        tried(source, vocabulary)

    attempt()
    assert still_works(vocabulary)
