"""Chat with the daemon: the request's body, the streamed answer, the history of a session."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_agent.client.daemon import DaemonClient

PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Options:
    """How each question is to be answered. `route` None: as the model name says."""

    model: str = "edge"
    route: str | None = None
    private: bool = False
    task: str | None = None
    system: str | None = None
    log: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, e.g. {"temperature": 0}."""


def body(messages: Sequence[Mapping[str, Any]], options: Options) -> dict[str, Any]:
    """The body of a chat completion request."""
    system = [{"role": "system", "content": options.system}] if options.system else []
    extension: dict[str, Any] = {}
    if options.route is not None:
        extension["route"] = options.route
    if options.private:
        extension["private"] = True
    if options.task is not None:
        extension["task"] = options.task
    if not options.log:
        extension["log"] = False
    return {
        "model": options.model,
        "messages": [*system, *messages],
        **options.fields,
        **({"edge_agent": extension} if extension else {}),
    }


class StreamedAnswer:
    """Iterate it for the text as it arrives; `info` is then the response's `edge_agent`."""

    def __init__(self, client: DaemonClient, request: Mapping[str, Any]) -> None:
        self.info: dict[str, Any] = {}
        self._events = client.stream(PATH, {**request, "stream": True})

    def __iter__(self) -> Iterator[str]:
        for event in self._events:
            self.info |= event.get("edge_agent") or {}
            for choice in event.get("choices", ()):
                yield choice["delta"].get("content") or ""

    def close(self) -> None:
        """Stop the answer: the daemon sees the connection close."""
        self._events.close()


@dataclass
class Conversation:
    """The history of one session, and what is known of its last answer."""

    client: DaemonClient
    options: Options
    messages: list[dict[str, str]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def ask(self, text: str) -> Generator[str, None, None]:
        """Stream the answer to `text`.

        The exchange joins the history as far as it came: an answer that was stopped stays as it
        is, a question that got no answer is forgotten.
        """
        question = {"role": "user", "content": text}
        answer = StreamedAnswer(self.client, body([*self.messages, question], self.options))
        pieces: list[str] = []
        try:
            for piece in answer:
                pieces.append(piece)
                yield piece
        finally:
            answer.close()
            self.info = answer.info
            if "".join(pieces):
                self.messages += [question, {"role": "assistant", "content": "".join(pieces)}]

    def clear(self) -> None:
        """Forget everything said so far."""
        self.messages.clear()
        self.info = {}
