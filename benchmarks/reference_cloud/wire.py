"""Answers in OpenAI's shapes: a whole object, or the chunks of a stream."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MODEL = "reference-cloud"
FINGERPRINT = "stand-in-not-a-real-model"


@dataclass(frozen=True)
class Answer:
    """All of one answer: per choice its tokens and why it ended."""

    id: str
    created: int
    chat: bool
    choices: list[tuple[list[str], str]]
    prompt_tokens: int
    known: bool
    """Whether the question was recognised."""

    @property
    def usage(self) -> dict[str, int]:
        """Counted in `replies.tokens`."""
        completion = sum(len(pieces) for pieces, _ in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def whole(self) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = []
        for index, (pieces, ended) in enumerate(self.choices):
            text = "".join(pieces)
            message = {"role": "assistant", "content": text, "refusal": None}
            said = {"message": message} if self.chat else {"text": text}
            choices.append(_choice(index, ended) | said)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage}

    def events(self, *, include_usage: bool) -> Iterator[str]:
        """The server-sent events of a stream, one a token, then the end of each choice."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        for index, (pieces, ended) in enumerate(self.choices):
            role = {"role": "assistant"}
            for piece in pieces:
                said = {"delta": role | {"content": piece}} if self.chat else {"text": piece}
                role = {}
                yield _event(head | {"choices": [_choice(index, None) | said]})
            end: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
            yield _event(head | {"choices": [_choice(index, ended) | end]})
        if include_usage:
            yield _event(head | {"choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": MODEL,
            "system_fingerprint": FINGERPRINT,
        }


def _choice(index: int, ended: str | None) -> dict[str, Any]:
    return {"index": index, "finish_reason": ended, "logprobs": None}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
