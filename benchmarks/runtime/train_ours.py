"""The product's own steps, part by part: `step.reinforce` and `warm_start.teach`."""

import inspect
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer.data.items import Item
from trainer.dual import FIRST_DUAL, Dual
from trainer.learner import Learner
from trainer.phases.step import Prompt, reinforce
from trainer.phases.warm_start import teach
from trainer.workbench.workbench import Workbench

if TYPE_CHECKING:
    from benchmarks.runtime.train_job import Job, Question, Step
    from edge_agent.records.generation import Group


class Stopwatch:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class _Timed:
    """Another object, some of whose methods are timed."""

    def __init__(self, inner: Any, watch: Stopwatch, parts: Mapping[str, str]) -> None:
        """`parts` gives the name of the time for each method."""
        self._inner, self._watch, self._parts = inner, watch, parts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return timed(value, self._watch, self._parts[name]) if name in self._parts else value


def timed(call: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    """`call`, or the coroutine that it makes, with its time added to `part`."""

    async def awaited(*arguments: Any, **named: Any) -> Any:
        with watch.time(part):
            return await call(*arguments, **named)

    def called(*arguments: Any, **named: Any) -> Any:
        with watch.time(part):
            return call(*arguments, **named)

    return awaited if inspect.iscoroutinefunction(call) else called


def dagrpo(job: "Job") -> "Sequence[Step]":
    """Whole DA-GRPO steps, the first of which warms up and is dropped."""
    plan = job.plan
    train = job.settings.train.model_copy(
        update={
            "group_size": plan.group,
            "prompts_per_step": plan.prompts,
            "max_new_tokens": plan.new_tokens,
        }
    )
    with Workbench(job.settings.model_copy(update={"train": train})) as bench:
        learner = bench.learner(None, lambda: None)
        engine = bench.sampler.engine
        steps: list[Step] = []
        for number in range(1 + plan.steps):
            watch = Stopwatch()
            bench.sampler.engine = _Timed(engine, watch, {"activate": "swap"})  # type: ignore[assignment]
            prompts = [Prompt(_item(bench, q), 1.0) for q in job.questions(plan.prompts, number)]
            steps.append(_dagrpo_step(bench, learner, prompts, watch, job.seed + number))
        return steps[1:]


def _dagrpo_step(
    bench: Workbench, learner: Learner, prompts: list[Prompt], watch: Stopwatch, seed: int
) -> "Step":
    def grade(item: Item, group: "Group") -> list[float]:
        """Graded, but not by the grades: the learner spares itself unanimous groups."""
        with watch.time("grading"):
            bench.rewards(item, group)
        return [float(i % 2) for i in range(len(group.rollouts))]

    learns: Any = _Timed(learner, watch, {"step": "forward and backward"})
    samples: Any = _Timed(bench.sampler, watch, {"load": "export", "groups": "rollout"})
    price = Dual(bench.train.dual, start=FIRST_DUAL, rate=bench.rate)
    with watch.time("whole step"):
        taken = reinforce(
            learns,
            samples,
            prompts,
            grade,
            price,
            group_size=bench.train.group_size,
            seed=seed,
            rng=random.Random(seed),  # noqa: S311
        )
    watch.seconds["export"] -= watch.seconds["swap"]
    tokens = sum(len(rollout.token_ids) for group in taken.groups for rollout in group.rollouts)
    parts = ("rollout", "forward and backward", "whole step")
    speeds = {f"{part}, answer tokens": tokens / watch.seconds[part] for part in parts}
    return watch.seconds, speeds


def _item(bench: Workbench, question: "Question") -> Item:
    return Item(
        query_id=question.text,
        at=0.0,
        prompt_ids=bench.render([{"role": "user", "content": question.text}]),
        question=question.text,
        cluster="sums",
        reference=question.answer,
        reference_source="client",
        grader={"type": "numeric"},
    )


def supervised(job: "Job") -> "Sequence[Step]":
    """Supervised steps of the warm start; speed in tokens of prompts and answers together."""
    with Workbench(job.settings) as bench:
        learner = bench.learner(None, lambda: None)
        steps: list[Step] = []
        for number in range(1 + job.plan.steps):
            items = [_item(bench, q) for q in job.questions(job.plan.examples, number)]
            watch = Stopwatch()
            with watch.time("whole step"):
                taught = teach(bench, learner, items, lambda _: bench.rate)
            tokens = taught.tokens + sum(len(item.prompt_ids) for item in items)
            speed = tokens / watch.seconds["whole step"]
            steps.append((watch.seconds, {"prompt and answer tokens": speed}))
        return steps[1:]
