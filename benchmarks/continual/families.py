"""Where the questions of a family come from, by name.

Train and evaluation questions are disjoint by construction: which side a question falls on depends
on its own text (generated families, see `benchmarks.demo.families`) or on the data set's own split.
"""

from benchmarks.continual import hub, tasks
from benchmarks.continual.tasks import Source, Task, Tasks
from benchmarks.demo import families as demo
from benchmarks.demo.families import ARITHMETIC, WORDS, Generator

LOGIC = demo.Family(
    "logic",
    Generator("syllogism", {}),
    "syllogisms, yes or no",
    Generator("bitwise_arithmetic", {"difficulty": 1}),
    "hexadecimal sums, differences and shifts",
    {"type": "exact"},
    by_cloud=False,
)


def generated(family: demo.Family) -> Source:
    """Questions of reasoning-gym's generators, a third of them hard."""

    def source(stream: int, held_out: int, seed: int) -> Tasks:
        drawn = demo.draw(family, stream=stream, held_out=held_out, seed=seed)
        sides = (
            tuple(Task(q.text, q.answer, q.family, q.hard, dict(family.grader)) for q in side)
            for side in (drawn.stream, drawn.held_out)
        )
        return Tasks(*sides)

    return source


SOURCES: dict[str, Source] = {
    **{family.name: generated(family) for family in (ARITHMETIC, WORDS, LOGIC)},
    "humaneval": tasks.source,
    **hub.SOURCES,
}
"""Every family that a protocol may name."""
