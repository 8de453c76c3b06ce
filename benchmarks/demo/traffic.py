"""The app of the demo: it asks over HTTP, and tells the right answer once it has learnt it."""

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal, Self

from benchmarks.demo.families import MAX_TOKENS, Family, Question
from edge_agent.client.conversation import PATH, Options, body
from edge_agent.client.daemon import DaemonClient
from edge_agent.errors import EdgeAgentError

AT_ONCE = 16
SYSTEM = "Answer with the result only."
_TIMEOUT_S = 120
_PAUSE_S = 1.5
"""Between two questions of the light stream that goes on while a round trains."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question and what came back. Cost in USD."""

    question: Question
    text: str = ""
    source: str = ""
    """local | cloud | fallback."""
    p_offload: float | None = None
    adapter: str = ""
    cost_usd: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    """Why there is no answer: the request was dropped."""

    @property
    def right(self) -> bool:
        """The answer is right."""
        return self.error is None and self.question.right(self.text)

    @property
    def asked_cloud(self) -> bool:
        """The cloud was asked, whether it answered or not."""
        return self.source in ("cloud", "fallback")


@dataclass(frozen=True)
class App:
    """Asks one daemon. `families` by name."""

    client: DaemonClient
    families: Mapping[str, Family]

    def ask(
        self, question: Question, *, model: Literal["edge", "edge-local"] = "edge", learn: bool
    ) -> Answered:
        """Ask one question.

        `learn`: the query is logged and the right answer sent after it, as feedback. Otherwise it
        leaves no trace in the log, so nothing can be learnt from it.
        """
        request = body(
            [{"role": "user", "content": question.text}],
            Options(
                model=model,
                task=question.family,
                system=SYSTEM,
                log=learn,
                fields={"temperature": 0.0, "max_tokens": MAX_TOKENS},
            ),
        )
        if learn and (grader := self.families[question.family].grader):
            request["edge_agent"]["grader"] = dict(grader)
        began = monotonic()
        try:
            response = self.client.post(PATH, request, timeout_s=_TIMEOUT_S)
            seconds = monotonic() - began
            if learn:
                said = {"id": response["id"], "reference": question.answer}
                self.client.post("/v1/feedback", said, timeout_s=_TIMEOUT_S)
        except EdgeAgentError as error:
            return Answered(question, seconds=monotonic() - began, error=str(error))
        info: Mapping[str, Any] = response["edge_agent"]
        return Answered(
            question,
            text=response["choices"][0]["message"].get("content") or "",
            source=info["source"],
            p_offload=info.get("p_offload"),
            adapter=info["adapter"],
            cost_usd=info.get("cost_usd") or 0.0,
            seconds=seconds,
        )

    def ask_all(
        self,
        questions: Sequence[Question],
        *,
        model: Literal["edge", "edge-local"] = "edge",
        learn: bool,
        done: Callable[[], object] = lambda: None,
    ) -> list[Answered]:
        """Ask `AT_ONCE` at a time; answers in the order of `questions`."""

        def ask(question: Question) -> Answered:
            answered = self.ask(question, model=model, learn=learn)
            done()
            return answered

        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="app")
        try:
            return list(pool.map(ask, questions))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass
class LightStream:
    """One question after the other while something else goes on. Use it as a context."""

    app: App
    questions: Sequence[Question]
    seed: int
    answered: list[Answered] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="light-stream", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(self.seed)  # noqa: S311
        while not self._over.is_set():
            self.answered.append(self.app.ask(rng.choice(self.questions), learn=False))
            self._over.wait(_PAUSE_S)
