"""Chat messages to prompt token ids, through the model's own Jinja template.

A template is a foreign program that comes with the model: it runs in a process of its own, with
limits of time and memory (see `template_child`), in Jinja's sandbox, and gives back text.
Control tokens come from the template only (see `control_tokens`).
"""

import atexit
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from edge_agent.chat.control_tokens import ControlTokens, Piece
from edge_agent.chat.messages import (
    Message,
    normalise,
    system_into_user,
    tool_history_as_text,
    unsupported_part,
)
from edge_agent.errors import InvalidRequest
from edge_agent.processes.worker import Worker, WorkerFailed
from models.errors import ModelError
from models.llama.vocabulary import Vocabulary

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
_MAX_SOURCE = 1_000_000
"""Characters; the longest known templates have some 20,000."""
_TIMEOUT_S, _MEMORY_MB = 5.0, 1024

_worker = Worker(
    Path(__file__).with_name("template_child.py"), timeout_s=_TIMEOUT_S, memory_mb=_MEMORY_MB
)
"""One child renders for every template of this process."""
atexit.register(_worker.close)


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
        Raises ModelError if the template does not compile, or is too much work.
        """
        self.source: str = template or vocabulary.metadata.get(_METADATA_KEY) or CHATML
        self.digest: str = template_digest(self.source)
        """Names the template in logs: the first 16 hex digits of its SHA-256."""
        self.tool_style: ToolStyle | None = _tool_style(self.source)
        """How the template has the model write tool calls; None if in no way we can read."""
        self._vocabulary = vocabulary
        added = {text for text in vocabulary.added_tokens if text in self.source}
        self._control = ControlTokens(vocabulary, protected=protected, added=added)
        self._now = now
        _check(self.source)
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

    def answer(
        self, turn: Mapping[str, Any], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """Ids of the assistant's `turn`, from where a prompt ends to the token that ends an answer.

        `tools` as for `render`. Raises InvalidRequest where the template refuses the turn, or
        does not write it behind the prompt that it makes itself.
        """
        asked = {"role": "user", "content": "a"}
        prompt = self.encode([asked], tools=tools)
        whole = self.encode([asked, turn], tools=tools, add_generation_prompt=False)
        ids = whole[len(prompt) :]
        ends = [place for place, token in enumerate(ids) if self._vocabulary.is_eog(token)]
        if whole[: len(prompt)] != prompt or not ends:
            raise InvalidRequest("the model's chat template writes no answer behind its own prompt")
        return ids[: ends[0] + 1]

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
            return self._render(
                self._values(add_generation_prompt=add_generation_prompt, **guarded)
            )

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
        values = self._values([message, {"role": "user", "content": "?"}])
        try:
            reply = self._run(values)
        except WorkerFailed as error:
            raise ModelError(f"the chat template cannot be used: {error}") from error
        return str(message["content"]) in reply.get("text", "")

    def _values(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        return {
            **(extra or {}),
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
        }

    def _render(self, values: Mapping[str, Any]) -> str:
        try:
            reply = self._run(values)
        except WorkerFailed as error:
            reply = {"refused": str(error)}
        if "text" not in reply:
            raise InvalidRequest(
                f"the model's chat template refused these messages: {reply['refused']}",
                param="messages",
            )
        return reply["text"]

    def _run(self, values: Mapping[str, Any]) -> dict[str, str]:
        """{"text": …}, or {"refused": …} by the template. Raises WorkerFailed."""
        now = self._now().isoformat()
        reply: dict[str, str] = _worker.call("render", source=self.source, now=now, values=values)
        return reply


def _tool_style(source: str) -> ToolStyle | None:
    if "tools" not in source:
        return None
    if "<tool_call>" in source:
        return "tagged"
    return "bare" if '{"name": ' in source and '"parameters": ' in source else None


def _text(vocabulary: Vocabulary, token_id: int | None) -> str:
    return "" if token_id is None else vocabulary.text(token_id)


def _check(source: str) -> None:
    """Raises ModelError if `source` is no template."""
    if len(source) > _MAX_SOURCE:
        raise ModelError(f"the chat template has {len(source):,} characters, over {_MAX_SOURCE:,}")
    try:
        wrong = _worker.call("check", source=source)
    except WorkerFailed as error:
        wrong = str(error)
    if wrong is not None:
        raise ModelError(f"the chat template does not compile: {wrong}")
