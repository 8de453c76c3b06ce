"""Scores answers. A grader that crashes or times out scores 0 and is counted, never fatal."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edge_agent.errors import InvalidRequest
from edge_agent.log.grader_spec import (
    Choice,
    Exact,
    Feedback,
    Json,
    JsonSchema,
    Numeric,
    Regex,
    Similarity,
    Spec,
    ToolCall,
    UnitTests,
)
from trainer.data.answers import calls_in
from trainer.data.items import Item
from trainer.graders import calls, code, numbers, spec, text
from trainer.graders.grade import Grade, GraderFailed
from trainer.graders.text import closeness
from trainer.graders.worker import Worker

if TYPE_CHECKING:
    from trainer.data.similarity import Embedder

MAX_ANSWER_CHARS = 100_000
"""Longer answers score 0 unread."""


class Graders:
    """All graders, with the one child process they share. Close it, or use it as a context."""

    def __init__(
        self,
        embedder: "Callable[[], Embedder | None]" = lambda: None,
        *,
        parallel: int = 2,
        timeout_s: float = 3.0,
        partial: bool = False,
    ) -> None:
        """`parallel` programs run at a time; `timeout_s` bounds algebra, patterns and schemas.

        `partial`: where no grader is named, JSON and calls get credit for what is right.
        `embedder` is called when closeness in meaning is first graded.
        """
        self.failures: Counter[str] = Counter()
        """How often each type of grader failed."""
        self._embedder = embedder
        self._partial = partial
        self._worker = Worker(timeout_s)
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="grader")

    def score(self, item: Item, answer: str) -> float:
        """Reward in [0, 1]; where the cloud's answers disagree, the mean over them."""
        return self.grade(item, answer).reward

    def score_many(self, pairs: Sequence[tuple[Item, str]]) -> list[Grade]:
        """Grades in the order of `pairs`. Equal answers to one item are graded once."""
        answers: dict[tuple[str, str], tuple[Item, str]] = {}
        for item, answer in pairs:
            answers.setdefault((item.query_id, answer), (item, answer))
        similar = [pair for pair in answers.values() if _type(pair[0]) == "similarity"]
        if similar and (embedder := self._embedder()) is not None:
            # One batch fills its cache for the single looks that follow.
            embedder.embed([one for item, a in similar for one in (item.reference, a)])
        grades = dict(zip(answers, self._pool.map(self._judge, answers.values()), strict=True))
        done = [grades[item.query_id, answer] for item, answer in pairs]
        self.failures.update(grade.grader for grade in done if grade.error is not None)
        return done

    def grade(self, item: Item, answer: str) -> Grade:
        """The grade of one answer."""
        return self.score_many([(item, answer)])[0]

    def _judge(self, pair: tuple[Item, str]) -> Grade:
        item, answer = pair
        if item.draws:
            return self._over_draws(item, answer)
        name = _type(item)
        try:
            chosen = spec.of(item, partial=self._partial)
            if isinstance(chosen, Feedback):
                rated = item.served_text
                if item.rating is not None and rated is not None and rated == answer:
                    return Grade((item.rating + 1) / 2, name)
                chosen = spec.of(replace(item, grader=None), partial=self._partial)
            name = chosen.type
            text_wanted = item.grader is None and not isinstance(chosen, ToolCall)
            if len(answer) > MAX_ANSWER_CHARS or (text_wanted and _calls(item, answer)):
                return Grade(0.0, name)
            return Grade(self._reward(chosen, item, answer), name)
        except (GraderFailed, InvalidRequest) as error:
            return Grade(0.0, name, str(error))
        except Exception as error:
            return Grade(0.0, name, f"{type(error).__name__}: {error}")

    def _over_draws(self, item: Item, answer: str) -> Grade:
        """The mean over the cloud's answers, each as the reference as often as it was given."""
        times = Counter(item.draws)
        grades = [self._judge((replace(item, reference=d, draws=()), answer)) for d in times]
        total = sum(g.reward * n for g, n in zip(grades, times.values(), strict=True))
        failed = next((grade for grade in grades if grade.error is not None), grades[0])
        return replace(failed, reward=total / times.total())

    def _reward(self, chosen: Spec, item: Item, answer: str) -> float:
        reward = 0.0
        match chosen:
            case Exact():
                reward = text.exact(chosen, item.reference, answer)
            case Numeric():
                reward = numbers.grade(chosen, item.reference, answer, self._worker)
            case Choice():
                reward = text.choice(chosen, item.question, item.reference, answer)
            case Regex():
                reward = text.regex(chosen, answer, self._worker)
            case Json():
                reward = text.same_json(chosen, item.reference, answer)
            case JsonSchema():
                reward = text.json_schema(chosen, answer, self._worker)
            case ToolCall():
                reward = calls.grade(chosen, item.reference, answer)
            case UnitTests():
                reward = code.grade(chosen, answer)
            case Similarity():
                reward = closeness(chosen, item.reference, answer, self._embedder())
            case Feedback():
                raise AssertionError("feedback is resolved before")
        return reward

    def close(self) -> None:
        """Ends the child process and the threads."""
        self._pool.shutdown()
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _type(item: Item) -> str:
    if item.grader is not None:
        return str(item.grader.get("type"))
    return spec.of(item).type


def _calls(item: Item, answer: str) -> bool:
    return item.form.has_tools and calls_in(answer) is not None
