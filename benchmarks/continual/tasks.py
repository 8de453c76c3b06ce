"""Questions of the benchmark, and what the trainer makes of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reference_cloud.replies import Replies
from trainer.records import Item
from trainer.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Task:
    """One question of one family."""

    text: str
    answer: str
    """The reference; what the cloud answers when it is right."""
    family: str
    hard: bool
    """Thought to be beyond the small model; unknown (False) where a data set does not tell."""
    grader: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tasks:
    """A family's two sides."""

    stream: tuple[Task, ...]
    held_out: tuple[Task, ...]


Source = Callable[[int, int, int], Tasks]
"""(stream, held_out, seed) → questions; the second number is a bound, the first is met."""


def key(text: str) -> str:
    """A short name of a question, the same in every run."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def items(tasks: Sequence[Task], bench: Workbench, *, cloud_accuracy: float) -> list[Item]:
    """The tasks as logged queries whose cloud answer is the reference cloud's.

    It is asked as a class, without HTTP: right or wrong depends on the question alone, the same
    for every method and seed, so R_off is one fixed draw per item and no noise between methods.
    """
    answers = {task.text.strip(): task.answer for task in tasks}
    cloud = Replies(accuracy=cloud_accuracy, answers=answers)
    return [
        Item(
            query_id=f"{place}-{key(task.text)}",
            at=0.0,
            prompt_ids=bench.render([{"role": "user", "content": task.text}]),
            question=task.text,
            cluster=task.family,
            reference=task.answer,
            reference_source="client",
            grader=task.grader or None,
            cloud_text=cloud.reply(task.text)[0],
        )
        for place, task in enumerate(tasks)
    ]
