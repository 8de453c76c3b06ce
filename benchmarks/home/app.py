"""The app: sends a system prompt and a command over HTTP, and looks at nothing but the answer."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Literal

from benchmarks.home.grammar import Command
from benchmarks.home.workload import MAX_TOKENS, SYSTEM
from edge_agent.client.conversation import PATH, Options, body
from edge_agent.client.daemon import DaemonClient
from edge_agent.errors import EdgeAgentError

AT_ONCE = 8
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Answered:
    """One command and what came back."""

    text: str
    answer: str
    right: bool
    source: str
    """local | cloud | fallback; "" where there was no answer."""
    reason: str
    p_offload: float | None
    gain: float | None
    """Expected by the daemon of asking, in reward."""
    after: str | None
    logprob: float | None
    """Of the answer's tokens together (nats), where they were asked for."""
    cost_usd: float
    seconds: float
    error: str | None = None

    @property
    def asked(self) -> bool:
        """The cloud was asked, whether it answered or not."""
        return self.source in ("cloud", "fallback")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class App:
    """Asks one daemon."""

    client: DaemonClient

    def ask(
        self,
        command: Command,
        *,
        model: Literal["edge", "edge-local"] = "edge",
        log: bool,
        temperature: float = 0.0,
    ) -> Answered:
        """Ask one command; `log` False leaves no trace to learn from."""
        fields: dict[str, Any] = {"temperature": temperature, "max_tokens": MAX_TOKENS}
        if model == "edge-local":
            fields["logprobs"] = True
        options = Options(model=model, system=SYSTEM, log=log, fields=fields)
        began = monotonic()
        try:
            response = self.client.post(
                PATH,
                body([{"role": "user", "content": command.text}], options),
                timeout_s=_TIMEOUT_S,
            )
        except EdgeAgentError as error:
            seconds = monotonic() - began
            return Answered(
                command.text, "", False, "", "", None, None, None, None, 0.0, seconds, str(error)
            )
        info, choice = response["edge_agent"], response["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content")
        answer = choice["message"].get("content") or ""
        return Answered(
            text=command.text,
            answer=answer,
            right=is_right(command, answer),
            source=info["source"],
            reason=info["reason"],
            p_offload=info.get("p_offload"),
            gain=info.get("gain"),
            after=info.get("after"),
            logprob=None if tokens is None else sum(token["logprob"] for token in tokens),
            cost_usd=info.get("cost_usd") or 0.0,
            seconds=monotonic() - began,
        )

    def ask_all(
        self,
        commands: Sequence[Command],
        *,
        model: Literal["edge", "edge-local"] = "edge",
        log: bool,
        temperature: float = 0.0,
        done: Callable[[], object] = lambda: None,
    ) -> list[Answered]:
        """Ask `AT_ONCE` at a time; answers in the order of `commands`."""

        def ask(command: Command) -> Answered:
            answered = self.ask(command, model=model, log=log, temperature=temperature)
            done()
            return answered

        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="app")
        try:
            return list(pool.map(ask, commands))
        finally:
            pool.shutdown(cancel_futures=True)


def is_right(command: Command, answer: str) -> bool:
    """Whether the answer is the right intent with the right slots and nothing else."""
    try:
        return bool(json.loads(answer) == json.loads(command.answer))
    except (ValueError, RecursionError):
        return False
