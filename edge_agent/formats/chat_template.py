"""Chat messages to prompt token ids, through the model's own Jinja template.

The environment is that of Hugging Face's `apply_chat_template`: templates in GGUF files are
written for it. Control tokens come from the template only (see `control_tokens`).
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.engine.vocabulary import Vocabulary
from edge_agent.errors import InvalidRequest
from edge_agent.formats.control_tokens import ControlTokens, Piece
from edge_agent.formats.messages import (
    Message,
    normalise,
    system_into_user,
    tool_history_as_text,
    unsupported_part,
)
from models.errors import ModelError

__all__ = ["CHATML", "ChatTemplate", "ToolStyle", "unsupported_part"]

ToolStyle = Literal["tagged", "bare"]
"""tagged: <tool_call>{"name": …, "arguments": …}</tool_call> within text (Hermes, Qwen).
bare: the whole answer is {"name": …, "parameters": …} (Llama 3)."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For models that bring no template."""

_METADATA_KEY = "tokenizer.chat_template"
_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")


def template_digest(source: str | None) -> str:
    """Names a template in the log; None is ChatML, as for `ChatTemplate`."""
    return hashlib.sha256((source or CHATML).encode()).hexdigest()[:16]


class ChatTemplate:
    """Renders and encodes chats for one model. Safe from any thread."""

    def __init__(
        self,
        template: str | None,
        vocabulary: Vocabulary,
        *,
        protected: Collection[str] = (),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile `template`, else the model's own, else ChatML.

        protected: token texts that users must not be able to type, besides control tokens.
        now: the clock behind the templates' `strftime_now`.
        Raises ModelError if the template does not compile.
        """
        self.source: str = template or vocabulary.metadata.get(_METADATA_KEY) or CHATML
        self.digest: str = template_digest(self.source)
        """Names the template in logs: the first 16 hex digits of its SHA-256."""
        self.tool_style: ToolStyle | None = _tool_style(self.source)
        """How the template has the model write tool calls; None if in no way we can read."""
        self._vocabulary = vocabulary
        added = {text for text in vocabulary.added_tokens if text in self.source}
        self._control = ControlTokens(vocabulary, protected=protected, added=added)
        self._template = _compile(self.source, now)
        self._bos = _text(vocabulary, vocabulary.bos)
        self._eos = _text(vocabulary, vocabulary.eos)
        self._knows_system = self._shows({"role": "system", "content": "probe-7f3a"})

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """Prompt ids of a chat. Arguments and errors as for `render`."""
        pieces = self._pieces(messages, tools, add_generation_prompt, extra or {})
        ids = self._control.encode(pieces)
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return tuple(ids)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Prompt text of a chat.

        tools: OpenAI tool definitions, given to the template if it has a `tool_style`.
        extra: further template variables (`chat_template_kwargs`), e.g. enable_thinking.
        Raises InvalidRequest naming the wrong field, or with the template's own message.
        """
        pieces = self._pieces(messages, tools, add_generation_prompt, extra or {})
        return "".join(piece.text for piece in pieces)

    def _pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        extra: Mapping[str, Any],
    ) -> list[Piece]:
        for name in _RESERVED:
            if name in extra:
                param = f"chat_template_kwargs.{name}"
                raise InvalidRequest(f"{param} is set by the server", param=param)
        values = {
            "messages": self._adapt(normalise(messages)),
            "tools": list(tools) if tools and self.tool_style else None,
            "extra": dict(extra),
        }

        def render(guarded: Any) -> str:
            return self._render(add_generation_prompt=add_generation_prompt, **guarded)

        try:
            return self._control.render(values, render)
        except RecursionError:
            raise InvalidRequest("the request is nested too deeply", param="messages") from None

    def _adapt(self, messages: list[Message]) -> list[Message]:
        """Say with the roles this template knows what its model could not be told otherwise."""
        if self.tool_style is None:
            messages = tool_history_as_text(messages)
        if not self._knows_system:
            return system_into_user(messages)
        if "developer" in self.source:
            return messages
        return [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]

    def _shows(self, message: Message) -> bool:
        try:
            text = self._render(messages=[message, {"role": "user", "content": "?"}])
        except InvalidRequest:
            return False
        return str(message["content"]) in text

    def _render(
        self,
        *,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        try:
            return self._template.render(
                **(extra or {}),
                messages=messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except Exception as error:  # a template is a foreign program: it may raise anything
            raise InvalidRequest(
                f"the model's chat template refused these messages: {error}", param="messages"
            ) from error


def _tool_style(source: str) -> ToolStyle | None:
    if "tools" not in source:
        return None
    if "<tool_call>" in source:
        return "tagged"
    return "bare" if '{"name": ' in source and '"parameters": ' in source else None


def _text(vocabulary: Vocabulary, token_id: int | None) -> str:
    return "" if token_id is None else vocabulary.text(token_id)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template does not compile: {error.message} (line {error.lineno})"
        ) from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML characters; a prompt wants them as they are."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
