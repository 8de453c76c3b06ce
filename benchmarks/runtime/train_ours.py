"""Our own step, part by part, with the trainer's own workbench, sampler and learner."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from trainer.data.items import Item
from trainer.learner import Example, Learner
from trainer.objective import Episode
from trainer.workbench.workbench import Workbench

if TYPE_CHECKING:
    from benchmarks.runtime.train_job import Job, Question, Step
    from edge_agent.engine.engine import Engine
    from edge_agent.records.generation import Group

_DUAL = 0.5


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


class _TimedEngine:
    """The engine, with the time of its swaps apart: the rest of `Sampler.load` is export."""

    def __init__(self, engine: "Engine", clock: Callable[[], Stopwatch]) -> None:
        self._engine = engine
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def activate(self, *arguments: Any, **named: Any) -> Any:
        with self._clock().time("swap"):
            return await self._engine.activate(*arguments, **named)


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
        watch = Stopwatch()
        bench.sampler.engine = cast("Engine", _TimedEngine(bench.engine, lambda: watch))
        steps: list[Step] = []
        for number in range(1 + plan.steps):
            watch = Stopwatch()
            items = [_item(bench, q) for q in job.questions(plan.prompts, number)]
            steps.append(_dagrpo_step(bench, learner, items, watch, job.seed + number))
        return steps[1:]


def _dagrpo_step(
    bench: Workbench, learner: Learner, items: list[Item], watch: Stopwatch, seed: int
) -> "Step":
    train = bench.train
    with watch.time("whole step"):
        with watch.time("export"):
            bench.sampler.load(learner)
        with watch.time("rollout"):
            prompts = [item.prompt_ids for item in items]
            groups = bench.sampler.groups(prompts, train.group_size, seed=seed)
        with watch.time("grading"):
            for item, group in zip(items, groups, strict=True):
                bench.rewards(item, group)
        # Not the grades: unanimous groups, which the learner spares itself, would flatter it.
        rewards = [[float(i % 2) for i in range(train.group_size)] for _ in groups]
        with watch.time("forward and backward"):
            learner.step(
                [_episode(*each) for each in zip(items, groups, rewards, strict=True)], _DUAL
            )
    watch.seconds["export"] -= watch.seconds["swap"]
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
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


def _episode(item: Item, group: "Group", rewards: list[float]) -> Episode:
    return Episode(
        prompt_ids=item.prompt_ids,
        answers=[rollout.token_ids for rollout in group.rollouts],
        logprobs=[rollout.logprobs for rollout in group.rollouts],
        rewards=rewards,
        reward_off=1.0,
        p_offload=min(max(group.p_offload, 1e-6), 1 - 1e-6),
        asked=0,
    )


def supervised(job: "Job") -> "Sequence[Step]":
    """Supervised steps of the warm start; speed in tokens of prompts and answers together."""
    with Workbench(job.settings) as bench:
        learner = bench.learner(None, lambda: None)
        encode, end = bench.engine.vocabulary.encode, bench.end_of_turn
        steps: list[Step] = []
        for number in range(1 + job.plan.steps):
            examples = [
                Example(_item(bench, q).prompt_ids, (*encode(q.answer), end), bench.rate)
                for q in job.questions(job.plan.examples, number)
            ]
            watch = Stopwatch()
            with watch.time("whole step"):
                learner.supervised_step(examples)
            tokens = sum(len(e.prompt_ids) + len(e.answer_ids) for e in examples)
            speed = tokens / watch.seconds["whole step"]
            steps.append((watch.seconds, {"prompt and answer tokens": speed}))
        return steps[1:]
