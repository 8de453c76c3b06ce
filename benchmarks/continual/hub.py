"""The paper's data sets from Hugging Face: rows → questions, each set with its own split.

The rows' shapes are those of the data sets' pages (DigitalLearningGmbH/MATH-lighteval,
allenai/ai2_arc, likaixin/TACO-verified, cais/mmlu); the loaders are tested on small fixtures of
these shapes, as they cannot be downloaded everywhere. Needs the package `datasets`.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.continual.tasks import Source, Task, Tasks
from edge_agent.errors import EdgeAgentError
from trainer.workbench.corpus import fingerprint

Row = Mapping[str, Any]
_HARD_LEVEL = 4
"""MATH's levels go from 1 to 5."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of the hub and how to read its rows."""

    name: str
    repository: str
    configuration: str | None
    train: str
    test: str | None
    """None: it has one split; every fifth row by the hash of its question is held out."""
    read: Callable[[Row], Task | None]
    """None for a row that cannot be graded."""


def math(row: Row) -> Task | None:
    """MATH: the last \\boxed{} of the solution is the answer."""
    answer = boxed(row["solution"])
    if answer is None:
        return None
    level = re.search(r"\d", str(row.get("level", "")))
    return Task(
        text=f"{row['problem'].strip()}\n\nPut the final answer in \\boxed{{}}.",
        answer=f"\\boxed{{{answer}}}",
        family="math",
        hard=level is not None and int(level[0]) >= _HARD_LEVEL,
        grader={"type": "numeric"},
    )


def boxed(solution: str) -> str | None:
    """The content of the last \\boxed{}, braces matched."""
    start = solution.rfind("\\boxed{")
    depth = 0
    for place in range(start + len("\\boxed"), len(solution)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[start + len("\\boxed{") : place]
    return None


def arc(row: Row) -> Task | None:
    """ARC: labelled choices; labels that are digits become letters."""
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    if row["answerKey"] not in labels:
        return None
    return _choice("arc", row["question"], texts, labels.index(row["answerKey"]))


def mmlu(row: Row) -> Task | None:
    """MMLU: four choices and the number of the right one."""
    return _choice("mmlu", row["question"], row["choices"], int(row["answer"]))


def _choice(family: str, question: str, texts: Iterable[str], right: int) -> Task:
    options = list(texts)
    letters = [chr(ord("A") + place) for place in range(len(options))]
    listed = "\n".join(f"{a}. {text}" for a, text in zip(letters, options, strict=True))
    return Task(
        text=f"{question.strip()}\n{listed}\n\nAnswer with the letter.",
        answer=letters[right],
        family=family,
        hard=False,
        grader={"type": "choice", "options": options},
    )


def taco(row: Row) -> Task | None:
    """TACO: a program that reads and prints; at most ten of its runs are tested."""
    runs = row["input_output"]
    if isinstance(runs, str):
        import json

        runs = json.loads(runs)
    solutions = row["solutions"]
    pairs = list(zip(runs["inputs"], runs["outputs"], strict=True))[:10]
    if runs.get("fn_name") or not pairs or not solutions:
        return None  # a function instead of a program, or nothing to check against
    return Task(
        text=f"{row['question'].strip()}\n\nWrite a Python program. Reply with the code only.",
        answer=f"```python\n{solutions[0]}\n```",
        family="taco",
        hard=str(row.get("difficulty", "")) in {"HARD", "VERY_HARD"},
        grader={
            "type": "unit_tests",
            "tests": [{"stdin": _lines(given), "stdout": _lines(out)} for given, out in pairs],
        },
    )


def _lines(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


SETS = (
    DataSet("math", "DigitalLearningGmbH/MATH-lighteval", "default", "train", "test", math),
    DataSet("arc", "allenai/ai2_arc", "ARC-Challenge", "train", "test", arc),
    DataSet("taco", "likaixin/TACO-verified", None, "train", None, taco),
    DataSet("mmlu", "cais/mmlu", "all", "auxiliary_train", "test", mmlu),
)


def tasks(
    data: DataSet,
    train: Iterable[Row],
    test: Iterable[Row],
    *,
    stream: int,
    held_out: int,
    seed: int,
) -> Tasks:
    """Questions of both sides; one that is in both is dropped from the training side."""
    rng = random.Random(f"{seed}:{data.name}")  # noqa: S311
    tests = [task for row in test if (task := data.read(row)) is not None]
    known = {fingerprint(task.text) for task in tests}
    trains = [
        task
        for row in train
        if (task := data.read(row)) is not None and fingerprint(task.text) not in known
    ]
    if not trains or not tests:
        raise EdgeAgentError(f"{data.repository}: no row that can be graded")
    while len(trains) < stream:
        trains += trains
    return Tasks(
        tuple(rng.sample(trains, stream)), tuple(rng.sample(tests, min(held_out, len(tests))))
    )


def _source(data: DataSet) -> Source:
    def source(stream: int, held_out: int, seed: int) -> Tasks:
        try:
            import datasets
        except ImportError as error:
            raise EdgeAgentError(
                f"the family {data.name} needs the package datasets: pip install datasets"
            ) from error
        try:
            train = datasets.load_dataset(data.repository, data.configuration, split=data.train)
            if data.test is not None:
                test = datasets.load_dataset(data.repository, data.configuration, split=data.test)
            else:
                parts = train.train_test_split(test_size=0.2, seed=0)
                train, test = parts["train"], parts["test"]
        except Exception as error:
            raise EdgeAgentError(f"cannot load {data.repository}: {error}") from error
        return tasks(data, train, test, stream=stream, held_out=held_out, seed=seed)

    return source


SOURCES: dict[str, Source] = {data.name: _source(data) for data in SETS}
